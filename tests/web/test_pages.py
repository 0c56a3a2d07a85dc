"""What the pages show: the same as their JSON twins, and the truth."""

import html
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
import trio
from worlds.console_world import NEW, OLD, ROUTE, Running, events_of, running, sample, served, world
from worlds.waiting import HUNG

from pointsman.core.events import Class, EndpointChanged, RequestRefused, RequestRouted, SourceAccepted, SourceRejected
from pointsman.eventlog.feed.hub import FeedStatistics
from pointsman.eventlog.opening import open_reader
from pointsman.web.app import PAGES

ADDRESSES = [
    "/",
    "/strip",
    "/help",
    "/pools",
    f"/pools/{OLD}",
    "/decisions",
    "/decisions/{decision}",
    "/routes",
    f"/routes/{ROUTE}",
    f"/routes/{ROUTE}/rules/0/weights",
    "/log",
    "/log/2",
]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 40) as found:
        yield found


@pytest.fixture(scope="module")
def decision(console: Running) -> int:
    return console.request()


class Checker(HTMLParser):
    """Counts what every page must have."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = self.captions = self.pictures = self.named = self.headings = 0
        self.ids: list[str] = []
        self.unnamed: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.headings += tag == "h1"
        if told.get("id"):
            self.ids.append(str(told["id"]))
        if tag == "svg" and "aria-hidden" not in told:
            self.pictures += 1
            self.named += bool(told.get("aria-label"))
        if tag == "th" and not told.get("scope"):
            self.unnamed.append(self.get_starttag_text() or tag)


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_page_is_whole_and_its_tables_and_pictures_have_names(
    console: Running, decision: int, address: str
) -> None:
    answer = console.ask(address.format(decision=decision))
    checker = Checker()
    checker.feed(answer.body)

    assert answer.status == 200
    assert answer.headers["vary"] == "HX-Request"
    assert checker.tables == checker.captions
    assert checker.pictures == checker.named
    assert checker.unnamed == []
    assert len(checker.ids) == len(set(checker.ids))
    if address != "/strip":
        assert checker.headings == 1
        assert '<a class="skip" href="#content">' in answer.body


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_page_has_a_json_twin(console: Running, decision: int, address: str) -> None:
    answer = console.ask("/api/v1" + address.format(decision=decision).rstrip("/"))

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json
    assert "<svg" not in answer.body


@pytest.mark.parametrize("address", ADDRESSES)
def test_head_is_answered_without_a_body(console: Running, decision: int, address: str) -> None:
    answer = console.ask(address.format(decision=decision), "HEAD")

    assert answer.status == 200
    assert answer.body == ""


def test_fragments_are_parts_of_their_pages(console: Running, decision: int) -> None:
    for address in ("/pools", "/decisions", "/routes", f"/routes/{ROUTE}", "/log", f"/decisions/{decision}"):
        part = console.ask(address, headers={"HX-Request": "true"})

        assert part.status == 200
        assert "<html" not in part.body
        assert part.headers["vary"] == "HX-Request"
        name = re.search(r'<div id="([a-z]+)"', part.body)
        assert name
        assert f'<div id="{name[1]}"' in console.ask(address).body


def test_every_hx_get_has_an_equal_page(console: Running, decision: int) -> None:
    for address in ADDRESSES:
        for wanted in re.findall(r'hx-get="([^"]+)"', console.ask(address.format(decision=decision)).body):
            assert console.ask(wanted).status == 200, wanted


def test_no_link_of_a_page_leads_nowhere(console: Running, decision: int) -> None:
    seen: set[str] = set()
    for address in ADDRESSES:
        body = console.ask(address.format(decision=decision)).body
        for link in re.findall(r'(?:href|src|action)="(/[^"#]*)', body):
            if link not in seen and len(seen) < 150 and not link.startswith("/requests/"):
                seen.add(link)
                assert console.ask(link.replace("&amp;", "&")).status == 200, (address, link)

    assert len(seen) > 60


def test_the_overview_says_what_to_do_and_how_the_whole_is(console: Running) -> None:
    body = console.ask("/").body

    for words in ("Send a request", "Open its decision", "Move the weight", "Verify", "curl -si http://127.0.0.1:8080"):
        assert words in body
    for words in ("requests", "refused", "headroom", "What happened", "pointsman replay verify --data-dir "):
        assert words in body
    assert f'href="/routes/{ROUTE}/rules/0/weights"' in body
    told = console.ask("/api/v1").json
    assert {pool["name"] for pool in told["pools"]} == {OLD.partition("/")[2], NEW.partition("/")[2]}
    assert told["totals"]["ready"] == 5
    assert told["routes"][0]["backends"][0]["weight"] == 90


def test_the_command_that_verifies_can_be_pasted_into_a_shell_as_it_is(console: Running) -> None:
    [command] = re.findall(r"<pre[^>]*verifies all decisions[^>]*>([^<]*)</pre>", console.ask("/").body)
    done = subprocess.run(
        html.unescape(command), shell=True, cwd="/", capture_output=True, text=True, timeout=HUNG, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "checked" in done.stdout


def test_a_pool_shows_load_adapters_and_what_is_in_flight(console: Running) -> None:
    told = console.ask(f"/api/v1/pools/{OLD}").json
    first = told["endpoints"][0]
    [row, _] = console.ask("/api/v1/pools").json

    assert row["adapters"] == [{"name": "food-review-1", "running_on": 2, "waiting_on": 0, "endpoints": 3}]
    assert "food-review-1 on 2 of 3" in console.ask("/pools").body
    assert first["word"] == "ready"
    assert first["adapters"] == ["food-review-1"]
    assert isinstance(first["waiting"], int)
    assert first["sample_age_seconds"] >= 0
    assert sum(e["in_flight"] for e in told["endpoints"]) == row["in_flight"]
    assert [p["type"] for p in told["config"]["plugins"]][:2] == ["queue-scorer", "kv-cache-utilization-scorer"]


def test_charts_say_nothing_of_spans_in_which_nothing_was_recorded(console: Running) -> None:
    for span, points in (("5m", 29), ("hour", 59), ("day", 95)):
        told = console.ask(f"/api/v1/pools/{OLD}?span={span}").json
        [series] = told["charts"][0]["series"]

        assert len(series["values"]) == points
        assert series["values"][0] is None
        assert len(told["charts"][0]["starts"]) == points
    page = console.ask(f"/pools/{OLD}?span=day&until=1000000000").body
    assert page.count("nothing recorded in this span") == 6


def test_a_decision_shows_what_was_asked_why_and_what_came_of_it(console: Running, decision: int) -> None:
    told = console.ask(f"/api/v1/decisions/{decision}").json
    body = console.ask(f"/decisions/{decision}").body
    candidates = told["explanation"]["candidates"]
    chosen = [c for c in candidates if c["scored"]["chosen"] == 1]

    assert told["verdict"]["word"] == "verified"
    assert len(chosen) == 1
    assert chosen[0]["scored"]["rank"] == 1
    assert chosen[0]["name"] in told["title"]
    assert told["why"] in re.sub(r"&#39;", "'", body)
    assert len(candidates) == 3
    for scorer in told["explanation"]["scorers"]:
        assert scorer["plugin"] in body
    assert told["finished"]["cause"] == "complete"
    for words in ("What was asked", "Recorded as", "Beside it in time", "request-finished", "its text is not stored"):
        assert words in body
    assert body.count('<rect width="220" height="12" class="track"/>') == 2 * 3


def test_the_sum_of_a_candidate_is_the_sum_of_its_row(console: Running, decision: int) -> None:
    told = console.ask(f"/api/v1/decisions/{decision}").json["explanation"]
    for line in told["candidates"]:
        parts = [score["weighted"] for score in line["scored"]["scores"]]

        assert sum(parts) == pytest.approx(line["scored"]["sum"])


def test_a_request_under_way_says_so(console: Running) -> None:
    position = console.request(finish=False)
    body = console.ask(f"/decisions/{position}").body

    assert "under way" in body
    assert 'hx-trigger="live:decisions from:body"' in body


def test_a_request_id_leads_to_its_decision(console: Running, decision: int) -> None:
    name = console.ask(f"/api/v1/decisions/{decision}").json["decision"]["request"]["request_id"]

    assert console.ask(f"/requests/{name}").headers["location"] == f"/decisions/{decision}"
    assert console.ask(f"/api/v1/requests/{name}").headers["location"] == f"/api/v1/decisions/{decision}"
    [row] = console.ask(f"/api/v1/decisions?request={name}").json["decisions"]
    assert row["position"] == decision


def test_the_log_shows_ranges_classes_types_and_the_chain_head(console: Running) -> None:
    told = console.ask("/api/v1/log?first=1&last=5").json
    one = console.ask("/log/1").body

    assert [e["position"] for e in told["entries"]] == [5, 4, 3, 2, 1]
    assert told["digest"] == console.world.appender.log.head.digest.hex()
    assert "log-created" in one
    assert "Fields" in one
    only = console.ask("/api/v1/log?type=route-observed").json["entries"]
    assert [e["event"] for e in only] == ["route-observed"]
    kinds = {e["class"] for e in console.ask("/api/v1/log?class=membership").json["entries"]}
    assert kinds == {"membership"}


def test_pages_of_the_log_meet_without_gap_or_overlap(console: Running) -> None:
    address, seen = "/log?class=traffic", list[int]()
    while address:
        body = console.ask(address).body
        seen += [int(p) for p in re.findall(r'<tr data-position="(\d+)"', body)]
        older = re.search(r'<a class="button" href="([^"]+)">Older</a>', body)
        address = older[1].replace("&amp;", "&") if older else ""

    with open_reader(console.world.appender.log.directory) as reader:
        wanted = [entry.position for entry in reader.entries(1, classes={Class.TRAFFIC})]
    assert seen == wanted[::-1]


def test_every_page_of_the_table_was_asked_for() -> None:
    covered = {re.sub(r"<[^>]+>", "*", path) for path, method, _ in PAGES if method == "GET"}
    asked = {
        re.sub(r"/(default/[^/]+)", "/*/*", a)
        .replace("{decision}", "*")
        .replace("rules/0", "rules/*")
        .replace("/log/2", "/log/*")
        for a in ADDRESSES
    }

    assert covered - asked == {"/requests/*"}


def test_the_strip_tells_of_trouble_and_since_when(console: Running) -> None:
    before = console.world.feed
    try:
        console.world.feed = FeedStatistics(0, 0, 0, 0, 1, 0)
        first = console.ask("/api/v1/strip").json
        again = console.ask("/api/v1/strip").json
        body = console.ask("/pools").body
    finally:
        console.world.feed = before

    assert "no picker process is connected" in first["trouble"]
    assert first["since"] == again["since"] != ""
    assert 'class="strip bad"' in body
    assert 'class="strip bad"' not in console.ask("/pools").body


def test_the_strip_tells_of_a_wrong_file_until_it_is_right(console: Running) -> None:
    async def say(event: SourceRejected | SourceAccepted) -> None:
        await console.world.appender.append(event)

    console.call(say, SourceRejected("route.yaml", 12, "weight is 'ninety', wanted a whole number"))
    wrong = console.ask("/api/v1/strip").json["trouble"]
    console.call(say, SourceAccepted("route.yaml"))

    assert wrong.startswith("route.yaml, line 12: weight is 'ninety', wanted a whole number")
    assert "route.yaml" not in console.ask("/api/v1/strip").json["trouble"]


def test_an_endpoint_that_is_not_ready_shows_on_every_page_of_its_pool(tmp_path: Path) -> None:
    with running(tmp_path, 6) as console:

        async def fail() -> None:
            for number in (4, 5):
                await console.world.appender.append(EndpointChanged(number, False))

        console.call(fail)

        assert "vllm-llama3-8b-instruct-new has no ready endpoint" in console.ask("/").body
        for address in ("/", "/pools", f"/pools/{NEW}", "/strip", "/log"):
            assert "has no ready endpoint: its requests are refused" in console.ask(address).body, address
        position = console.request(NEW)
        told = console.ask(f"/api/v1/decisions/{position}").json
        assert told["title"] == "Why this request was refused with 503"
        assert told["verdict"]["word"] == "verified"
        assert "No endpoint" in told["why"]


def test_empty_states_say_what_to_do_next(tmp_path: Path) -> None:
    with running(tmp_path, 0) as console:
        assert "No request has been decided yet." in console.ask("/decisions").body
        assert "nothing recorded in this span" in console.ask(f"/pools/{OLD}").body
        assert "not observed yet" in console.ask(f"/routes/{ROUTE}").body
        assert "No request has come by this route" in console.ask(f"/routes/{ROUTE}").body
        for address in ADDRESSES:
            if "{" not in address:
                assert console.ask(address).status == 200


def test_a_copied_log_and_a_restart_give_the_same_charts(tmp_path: Path) -> None:
    address = f"/api/v1/pools/{OLD}?span=5m&until="
    with running(tmp_path / "one", 30) as console:
        until = int(console.world.appender.log.head.recorded_at) + 20
        told = console.ask(f"{address}{until}").json["charts"]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two/readmodel.db").unlink()
    for name in ("one", "two"):

        async def again(home: Path = tmp_path / name) -> list[object]:
            async with world(home, 0, fresh=False) as made, served(made) as url:
                console = Running(made, url, trio.lowlevel.current_trio_token())
                answer = await trio.to_thread.run_sync(console.ask, f"{address}{until}")
                return list(answer.json["charts"])

        assert trio.run(again) == told, name

    assert any(v is not None for v in told[0]["series"][0]["values"])


def test_a_decision_that_was_changed_in_the_log_is_told_apart(tmp_path: Path) -> None:
    with running(tmp_path, 3) as console:

        async def forge() -> int:
            made = console.world
            position = await made.request(__import__("random").Random(5), OLD)
            [event] = events_of(made.appender, position, position)
            assert isinstance(event, RequestRouted)
            origin = msgspec.structs.replace(event.origin, n=made.n + 1)
            made.n += 1
            best = tuple((e, total + 0.5) for e, total in event.best)
            forged = await made.appender.append(msgspec.structs.replace(event, origin=origin, best=best))
            await made.index()
            return forged

        told = console.ask(f"/api/v1/decisions/{console.call(forge)}").json

        assert told["verdict"]["word"] == "differs"
        assert "differs: recorded" in told["verdict"]["difference"]


def test_a_request_refused_before_scheduling_has_nothing_to_recompute(console: Running, decision: int) -> None:
    async def refuse() -> int:
        made = console.world
        [event] = events_of(made.appender, decision, decision)
        assert isinstance(event, RequestRouted)
        made.n += 1
        origin = msgspec.structs.replace(event.origin, n=made.n, applied=made.appender.log.head.position)
        position = await made.appender.append(
            RequestRefused(origin, event.decided_at, event.request, "bad-request", 400, "the body is no JSON")
        )
        await made.appender.append(sample(__import__("random").Random(2)))
        await made.index()
        return position

    told = console.ask(f"/api/v1/decisions/{console.call(refuse)}").json

    assert told["verdict"]["word"] == "not scheduled"
    assert told["why"] == "the body is no JSON"
