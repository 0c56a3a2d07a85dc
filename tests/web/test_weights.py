"""The form that moves a weight: what it shows, what it refuses, and in which order it writes."""

import html
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
import trio
from worlds.console_world import NEW, OLD, ROUTE, Answer, Running, events_of, running, served, world
from worlds.waiting import HUNG

from pointsman.core.events import RouteObserved, WeightsIntended, WeightsRefused, WeightsWritten
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal
from pointsman.core.rollout.weight_change import ReadBack, ReadBackResult, WriteResult
from pointsman.web.pages import figures

FORM = f"/routes/{ROUTE}/rules/0/weights"
KEYS = {pool: f"weight:inference.networking.k8s.io/InferencePool/{pool}" for pool in (OLD, NEW)}


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 30) as found:
        yield found


class Browser:
    """A person with the form before them."""

    def __init__(self, console: Running) -> None:
        self.console = console
        self.answer = console.ask(FORM)
        cookie = self.answer.headers["set-cookie"].partition(";")[0]
        self.headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": cookie,
            "Origin": console.url,
            "Sec-Fetch-Site": "same-origin",
        }

    def send(self, **more: object) -> Answer:
        """Send the form as it stands, with these fields changed."""
        form = dict(re.findall(r'<input[^>]* name="([^"]+)" value="([^"]*)"', self.answer.body))
        reason = re.search(r"<textarea[^>]*>([^<]*)<", self.answer.body)
        form = {k: html.unescape(v) for k, v in form.items()} | {"reason": html.unescape(reason[1] if reason else "")}
        form |= {KEYS[OLD] if k == "old" else KEYS[NEW] if k == "new" else k: str(v) for k, v in more.items()}
        self.sent = form
        if 'method="get"' in self.answer.body:
            self.answer = self.get(f"{FORM}?{urlencode(form)}")
        else:
            self.answer = self.console.ask(FORM, "POST", urlencode(form), self.headers)
        if self.answer.headers.get("location", "").startswith(FORM):
            self.answer = self.get(self.answer.headers["location"])
        return self.answer

    def get(self, address: str) -> Answer:
        """Go to an address, as by a link or with Back."""
        return self.console.ask(address, headers={"Cookie": self.headers["Cookie"]})

    def again(self) -> Answer:
        """Send the same once more."""
        return self.console.ask(FORM, "POST", urlencode(self.sent), self.headers)


def events(console: Running) -> list[object]:
    """What the log says of weights."""
    kinds = (RouteObserved, WeightsIntended, WeightsWritten, WeightsRefused)
    return [e for e in events_of(console.world.appender) if isinstance(e, kinds)]


def test_a_change_is_shown_in_numbers_and_in_traffic_before_it_is_made(console: Running) -> None:
    body = Browser(console).send(old=50, new=50, reason="half and half").body

    assert "Is this what you want?" in body
    assert "40.0 % of the requests of llm-route, rule 1 move: about " in body
    for words in ("90 → 50", "10 → 50", "90.0 % → 50.0 %", "10.0 % → 50.0 %", "2 of 3 ready"):
        assert words in body
    assert len(events(console)) == 1


def test_what_cannot_be_written_is_said_beside_the_weight_before_anybody_tries(console: Running) -> None:
    why = "r.yaml has 2 names (hard links), of which one alone would change, wanted a file with one name"
    route = console.world.state.routes[ROUTE]
    rules = tuple(msgspec.structs.replace(rule, unwritable=why) for rule in route.rules)
    console.call(console.world.appender.append, msgspec.structs.replace(route, rules=rules))

    for page in ("/routes", f"/routes/{ROUTE}", FORM):
        assert why in console.ask(page).body, page
    assert json.loads(console.ask(f"/api/v1{FORM}").body)["unwritable"] == why


def test_a_change_is_recorded_then_written_then_confirmed(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=50, new=50, reason="half & <half>")
    answer = browser.send(confirmed="yes")
    found = events(console)[1:]

    assert answer.status == 303
    assert answer.headers["location"] == f"/routes/{ROUTE}?done=1"
    assert [type(e).__name__ for e in found] == ["WeightsIntended", "RouteObserved", "WeightsWritten"]
    assert isinstance(found[0], WeightsIntended)
    assert found[0].reason == "half & <half>"
    assert [b.weight for b in found[0].before] == [90, 10]
    assert [b.weight for b in found[0].after] == [50, 50]
    assert "out of step" not in console.ask(answer.headers["location"]).body
    console.call(console.world.index)
    page = console.ask(answer.headers["location"]).body
    assert "recorded, written and read back" in page
    assert "half &amp; &lt;half&gt;" in page
    assert "90 → 50" in page


def test_numbers_can_be_changed_after_they_were_seen(console: Running) -> None:
    browser = Browser(console)
    shown = browser.send(old=50, new=50, reason="half").body
    edit = re.search(r'href="([^"]+)">Change the numbers</a>', shown)
    assert edit is not None
    body = browser.get(html.unescape(edit[1])).body

    assert "See what will change" in body
    assert 'value="50"' in body
    assert ">half</textarea>" in body
    assert len(events(console)) == 1


def test_back_after_a_finished_change_shows_a_page_and_changes_nothing(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=50, new=50, reason="half and half")
    shown = f"{FORM}?{urlencode({k: v for k, v in browser.sent.items() if k != 'token'})}"
    assert browser.send(confirmed="yes").status == 303
    back = browser.get(shown)

    assert back.status == 200
    assert "These are the weights of the route now." in back.body
    assert "token" not in shown
    assert len(console.world.written) == 1


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_half_filled_form_outlives_the_process(console: Running, confirmed: bool) -> None:
    browser = Browser(console)
    if confirmed:
        browser.send(old=60, new=40, reason="halfway there")
    access = console.world.access
    access._secret = b"that of another process"
    body = (
        browser.send(confirmed="yes").body if confirmed else browser.send(old=60, new=40, reason="halfway there").body
    )

    assert 'value="60"' in body
    assert 'value="40"' in body
    assert ">halfway there</textarea>" in body
    assert console.world.written == []
    if confirmed:
        assert browser.answer.status == 403
        assert "Pointsman was started again after this form was opened" in body
        browser.send()
    assert "Is this what you want?" in browser.answer.body
    assert browser.send(confirmed="yes").status == 303


def test_a_link_of_another_site_does_not_fill_the_form_in(console: Running) -> None:
    query = urlencode({KEYS[NEW]: 77, "reason": "theirs", "show": "change"})
    for site in ("cross-site", "same-site"):
        body = console.ask(f"{FORM}?{query}", headers={"Sec-Fetch-Site": site}).body
        assert "theirs" not in body
        assert 'value="77"' not in body


def test_a_form_sent_twice_changes_once(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=80, new=20, reason="a fifth")
    browser.send(confirmed="yes")
    again = browser.again()

    assert again.status == 409
    assert len(console.world.written) == 1
    assert len([e for e in events(console) if isinstance(e, WeightsIntended)]) == 1


def test_a_form_sent_twice_is_told_of_even_where_the_route_is_the_same(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=80, new=20, reason="a fifth")
    console.world.refuse_writes = ChangeRefusal(ChangeCode.NOT_WRITTEN, "the disk is full", "room on it")
    assert browser.send(confirmed="yes").status == 422
    console.world.refuse_writes = None
    again = browser.again()

    assert again.status == 409
    assert "this form was sent before" in again.body.lower()
    assert console.world.written == []


def test_a_stale_form_is_refused_and_shows_both(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=80, new=20, reason="a fifth")

    async def other() -> None:
        route = console.world.state.routes[ROUTE]
        backends = tuple(
            msgspec.structs.replace(b, weight=w) for b, w in zip(route.rules[0].backends, (70, 30), strict=True)
        )
        rules = (msgspec.structs.replace(route.rules[0], backends=backends),)
        await console.world.appender.append(msgspec.structs.replace(route, rules=rules, version="v-other"))

    console.call(other)
    answer = browser.send(confirmed="yes")
    cells = [re.findall(r"<td class=\"number\">([^<]*)</td>", row) for row in answer.body.split("<tr>")[2:4]]

    assert answer.status == 409
    assert "Somebody else was faster." in answer.body
    assert cells == [["90", "70", "80"], ["10", "30", "20"]]
    assert console.world.written == []
    # What they asked for can be asked for again, on the new ground.
    assert browser.send().status == 200
    assert browser.send(confirmed="yes").status == 303
    assert [b.weight for b in console.world.written[0]] == [80, 20]


def test_a_file_that_was_changed_under_the_form_is_refused_and_recorded(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=80, new=20, reason="a fifth")
    console.world.refuse_writes = ChangeRefusal(
        ChangeCode.STALE, "route.yaml was changed since the route was read", "the file that the change rests on"
    )
    answer = browser.send(confirmed="yes")
    last = events(console)[-1]

    assert answer.status == 409
    assert "route.yaml was changed since the route was read" in answer.body.replace("Route", "route")
    assert isinstance(last, WeightsRefused)
    assert "was changed" in last.cause
    console.call(console.world.index)
    assert "not made" in console.ask(f"/routes/{ROUTE}").body


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"old": 0, "new": 0}, 422, "at least one above 0"),
        ({"old": 90, "new": 10}, 422, "these are the weights already"),
        ({"old": 1_000_001}, 422, "wanted 0 to 1,000,000"),
        ({"old": -1}, 400, "wanted a whole number"),
        ({"old": "1.5"}, 400, "wanted a whole number"),
        ({"old": ""}, 400, "wanted a whole number"),
        ({"old": "9" * 400}, 400, "wanted a whole number"),
        ({"old": 50, "reason": ""}, 422, "wanted 3 to 500"),
        ({"old": 50, "reason": "  x "}, 422, "wanted 3 to 500"),
        ({"old": 50, "reason": "x" * 501}, 422, "wanted 3 to 500"),
        ({"old": 50, "reason": "a\x00b\x1bc"}, 422, "that can be read"),
        ({"weight:core/Service/default/other": 5}, 409, "the rule has no backend"),
        ({"old": 50, "version": "v0"}, 409, "somebody else changed the route"),
        ({"old": 50, "once": "", "confirmed": "yes"}, 403, "lost its number"),
        ({"old": 50, "once": "x" * 41, "confirmed": "yes"}, 403, "lost its number"),
    ],
)
def test_what_cannot_be_is_refused_in_words(console: Running, form: dict[str, object], status: int, words: str) -> None:
    browser = Browser(console)
    if "once" in form:
        browser.send(reason="because", old=form["old"])
    answer = browser.send(**({"reason": "because"} | form))

    assert answer.status == status
    assert words in html.unescape(answer.body).replace("Somebody else changed", "somebody else changed").replace(
        "These are", "these are"
    ).replace("The rule", "the rule")
    assert console.world.written == []
    assert len(events(console)) == 1


def test_a_change_towards_a_pool_without_endpoints_warns(console: Running) -> None:
    from pointsman.core.events import EndpointChanged

    async def fail() -> None:
        for number in (4, 5):
            await console.world.appender.append(EndpointChanged(number, False))

    console.call(fail)

    assert "has no ready endpoint: its share" in Browser(console).send(old=50, new=50, reason="half").body


def test_the_observed_share_counts_from_the_change_on(console: Running) -> None:
    rule = console.ask(f"/api/v1/routes/{ROUTE}").json["rules"][0]
    assert sum(b["requests"] for b in rule["backends"]) == 30
    browser = Browser(console)
    browser.send(old=0, new=100, reason="all of it")
    browser.send(confirmed="yes")
    console.call(console.world.index)
    empty = console.ask(f"/api/v1/routes/{ROUTE}").json

    assert sum(b["requests"] for b in empty["rules"][0]["backends"]) == 0
    assert empty["state"] == "not observed yet"
    console.request(OLD)  # what a gateway still sends by the weights before does not count
    time.sleep(figures.GRACE)
    for _ in range(20):
        console.request(NEW)
    told = console.ask(f"/api/v1/routes/{ROUTE}").json
    assert [b["requests"] for b in told["rules"][0]["backends"]] == [0, 20]
    assert told["state"] == "settling, 20 of about 400 requests"
    assert "20 of the about 400 requests that a verdict needs have come" in told["sentence"]
    assert re.fullmatch(r"the last \d+\.\d s, since the weights were set", told["rules"][0]["observed_over"])
    for _ in range(30):
        console.request(OLD)
    assert console.ask(f"/api/v1/routes/{ROUTE}").json["state"] == "out of step"


def test_edits_of_the_file_are_in_the_history_once(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=80, new=20, reason="by form")
    browser.send(confirmed="yes")

    async def edit() -> None:
        route = console.world.state.routes[ROUTE]
        backends = tuple(
            msgspec.structs.replace(b, weight=w) for b, w in zip(route.rules[0].backends, (60, 40), strict=True)
        )
        rules = (msgspec.structs.replace(route.rules[0], backends=backends),)
        await console.world.appender.append(msgspec.structs.replace(route, rules=rules, version="edited"))
        await console.world.index()

    console.call(edit)
    changes = console.ask(f"/api/v1/routes/{ROUTE}").json["changes"]
    told = [(c["actor"], c["word"], [(w["before"], w["after"]) for w in c["weights"]]) for c in changes]
    assert told == [
        ("route.yaml", "seen", [(80, 60), (20, 40)]),
        ("someone on this machine", "written", [(90, 80), (10, 20)]),
        ("route.yaml", "seen", [(None, 90), (None, 10)]),
    ]


def test_a_person_who_leaves_does_not_stop_what_was_begun(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, 3) as made:
            begun, go_on = trio.Event(), trio.Event()
            write = made.write

            async def slowly(source: str, intent: WeightsIntended) -> WriteResult:
                begun.set()
                await go_on.wait()
                return await write(source, intent)

            made.write = slowly  # type: ignore[method-assign]
            async with served(made) as url:
                console = Running(made, url, trio.lowlevel.current_trio_token())
                browser = await trio.to_thread.run_sync(Browser, console)
                await trio.to_thread.run_sync(lambda: browser.send(old=1, new=1, reason="and gone"))
                form = dict(re.findall(r'<input[^>]* name="([^"]+)" value="([^"]*)"', browser.answer.body))
                body = urlencode(form | {"reason": "and gone", "confirmed": "yes"}).encode()
                head = "".join(f"{k}: {v}\r\n" for k, v in browser.headers.items())
                stream = await trio.open_tcp_stream("127.0.0.1", console.port)
                await stream.send_all(
                    f"POST {FORM} HTTP/1.1\r\nHost: 127.0.0.1:{console.port}\r\n{head}"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                with trio.fail_after(HUNG):
                    await begun.wait()
                await stream.aclose()
                await trio.sleep(0.1)
                go_on.set()
                with trio.fail_after(HUNG):
                    while made.state.pending_changes or not made.written:
                        await trio.sleep(0.01)
            last = events_of(made.appender)[-1]
            assert isinstance(last, WeightsWritten)

    trio.run(main)


def test_a_change_of_which_nobody_knows_is_not_told_as_not_changed(console: Running) -> None:
    browser = Browser(console)
    browser.send(old=80, new=20, reason="a fifth")
    read_back = console.world.read_back

    async def other(source: str, intent: WeightsIntended) -> ReadBackResult:
        return ReadBack("v9", intent.before)

    console.world.read_back = other  # type: ignore[method-assign]
    answer = browser.send(confirmed="yes")
    console.world.read_back = read_back  # type: ignore[method-assign]
    console.call(console.world.index)
    [last] = [c for c in console.ask(f"/api/v1/routes/{ROUTE}").json["changes"] if c["reason"] == "a fifth"]

    assert answer.status == 409
    assert "It is not known whether this was changed." in answer.body
    assert "that were read back are 90, 10, wanted 80, 20" in answer.body
    assert (last["word"], last["state"]) == ("unknown", "bad")


def test_the_json_of_the_form_says_what_it_shows(console: Running) -> None:
    told = json.loads(console.ask("/api/v1" + FORM).body)

    assert [b["value"] for b in told["backends"]] == [90, 10]
    assert told["version"] == "v1"
