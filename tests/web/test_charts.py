"""Charts are read by pointing and by keys, mark what happened, and say the same as their tables and twins."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from worlds.browser import visit
from worlds.console_world import NEW, OLD, ROUTE, Running, running

from pointsman.core.events import EntriesLost, Event
from pointsman.web.pages import figures

POOL = f"/pools/{OLD}"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 40) as found:
        append(found, EntriesLost("picker-1", 9, 7, 9))
        yield found


def append(console: Running, event: Event) -> None:
    """Record an event, and wait until the read model has it."""

    async def work() -> None:
        await console.world.appender.append(event)
        await console.world.index()

    console.call(work)


def twin(console: Running, until: int) -> Any:
    """The pool's page as JSON."""
    return console.ask(f"/api/v1{POOL}?until={until}").json


def readout(page: Page, number: int) -> str:
    return page.locator(".plot").nth(number).locator(".readout").inner_text()


def rows(page: Page, number: int) -> list[list[str]]:
    """The rows of a chart's table, as text."""
    found: list[list[str]] = (
        page.locator("figure.chart")
        .nth(number)
        .evaluate(
            "figure => [...figure.querySelectorAll('tbody tr')].map(row => [...row.children].map(cell => cell.textContent))"
        )
    )
    return found


def test_pointing_says_what_the_table_says(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, viewport={"width": 1360, "height": 1000}) as found:
        page = found.page
        page.goto(f"{POOL}?until={int(time.time()) + 20}#charts")  # a page that does not refresh itself
        plot = page.locator(".plot").nth(2)
        plot.scroll_into_view_if_needed()
        svg = plot.locator("svg")
        box = svg.bounding_box()
        assert box is not None
        left, width, whole = map(float, str(svg.get_attribute("data-plot")).split())
        table = rows(page, 2)
        for index in (0, len(table) // 2, len(table) - 1):
            along = left + width * index / (len(table) - 1)
            page.mouse.move(box["x"] + along * box["width"] / whole, box["y"] + 50)
            time_, *values, happened = table[index]
            assert readout(page, 2) == f"{time_} UTC: {' · '.join(values)}" + (f" · {happened}" if happened else "")
            assert plot.locator("line.cross").count() == 1
        page.mouse.move(2, 2)
        expect(plot.locator("line.cross")).to_have_count(0)
        assert readout(page, 2) == "point at it, or use the arrow keys"


def test_keys_walk_along_a_chart(browser: Browser, console: Running) -> None:
    with visit(browser, console.url) as found:
        page = found.page
        page.goto(f"{POOL}?until={int(time.time()) + 20}")
        table = rows(page, 0)
        plot = page.get_by_role("slider", name="Requests, per second, over time")
        plot.focus()
        for key, index in (("ArrowLeft", -1), ("ArrowLeft", -2), ("ArrowRight", -1), ("Home", 0), ("ArrowLeft", 0)):
            page.keyboard.press(key)
            assert readout(page, 0).startswith(f"{table[index][0]} UTC: {table[index][1]}"), key
            assert plot.get_attribute("aria-valuetext") == readout(page, 0)
            assert plot.get_attribute("aria-valuenow") == str(index % len(table))
        page.keyboard.press("Escape")
        assert readout(page, 0) == "point at it, or use the arrow keys"
        page.keyboard.press("End")
        page.keyboard.press("Tab")
        expect(plot.locator("line.cross")).to_have_count(0)
        assert found.violations() == []


def test_a_refresh_takes_neither_focus_nor_the_moment_that_is_read(browser: Browser, console: Running) -> None:
    with visit(browser, console.url) as found:
        page = found.page
        page.goto(POOL)
        plot = page.get_by_role("slider", name="Requests, per second, over time")
        plot.focus()
        for _ in range(6):
            page.keyboard.press("ArrowLeft")
        before = readout(page, 0).partition(" UTC")[0]
        page.evaluate("document.getElementById('pool').dataset.old = 'yes'")
        console.request(OLD)
        expect(page.locator("#pool[data-old]")).to_have_count(0)
        expect(page.locator(".plot").nth(0)).to_be_focused()
        assert readout(page, 0).partition(" UTC")[0] == before


def test_marks_say_what_happened_in_picture_table_and_twin(browser: Browser, console: Running) -> None:
    append(console, EntriesLost("picker-2", 9, 1, 1))
    with visit(browser, console.url) as found:
        page = found.page
        until = int(time.time()) + 20
        page.goto(f"{POOL}?until={until}")
        titles = page.locator(".plot").nth(0).locator("g.mark.lost title").all_text_contents()
        assert any("3 entries of picker-1 lost" in title for title in titles)
        assert any("an entry of picker-2 lost" in title for title in titles)
        assert any("3 entries of picker-1 lost" in row[-1] for row in rows(page, 0))
    found = twin(console, until)
    marks = found["charts"][0]["marks"]
    assert {"lost"} <= {mark["kind"] for mark in marks}
    assert any(mark["words"].endswith("3 entries of picker-1 lost") for mark in marks)


def test_a_move_of_weights_marks_the_pools_that_it_concerns(browser: Browser, console: Running) -> None:
    with visit(browser, console.url) as found:
        page = found.page
        page.goto(f"/routes/{ROUTE}/rules/0/weights")
        page.get_by_label("vllm-llama3-8b-instruct-new").fill("70")
        page.get_by_label("Reason").fill("a mark")
        page.get_by_role("button", name="See what will change").click()
        page.get_by_role("button", name="Change weights").click()
        expect(page.get_by_text("recorded, written and read back")).to_be_visible()
        console.call(console.world.index)
        for at in (f"/pools/{NEW}?until={int(time.time()) + 20}", f"/routes/{ROUTE}?span=hour"):
            page.goto(at)
            if "span" in at:
                expect(page.get_by_role("link", name="hour")).to_have_attribute("aria-current", "true")
                continue  # the minute that is not over is not drawn
            titles = page.locator("g.mark title").all_text_contents()  # graver things may share the point
            assert any(re.search(r"weights of llm-route: [0-9]+/10 to [0-9]+/70", title) for title in titles)


def test_the_spread_over_endpoints_is_around_the_mean(console: Running) -> None:
    found = twin(console, int(time.time()) + 20)
    charts = {chart["title"]: chart["series"][0] for chart in found["charts"]}
    for title in ("Waiting requests", "KV cache"):
        line = charts[title]
        seen = [
            (low, mean, high)
            for low, mean, high in zip(line["lowest"], line["values"], line["highest"], strict=True)
            if mean is not None
        ]
        assert seen
        assert all(low <= mean <= high for low, mean, high in seen)
    assert "lowest" not in charts["Requests"]


def test_without_scripts_the_table_is_there_and_nothing_says_to_point(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, java_script_enabled=False) as found:
        found.page.goto(POOL)
        assert found.page.get_by_role("slider").count() == 0
        assert not found.page.locator(".readout").first.is_visible()
        found.page.get_by_text("Requests as a table", exact=True).click()
        expect(found.page.get_by_role("region", name="Requests, as a table")).to_be_visible()


def test_a_span_that_is_none_is_refused(console: Running) -> None:
    assert console.ask(f"/routes/{ROUTE}?span=year").status == 400
    assert set(figures.SPANS) == set(figures.SPAN_NAMES)
