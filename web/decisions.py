"""The pages of decisions: the list with its search, and why one came out as it did."""

import time
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec
import trio
from quart import request

from pointsman.core.events import RequestRefused, RequestRouted
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.reader import LogReader
from pointsman.eventlog.readmodel import Filters, ReadModel
from pointsman.eventlog.requests import RequestHistory, history
from pointsman.eventlog.rollups import EndpointRow, RequestRow
from pointsman.web import words
from pointsman.web.console import Console, short_name
from pointsman.web.matrix import Matrix, explained, matrix
from pointsman.web.pages import BadQuery, Missing, Reply, number
from pointsman.web.replayer import Replayed, ReplayerBusy

PAGE = 100
"""Decisions to a page."""
STATUSES = (
    ("", "any"),
    ("200", "200"),
    ("refused", "refused"),
    ("400", "400"),
    ("429", "429"),
    ("500", "500"),
    ("503", "503"),
)
FRESH = 30.0
"""Seconds for which a decision without an outcome is shown as under way rather than open."""


class DecisionRow(msgspec.Struct, frozen=True):
    """A decision in the list."""

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


def _row(row: RequestRow, names: dict[int, EndpointRow]) -> DecisionRow:
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
    """What the form of the list holds."""

    request: str = ""
    model: str = ""
    endpoint: str = ""
    status: str = ""
    since: str = ""

    def query(self, **more: object) -> str:
        """The address of the list with these fields."""
        fields = {k: v for k, v in (msgspec.structs.asdict(self) | more).items() if v not in ("", None)}
        return "/decisions" + (f"?{urlencode(fields)}" if fields else "")


def _search() -> tuple[Search, Filters]:
    """The form's fields and what they mean; raises `BadQuery`."""
    fields = {name: request.args.get(name, "").strip()[:200] for name in Search.__struct_fields__}
    search = Search(**fields)
    status = reason = None
    if search.status == "refused":
        reason = "*"
    elif search.status:
        status = number(search.status, "status", 0, 999)
    since = None
    if search.since:
        try:
            since = datetime.fromisoformat(search.since.removesuffix("Z")).replace(tzinfo=UTC).timestamp()
        except (ValueError, OverflowError) as error:
            raise BadQuery(f"since is {search.since!r}, wanted a time such as 2026-01-31T12:00:00") from error
    endpoint = search.endpoint.rpartition(":")[0] if search.endpoint.rpartition(":")[2].isdigit() else search.endpoint
    return search, Filters(
        model=search.model or None, endpoint=endpoint or None, status=status, reason=reason, since=since
    )


async def list_page(console: Console) -> Reply:
    """The newest decisions, or those that a search finds."""
    search, filters = _search()
    before = number(request.args.get("before"), "before", 0)
    after = number(request.args.get("after"), "after", 0)

    def read() -> tuple[list[RequestRow], int | None, dict[int, EndpointRow], int]:
        with ReadModel(console.read_model) as model:
            names = {e.number: e for e in model.endpoints()}
            at = model.state().position
            if search.request:
                found = model.requests(search.request)
                return found, None, names, at
            page = model.decisions(filters, before=before or None, after=after or None, limit=PAGE)
            return page.rows, page.older, names, at

    found, older, names, at = await trio.to_thread.run_sync(read)
    listed = [_row(row, names) for row in found]
    filtered = bool(search.query() != "/decisions")
    live = not (before or after or search.request)
    latest = (
        f" The latest came {words.duration(max(0.0, time.time() - found[0].decided_at))} ago." if found and live else ""
    )
    context = {
        "decisions": listed,
        "filters": search,
        "statuses": STATUSES,
        "filtered": filtered,
        "live": live,
        "here": search.query(),
        "older": search.query(before=older) if older else "",
        "newer": search.query() if before or after else "",
        "headline": f"Newest first, {words.count(at)} entries indexed.{latest}",
        "read_position": words.count(at),
    }
    return Reply("decisions.html", "_decisions.html", context, {"decisions": listed, "older": older, "position": at})


async def request_page(console: Console, request_id: str) -> Reply:
    """Where the decision about a request id is: clients choose ids, so several lead to a list."""

    def read() -> list[int]:
        with ReadModel(console.read_model) as model:
            return model.find_request(request_id[:200])

    found = await trio.to_thread.run_sync(read)
    if not found:
        raise Missing(f"No decision about a request {request_id[:80]!r} is indexed. A new one takes a second.")
    return Reply(location=f"/decisions/{found[0]}" if len(found) == 1 else Search(request=request_id).query())


class Recorded(msgspec.Struct, frozen=True):
    """An entry that belongs to a decision."""

    position: int
    tag: str
    words: str


async def decision_page(console: Console, position: int) -> Reply:
    """Why one request went where it went."""
    told, row, before, after = await trio.to_thread.run_sync(_read, console, position)
    try:
        replayed = await console.replayer.ask(position)
    except ReplayerBusy as error:
        replayed = Replayed("unavailable", str(error))
    picture: Matrix | None = matrix(replayed, told.decision) if replayed.explanation is not None else None
    verdict = explained(replayed)
    decision = told.decision
    facts = decision.request
    context = {
        "title": _title(told, replayed),
        "sentence": replayed.explanation.why if replayed.explanation else _stored_sentence(decision),
        "verdict": verdict,
        "matrix": picture,
        "pending": told.finished is None and isinstance(decision, RequestRouted),
        "d": {
            "at": words.moment(decision.decided_at),
            "request_id": facts.request_id,
            "model": facts.model,
            "pool_href": f"/pools/{facts.pool}",
            "pool_name": short_name(facts.pool),
            "share": _share(console, facts.pool),
            "filtered": picture.remaining if picture else "not recomputed",
            "rejections": ", ".join(f"{count} {reason}" for reason, count in decision.rejections) or "nobody rejected",
            "margin": picture.margin if picture else _best(decision),
            "took": f"scheduled in {decision.took} µs",
            "first_token": words.duration(told.finished.first_token if told.finished else None),
            "outcome": _outcome(told),
        },
        "asked": _asked(decision),
        "recorded": _recorded(told, row),
        "before": before,
        "after": after,
    }
    data = {"position": position, "decision": decision, "started": told.started, "finished": told.finished}
    return Reply(
        "decision.html", "", context, data | {"verdict": verdict, "why": context["sentence"], "matrix": picture}
    )


def _read(console: Console, position: int) -> tuple[RequestHistory, RequestRow | None, int | None, int | None]:
    with LogReader(console.log_directory) as reader, ReadModel(console.read_model) as model:
        try:
            if not reader.first() <= position <= reader.head().position:
                raise Missing(
                    f"The log has entries {reader.first():,} to {reader.head().position:,}, wanted #{position:,}."
                )
            [entry] = reader.entries(position, position)
            if not isinstance(entry.event, RequestRouted | RequestRefused):
                raise Missing(f"Entry #{position:,} is no decision.")
            row = model.decision(position)
            told = history(reader, position)
        except (NotKeptError, LogCorruptError) as error:
            raise Missing(f"The log does not tell: {error}") from error
        older = model.decisions(Filters(), before=position, limit=1).rows
        newer = model.decisions(Filters(), after=position, limit=1).rows
    return told, row, older[0].position if older else None, newer[0].position if newer else None


def _title(told: RequestHistory, replayed: Replayed) -> str:
    decision = told.decision
    if isinstance(decision, RequestRefused):
        return f"Why this request was refused with {decision.status}"
    name = f"endpoint {decision.endpoints[0]}"
    if replayed.explanation is not None:
        found = [c.name for c in replayed.explanation.candidates if c.endpoint == decision.endpoints[0]]
        name = found[0] if found else name
    return f"Why {name.partition('/')[2] or name} answered this request"


def _stored_sentence(decision: RequestRouted | RequestRefused) -> str:
    if isinstance(decision, RequestRefused):
        return f"{decision.reason}: {decision.message}"
    return f"It had the highest sum, {decision.best[0][1]:.2f}." if decision.best else "It was picked without a score."


def _best(decision: RequestRouted | RequestRefused) -> str:
    if isinstance(decision, RequestRefused) or not decision.best:
        return "–"  # noqa: RUF001
    sums = [f"{total:.2f}" for _, total in decision.best]
    return " against ".join(sums[:2])


def _share(console: Console, pool: str) -> str:
    """The weight of the pool in the first rule that names it."""
    for route in console.state().routes.values():
        for rule in route.rules:
            total = sum(b.weight for b in rule.backends)
            for backend in rule.backends:
                if backend.pool == pool and total:
                    return f"{backend.weight} of {total}"
    return ""


def _outcome(told: RequestHistory) -> str:
    finished = told.finished
    if finished is None:
        refused = isinstance(told.decision, RequestRefused)
        return (
            f"answered with {told.decision.status}"
            if isinstance(told.decision, RequestRefused)
            else ("under way" if not refused and told.started is None else "streaming")
        )
    tokens = f"{words.count(finished.completion_tokens)} tokens, " if finished.completion_tokens is not None else ""
    return f"{tokens}{words.duration(finished.duration)}, {finished.status or finished.cause}"


def _asked(decision: RequestRouted | RequestRefused) -> list[tuple[str, str]]:
    facts = decision.request
    rows = [
        ("path", facts.path),
        ("model", facts.model if not facts.target_model else f"{facts.model}, sent as {facts.target_model}"),
        ("objective", f"{facts.objective or 'none'}, priority {facts.priority}"),
        ("fairness id", facts.fairness_id or "none"),
        ("body", words.size(facts.body_bytes)),
        ("prompt", f"{words.size(facts.prompt_bytes)}, {len(facts.prefix) // 8} blocks hashed"),
        ("stream", "yes" if facts.streamed else "no"),
        ("subset hint", "none" if facts.subset is None else "given"),
    ]
    return [(name, value) for name, value in rows if value]


def _recorded(told: RequestHistory, row: RequestRow | None) -> list[Recorded]:
    decision, origin = told.decision, told.decision.origin
    tag = "request-routed" if isinstance(decision, RequestRouted) else "request-refused"
    told_by = f"{origin.picker}, epoch {origin.epoch:016x}, n {origin.n:,} · applied #{origin.applied:,}"
    digest = f" · digest {decision.digest.hex()}" if decision.digest else ""
    found = [Recorded(told.position, tag, told_by + digest + (" · degraded" if decision.degraded else ""))]
    if told.started is not None and row is not None and row.started is not None:
        found.append(
            Recorded(
                row.started,
                "response-started",
                f"status {told.started.status}, {told.started.served or 'endpoint not told'}",
            )
        )
    if told.finished is not None and row is not None and row.finished is not None:
        found.append(Recorded(row.finished, "request-finished", told.finished.cause))
    return found
