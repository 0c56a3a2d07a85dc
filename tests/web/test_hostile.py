"""Unknown ids, hostile search terms and cursors: an answer in words, never an error of ours."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from worlds.console_world import OLD, ROUTE, Running, running

TERMS = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "'; DROP TABLE requests; --",
    "' OR 1=1 --",
    "%",
    "_",
    "*",
    "{{ 7 * 7 }}",
    "${7*7}",
    "\x00",
    "a\x00b",
    "\ud800",
    "\u202e evil",
    "x" * 201,
    "x" * 20_000,
    "😀" * 50,
    "../../etc/passwd",
]
FIELDS = ("request", "model", "endpoint", "status", "since", "until")
NUMBERS = [
    "-1",
    "0",
    "1e9",
    "9" * 16,
    "9" * 30,
    "9" * 5_000,
    "٣",
    "0x10",
    " 1",
    "1;2",
    "",
    "NaN",
    "<img src=x>",
    "\x00",
    "1.5",
]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 8) as found:
        yield found


def encoded(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def check(console: Running, address: str) -> int:
    """Ask for the page and its twin; neither fails, and the page holds no markup."""
    statuses = set()
    for path in (address, "/api/v1" + address):
        answer = console.ask(path)
        statuses.add(answer.status)
        assert answer.status in (200, 303, 400, 404, 414, 431), (path, answer.status, answer.body[:300])
    page = console.ask(address).body
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    return statuses.pop()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("term", TERMS)
def test_any_search_term_is_answered(console: Running, field: str, term: str) -> None:
    check(console, f"/decisions?{field}={encoded(term)}")


def test_search_terms_find_what_is_equal_and_nothing_else(console: Running) -> None:
    for term in ("' OR 1=1 --", "%", "*", "_"):
        for field in ("request", "model", "endpoint"):
            assert console.ask(f"/api/v1/decisions?{field}={encoded(term)}").json["decisions"] == []
    assert len(console.ask("/api/v1/decisions?model=food-review-1").json["decisions"]) > 0


@pytest.mark.parametrize("number", NUMBERS)
def test_any_cursor_is_answered(console: Running, number: str) -> None:
    for address in ("/decisions?before=", "/decisions?after=", "/log?first=", "/log?last=", f"/pools/{OLD}?until="):
        check(console, address + encoded(number))
    for address in ("/decisions/", f"/routes/{ROUTE}/rules/"):
        end = "/weights" if "rules" in address else ""
        check(console, address + encoded(number) + end)


@pytest.mark.parametrize("term", TERMS)
def test_unknown_names_are_not_found(console: Running, term: str) -> None:
    for address in ("/pools/default/{}", "/pools/{}/x", "/routes/default/{}", "/requests/{}", "/static/{}", "/{}"):
        check(console, address.format(encoded(term)))
    for address in (f"/pools/{OLD}?span=", "/log?class=", "/log?type="):
        assert check(console, address + encoded(term)) == 400


def test_unknown_nouns_say_what_was_found_and_wanted(console: Running) -> None:
    for address, words in (
        ("/pools/default/none", "There is no pool default/none now."),
        ("/routes/default/none", "There is no route default/none now."),
        (f"/routes/{ROUTE}/rules/7/weights", "The route has 1 rule, wanted number 8."),
        ("/decisions/999999", "wanted #999,999"),
        ("/decisions/0", "wanted #0"),
        ("/decisions/1", "Entry #1 is no decision"),
        ("/requests/none", "No decision about a request"),
        ("/nowhere", "There is no page at /nowhere."),
        ("/api/v1/nowhere", "There is no page at /api/v1/nowhere."),
    ):
        answer = console.ask(address)

        assert answer.status == 404
        assert words in answer.body.replace("&#39;", "'"), address


def test_queries_that_cannot_be_are_explained(console: Running) -> None:
    for query, words in (
        ("/decisions?since=yesterday", "wanted a time in UTC"),
        ("/decisions?since=2026-01-02T00:00&until=2026-01-01T00:00", "wanted an earlier and a later time"),
        ("/decisions?status=ok", "wanted a whole number"),
        ("/log?first=9&last=3", "wanted the smaller one first"),
        ("/log?type=weights", "wanted an event such as"),
    ):
        answer = console.ask(query)

        assert answer.status == 400
        assert words in answer.body


def test_times_narrow_the_search(console: Running) -> None:
    rows = console.ask("/api/v1/decisions").json["decisions"]
    newest, oldest = rows[0], rows[-1]

    def positions(query: str) -> list[int]:
        return [r["position"] for r in console.ask(f"/api/v1/decisions?{query}").json["decisions"]]

    assert positions(f"since={encoded('2001-01-01T00:00')}") == [r["position"] for r in rows]
    assert positions(f"until={encoded('2001-01-01T00:00')}") == []
    assert positions(f"since={encoded('2090-01-01T00:00')}") == []
    assert positions(f"since={encoded(newest['at'])}") in ([newest["position"]], [])
    assert oldest["position"] not in positions(f"since={encoded(newest['at'])}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FIELDS), st.binary(max_size=60))
def test_no_bytes_of_a_query_break_a_page(console: Running, field: str, data: bytes) -> None:
    assert console.ask(f"/decisions?{field}={quote(data)}").status in (200, 400)


def test_pages_of_decisions_meet_without_gap_or_overlap(console: Running) -> None:
    for _ in range(220):
        console.request()
    address, seen = "/api/v1/decisions", list[int]()
    while address:
        told = console.ask(address).json
        seen += [r["position"] for r in told["decisions"]]
        address = f"/api/v1/decisions?before={told['older']}" if told["older"] else ""

    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 228
