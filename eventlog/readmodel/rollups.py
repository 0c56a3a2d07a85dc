"""What the read model keeps of the log: a row for each decision, for each pool and ten seconds, for each weight change.

`Summary` folds entries and holds what has to be written; it does no I/O.
A span is the ten seconds in which an entry was recorded.
"""

from collections.abc import Iterable

import msgspec

from pointsman.core.events import (
    BackendRef,
    EndpointJoined,
    EndpointLeft,
    Event,
    LoadSampled,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    RouteObserved,
    WeightsIntended,
    WeightsRefused,
    WeightsWritten,
)
from pointsman.core.rollout.outcome import UNKNOWN_CODES
from pointsman.core.state.marks import MARKS, FinishedMark, Mark, RefusedMark, RoutedMark, StartedMark
from pointsman.core.state.open_requests import OpenByEpoch
from pointsman.core.values.packing import unpack, unpack_floats

SPAN = 10
"""Seconds of a roll-up: half a line of a chart over five minutes."""


class RequestRow(msgspec.Struct, array_like=True, gc=False):
    """A decision and what came of it, as far as lists and searches show it; the log has the rest."""

    position: int
    """Position of the decision."""
    request_id: str
    pool: str
    model: str
    endpoint: int | None
    """Number of the chosen endpoint; None where the request was refused."""
    reason: str
    """Reason why it was refused; empty where it was routed."""
    recorded_at: float
    status: int | None
    """HTTP status that the client got: None while open, 0 where nothing came."""
    decided_at: float
    origin: Origin
    """Origin of the decision."""
    degraded: bool
    cause: str = ""
    """Cause of a routed request's end; empty while open."""
    started: int | None = None
    """Position of the ResponseStarted."""
    finished: int | None = None
    """Position of the entry that ended it."""
    first_token: float | None = None
    duration: float | None = None
    completion_tokens: int | None = None


class Span(msgspec.Struct):
    """A pool in one span of time; sums are over what was recorded in it."""

    pool: str
    start: int
    """Seconds since 1970."""
    routed: int = 0
    refused_count: int = 0
    refused: dict[str, int] = {}
    """Count of refusals by reason."""
    finished: int = 0
    errors: int = 0
    """Count of requests that finished with a status of 500 or more, or not complete."""
    degraded: int = 0
    duration_sum: float = 0.0
    first_tokens: int = 0
    """Count of finished requests with a first token."""
    first_token_sum: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    samples: int = 0
    """Count of samples of an endpoint: what the next sums are divided by."""
    waiting_sum: int = 0
    waiting_max: int = 0
    running_sum: int = 0
    running_max: int = 0
    kv_cache_sum: float = 0.0
    kv_cache_max: float = 0.0
    in_flight_max: int = 0
    in_flight_last: int = 0


class EndpointRow(msgspec.Struct):
    """An endpoint that ever joined."""

    number: int
    pool: str
    namespace: str
    name: str
    address: str
    port: int
    joined: int
    left: int | None = None


class ChangeRow(msgspec.Struct):
    """A change of weights, and what became of it."""

    change: str
    position: int
    """Position of the intent."""
    route: str
    rule: int
    at: float
    actor: str
    reason: str
    before: tuple[BackendRef, ...]
    after: tuple[BackendRef, ...]
    state: str = "writing"
    """`writing`, `written`, `refused`, or `unknown` where something may have been written all the same."""
    cause: str = ""
    ended: int | None = None
    """Position of the entry that ended it."""


class MoveRow(msgspec.Struct):
    """A route was seen with backends or weights that it did not have before."""

    position: int
    route: str
    recorded_at: float
    version: str
    backends: tuple[tuple[BackendRef, ...], ...]
    """Backends of each rule."""
    before: tuple[tuple[BackendRef, ...], ...] = ()
    change: str = ""
    """The change that asked for these weights; empty where somebody wrote them elsewhere."""


class Summary:
    """Folds entries; `rows`, `spans`, `endpoints`, `changes` and `moves` are what changed since they were last cleared."""

    def __init__(self) -> None:
        self.rows: dict[int, RequestRow] = {}
        self.spans: dict[tuple[str, int], Span] = {}
        self.endpoints: dict[int, EndpointRow] = {}
        self.moments: dict[int, int] = {}
        """First position recorded in a span, by the span's start."""
        self.pool_of: dict[int, EndpointRow] = {}
        """Present endpoints, by number."""
        self.open = OpenByEpoch[RequestRow]()
        self.changes: dict[str, ChangeRow] = {}
        self.moves: list[MoveRow] = []
        self._routes: dict[str, MoveRow] = {}
        """The last move of each route."""
        self._wanted: dict[str, ChangeRow] = {}
        """The last change of each route."""
        self._pending: dict[str, ChangeRow] = {}
        self._in_flight: dict[str, int] = {}
        """Open requests by pool, where the span before the current one ended."""
        self._current: dict[str, Span] = {}
        self._touched: dict[str, Span] = {}
        """Spans of `_current` that are in `spans` already, by pool."""
        self._start = -1

    def resume(
        self,
        members: list[EndpointRow],
        open_rows: list[RequestRow],
        spans: list[Span],
        changes: list[ChangeRow],
        moves: Iterable[MoveRow] = (),
    ) -> None:
        """Take up what an earlier summary had written down; of changes and moves the last of each route, and pending."""
        self.pool_of = {member.number: member for member in members}
        for row in open_rows:
            self.open.of((row.origin.picker, row.origin.epoch))[row.origin.n] = row
            self._in_flight[row.pool] = self._in_flight.get(row.pool, 0) + 1
        for span in spans:
            self._start = max(self._start, span.start)
            self._current[span.pool] = span
            span.in_flight_last = self._in_flight.get(span.pool, 0)
        self._pending = {change.change: change for change in changes if change.state == "writing"}
        self._wanted = {change.route: change for change in sorted(changes, key=lambda one: one.position)}
        self._routes = {move.route: move for move in moves}

    def written(self) -> None:
        """Forget what has been written down."""
        self.rows.clear()
        self.spans.clear()
        self._touched.clear()
        self.changes.clear()
        self.moves.clear()
        self.endpoints.clear()
        self.moments.clear()

    def fold(self, recorded_at: float, entries: Iterable[tuple[int, Event | Mark]]) -> None:
        """Fold the next entries, each with its position, which were recorded together and are skimmed."""
        start = int(recorded_at // SPAN) * SPAN
        picker, epoch, mine = "", -1, dict[int, RequestRow]()  # entries that follow each other are nearly always of one
        for position, event in entries:
            if start > self._start:
                self._begin_span(start, position)
            # By type: to `isinstance`, a class that does not match costs a call.
            if type(event) not in MARKS:
                self._fold_rare(position, recorded_at, event)
                epoch = -1
                continue
            mark: Mark = event  # type: ignore[assignment]  # as its type says
            origin = mark.origin
            if origin.epoch != epoch or origin.picker != picker:
                picker, epoch = origin.picker, origin.epoch
                mine = self.open.of((picker, epoch))
            if type(mark) is RoutedMark:
                mine[origin.n] = self._routed(position, recorded_at, mark)
            elif type(mark) is FinishedMark:
                if (row := mine.pop(mark.request_n, None)) is not None:
                    self._finished(position, row, mark)
            elif type(mark) is StartedMark:
                if (row := mine.get(mark.request_n)) is not None:
                    row.started = position
                    self.rows[row.position] = row
            elif type(mark) is RefusedMark:
                self._refused(position, recorded_at, mark)

    def _begin_span(self, start: int, position: int) -> None:
        self._start = start
        self._in_flight.update({pool: span.in_flight_last for pool, span in self._current.items()})
        self._current.clear()
        self._touched.clear()
        self.moments[start] = position
        for pool, count in self._in_flight.items():
            if count:
                self._pool(pool)

    def _fold_rare(self, position: int, recorded_at: float, event: Event | Mark) -> None:
        """Fold what requests do not say."""
        match event:
            case LoadSampled():
                self._sampled(event)
            case OpenRequestsListed() | PickerEnded():
                for _, row in self.open.take_ended(event):
                    self._finished(position, row, FinishedMark(row.origin, row.origin.n, "lost", 0, 0.0))
                    row.duration = None
            case WeightsIntended():
                self._intended(position, event)
            case WeightsWritten(change):
                self._ended(change, position, "written", "")
            case WeightsRefused(change, cause, code):
                self._ended(change, position, "unknown" if code in UNKNOWN_CODES else "refused", cause)
            case RouteObserved():
                self._observed(position, recorded_at, event)
            case EndpointJoined():
                member = EndpointRow(
                    event.endpoint, event.pool, event.namespace, event.name, event.address, event.port, position
                )
                self.pool_of[event.endpoint] = self.endpoints[event.endpoint] = member
            case EndpointLeft(number):
                if (left := self.pool_of.pop(number, None)) is not None:
                    left.left = position
                    self.endpoints[number] = left
            case _:
                pass

    def _intended(self, position: int, event: WeightsIntended) -> None:
        row = ChangeRow(
            event.change,
            position,
            event.route,
            event.rule,
            event.at,
            event.actor,
            event.reason,
            event.before,
            event.after,
        )
        self._pending[row.change] = self.changes[row.change] = self._wanted[row.route] = row

    def _ended(self, change: str, position: int, state: str, cause: str) -> None:
        if (row := self._pending.pop(change, None)) is not None:
            row.state, row.cause, row.ended = state, cause, position
            self.changes[change] = row

    def _observed(self, position: int, recorded_at: float, event: RouteObserved) -> None:
        backends = tuple(rule.backends for rule in event.rules)
        last = self._routes.get(event.route)
        if last is not None and last.backends == backends:
            return
        wanted, change = self._wanted.get(event.route), ""
        if wanted is not None and wanted.state != "refused" and wanted.rule < len(backends):
            change = wanted.change if wanted.after == backends[wanted.rule] else ""
        move = MoveRow(
            position, event.route, recorded_at, event.version, backends, last.backends if last else (), change
        )
        self._routes[event.route] = move
        self.moves.append(move)

    def _pool(self, pool: str) -> Span:
        touched = self._touched.get(pool)
        if touched is not None:
            return touched
        found = self._current.get(pool)
        if found is None:
            in_flight = self._in_flight.get(pool, 0)
            found = Span(pool, self._start, refused={}, in_flight_max=in_flight, in_flight_last=in_flight)
            self._current[pool] = found
        self.spans[pool, found.start] = self._touched[pool] = found
        return found

    def _routed(self, position: int, recorded_at: float, event: RoutedMark) -> RequestRow:
        facts = event.request
        where = (facts.request_id, facts.pool, facts.model, event.endpoints[0])
        row = RequestRow(position, *where, "", recorded_at, None, event.decided_at, event.origin, event.degraded)
        self.rows[position] = row
        span = self._touched.get(row.pool) or self._pool(row.pool)
        span.routed += 1
        span.degraded += event.degraded
        span.in_flight_last = count = span.in_flight_last + 1
        span.in_flight_max = max(span.in_flight_max, count)
        return row

    def _refused(self, position: int, recorded_at: float, event: RefusedMark) -> None:
        facts = event.request
        where, why = (facts.request_id, facts.pool, facts.model, None), (recorded_at, event.status, event.decided_at)
        self.rows[position] = RequestRow(position, *where, event.reason, *why, event.origin, event.degraded)
        span = self._pool(facts.pool)
        span.refused[event.reason] = span.refused.get(event.reason, 0) + 1
        span.refused_count += 1
        span.degraded += event.degraded

    def _finished(self, position: int, row: RequestRow, event: FinishedMark) -> None:
        row.finished, row.status, row.cause = position, event.status, event.cause
        row.first_token, row.duration = event.first_token, event.duration
        row.completion_tokens = event.completion_tokens
        self.rows[row.position] = row
        span = self._touched.get(row.pool) or self._pool(row.pool)
        span.in_flight_last -= 1
        span.finished += 1
        span.duration_sum += event.duration
        if event.status >= 500 or event.cause != "complete":
            span.errors += 1
        if event.first_token is not None:
            span.first_tokens += 1
            span.first_token_sum += event.first_token
        span.prompt_tokens += event.prompt_tokens or 0
        span.completion_tokens += event.completion_tokens or 0
        span.cached_tokens += event.cached_tokens or 0

    def _sampled(self, event: LoadSampled) -> None:
        waiting, running = unpack(event.waiting).tolist(), unpack(event.running).tolist()
        used = unpack_floats(event.kv_cache).tolist()
        for number, queue, busy, kv_cache in zip(unpack(event.endpoints).tolist(), waiting, running, used, strict=True):
            member = self.pool_of.get(number)
            if member is None:
                continue
            span = self._pool(member.pool)
            span.samples += 1
            span.waiting_sum += queue
            span.waiting_max = max(span.waiting_max, queue)
            span.running_sum += busy
            span.running_max = max(span.running_max, busy)
            span.kv_cache_sum += kv_cache
            span.kv_cache_max = max(span.kv_cache_max, kv_cache)
