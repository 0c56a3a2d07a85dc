"""The page of the log: sentences, people first, an address with a proof for each entry."""

import html
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from playwright.sync_api import Browser
from worlds.browser import visit
from worlds.console_world import Running, running
from worlds.event_strategies import EVENT_TYPES, histories, structs

from pointsman.core.events import Event, LabelsChanged, LoadSampled, OpenRequestsListed, RequestRouted, ScrapeFailed
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.web.pages.sentences import numbers_in, sentence

PACKED = (LoadSampled, ScrapeFailed, OpenRequestsListed)
"""Events whose bytes have to be packed numbers."""


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 40) as found:
        yield found


@pytest.mark.parametrize("kind", [kind for kind in EVENT_TYPES if kind not in PACKED])
def test_every_event_is_a_sentence(kind: type[Event]) -> None:
    @given(structs(kind))
    def check(event: Event) -> None:
        if isinstance(event, RequestRouted) and not event.endpoints:
            return
        said = sentence(event, {})

        assert said.endswith(".")
        assert numbers_in(event) == [] or isinstance(numbers_in(event)[0], int)

    check()


@given(histories())
def test_every_entry_of_a_log_is_a_sentence_without_packed_bytes(events: list[Event]) -> None:
    for event in events:
        said = sentence(event, {})
        assert said.endswith(".")
        if isinstance(event, LoadSampled | ScrapeFailed | LabelsChanged):
            assert " bytes" not in said
            assert all(f"endpoint {number}" in said for number in numbers_in(event)[:1])


@given(st.integers(1, 9))
def test_an_endpoint_has_its_name_in_sentences(number: int) -> None:
    assert sentence(LabelsChanged(number, ("food",)), {number: "pod-a:8000"}) == "pod-a:8000 runs food."


def listed(console: Running, query: str = "") -> list[dict[str, str]]:
    found: list[dict[str, str]] = console.ask(f"/api/v1/log{query}").json["entries"]
    return found


def test_people_and_control_come_first_and_all_is_a_click_away(console: Running) -> None:
    assert {e["class"] for e in listed(console)} == {"control", "membership"}
    assert {e["class"] for e in listed(console, "?class=all")} >= {"traffic", "load"}
    assert len(listed(console, "?first=1&last=40")) == 40


def test_a_sample_is_told_by_endpoint_and_not_in_packed_columns(console: Running) -> None:
    said = listed(console, "?type=load-sampled")[0]["words"]

    assert re.match(r"vllm-llama3-8b-instruct-aa1:8000 has \d waiting, KV \d+ %; vllm", said)
    position = listed(console, "?type=load-sampled")[0]["position"]
    page = console.ask(f"/log/{position}").body
    assert page.count("vllm-llama3-8b-instruct-new-") >= 2
    assert "KV cache used" in page


def test_each_entry_has_an_address_with_its_batch_and_its_proof(console: Running) -> None:
    head = console.world.appender.log.head
    for position in (1, 2, head.position // 2, head.position):
        told = console.ask(f"/api/v1/log/{position}").json
        proof = told["proof"]

        assert told["entry"]["position"] == position
        assert proof["first"] <= position <= proof["last"]
        assert proof["problem"] == ""
        assert len(proof["digest"]) == len(proof["previous"]) == 64
        body = console.ask(f"/log/{position}").body
        assert proof["digest"] in body
        assert "in the chain" in body
        assert html.unescape(body).count(told["entry"]["words"]) >= 1
    assert console.ask(f"/api/v1/log/{head.position}").json["proof"]["digest"] == head.digest.hex()
    assert console.ask(f"/log/{head.position + 1}").status == 404


def test_an_entry_that_was_changed_is_not_proved(tmp_path: Path) -> None:
    with running(tmp_path, 5) as console:
        for path in segment_paths(tmp_path / "log"):
            with sqlite3.connect(path) as connection:
                for (body,) in connection.execute("SELECT body FROM entries WHERE position = 3").fetchall():
                    changed = body.replace(b"pools.yaml", b"fools.yaml")
                    connection.execute("UPDATE entries SET body = ? WHERE position = 3", (changed,))
            connection.close()

        assert "not as committed" in console.ask("/log/3").body
        assert console.ask("/api/v1/log/3").json["proof"]["problem"] != ""
        assert console.ask("/api/v1/log/1").json["proof"]["problem"] == ""


def test_on_a_narrow_screen_the_log_is_read_without_scrolling_sideways_or_for_ever(
    browser: Browser, console: Running
) -> None:
    with visit(browser, console.url, viewport={"width": 390, "height": 844}) as found:
        for address in ("/log", "/log?class=all", "/log/5"):
            found.page.goto(address)
            wide = found.page.evaluate(
                "[document.documentElement, ...document.querySelectorAll('.table')].map(t => t.scrollWidth - t.clientWidth)"
            )

            assert max(wide) <= 0, (address, wide)
            assert found.page.evaluate("document.documentElement.scrollHeight") < 12 * 844, address
