"""Every fact the log can hold; this module has them all, the others of the folder one subject each.

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

from pointsman.core.events.control import (
    ClockStepped as ClockStepped,
    ConfigAccepted as ConfigAccepted,
    ConfigRejected as ConfigRejected,
    ControlStarted as ControlStarted,
    ControlStopped as ControlStopped,
    EntriesAdopted as EntriesAdopted,
    EntriesLost as EntriesLost,
    LogCreated as LogCreated,
    PickerEnded as PickerEnded,
    PickerStarted as PickerStarted,
    ProcessEnded as ProcessEnded,
    ProcessStarted as ProcessStarted,
    SegmentDropped as SegmentDropped,
    WeightsIntended as WeightsIntended,
    WeightsRefused as WeightsRefused,
    WeightsWritten as WeightsWritten,
)
from pointsman.core.events.load import (
    NEVER_SAMPLED as NEVER_SAMPLED,
    LabelsChanged as LabelsChanged,
    LoadSampled as LoadSampled,
    PrefixBlockSized as PrefixBlockSized,
    ScrapeFailed as ScrapeFailed,
    ScrapePaced as ScrapePaced,
    ServerStarted as ServerStarted,
)
from pointsman.core.events.membership import (
    EndpointChanged as EndpointChanged,
    EndpointJoined as EndpointJoined,
    EndpointLeft as EndpointLeft,
    ObjectiveApplied as ObjectiveApplied,
    ObjectiveDeleted as ObjectiveDeleted,
    PoolApplied as PoolApplied,
    PoolDeleted as PoolDeleted,
    SourceAccepted as SourceAccepted,
    SourceRejected as SourceRejected,
)
from pointsman.core.events.routing import (
    BackendRef as BackendRef,
    GrantFrom as GrantFrom,
    GrantTo as GrantTo,
    HeaderMatch as HeaderMatch,
    HeaderModifier as HeaderModifier,
    HeaderValues as HeaderValues,
    PathModifier as PathModifier,
    QueryMatch as QueryMatch,
    ReferenceGrantApplied as ReferenceGrantApplied,
    ReferenceGrantDeleted as ReferenceGrantDeleted,
    RequestHeaderModifier as RequestHeaderModifier,
    RequestMirror as RequestMirror,
    RequestRedirect as RequestRedirect,
    ResponseHeaderModifier as ResponseHeaderModifier,
    RouteDeleted as RouteDeleted,
    RouteFilter as RouteFilter,
    RouteMatch as RouteMatch,
    RouteObserved as RouteObserved,
    RouteRetry as RouteRetry,
    RouteRule as RouteRule,
    UrlRewrite as UrlRewrite,
)
from pointsman.core.events.traffic import (
    FeedLost as FeedLost,
    FeedRestored as FeedRestored,
    OpenRequestsListed as OpenRequestsListed,
    Origin as Origin,
    Read as Read,
    RequestFacts as RequestFacts,
    RequestFinished as RequestFinished,
    RequestRefused as RequestRefused,
    RequestRouted as RequestRouted,
    ResponseStarted as ResponseStarted,
)


class Class(IntEnum):
    """What an entry is about; retention and digests are by class."""

    CONTROL = 1
    MEMBERSHIP = 2
    LOAD = 3
    TRAFFIC = 4


AppliedEvent: TypeAlias = PoolApplied | ObjectiveApplied | RouteObserved | ReferenceGrantApplied
DeletedEvent: TypeAlias = PoolDeleted | ObjectiveDeleted | RouteDeleted | ReferenceGrantDeleted

NotedEvent: TypeAlias = (
    ControlStarted | ControlStopped | ConfigRejected | ClockStepped | ProcessStarted | ProcessEnded | SegmentDropped
)
"""Events that people read, and that change nothing in the cluster state."""

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
    | PrefixBlockSized
    | ScrapeFailed
    | ScrapePaced
    | ServerStarted
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
    | NotedEvent
    | ConfigAccepted
    | WeightsIntended
    | WeightsWritten
    | WeightsRefused
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
_LOAD: frozenset[object] = frozenset(
    (LoadSampled, LabelsChanged, PrefixBlockSized, ScrapeFailed, ScrapePaced, ServerStarted)
)
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
