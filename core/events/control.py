"""Facts about Pointsman itself and its operators: processes, the log, configurations, changes of weights."""

import msgspec

from pointsman.core.events.routing import BackendRef
from pointsman.core.events.traffic import Origin
from pointsman.core.values.facts import Fact


class PickerStarted(Fact, frozen=True, tag="picker-started"):
    """A picker process began an epoch; its first entry."""

    origin: Origin
    build: str
    scheduler: int
    """Version of `schedule`'s own rules."""
    plugins: dict[str, int]
    """Version of each plugin type it knows."""


class PickerEnded(Fact, frozen=True, tag="picker-ended"):
    """A picker process is gone; this ends its open requests."""

    picker: str
    epoch: int
    cause: str
    last_n: int
    """Last `n` it gave out, as told by the page it shared with the supervisor; 0 where unknown."""


class EntriesLost(Fact, frozen=True, tag="entries-lost"):
    """Entries of a picker process that the log never got."""

    picker: str
    epoch: int
    first: int
    last: int


class EntriesAdopted(Fact, frozen=True, tag="entries-adopted"):
    """Entries that were decided on another log's cluster state: `applied` in them is not ours."""

    picker: str
    epoch: int
    first: int
    last: int
    log_id: str


class LogCreated(Fact, frozen=True, tag="log-created"):
    """The first entry of every log."""

    log_id: str
    build: str


class SegmentDropped(Fact, frozen=True, tag="segment-dropped"):
    """A segment was too old, or the log too large: it is deleted as soon as this entry is on disk."""

    first: int
    last: int
    previous_digest: bytes
    """Digest of the chain before `first`."""
    digest: bytes
    """Digest of the chain at `last`: what is kept follows it."""
    ended_at: float
    """Time at which its last batch was recorded."""
    size: int
    """Bytes that the segment took."""
    entries: dict[int, int]
    """Count of its entries by number of their class."""
    cause: str
    """`age` or `size`."""
    archive: str = ""
    """Name of the file with its control and membership entries."""
    archive_digest: bytes = b""
    """SHA-256 of that file."""


class ControlStarted(Fact, frozen=True, tag="control-started"):
    """A control process opened the log; `digest` is the chain's head it found."""

    build: str
    pid: int
    head: int
    digest: bytes


class ControlStopped(Fact, frozen=True, tag="control-stopped"):
    """A control process closed the log in order."""

    pid: int
    cause: str


class ConfigAccepted(Fact, frozen=True, tag="config-accepted"):
    """The effective configuration of a pool's picking, from here on; pool `*` is the default of all."""

    pool: str
    config: bytes
    """Effective EndpointPickerConfig and flags, as JSON with sorted keys (`core/config/parse.py`)."""
    source: str
    plugins: dict[str, str] = msgspec.field(default_factory=dict)
    """Distribution and version of each plugin from outside."""


class ConfigRejected(Fact, frozen=True, tag="config-rejected"):
    """A configuration was wrong; what was in force stays."""

    pool: str
    source: str
    line: int
    message: str


class ClockStepped(Fact, frozen=True, tag="clock-stepped"):
    """The wall clock moved against the monotonic one."""

    seconds: float


class WeightsIntended(Fact, frozen=True, tag="weights-intended"):
    """Somebody wants other weights; recorded ahead of the write.  `change` names it in the events that follow it."""

    change: str
    route: str
    rule: int
    """Index of the rule in the route, as the form showed it."""
    version: str
    """Field `version` of the RouteObserved that the change rests on."""
    before: tuple[BackendRef, ...]
    after: tuple[BackendRef, ...]
    actor: str
    reason: str
    at: float


class WeightsWritten(Fact, frozen=True, tag="weights-written"):
    """The change was written and read back; a RouteObserved of this version follows or came before."""

    change: str
    version: str


class WeightsRefused(Fact, frozen=True, tag="weights-refused"):
    """The change was not made, or not seen when read back; `code` is the cause's `ChangeCode`, empty for none."""

    change: str
    cause: str
    code: str = ""


class ProcessStarted(Fact, frozen=True, tag="process-started"):
    """The supervisor started a process beside pickers: the gateway, a simulator."""

    name: str
    pid: int


class ProcessEnded(Fact, frozen=True, tag="process-ended"):
    """A process of the supervisor's ended."""

    name: str
    pid: int
    cause: str
