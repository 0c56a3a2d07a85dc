"""The overview once there is traffic: what it draws, counts and tells is true, and the first steps are folded."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, strategies as st
from playwright.sync_api import expect
from worlds.browser import chromium, visit
from worlds.console_world import NEW, OLD, Running, running

from pointsman.core.deciding.profile import endpoint_saturations, pool_saturation
from pointsman.core.events import LoadSampled
from pointsman.core.values.packing import pack, pack_floats
from pointsman.web.drawing import wall as drawing
from pointsman.web.drawing.isolating import turned_to_words
from pointsman.web.drawing.wall import WallBranch, WallCell, WallPool, WallRule

STEPS = ("Send a request", "Open its decision", "Move the weight", "Verify")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("wall"), 40) as found:
        yield found


def loaded(console: Running, waiting: list[int], used: list[float]) -> None:
    """Say the load of the first endpoints."""
    count = len(waiting)
    event = LoadSampled(
        pack(np.arange(1, count + 1, dtype=np.int64)),
        time.time(),
        pack(np.zeros(count, dtype=np.int64)),
        pack(np.array(waiting, dtype=np.int64)),
        pack(np.array([1] * count, dtype=np.int64)),
        pack_floats(np.array(used)),
    )

    async def say() -> None:
        await console.world.appender.append(event)
        await console.world.index()

    console.call(say)


def test_the_first_steps_are_open_until_a_decision_is_made_and_folded_after_it(
    tmp_path: Path, console: Running
) -> None:
    with running(tmp_path, 0) as fresh:
        before, told = fresh.ask("/").body, fresh.ask("/api/v1").json
    after = console.ask("/").body

    assert told["wall"] is None
    assert "<details" not in before
    folded = re.search(r'<details class="first" id="first-steps">(.*?)</details>', after, re.DOTALL)
    assert folded
    for words in STEPS:
        assert words in before
        assert words in folded[1]


def test_every_endpoint_is_drawn_as_full_as_the_detector_finds_it_and_the_fullest_is_named(console: Running) -> None:
    loaded(console, [0, 4, 12, 0, 0], [0.2, 0.1, 0.1, 0.0, 0.0])
    told = console.ask("/api/v1").json["wall"]
    body = console.ask("/").body
    [old, new] = told["pools"]

    assert (old["pool"], new["pool"]) == (OLD, NEW)
    assert [e["saturation"] for e in old["endpoints"]] == [pytest.approx(0.25), 0.8, 2.4]
    assert [e["state"] for e in old["endpoints"]] == ["", "warn", "bad"]
    assert old["saturation"] == pytest.approx((0.25 + 0.8 + 2.4) / 3)
    assert old["headroom_share"] == 0
    assert old["fullest"] == old["endpoints"][2]["name"]
    assert told["figures"]["headroom_pool"] == told["figures"]["imbalance_pool"] == OLD
    assert told["figures"]["fullest_endpoint"] == old["fullest"]
    assert f"{old['fullest']}: 240 % full, 12 waiting, KV cache 10 %" in body
    assert [e["words"] for e in new["endpoints"]][-1] == "not ready"


def test_the_figures_are_those_of_the_decisions(console: Running) -> None:
    console.request()
    told = console.ask("/api/v1").json["wall"]["figures"]
    rows = console.ask("/api/v1/decisions").json["decisions"]

    assert told["failed"] == sum(row["failed"] for row in rows)
    assert told["cached_prompt_share"] == pytest.approx(64 / 120)
    assert told["first_token"]["streamed"] == sum(bool(row["status"]) and not row["reason"] for row in rows)
    assert told["refused"] == sum(told["refused_by_reason"].values()) == sum(bool(row["reason"]) for row in rows)
    assert told["changing"] == []


def test_what_happened_is_of_people_and_processes_first(console: Running) -> None:
    events = console.ask("/api/v1").json["wall"]["events"]
    body = console.ask("/").body

    assert len(events) == 10
    assert [e["position"] for e in events] == sorted((e["position"] for e in events), reverse=True)
    assert any("picker-0 starts" in e["words"] for e in events)
    for event in events:
        assert f'href="/log/{event["position"]}"' in body


def test_the_mean_of_the_endpoints_saturations_is_that_of_the_pool(console: Running) -> None:
    source = random.Random(4)
    for _ in range(20):
        loaded(console, [source.randrange(9) for _ in range(5)], [source.random() for _ in range(5)])
        for pool in (OLD, NEW):
            alone = endpoint_saturations(console.world.state, pool)
            assert pool_saturation(console.world.state, pool) == pytest.approx(sum(alone.values()) / len(alone))


NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=60)
CELLS = st.builds(
    WallCell,
    st.just("cell-1"),
    NAMES,
    st.just("/pools/a/b"),
    st.none() | st.floats(0, 50),
    st.sampled_from(["", "warn", "bad"]),
    NAMES,
)


@given(
    st.lists(NAMES, unique=True, max_size=5),
    st.lists(st.lists(st.integers(0, 1_000_000), max_size=5), max_size=4),
    st.lists(CELLS, max_size=40),
)
def test_any_wall_is_well_formed_and_has_a_link_with_a_name_for_each_endpoint(
    names: list[str], weights: list[list[int]], cells: list[WallCell]
) -> None:
    pools = [WallPool(name, name, f"/pools/{i}", 1, "warn", ("x & <y>",), tuple(cells)) for i, name in enumerate(names)]
    rules = [
        WallRule(
            f"<{i}>",
            "/routes/a/b",
            "1 requests/s",
            tuple(WallBranch(n, w, 0.5) for n, w in zip(names, row, strict=False)),
        )
        for i, row in enumerate(weights)
    ]
    picture = ElementTree.fromstring(str(drawing.wall("a & b", rules, pools)))
    links = [a for a in picture.iter("a") if a.get("class") == "cell"]

    assert len(links) == len(names) * len(cells)
    assert all(a.findtext("title") for a in picture.iter("a"))
    assert {a.findtext("title") for a in links} == {turned_to_words(f"{c.name}: {c.words}") for c in cells if names}


def test_an_endpoint_of_the_ribbon_says_its_name_where_the_focus_is(console: Running) -> None:
    with chromium() as browser, visit(browser, console.url) as found:
        found.page.set_viewport_size({"width": 1360, "height": 900})
        found.page.goto("/")
        expect(found.page.locator("#live-state")).to_have_text("live")
        cell = found.page.locator("#cell-1")
        told = cell.locator("text.told")
        expect(told).to_be_hidden()
        cell.focus()
        expect(told).to_be_visible()
        expect(told).to_contain_text(":8000: ")
        console.request()  # the page refreshes itself, and the focus stays
        loaded(console, [7], [0.5])
        expect(told).to_contain_text("7 waiting")
        expect(told).to_be_visible()
        assert found.violations() == []
