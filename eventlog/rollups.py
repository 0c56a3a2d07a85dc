"""What the read model keeps of the log: a row for each decision, a row for each pool and minute.

`Summary` folds entries and holds what has to be written; it does no I/O.
A minute is the minute in which an entry was recorded.
"""

import msgspec

from pointsman.core.events import (
    EndpointJoined,
    EndpointLeft,
    Event,
    LoadSampled,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ResponseStarted,
)
from pointsman.core.packing import unpack, unpack_floats

EpochKey = tuple[str, int]


class RequestRow(msgspec.Struct):
    """A decision and what came of it."""

    position: int
    """Of the decision."""
    request_id: str
    pool: str
    model: str
    endpoint: int | None
    """Number of the chosen endpoint; None where the request was refused."""
    reason: str
    """Why it was refused; empty where it was routed."""
    recorded_at: float
    decided_at: float
    picker: str
    epoch: str
    """In hexadecimal: SQLite's integers have a sign."""
    n: int
    applied: int
    degraded: bool
    objective: str = ""
    priority: int = 0
    status: int | None = None
    """What the client got: None while open, 0 where nothing came."""
    cause: str = ""
    """How a routed request ended; empty while open."""
    started: int | None = None
    """Position of the ResponseStarted."""
    finished: int | None = None
    """Position of the entry that ended it."""
    headers_after: float | None = None
    first_token: float | None = None
    duration: float | None = None
    response_bytes: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Minute(msgspec.Struct):
    """A pool in one minute; sums are over what was recorded in it."""

    pool: str
    minute: int
    """Since 1970."""
    routed: int = 0
    refused: dict[str, int] = {}
    """By reason."""
    finished: int = 0
    errors: int = 0
    """Finished with a status of 500 or more, or not complete."""
    degraded: int = 0
    duration_sum: float = 0.0
    first_tokens: int = 0
    """Finished requests with a first token."""
    first_token_sum: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    samples: int = 0
    """Endpoint samples: what the next sums are divided by."""
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


class Summary:
    """Folds entries; `rows`, `minutes` and `endpoints` are what changed since they were last cleared."""

    def __init__(self) -> None:
        self.rows: dict[int, RequestRow] = {}
        self.minutes: dict[tuple[str, int], Minute] = {}
        self.endpoints: dict[int, EndpointRow] = {}
        self.moments: dict[int, int] = {}
        """Minute to the first position recorded in it."""
        self.pool_of: dict[int, EndpointRow] = {}
        """Present endpoints."""
        self.open: dict[EpochKey, dict[int, RequestRow]] = {}
        self._in_flight: dict[str, int] = {}
        self._current: dict[str, Minute] = {}
        self._minute = -1

    def resume(self, members: list[EndpointRow], open_rows: list[RequestRow], minutes: list[Minute]) -> None:
        """Take up what an earlier summary had written down."""
        self.pool_of = {member.number: member for member in members}
        for row in open_rows:
            self.open.setdefault((row.picker, int(row.epoch, 16)), {})[row.n] = row
            self._in_flight[row.pool] = self._in_flight.get(row.pool, 0) + 1
        for minute in minutes:
            self._minute = max(self._minute, minute.minute)
            self._current[minute.pool] = minute

    def written(self) -> None:
        """Forget what has been written down."""
        self.rows.clear()
        self.minutes.clear()
        self.endpoints.clear()
        self.moments.clear()

    def fold(self, position: int, recorded_at: float, event: Event) -> None:
        """Fold the next entry."""
        minute = int(recorded_at // 60)
        if minute > self._minute:
            self._minute = minute
            self._current.clear()
            self.moments[minute] = position
            for pool, count in self._in_flight.items():
                if count:
                    self._pool(pool)
        match event:
            case RequestRouted() | RequestRefused():
                self._decided(position, recorded_at, event)
            case ResponseStarted(origin, request_n):
                if (row := self.open.get((origin.picker, origin.epoch), {}).get(request_n)) is not None:
                    row.started, row.headers_after = position, event.after
                    self.rows[row.position] = row
            case RequestFinished(origin, request_n):
                row = self.open.get((origin.picker, origin.epoch), {}).pop(request_n, None)
                if row is not None:
                    self._finished(position, row, event)
            case OpenRequestsListed(origin, listed):
                keep = set(unpack(listed).tolist())
                self._lose(position, (origin.picker, origin.epoch), keep)
            case PickerEnded(picker, epoch):
                self._lose(position, (picker, epoch), set())
            case LoadSampled():
                self._sampled(event)
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

    def _pool(self, pool: str) -> Minute:
        found = self._current.get(pool)
        if found is None:
            in_flight = self._in_flight.get(pool, 0)
            found = Minute(pool, self._minute, refused={}, in_flight_max=in_flight, in_flight_last=in_flight)
            self._current[pool] = found
        self.minutes[pool, found.minute] = found
        return found

    def _count_in_flight(self, pool: str, change: int) -> Minute:
        count = self._in_flight[pool] = self._in_flight.get(pool, 0) + change
        minute = self._pool(pool)
        minute.in_flight_last = count
        minute.in_flight_max = max(minute.in_flight_max, count)
        return minute

    def _decided(self, position: int, recorded_at: float, event: RequestRouted | RequestRefused) -> None:
        origin, facts = event.origin, event.request
        row = RequestRow(
            position,
            facts.request_id,
            facts.pool,
            facts.model,
            None,
            "",
            recorded_at,
            event.decided_at,
            origin.picker,
            f"{origin.epoch:016x}",
            origin.n,
            origin.applied,
            event.degraded,
            facts.objective,
            facts.priority,
        )
        self.rows[position] = row
        if isinstance(event, RequestRouted):
            row.endpoint = event.endpoints[0]
            self.open.setdefault((origin.picker, origin.epoch), {})[origin.n] = row
            minute = self._count_in_flight(facts.pool, 1)
            minute.routed += 1
        else:
            row.reason, row.status = event.reason, event.status
            minute = self._pool(facts.pool)
            minute.refused[event.reason] = minute.refused.get(event.reason, 0) + 1
        minute.degraded += event.degraded

    def _finished(self, position: int, row: RequestRow, event: RequestFinished) -> None:
        row.finished, row.status, row.cause = position, event.status, event.cause
        row.duration, row.first_token, row.response_bytes = event.duration, event.first_token, event.response_bytes
        row.prompt_tokens, row.completion_tokens = event.prompt_tokens, event.completion_tokens
        row.cached_tokens = event.cached_tokens
        self.rows[row.position] = row
        minute = self._count_in_flight(row.pool, -1)
        minute.finished += 1
        minute.duration_sum += event.duration
        minute.errors += event.status >= 500 or event.cause != "complete"
        if event.first_token is not None:
            minute.first_tokens += 1
            minute.first_token_sum += event.first_token
        minute.prompt_tokens += event.prompt_tokens or 0
        minute.completion_tokens += event.completion_tokens or 0
        minute.cached_tokens += event.cached_tokens or 0

    def _lose(self, position: int, key: EpochKey, keep: set[int]) -> None:
        mine = self.open.get(key, {})
        for n in [n for n in mine if n not in keep]:
            row = mine.pop(n)
            ended = RequestFinished(Origin(*key, 0, 0), n, "lost", 0, 0.0)
            self._finished(position, row, ended)
            row.duration = None
        if not mine:
            self.open.pop(key, None)

    def _sampled(self, event: LoadSampled) -> None:
        waiting, running = unpack(event.waiting).tolist(), unpack(event.running).tolist()
        used = unpack_floats(event.kv_cache).tolist()
        for number, queue, busy, kv_cache in zip(unpack(event.endpoints).tolist(), waiting, running, used, strict=True):
            member = self.pool_of.get(number)
            if member is None:
                continue
            minute = self._pool(member.pool)
            minute.samples += 1
            minute.waiting_sum += queue
            minute.waiting_max = max(minute.waiting_max, queue)
            minute.running_sum += busy
            minute.running_max = max(minute.running_max, busy)
            minute.kv_cache_sum += kv_cache
            minute.kv_cache_max = max(minute.kv_cache_max, kv_cache)
