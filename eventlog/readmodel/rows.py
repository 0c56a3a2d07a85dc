"""What the read model keeps of the log: rows for decisions, for pools and ten seconds, for changes of weights."""

import msgspec

from pointsman.core.events import BackendRef, Origin

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
    decided_at: float
    degraded: bool
    status: int | None
    """HTTP status that the client got: None while open, 0 where nothing came."""
    failed: bool
    """Whether it was routed and ended without a whole answer, or with one of status 400 or more."""
    duration: float | None
    first_token: float | None
    origin: Origin
    """Origin of the decision."""
    cause: str = ""
    """Cause of a routed request's end; empty while open."""
    started: int | None = None
    """Position of the ResponseStarted."""
    finished: int | None = None
    """Position of the entry that ended it."""
    completion_tokens: int | None = None


class Span(msgspec.Struct):
    """A pool in one span of time; sums are over what happened in it."""

    pool: str
    start: int
    """Seconds since 1970."""
    routed: int = 0
    refused_count: int = 0
    finished: int = 0
    errors: int = 0
    """Count of requests that finished with a status of 500 or more, not complete, or with an error in their answer."""
    degraded: int = 0
    duration_sum: float = 0.0
    first_tokens: int = 0
    """Count of finished requests whose answer was streamed and began."""
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
    waiting_min: int | None = None
    """Lowest sample of an endpoint; None without samples."""
    kv_cache_min: float | None = None


class RefusalCount(msgspec.Struct):
    """How often a pool refused for one reason in one span."""

    pool: str
    start: int
    reason: str
    refused_count: int = 0


class IncidentRow(msgspec.Struct):
    """Something that a chart marks: a process began, or entries were lost."""

    position: int
    at: float
    kind: str
    """`started` or `lost`."""
    words: str


class Moment(msgspec.Struct):
    """Where in the log the decisions of one span are."""

    start: int
    """Seconds since 1970."""
    first: int
    """Lowest position of a decision made in it."""
    last: int
    """Highest position of one."""


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

    @property
    def full_name(self) -> str:
        """Name in words, as that of a member."""
        return f"{self.name}:{self.port}"


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
