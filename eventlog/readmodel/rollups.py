"""How the read model folds the log: a row for each decision, for each pool and ten seconds, for each weight change.

`Summary` folds entries and holds what has to be written; it does no I/O.
A span is the ten seconds in which something happened: a decision was made, a request ended, a sample was taken.
When that was recorded does not matter: after the control process stood still, what it missed is counted where it was.
What a summary holds of a span is therefore what it adds to it, and spans are added up where they are kept.
Nothing happens after it was recorded: where clocks say otherwise, it counts as having happened then.
"""

from collections.abc import Iterable

from pointsman.core.events import (
    ControlStarted,
    EndpointJoined,
    EndpointLeft,
    EntriesLost,
    Event,
    LoadSampled,
    OpenRequestsListed,
    PickerEnded,
    PickerStarted,
    RouteObserved,
    WeightsIntended,
    WeightsRefused,
    WeightsWritten,
)
from pointsman.core.rollout.outcome import UNKNOWN_CODES
from pointsman.core.state.marks import MARKS, FinishedMark, Mark, RefusedMark, RoutedMark, StartedMark
from pointsman.core.state.open_requests import OpenByEpoch
from pointsman.core.values.packing import unpack, unpack_floats
from pointsman.eventlog.readmodel.rows import (
    SPAN,
    ChangeRow,
    EndpointRow,
    IncidentRow,
    Moment,
    MoveRow,
    RefusalCount,
    RequestRow,
    Span,
)

_GRID = 2.0**32
"""Number that, added and taken away, rounds to 2**-20, a microsecond: sums of such numbers are exact in any order."""

_NOWHERE = Moment(-1 << 62, 0, 0)
"""Moment before all decisions."""


class Summary:
    """Folds entries, and holds what has to be written since it was last cleared."""

    def __init__(self) -> None:
        self.rows: dict[int, RequestRow] = {}
        self.spans: dict[tuple[str, int], Span] = {}
        """Additions to spans."""
        self.refusals: dict[tuple[str, int, str], RefusalCount] = {}
        """Additions to the counts of refusals."""
        self.endpoints: dict[int, EndpointRow] = {}
        self.moments: dict[int, Moment] = {}
        """Decisions of each span by its start, as far as they are known here."""
        self._moment = _NOWHERE
        """Moment of the last decision."""
        self.pool_of: dict[int, EndpointRow] = {}
        """Present endpoints, by number."""
        self.open = OpenByEpoch[RequestRow]()
        self.changes: dict[str, ChangeRow] = {}
        self.moves: list[MoveRow] = []
        self.incidents: list[IncidentRow] = []
        self._routes: dict[str, MoveRow] = {}
        """The last move of each route."""
        self._wanted: dict[str, ChangeRow] = {}
        """The last change of each route."""
        self._pending: dict[str, ChangeRow] = {}
        self._in_flight: dict[str, int] = {}
        """Open requests by pool."""
        self._latest: dict[str, Span] = {}
        """Addition of each pool that was used last: what comes next is nearly always of the same span."""
        self._newest = -1
        """Start of the newest span there is."""

    def resume(
        self,
        members: list[EndpointRow],
        open_rows: list[RequestRow],
        newest: int,
        changes: list[ChangeRow],
        moves: Iterable[MoveRow] = (),
    ) -> None:
        """Take up what an earlier summary had written down.

        `newest` is the start of the newest span; of changes and moves the last of each route are wanted, and pending.
        """
        self.pool_of = {member.number: member for member in members}
        for row in open_rows:
            self.open.of((row.origin.picker, row.origin.epoch))[row.origin.n] = row
            self._in_flight[row.pool] = self._in_flight.get(row.pool, 0) + 1
        self._newest = newest
        self._pending = {change.change: change for change in changes if change.state == "writing"}
        self._wanted = {change.route: change for change in sorted(changes, key=lambda one: one.position)}
        self._routes = {move.route: move for move in moves}

    def written(self) -> None:
        """Forget what has been written down."""
        self.rows.clear()
        self.spans.clear()
        self.refusals.clear()
        self._latest.clear()
        self.changes.clear()
        self.moves.clear()
        self.incidents.clear()
        self.endpoints.clear()
        self.moments.clear()
        self._moment = _NOWHERE

    def fold(self, recorded_at: float, entries: Iterable[tuple[int, Event | Mark]]) -> None:
        """Fold the next entries, each with its position, which were recorded together and are skimmed."""
        picker, epoch, mine = "", -1, dict[int, RequestRow]()  # entries that follow each other are nearly always of one
        for position, event in entries:
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
                    self._finished(position, row, mark, min(row.decided_at + mark.duration, recorded_at))
            elif type(mark) is StartedMark:
                if (row := mine.get(mark.request_n)) is not None:
                    row.started = position
                    self.rows[row.position] = row
            elif type(mark) is RefusedMark:
                self._refused(position, recorded_at, mark)

    def _span(self, pool: str, at: float) -> Span:
        """The addition to the pool's span at a time."""
        latest = self._latest.get(pool)
        if latest is not None and latest.start <= at < latest.start + SPAN:
            return latest
        start = int(at // SPAN) * SPAN
        found = self._latest[pool] = self._addition(pool, start)
        if start > self._newest:
            self._newest = start
            for other, count in self._in_flight.items():
                if count:
                    self._in_flight_there(self._addition(other, start))
        return found

    def _addition(self, pool: str, start: int) -> Span:
        found = self.spans.get((pool, start))
        if found is None:
            found = self.spans[pool, start] = Span(pool, start)
        return found

    def _in_flight_there(self, span: Span) -> None:
        """Note how many requests are in flight, in the newest span: of older ones that is no longer known."""
        if span.start == self._newest:
            span.in_flight_max = max(span.in_flight_max, self._in_flight.get(span.pool, 0))

    def _decided(self, position: int, at: float) -> None:
        """Note where in the log a decision is."""
        moment = self._moment
        if not moment.start <= at < moment.start + SPAN:
            start = int(at // SPAN) * SPAN
            moment = self._moment = self.moments.setdefault(start, Moment(start, position, position))
        moment.last = position  # positions come in order

    def _fold_rare(self, position: int, recorded_at: float, event: Event | Mark) -> None:
        """Fold what requests do not say."""
        match event:
            case LoadSampled():
                self._sampled(event, min(event.sampled_at, recorded_at))
            case PickerStarted(origin):
                self._incident(position, recorded_at, "started", f"{origin.picker} started")
            case ControlStarted():
                self._incident(position, recorded_at, "started", "the control process started")
            case EntriesLost(picker, _, first, last):
                count = f"{last - first + 1:,} entries" if last > first else "an entry"
                self._incident(position, recorded_at, "lost", f"{count} of {picker} lost")
            case OpenRequestsListed() | PickerEnded():
                for _, row in self.open.take_ended(event):
                    end = FinishedMark(row.origin, row.origin.n, "lost", 0, 0.0)
                    self._finished(position, row, end, recorded_at)
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

    def _incident(self, position: int, at: float, kind: str, words: str) -> None:
        self.incidents.append(IncidentRow(position, at, kind, words))

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

    def _routed(self, position: int, recorded_at: float, event: RoutedMark) -> RequestRow:
        facts, at = event.request, min(event.decided_at, recorded_at)
        where = (facts.request_id, facts.pool, facts.model, event.endpoints[0], "", at, event.degraded)
        row = RequestRow(position, *where, None, False, None, None, event.origin)
        self.rows[position] = row
        self._decided(position, at)
        span, pool = self._span(row.pool, at), row.pool
        span.routed += 1
        span.degraded += event.degraded
        self._in_flight[pool] = count = self._in_flight.get(pool, 0) + 1
        span.in_flight_max = max(span.in_flight_max, count)
        return row

    def _refused(self, position: int, recorded_at: float, event: RefusedMark) -> None:
        facts, at = event.request, min(event.decided_at, recorded_at)
        where = (facts.request_id, facts.pool, facts.model, None, event.reason, at, event.degraded)
        self.rows[position] = RequestRow(position, *where, event.status, False, None, None, event.origin)
        self._decided(position, at)
        span = self._span(facts.pool, at)
        span.refused_count += 1
        span.degraded += event.degraded
        key = (facts.pool, span.start, event.reason)
        if key not in self.refusals:
            self.refusals[key] = RefusalCount(*key)
        self.refusals[key].refused_count += 1

    def _finished(self, position: int, row: RequestRow, event: FinishedMark, at: float) -> None:
        row.finished, row.status = position, event.status
        row.cause = "with an error" if event.error and event.cause == "complete" else event.cause
        row.failed = event.failed
        row.first_token, row.duration = event.streamed_token, event.duration
        row.completion_tokens = event.completion_tokens
        self.rows[row.position] = row
        span = self._span(row.pool, at)
        self._in_flight_there(span)
        self._in_flight[row.pool] -= 1
        span.finished += 1
        span.duration_sum += event.duration + _GRID - _GRID
        if event.status >= 500 or event.cause != "complete" or event.error:
            span.errors += 1
        if row.first_token is not None:
            span.first_tokens += 1
            span.first_token_sum += row.first_token + _GRID - _GRID
        span.prompt_tokens += event.prompt_tokens or 0
        span.completion_tokens += event.completion_tokens or 0
        span.cached_tokens += event.cached_tokens or 0

    def _sampled(self, event: LoadSampled, at: float) -> None:
        waiting, running = unpack(event.waiting).tolist(), unpack(event.running).tolist()
        used = unpack_floats(event.kv_cache).tolist()
        spans: dict[str, Span] = {}
        for number, queue, busy, kv_cache in zip(unpack(event.endpoints).tolist(), waiting, running, used, strict=True):
            member = self.pool_of.get(number)
            if member is None:
                continue
            span = spans.get(member.pool)
            if span is None:
                span = spans[member.pool] = self._span(member.pool, at)
                self._in_flight_there(span)
            span.samples += 1
            span.waiting_sum += queue
            span.waiting_max = max(span.waiting_max, queue)
            if span.waiting_min is None or queue < span.waiting_min:
                span.waiting_min = queue
            span.running_sum += busy
            span.running_max = max(span.running_max, busy)
            span.kv_cache_sum += kv_cache + _GRID - _GRID
            span.kv_cache_max = max(span.kv_cache_max, kv_cache)
            if span.kv_cache_min is None or kv_cache < span.kv_cache_min:
                span.kv_cache_min = kv_cache
