"""A decision's page tells what was in force then, what would have changed it, and when not to believe it."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from worlds.console_world import OLD, ROUTE, Running, running

from pointsman.core.events import BackendRef, Event, RouteRule, ScrapeFailed
from pointsman.core.values.packing import pack


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 12) as found:
        yield found


def append(console: Running, *events: Event) -> None:
    async def happen() -> None:
        for event in events:
            await console.world.appender.append(event)

    console.call(happen)


def text(console: Running, position: int) -> str:
    console.ask(f"/api/v1/decisions/{position}")  # waits for replay
    return html.unescape(re.sub(r"<[^>]+>", " ", console.ask(f"/decisions/{position}").body))


def test_the_weight_and_the_configuration_are_those_of_its_position(console: Running) -> None:
    position = console.request()
    route = console.world.state.routes[ROUTE]
    rule = RouteRule(route.rules[0].matches, (BackendRef(OLD, 20), *route.rules[0].backends[1:]))
    append(console, msgspec.structs.replace(route, rules=(rule,), version="v2"))
    told = console.ask(f"/api/v1/decisions/{position}").json["in_force"]
    page = " ".join(text(console, position).split())

    assert told["weights"] == [{"route": ROUTE, "rule": 0, "weight": 90, "total": 100}]
    assert "weight 90 of 100 then" in page
    assert "weight in llm-route, rule 1 90 of 100 now 20 of 30" in page
    assert "configuration the built-in default" in page
    assert "3 of 3 ready endpoints" in page


def test_each_page_has_a_name_of_its_own_and_a_date(console: Running) -> None:
    positions = [console.request() for _ in range(3)]
    titles = set()
    for position in positions:
        body = console.ask(f"/decisions/{position}").body
        found = re.search("<title>(.*?)</title>", body)
        assert found is not None
        titles.add(found[1])
        assert re.fullmatch(r"[0-9a-f]{8} → \S+:8000 · 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d · Pointsman", found[1])
        assert re.search(r"/ <time [^>]*>20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}</time> UTC", body)
    assert len(titles) == 3


def test_a_decision_whose_samples_were_all_stale_warns(console: Running) -> None:
    fresh = console.request()
    append(console, ScrapeFailed(pack(np.arange(1, 4)), pack(np.full(3, 9_000))))
    stale = console.request()

    assert "All that it saw was stale" not in text(console, fresh)
    assert "nobody knew the load of all 3 ready endpoints" in text(console, stale)
    assert "0 of 3 ready endpoints" in text(console, stale)


def test_what_would_have_changed_it_is_told_and_names_another_endpoint(console: Running) -> None:
    found = 0
    for _ in range(5):
        position = console.request()
        told = console.ask(f"/api/v1/decisions/{position}").json
        for flip in told["flips"]:
            found += 1
            assert flip["outcome"] != next(
                c["name"] for c in told["explanation"]["candidates"] if c["scored"]["chosen"] == 1
            )
            assert flip["what"] in text(console, position)
    assert found
