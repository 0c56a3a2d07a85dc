"""Facts about what there is to route to: pools and their endpoints, objectives, and the files that say so."""

import msgspec

from pointsman.core.values.facts import Applied, Deleted, Fact


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
    version: str = ""
    """The pod's resourceVersion when that was so; empty where it comes from a file."""


class EndpointChanged(Fact, frozen=True, tag="endpoint-changed"):
    """A member's readiness, labels or source changed (an empty source: stays); a changed address is left plus joined."""

    endpoint: int
    ready: bool
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    source: str = ""
    version: str = ""
    """The pod's resourceVersion when that was so; empty where it comes from a file."""


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


class SourceAccepted(Fact, frozen=True, tag="source-accepted"):
    """A manifest or endpoints file was read whole; `warnings` say what had to be corrected."""

    source: str
    warnings: tuple[str, ...] = ()


class SourceRejected(Fact, frozen=True, tag="source-rejected"):
    """A manifest or endpoints file is wrong; what it said before stays in force."""

    source: str
    line: int
    message: str
