"""The list of decisions with its search; `web/pages/decision.py` shows one."""

import time
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec
import trio
from quart import request

from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters
from pointsman.eventlog.readmodel.rows import EndpointRow, RequestRow
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import words
from pointsman.web.pages.reply import BadQuery, Missing, Reply, number

PAGE = 100
"""Decisions to a page."""
FIELD_MAX = 200
STATUSES = (
    ("", "any"),
    ("200", "200"),
    ("refused", "refused"),
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
    status: int | None
    open_word: str
    first_token: str
    duration: str
    tokens: str
    degraded: bool


def decision_row(row: RequestRow, names: dict[int, EndpointRow]) -> DecisionRow:
    """What a list shows of a decision."""
    member = names.get(row.endpoint) if row.endpoint is not None else None
    tokens = "–" if row.completion_tokens is None else words.count(row.completion_tokens)  # noqa: RUF001
    return DecisionRow(
        row.position,
        words.moment(row.decided_at),
        row.request_id,
        short_name(row.pool),
        row.model,
        f"{member.name}:{member.port}" if member else (f"endpoint {row.endpoint}" if row.endpoint is not None else ""),
        row.reason,
        row.status,
        row.cause or "under way",
        words.duration(row.first_token),
        words.duration(row.duration),
        tokens,
        row.degraded,
    )


class Search(msgspec.Struct, frozen=True):
    """The fields of the form that searches the list."""

    request: str = ""
    model: str = ""
    endpoint: str = ""
    status: str = ""
    since: str = ""
    until: str = ""

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
    status = reason = None
    if search.status == "refused":
        reason = "*"
    elif search.status:
        status = number(search.status, "status", 0, 999)
    since, until = _moment("since", search.since), _moment("until", search.until)
    if since is not None and until is not None and since >= until:
        raise BadQuery(f"since is {search.since} and until {search.until}, wanted an earlier and a later time")
    name, _, port = search.endpoint.rpartition(":")
    endpoint = name if name and port.isdigit() else search.endpoint
    found = Filters(
        model=search.model or None, endpoint=endpoint or None, status=status, reason=reason, since=since, until=until
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

    def read() -> tuple[list[RequestRow], int | None, dict[int, EndpointRow], int]:
        with open_read_model(console.read_model) as model:
            at, older = model.state().position, None
            if search.request:
                found = model.requests(search.request)
            else:
                page = model.decisions(filters, before=before or None, after=after or None, limit=PAGE)
                found, older = page.rows, page.older
            names = model.endpoint_names(row.endpoint for row in found if row.endpoint is not None)
            return found, older, names, at

    found, older, names, at = await trio.to_thread.run_sync(read)
    listed = [decision_row(row, names) for row in found]
    here = search.query()
    live = not (before or after or search.request or search.until)
    context = {
        "decisions": listed,
        "filters": search,
        "statuses": STATUSES,
        "filtered": here != "/decisions",
        "live": live,
        "here": here,
        "older": search.query(before=older) if older else "",
        "newest": search.query() if before or after else "",
        "newer": search.query(after=found[0].position) if found and (before or after) else "",
        "headline": _headline(found, live, here != "/decisions", at),
        "read_position": words.count(at),
    }
    return Reply("decisions.html", "_decisions.html", context, {"decisions": listed, "older": older, "position": at})


def _headline(found: list[RequestRow], live: bool, filtered: bool, at: int) -> str:
    if not found:
        return "None yet." if not filtered else f"None found up to entry #{at:,}."
    if live and not filtered:
        ago = words.duration(max(0.0, time.time() - found[0].decided_at))
        return f"Which endpoint each request went to, or why none. The latest came {ago} ago."
    return "Newest first; each line leads to the reason."


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
