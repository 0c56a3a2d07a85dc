"""The list of decisions with its search; `web/pages/decision.py` shows one."""

from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec
import trio
from quart import request

from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters, Slowest
from pointsman.eventlog.readmodel.rows import EndpointRow, RequestRow
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import words
from pointsman.web.pages.reply import BadQuery, Missing, Reply, number

PAGE = 100
"""Decisions to a page."""
FIELD_MAX = 200
SHOWN_OF_ID = 13
"""Characters of a request id that a list shows: two groups of a UUID.  What is shown can be searched."""
SORTS = (("", "newest"), (Slowest.DURATION, "slowest"), (Slowest.FIRST_TOKEN, "slowest first token"))
PATIENCE = 0.05
"""Seconds that the list waits for reasons, half of what a page may take; the rest come with its next refresh."""
FRAGMENT_PATIENCE = 0.5
"""Seconds that a refresh waits for them: what is shown stays meanwhile."""
PATIENCE_JSON = 2.0
"""Seconds that a program waits for them: it does not ask again."""
STATUSES = (
    ("", "any"),
    ("200", "200"),
    ("refused", "refused"),
    ("failed", "failed"),
    ("degraded", "degraded"),
    ("400", "400"),
    ("429", "429"),
    ("500", "500"),
    ("503", "503"),
)


class DecisionRow(msgspec.Struct, frozen=True):
    """A decision in a list."""

    position: int
    at: str
    request_id: str
    pool: str
    model: str
    endpoint: str
    reason: str
    why: str | None
    """Reason in a few words; None where it is not known yet, empty where it is not any more."""
    status: int | None
    open_word: str
    first_token_seconds: float | None
    duration_seconds: float | None
    completion_tokens: int | None
    degraded: bool
    failed: bool

    @property
    def shown_id(self) -> str:
        """The request id as far as a list shows it."""
        return self.request_id[:SHOWN_OF_ID] + ("…" if len(self.request_id) > SHOWN_OF_ID else "")


def decision_row(row: RequestRow, names: dict[int, EndpointRow], why: str | None = None) -> DecisionRow:
    """What a list shows of a decision."""
    member = names.get(row.endpoint) if row.endpoint is not None else None
    return DecisionRow(
        row.position,
        words.moment(row.decided_at),
        row.request_id,
        short_name(row.pool),
        row.model,
        member.full_name if member else (f"endpoint {row.endpoint}" if row.endpoint is not None else ""),
        row.reason,
        why,
        row.status,
        row.cause or "under way",
        row.first_token,
        row.duration,
        row.completion_tokens,
        row.degraded,
        row.failed,
    )


class Search(msgspec.Struct, frozen=True):
    """The fields of the form that searches the list."""

    request: str = ""
    model: str = ""
    endpoint: str = ""
    pool: str = ""
    status: str = ""
    since: str = ""
    until: str = ""
    sort: str = ""

    def query(self, **more: object) -> str:
        """The address of the list with these fields."""
        fields = {k: v for k, v in (msgspec.structs.asdict(self) | more).items() if v not in ("", None)}
        return "/decisions" + (f"?{urlencode(fields)}" if fields else "")


def _search() -> tuple[Search, Filters]:
    """The form's fields and what they mean; raises `BadQuery`."""
    fields = {name: request.args.get(name, "").strip() for name in Search.__struct_fields__}
    for name, value in fields.items():
        if len(value) > FIELD_MAX:
            raise BadQuery(f"{name} has {len(value):,} characters, wanted at most {FIELD_MAX}")
        if not value.isprintable():
            raise BadQuery(f"{name} has characters that nobody can type, wanted text")
    search = Search(**fields)
    if search.sort not in [value for value, _ in SORTS]:
        raise BadQuery(f"sort is {search.sort[:40]!r}, wanted one of {', '.join(Slowest)}")
    status = reason = None
    if search.status == "refused":
        reason = "*"
    elif search.status and search.status not in ("failed", "degraded"):
        status = number(search.status, "status", 0, 999)
    since, until = _moment("since", search.since), _moment("until", search.until)
    if since is not None and until is not None and since >= until:
        raise BadQuery(f"since is {search.since} and until {search.until}, wanted an earlier and a later time")
    found = Filters(
        pool=search.pool or None,
        model=search.model or None,
        endpoint=search.endpoint or None,
        status=status,
        reason=reason,
        failed=search.status == "failed",
        degraded=search.status == "degraded",
        since=since,
        until=until,
    )
    return search, found


def _moment(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadQuery(f"{name} is {text!r}, wanted a time in UTC such as 2026-01-31T12:00:00") from error


async def list_page(console: Console) -> Reply:
    """The newest decisions, or those that a search finds."""
    search, filters = _search()
    before = number(request.args.get("before"), "before", 0)
    after = number(request.args.get("after"), "after", 0)

    def read() -> tuple[list[RequestRow], int | None, dict[int, EndpointRow], int, int]:
        with open_read_model(console.read_model) as model:
            at, older, first = model.state().position, None, 0
            if search.request:
                found = model.requests_beginning(search.request.rstrip("…"))
            elif search.sort:
                found, first = model.slowest(filters, Slowest(search.sort), PAGE)
            else:
                page = model.decisions(filters, before=before or None, after=after or None, limit=PAGE)
                found, older = page.rows, page.older
            names = model.endpoint_names(row.endpoint for row in found if row.endpoint is not None)
            return found, older, names, at, first

    found, older, names, at, first = await trio.to_thread.run_sync(read)
    reasons = await console.replayer.reasons([row.position for row in found], _patience())
    listed = [decision_row(row, names, reasons.get(row.position)) for row in found]
    here, paged = search.query(), bool(before or after)
    live = not (paged or search.request or search.until or search.sort)
    context = {
        "decisions": listed,
        "filters": search,
        "statuses": STATUSES,
        "sorts": SORTS,
        "sort_by": {value: search.query(sort=value) for value, _ in SORTS},
        "pools": [
            ("", "any"),
            *((pool, short_name(pool)) for pool in sorted({*console.state().pools, search.pool} - {""})),
        ],
        "filtered": here != "/decisions",
        "live": live,
        "here": here,
        "again": search.query(before=before or None, after=after or None),
        "reasons_missing": len(reasons) < len(found),
        "older": search.query(before=older) if older else "",
        "newest": search.query() if paged else "",
        "newer": search.query(after=found[0].position) if found and paged else "",
        "headline": _headline(found, live, here != "/decisions", at),
        "order": _order(search, first),
        "read_position": words.count(at),
    }
    return Reply("decisions.html", "_decisions.html", context, {"decisions": listed, "older": older, "position": at})


def _patience() -> float:
    if request.path.startswith("/api/"):
        return PATIENCE_JSON
    return FRAGMENT_PATIENCE if request.headers.get("HX-Request") == "true" else PATIENCE


def _order(search: Search, first: int) -> str:
    if not search.sort:
        return "newest first"
    by = "first token" if search.sort == Slowest.FIRST_TOKEN else "duration"
    return f"by {by}, the longest first, of those from entry #{first:,} on"


def _headline(found: list[RequestRow], live: bool, filtered: bool, at: int) -> str:
    if not found:
        return "None yet." if not filtered else f"None found up to entry #{at:,}."
    if live and not filtered:
        return "Which endpoint each request went to and why, or why none."
    return "Each line leads to every score behind it."


async def request_page(console: Console, request_id: str) -> Reply:
    """Go to the decision about a request id, or to a list: clients choose ids, so several decisions may share one."""

    def read() -> list[int]:
        with open_read_model(console.read_model) as model:
            return model.find_request(request_id)

    if len(request_id) > FIELD_MAX or not request_id.isprintable():
        raise BadQuery(
            f"the request id has {len(request_id):,} characters, wanted at most {FIELD_MAX} that can be typed"
        )
    found = await trio.to_thread.run_sync(read)
    if not found:
        raise Missing(f"No decision about a request {request_id!r} is indexed. A new one takes a second.")
    return Reply(location=f"/decisions/{found[0]}" if len(found) == 1 else Search(request=request_id).query())
