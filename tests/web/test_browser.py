"""The console in a real browser: with scripts, without, by keyboard alone; axe on every page."""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect
from worlds.browser import Visit, visit
from worlds.console_world import NEW, OLD, ROUTE, Running, running

from pointsman.web.pages import figures

PAGES = {
    "overview": "/",
    "pools": "/pools",
    "pool": f"/pools/{OLD}",
    "pool-day": f"/pools/{NEW}?span=day",
    "decisions": "/decisions",
    "no-decisions": "/decisions?model=none",
    "routes": "/routes",
    "route": f"/routes/{ROUTE}",
    "weights": f"/routes/{ROUTE}/rules/0/weights",
    "log": "/log",
    "log-all": "/log?class=all",
    "slowest": "/decisions?sort=duration",
    "entry": "/log/2",
    "help": "/help",
    "missing": "/nowhere",
    "decision": "",
}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 40) as found:
        yield found


def address(console: Running, name: str) -> str:
    return PAGES[name] or f"/decisions/{console.request()}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_no_page_is_wider_than_its_window(
    browser: Browser, console: Running, name: str, theme: Literal["light", "dark"]
) -> None:
    with visit(browser, console.url, color_scheme=theme) as found:
        found.page.goto(address(console, name))
        found.page.wait_for_load_state("load")
        if name == "decision":
            expect(found.page.get_by_text("verified", exact=True).first).to_be_visible()
        if name == "missing":
            found.complaints.clear()  # that the page is not there
        for width in (1360, 360, 768, 2560):
            found.page.set_viewport_size({"width": width, "height": 800})
            assert found.page.evaluate("document.documentElement.scrollWidth") <= width
            if width in (360, 1360):
                assert found.violations() == [], width


def journey(found: Visit, console: Running, weight: int, scripts: bool) -> None:
    """What the first page invites to: a request's decision, why, its pool, and a weight moved."""
    page = found.page
    position = console.request()
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Vllm-llama3-8b-instruct-new has 2 of 3 endpoints ready")
    page.get_by_text("What Pointsman does, in four steps").click()
    assert "x-request-id" in page.get_by_role("region", name="Command that sends a request").inner_text()
    page.get_by_role("link", name="All decisions").click()
    page.locator(f'a[href="/decisions/{position}"]').click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Why .* answered this request$"))
    expect(page.get_by_text("verified", exact=True).first).to_be_visible()
    expect(page.get_by_role("region", name="Candidates").get_by_text("picked")).to_be_visible()
    page.locator(".facts").get_by_role("link", name="vllm-llama3-8b-instruct").click()
    expect(page.get_by_role("region", name="Endpoints")).to_be_visible()
    page.get_by_role("link", name="hour").click()
    expect(page).to_have_url(re.compile("span=hour"))
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Routes").click()
    page.get_by_role("link", name="llm-route, rule 1").click()
    page.get_by_role("link", name="Change weights").click()
    page.get_by_label("vllm-llama3-8b-instruct now").fill(str(100 - weight))
    page.get_by_label("vllm-llama3-8b-instruct-new").fill(str(weight))
    page.get_by_label("Reason").fill(f"towards {weight}")
    page.get_by_role("button", name="See what will change").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Is this what you want?")
    page.get_by_role("button", name="Change weights").click()
    expect(page.get_by_text("recorded, written and read back")).to_be_visible()
    page.wait_for_timeout(1000 * figures.GRACE)
    for _ in range(30):
        console.request(NEW if weight == 100 else OLD)
    if not scripts:
        page.reload()
    expect(page.get_by_text(re.compile(r"^settling, \d+ of about 400 requests$")).first).to_be_visible()
    expect(page.get_by_text(f"towards {weight}").first).to_be_visible()


def test_the_journey_with_scripts(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, viewport={"width": 1360, "height": 900}) as found:
        journey(found, console, 100, scripts=True)


def test_the_journey_without_scripts(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, java_script_enabled=False, viewport={"width": 1360, "height": 900}) as found:
        journey(found, console, 0, scripts=False)


def test_the_journey_on_a_narrow_screen(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, viewport={"width": 360, "height": 740}, has_touch=True) as found:
        journey(found, console, 100, scripts=True)


def tab_to(found: Visit, words: str) -> None:
    """Press Tab until the focus is on what says these words; it must be seen there."""
    for _ in range(200):
        found.page.keyboard.press("Tab")
        told = found.page.evaluate(
            """() => { const e = document.activeElement;
            const label = e.labels && e.labels[0] ? e.labels[0].innerText : '';
            const style = getComputedStyle(e);
            return [(label + ' ' + (e.innerText || '')).replace(/\\s+/g, ' '), style.outlineStyle !== 'none', e.getBoundingClientRect().top] }"""
        )
        if words in told[0]:
            assert told[1], f"the focus on {words!r} cannot be seen"
            return
    raise AssertionError(f"Tab never comes to {words!r}")


def test_the_journey_by_keyboard_alone(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, viewport={"width": 1360, "height": 900}) as found:
        page, position = found.page, console.request()
        page.goto("/")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.keyboard.press("g")
        page.keyboard.press("d")
        expect(page).to_have_url(re.compile("/decisions$"))
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "request"
        page.keyboard.press("Tab")
        page.keyboard.type("none")
        page.keyboard.press("Enter")
        expect(page.get_by_text("No decision matches.")).to_be_visible()
        tab_to(found, "Clear")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("/decisions$"))
        expect(page.locator("#live-state")).to_have_text("live")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.id") == f"d{position}"
        page.keyboard.press("Enter")
        expect(page.get_by_text("verified", exact=True).first).to_be_visible()
        page.keyboard.press("g")
        page.keyboard.press("r")
        expect(page).to_have_url(re.compile("/routes$"))
        expect(page.locator("#live-state")).to_have_text("live")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"/routes/{ROUTE}$"))
        expect(page.locator("#live-state")).to_have_text("live")
        tab_to(found, "Change weights")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Change weights of"))
        tab_to(found, "vllm-llama3-8b-instruct now")
        page.keyboard.type("45")
        page.keyboard.press("Tab")
        page.keyboard.type("55")
        page.keyboard.press("Tab")
        page.keyboard.type("by keyboard")
        tab_to(found, "See what will change")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Is this what you want?")
        tab_to(found, "Change weights")
        page.keyboard.press("Enter")
        expect(page.get_by_text("recorded, written and read back")).to_be_visible()
        page.keyboard.press("?")
        expect(page).to_have_url(re.compile("/help$"))


def test_a_new_decision_is_on_the_page_within_a_second(browser: Browser, console: Running) -> None:
    with visit(browser, console.url) as found:
        found.page.goto("/decisions")
        expect(found.page.locator("#live-state")).to_have_text("live")
        time.sleep(0.7)
        for _ in range(3):
            begun = time.monotonic()
            position = console.request()
            found.page.wait_for_selector(f"#d{position}", state="attached")

            assert time.monotonic() - begun < 1.0
        expect(found.page.locator("#announce")).to_have_text(re.compile(r"^\d+ new: decisions?$"))


def test_rows_stay_where_they_are_under_the_pointer_and_the_focus(browser: Browser, console: Running) -> None:
    with visit(browser, console.url) as found:
        page = found.page
        page.goto("/decisions")
        expect(page.locator("#live-state")).to_have_text("live")
        page.wait_for_timeout(700)
        page.hover("tbody tr:nth-child(3)")
        position = console.request()
        expect(page.locator("#live-state")).to_have_text("live, waiting for you")
        assert page.locator(f"#d{position}").count() == 0
        page.mouse.move(5, 5)
        page.wait_for_selector(f"#d{position}", state="attached")
        page.keyboard.press("p")
        expect(page.locator("#live-state")).to_have_text("paused")
        later = console.request()
        page.wait_for_timeout(1200)
        assert page.locator(f"#d{later}").count() == 0
        page.keyboard.press("p")
        page.wait_for_selector(f"#d{later}", state="attached")


def test_an_open_table_stays_open_when_its_chart_is_drawn_anew(browser: Browser, console: Running) -> None:
    with visit(browser, console.url) as found:
        found.page.goto(f"/pools/{OLD}")
        found.page.locator("#chart-1 summary").click()
        with found.page.expect_response(lambda answer: "/pools/" in answer.url):
            console.request()
        found.page.wait_for_timeout(300)

        assert found.page.locator("#chart-1").evaluate("one => one.open")


def test_a_hidden_page_has_no_stream_and_comes_back(browser: Browser, console: Running) -> None:
    broadcast = console.world.broadcast
    with visit(browser, console.url) as found:
        found.page.goto("/decisions")
        expect(found.page.locator("#live-state")).to_have_text("live")
        assert broadcast.statistics().streams >= 1
        # Chromium without a window never hides a page by itself: it is told so.
        hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        found.page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", True)
        wait(lambda: broadcast.statistics().streams == 0)
        position = console.request()
        found.page.wait_for_timeout(500)
        assert found.page.locator(f"#d{position}").count() == 0
        found.page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", False)
        found.page.wait_for_selector(f"#d{position}", state="attached")


def test_a_page_left_open_sleeps_and_wakes_when_it_is_touched(browser: Browser, console: Running) -> None:
    broadcast = console.world.broadcast
    with visit(browser, console.url) as found:
        page = found.page
        page.clock.install()
        page.goto("/decisions")
        expect(page.locator("#live-state")).to_have_text("live")
        page.clock.run_for(29 * 60 * 1000)
        assert broadcast.statistics().streams >= 1
        page.clock.run_for(3 * 60 * 1000)
        expect(page.locator("#live-state")).to_have_text("asleep until somebody is here")
        wait(lambda: broadcast.statistics().streams == 0)
        position = console.request()
        page.mouse.move(50, 50)
        page.wait_for_selector(f"#d{position}", state="attached")


def wait(true: Callable[[], bool]) -> None:
    """Until a function says so, five seconds at most."""
    until = time.monotonic() + 5
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_times_are_relative_and_exact_on_hover(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, timezone_id="Asia/Tokyo") as found:
        found.page.goto("/decisions")
        first = found.page.locator("tbody time").first
        expect(first).to_have_text(re.compile(r"^(now|\d+ (s|min|h) ago)$"))

        assert re.match(r"^20\d\d-.*Z · here ", first.get_attribute("title") or "")
    with visit(browser, console.url, java_script_enabled=False) as found:
        found.page.goto("/decisions")
        expect(found.page.locator("tbody time").first).to_have_text(re.compile(r"^\d\d:\d\d:\d\d\.\d{3}$"))


def test_the_theme_follows_the_system_until_it_is_chosen(browser: Browser, console: Running) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    with visit(browser, console.url, color_scheme="dark") as found:
        found.page.goto("/help")
        assert found.page.evaluate(ground) == "rgb(18, 22, 27)"
        found.page.get_by_role("button", name="theme: system").click()
        assert found.page.evaluate(ground) == "rgb(247, 247, 244)"
        found.page.goto("/log")
        assert found.page.evaluate(ground) == "rgb(247, 247, 244)"


def test_nothing_moves_where_people_asked_for_that(browser: Browser, console: Running) -> None:
    with visit(browser, console.url, reduced_motion="reduce") as found:
        found.page.goto("/decisions")
        row = "const row = document.querySelector('tbody tr'); row.classList.add('new');"

        assert found.page.evaluate(f"() => {{ {row} return getComputedStyle(row).animationName }}") == "none"


def test_a_slow_replay_shows_what_is_stored_first(browser: Browser, console: Running) -> None:
    position = console.request()
    replayer = console.world.replayer
    real = replayer._exchange

    async def slowly(at: int, more: Sequence[int] = ()) -> bytes:
        import trio

        await trio.sleep(1.0 if at == position else 0.0)
        return await real(at, more)

    replayer._exchange = slowly  # type: ignore[method-assign,assignment]
    try:
        with visit(browser, console.url) as found:
            found.page.goto(f"/decisions/{position}")
            expect(found.page.get_by_text("Recomputing every score")).to_be_visible()
            expect(found.page.get_by_role("heading", name="What was asked")).to_be_visible()
            expect(found.page.get_by_text("verified", exact=True).first).to_be_visible()
        again = console.request()
        position = again
        with visit(browser, console.url, java_script_enabled=False) as found:
            found.page.goto(f"/decisions/{again}")
            expect(found.page.get_by_text("Recomputing every score")).to_be_visible()
            expect(found.page.get_by_text("verified", exact=True).first).to_be_visible()
    finally:
        del replayer._exchange


def test_a_page_left_open_says_when_nobody_answers_and_goes_on_when_somebody_does(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from worlds.console_world import restarting

    with restarting(tmp_path_factory.mktemp("restarted")) as world, visit(browser, world.url) as found:
        found.page.goto("/decisions")
        expect(found.page.locator("#live-state")).to_have_text("live")
        found.page.evaluate("window.notReloaded = true")
        world.stop()
        expect(found.page.locator("#strip")).to_have_class(re.compile("warn"))
        expect(found.page.locator("#strip")).to_contain_text("no answer from Pointsman since")
        world.start()
        expect(found.page.locator("#live-state")).to_have_text("live")
        expect(found.page.locator("#strip")).not_to_contain_text("no answer from Pointsman")
        position = world.running.request(random.choice([OLD, NEW]))
        found.page.wait_for_selector(f"#d{position}", state="attached")
        assert found.page.evaluate("window.notReloaded")
        found.complaints.clear()  # that the connection was refused meanwhile
