"""Every fact the log can hold.

`Event` is the schema: the log decodes into it, the projection matches on it, the console renders it.
Rules.  Tags and field order are written to disk: never reuse, rename or reorder.
A new field comes last and has a default; a changed meaning is a new event.
Events name endpoints by number: each endpoint that ever joined has its own, never used again.
Packed columns are those of `core/values/packing.py`.  Times are seconds since 1970, for people; no rule reads them.
A `source` is the file, or the API server's resource, that an object or a pod stood in; empty where it was not noted.
"""

from enum import IntEnum
from typing import TypeAlias, get_args

import msgspec

from pointsman.core.values.facts import Applied, Deleted, Fact


class Class(IntEnum):
    """What an entry is about; retention and digests are by class."""

    CONTROL = 1
    MEMBERSHIP = 2
    LOAD = 3
    TRAFFIC = 4


# --- membership ---------------------------------------------------------------------------------


class PoolDeleted(Deleted, frozen=True, tag="pool-deleted"):
    """An InferencePool went away; its endpoints leave by events of their own, before."""

    noun = "InferencePool"
    pool: str


class PoolApplied(Applied, frozen=True, tag="pool-applied"):
    """An InferencePool was seen for the first time, or its spec changed."""

    deletion = PoolDeleted
    pool: str
    """Name of the pool, as `namespace/name`."""
    selector: dict[str, str]
    target_ports: tuple[int, ...]
    picker_name: str = ""
    picker_port: int = 0
    """Port of the `endpointPickerRef` (or `extensionRef`); 0 where the pool has none."""
    failure_mode: str = "FailClose"
    app_protocol: str = "http"
    source: str = ""


class EndpointJoined(Fact, frozen=True, tag="endpoint-joined"):
    """A pod's port became a member of a pool."""

    endpoint: int
    pool: str
    uid: str
    """UID of the pod, or its `namespace/name` where it has none."""
    namespace: str
    name: str
    address: str
    port: int
    rank: int = 0
    """Index of the port in the pool's `targetPorts`."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    ready: bool = True
    source: str = ""


class EndpointChanged(Fact, frozen=True, tag="endpoint-changed"):
    """A member's readiness, labels or source changed (an empty source: stays); a changed address is left plus joined."""

    endpoint: int
    ready: bool
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    source: str = ""


class EndpointLeft(Fact, frozen=True, tag="endpoint-left"):
    """A member is gone for good; its number is not used again."""

    endpoint: int
    cause: str = ""


class ObjectiveDeleted(Deleted, frozen=True, tag="objective-deleted"):
    """An InferenceObjective went away: its name means priority 0 again."""

    noun = "InferenceObjective"
    pool: str
    name: str


class ObjectiveApplied(Applied, frozen=True, tag="objective-applied"):
    """An InferenceObjective gives requests that name it a priority in a pool."""

    deletion = ObjectiveDeleted
    pool: str
    name: str
    priority: int
    source: str = ""


class BackendRef(msgspec.Struct, frozen=True, array_like=True):
    """One backend of a route rule, with its desired weight."""

    pool: str
    """Name of the object that `kind` is about, as `namespace/name`."""
    weight: int = 1
    kind: str = "InferencePool"
    group: str = "inference.networking.k8s.io"


class HeaderMatch(msgspec.Struct, frozen=True, array_like=True):
    """A header the request must carry."""

    name: str
    value: str
    kind: str = "Exact"
    """`Exact` or `RegularExpression`, as in HTTPRoute."""


class RouteMatch(msgspec.Struct, frozen=True, array_like=True):
    """One of a rule's matches: all of its parts must hold."""

    path: str = "/"
    path_kind: str = "PathPrefix"
    """`PathPrefix`, `Exact` or `RegularExpression`, as in HTTPRoute."""
    headers: tuple[HeaderMatch, ...] = ()
    method: str = ""


class RouteRule(msgspec.Struct, frozen=True, array_like=True):
    """One rule of an HTTPRoute; an empty `matches` matches all."""

    matches: tuple[RouteMatch, ...]
    backends: tuple[BackendRef, ...]
    name: str = ""
    timeout: float = 0.0
    """Seconds of `timeouts.request`; 0 is none."""


class RouteDeleted(Deleted, frozen=True, tag="route-deleted"):
    """An HTTPRoute went away."""

    noun = "HTTPRoute"
    route: str


class RouteObserved(Applied, frozen=True, tag="route-observed"):
    """An HTTPRoute was seen for the first time, or something in it that we read changed."""

    deletion = RouteDeleted
    route: str
    """Name of the route, as `namespace/name`."""
    rules: tuple[RouteRule, ...]
    hostnames: tuple[str, ...] = ()
    source: str = ""
    version: str = ""
    """Digest of the file, or the API server's resourceVersion."""


class SourceAccepted(Fact, frozen=True, tag="source-accepted"):
    """A manifest or endpoints file was read whole; `warnings` say what had to be corrected."""

    source: str
    warnings: tuple[str, ...] = ()


class SourceRejected(Fact, frozen=True, tag="source-rejected"):
    """A manifest or endpoints file is wrong; what it said before stays in force."""

    source: str
    line: int
    message: str


# --- load ---------------------------------------------------------------------------------------


class LoadSampled(Fact, frozen=True, tag="load-sampled"):
    """Many endpoints answered a scrape: one packed column per attribute, in the order of `endpoints`."""

    endpoints: bytes
    """Packed numbers, ascending."""
    sampled_at: float
    """Time at which the last of them answered."""
    earlier: bytes
    """Packed milliseconds: how long before `sampled_at` each answered."""
    waiting: bytes
    """Packed counts of requests in the server's queue."""
    running: bytes
    """Packed counts of requests the server works on."""
    kv_cache: bytes
    """Used share of the KV cache, 0 to 1, by `pack_floats`."""


class LabelsChanged(Fact, frozen=True, tag="labels-changed"):
    """The LoRA adapters of a server or the size of its cache changed."""

    endpoint: int
    lora_running: tuple[str, ...] = ()
    lora_waiting: tuple[str, ...] = ()
    lora_max: int = 0
    cache_block_tokens: int = 0
    cache_blocks: int = 0


class ScrapeFailed(Fact, frozen=True, tag="scrape-failed"):
    """Scrapes failed: how old each sample now is, by the scraper's own clock; endpoints are packed, ascending."""

    endpoints: bytes
    ages: bytes
    """Packed milliseconds from last success to this attempt; `NEVER_SAMPLED` without a success."""
    causes: tuple[tuple[int, str], ...] = ()
    """Endpoint and what happened, only where that differs from the attempt before."""
    unreadable: bytes = b""  # packed numbers of those that answered, only not with a page that can be read


NEVER_SAMPLED = 2**32 - 1  # as an age in milliseconds it would be fifty days


class ScrapePaced(Fact, frozen=True, tag="scrape-paced"):
    """The scrape interval and the staleness threshold in force, in seconds."""

    interval: float
    threshold: float


# --- traffic: written by picker processes ---------------------------------------------------------


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who wrote an entry of a picker process, which of its entries it is, and what it knew."""

    picker: str
    epoch: int
    """64 random bits: one life of the picker process."""
    n: int
    """Contiguous from 1 within the epoch."""
    applied: int
    """Position of the cluster state that the picker had."""


class RequestFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a decision may depend on, exactly as `schedule` received it."""

    request_id: str
    pool: str
    model: str = ""
    """Name of the model in the body."""
    target_model: str = ""
    """Name that the server gets; empty where it is the same."""
    path: str = ""
    objective: str = ""
    priority: int = 0
    fairness_id: str = ""
    body_bytes: int = 0
    prompt_bytes: int = 0
    streamed: bool = False
    """Whether the client asked for a stream."""
    prefix: bytes = b""
    """Chained 8-byte hashes of the prompt's blocks, at most 256."""
    prefix_block_bytes: int = 0
    subset: bytes | None = None
    """Packed slots that the data plane allows; None for all."""
    headers: dict[str, str] = {}
    """Request headers that plugins read."""


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One column of traffic values that the plugins read, over the candidates in slot order."""

    column: int
    """Number of the column: a `Column` of `core/state/traffic.py`."""
    values: bytes
    """Packed values, one for each candidate."""


class RequestRouted(Fact, frozen=True, tag="request-routed"):
    """A decision: these endpoints, in this order."""

    origin: Origin
    decided_at: float
    request: RequestFacts
    endpoints: tuple[int, ...]
    """Numbers of the chosen endpoint and then of its fallbacks."""
    best: tuple[tuple[int, float], ...] = ()
    """Endpoint and sum of the three best, best first."""
    rejections: tuple[tuple[str, int], ...] = ()
    """Each `plugin-name: reason`, with the number of candidates rejected for it."""
    reads: tuple[Read, ...] = ()
    avoided: bytes = b""
    """Packed slots left out because of advice."""
    degraded: bool = False
    digest: bytes = b""
    """8 bytes over the whole matrix of candidates and plugins."""
    took: int = 0
    """Microseconds that `schedule` took."""


class RequestRefused(Fact, frozen=True, tag="request-refused"):
    """A decision: no endpoint."""

    origin: Origin
    decided_at: float
    request: RequestFacts
    reason: str
    """A `RefusalReason` (`core/deciding/refusals.py`), or one that only a newer build writes."""
    status: int
    message: str = ""
    rejections: tuple[tuple[str, int], ...] = ()
    reads: tuple[Read, ...] = ()
    avoided: bytes = b""
    degraded: bool = False
    digest: bytes = b""
    took: int = 0


class ResponseStarted(Fact, frozen=True, tag="response-started"):
    """The response headers of a routed request came back."""

    origin: Origin
    request_n: int
    """Number `n` of the RequestRouted, of the same epoch."""
    status: int
    after: float
    """Seconds since the request's headers were received."""
    served: str = ""
    """Address and port that the data plane reports, as `address:port`; empty where it reports none."""


class RequestFinished(Fact, frozen=True, tag="request-finished"):
    """The one end of a routed request."""

    origin: Origin
    request_n: int
    cause: str
    """`complete`, `disconnected` (client or server broke off), `deadline`, `drained` or `lost`."""
    status: int
    """0 where no response headers came."""
    duration: float
    """Seconds since the request's headers were received."""
    first_token: float | None = None
    """Seconds until the first byte of the response body; None where none came."""
    response_bytes: int = 0
    chunks: int = 0
    streamed: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class FeedLost(Fact, frozen=True, tag="feed-lost"):
    """From here on the picker decides degraded."""

    origin: Origin
    at: float
    cause: str


class FeedRestored(Fact, frozen=True, tag="feed-restored"):
    """The picker's cluster state is fed again."""

    origin: Origin
    at: float
    lost_for: float


class OpenRequestsListed(Fact, frozen=True, tag="open-requests-listed"):
    """After a gap in its entries a picker says which requests are open; all others of its epoch have ended."""

    origin: Origin
    open: bytes
    """Packed numbers `n` of the decisions whose requests are open, ascending."""


# --- control --------------------------------------------------------------------------------------


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


AppliedEvent: TypeAlias = PoolApplied | ObjectiveApplied | RouteObserved
DeletedEvent: TypeAlias = PoolDeleted | ObjectiveDeleted | RouteDeleted

Event: TypeAlias = (
    AppliedEvent
    | DeletedEvent
    | EndpointJoined
    | EndpointChanged
    | EndpointLeft
    | SourceAccepted
    | SourceRejected
    | LoadSampled
    | LabelsChanged
    | ScrapeFailed
    | ScrapePaced
    | RequestRouted
    | RequestRefused
    | ResponseStarted
    | RequestFinished
    | FeedLost
    | FeedRestored
    | OpenRequestsListed
    | PickerStarted
    | PickerEnded
    | EntriesLost
    | EntriesAdopted
    | LogCreated
    | ControlStarted
    | ControlStopped
    | ConfigAccepted
    | ConfigRejected
    | ClockStepped
    | WeightsIntended
    | WeightsWritten
    | WeightsRefused
    | ProcessStarted
    | ProcessEnded
)

PickerEvent: TypeAlias = (
    RequestRouted
    | RequestRefused
    | ResponseStarted
    | RequestFinished
    | FeedLost
    | FeedRestored
    | OpenRequestsListed
    | PickerStarted
)
PICKER_EVENTS: tuple[type[PickerEvent], ...] = get_args(PickerEvent)

_MEMBERSHIP: frozenset[object] = frozenset(get_args(AppliedEvent | DeletedEvent)) | {
    EndpointJoined,
    EndpointChanged,
    EndpointLeft,
    SourceAccepted,
    SourceRejected,
}
_LOAD: frozenset[object] = frozenset((LoadSampled, LabelsChanged, ScrapeFailed, ScrapePaced))
_TRAFFIC: frozenset[object] = frozenset((RequestRouted, RequestRefused, ResponseStarted, RequestFinished))
_CLASSES: dict[object, Class] = {
    kind: kept
    for kept, kinds in ((Class.MEMBERSHIP, _MEMBERSHIP), (Class.LOAD, _LOAD), (Class.TRAFFIC, _TRAFFIC))
    for kind in kinds
}


def class_of(event: Event) -> Class:
    """Return the class that `event` is stored under."""
    return _CLASSES.get(type(event), Class.CONTROL)


def class_of_type(kind: type[Event]) -> Class:
    """Return the class that events of this type are stored under."""
    return _CLASSES.get(kind, Class.CONTROL)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One line of the log; `body` is the event's bytes, encoded once, by whoever wrote it."""

    position: int
    recorded_at: float
    kind: int
    """Number of the entry's `Class`."""
    body: bytes

    @property
    def event(self) -> Event:
        """Decode the body; `msgspec.DecodeError` for a tag or a shape that this version does not know."""
        return decode(self.body)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)

encode = _encoder.encode
"""Return the bytes of an event."""

decode = _decoder.decode
"""Return the event of these bytes; `msgspec.DecodeError` where they are none."""
