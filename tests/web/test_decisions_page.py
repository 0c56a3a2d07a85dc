"""The list of decisions: filters, order, why in three words, and ids that are searched by what is shown."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st
from playwright.sync_api import Browser, expect
from worlds.browser import visit
from worlds.console_world import NEW, OLD, Running, running

from pointsman.core.deciding.telling.why import briefly
from pointsman.core.events import Origin, RequestFacts, RequestFinished, RequestRouted
from pointsman.web.pages import figures


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 60) as found:
        yield found


def decide(console: Running, *, degraded: bool = False, cause: str = "complete", status: int = 200, **told: Any) -> str:
    """One more decision with its end; its request id."""
    world = console.world
    name = f"made-by-hand-{world.n:08}"

    async def happen() -> None:
        world.n += 2
        origin = Origin("picker-0", 1, world.n, world.state.position)
        await world.appender.append(RequestRouted(origin, 1.7e9, RequestFacts(name, OLD), (1,), degraded=degraded))
        await world.appender.append(RequestFinished(origin, world.n, cause, status, 0.5, **told))
        await world.index()

    console.call(happen)
    return name


def listed(console: Running, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = console.ask(f"/api/v1/decisions?{query}").json["decisions"]
    return found


def test_a_pool_the_degraded_and_the_failed_are_found(console: Running) -> None:
    degraded = decide(console, degraded=True)
    broken = decide(console, cause="disconnected")
    wrong = decide(console, status=500)
    good = decide(console)
    everything = listed(console, "")

    assert {d["pool"] for d in listed(console, f"pool={quote(NEW)}")} == {NEW.rpartition("/")[2]}
    assert [d["request_id"] for d in listed(console, "status=degraded")] == [degraded]
    failed = {d["request_id"] for d in listed(console, "status=failed")}
    assert {broken, wrong} <= failed
    assert not failed & {good, degraded}
    assert failed == {d["request_id"] for d in everything if d["failed"]}
    assert listed(console, f"status=failed&pool={quote(NEW)}") == [
        d for d in everything if d["failed"] and d["pool"] == NEW.rpartition("/")[2]
    ]


def test_what_no_server_answered_and_an_error_in_an_answer_are_said_and_have_no_first_token(console: Running) -> None:
    made = {
        decide(console, status=503, first_token=0.1, unanswered=True): (
            "503; no server answered: the gateway made this response itself",
            "complete",
        ),
        decide(console, status=200, error="CUDA out of memory"): (
            "200; the server told an error in its answer: CUDA out of memory",
            "with an error",
        ),
        decide(console, status=404, first_token=0.1, streamed=True): ("500 ms, 404", "complete"),
        decide(console, status=200, first_token=0.1): ("500 ms, 200", "complete"),
    }
    for name, (words, word) in made.items():
        [row] = listed(console, f"request={name}")
        told = console.ask(f"/decisions/{row['position']}").body

        assert words in told
        assert row["open_word"] == word
        assert row["first_token_seconds"] is None
        assert re.search(r'first token</div><div class="value">–', told)  # noqa: RUF001


@given(st.lists(st.none() | st.floats(0.001, 100), max_size=300))
def test_percentiles_of_the_first_token_are_times_that_so_many_do_not_pass(times: list[float | None]) -> None:
    told = figures.first_tokens_of(times)
    begun = [time for time in times if time is not None]

    assert (told.decisions, told.streamed) == (len(times), len(begun))
    for share, found in ((50, told.p50_seconds), (95, told.p95_seconds), (99, told.p99_seconds)):
        assert (found is None) is (not begun)
        if found is not None:
            assert found in begun
            assert 100 * sum(time <= found for time in begun) >= share * len(begun)
            assert 100 * sum(time < found for time in begun) < share * len(begun)


def test_a_pools_page_tells_the_first_tokens_of_its_streamed_answers(console: Running) -> None:
    decide(console, status=200, first_token=77.0)  # an earlier version recorded it of an answer in one piece
    found = console.ask(f"/api/v1/pools/{OLD}").json["first_tokens"]
    rows = listed(console, f"pool={quote(OLD)}")

    assert 0 < found["streamed"] < found["decisions"]
    assert found["p50_seconds"] <= found["p95_seconds"] <= found["p99_seconds"] < 77
    assert len(rows) <= found["decisions"]
    assert re.search(
        r"Time to the first token of \d+ streamed answers among the last \d+ decisions: p50 ", page(console)
    )


def page(console: Running) -> str:
    return console.ask(f"/pools/{OLD}").body


@pytest.mark.parametrize("by", ["duration", "first_token"])
def test_the_slowest_come_first(console: Running, by: str) -> None:
    model = console.world.home / "readmodel.db"
    from pointsman.eventlog.readmodel.opening import open_read_model
    from pointsman.eventlog.readmodel.queries import Filters, Slowest

    with open_read_model(model) as asked:
        rows, first = asked.slowest(Filters(), Slowest(by), 500)
        everything = asked.decisions(Filters(), limit=500).rows
    values = [getattr(row, by) for row in rows]
    found = [d["request_id"] for d in listed(console, f"sort={by}")]

    assert values == sorted((v for r in everything if (v := getattr(r, by)) is not None), reverse=True)
    assert first == 1
    assert found == [row.request_id for row in rows[:100]]
    assert "the longest first" in console.ask(f"/decisions?sort={by}").body
    assert console.ask("/decisions?sort=model").status == 400


def test_an_id_is_found_by_what_a_list_shows_of_it(console: Running) -> None:
    body = console.ask("/decisions").body
    shown = re.findall(r'title="([^"]+)">([^<]+)…</a>', body)

    assert len(shown) > 30
    for whole, beginning in shown[:5]:
        assert whole.startswith(beginning)
        for words in (beginning, beginning + "…", whole):
            assert whole in [d["request_id"] for d in listed(console, f"request={quote(words)}")]


def test_each_line_says_why_in_a_few_words(console: Running) -> None:
    found = [d["why"] for d in listed(console, "") if d["request_id"][:4] != "made"]

    assert len(found) > 30
    assert briefly.__doc__
    known = {"shorter queue", "freer KV cache", "longer cached prefix", "tie, drawn", "only candidate", "only one left"}
    assert set(found) <= known
    assert len(set(found)) > 1
    body = console.ask("/decisions").body
    assert all(words in body for words in set(found))


@pytest.mark.parametrize("query", ["", "?status=failed", "?sort=duration"])
def test_no_column_is_cut_off_on_a_usual_screen(browser: Browser, console: Running, query: str) -> None:
    with visit(browser, console.url, viewport={"width": 1360, "height": 900}) as found:
        found.page.goto(f"/decisions{query}")
        wide = found.page.evaluate("[...document.querySelectorAll('.table')].map(t => [t.scrollWidth, t.clientWidth])")

        assert wide
        assert all(inner <= outer for inner, outer in wide), wide


def test_an_empty_page_that_fills_no_longer_says_none(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running(tmp_path_factory.mktemp("empty"), 0) as console, visit(browser, console.url) as found:
        found.page.goto(f"/decisions?pool={quote(NEW)}")
        expect(found.page.locator("#lead")).to_contain_text("None found up to entry")
        expect(found.page.locator("#live-state")).to_have_text("live")
        position = console.request(NEW)
        found.page.wait_for_selector(f"#d{position}", state="attached")

        expect(found.page.locator("#lead")).to_have_text("Each line leads to every score behind it.")
        expect(found.page.get_by_text("No decision matches.")).to_have_count(0)
