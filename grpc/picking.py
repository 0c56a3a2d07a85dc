"""A pool's decisions in a picker process: from a complete request to the event that tells what became of it."""

from typing import Protocol, TypeAlias

import msgspec

from pointsman.core.events import Origin, PickerEvent, RequestRefused, RequestRouted
from pointsman.core.projection import ClusterState
from pointsman.core.traffic import TrafficState
from pointsman.grpc.actions import Decide, Refuse, Routed


class Feed(Protocol):
    """What a picker process knows of the world, and where its events go; `PickerFeed` is the real one."""

    cluster: ClusterState
    traffic: TrafficState

    def origin(self) -> Origin:
        """Take the next `n`."""
        ...

    def record(self, event: PickerEvent) -> None:
        """Queue an event for the log; in order of `n`."""
        ...

    async def recorded(self) -> None:
        """Return once what was recorded so far was handed to the feed's socket."""
        ...


class Routing(msgspec.Struct, frozen=True):
    """A decision for an endpoint."""

    event: RequestRouted
    routed: Routed


class Refusal(msgspec.Struct, frozen=True):
    """A decision for none."""

    event: RequestRefused


Picked: TypeAlias = Routing | Refusal


class Picking(Protocol):
    """Decides for one pool."""

    @property
    def headers(self) -> frozenset[str]:
        """Names of the request headers that its plugins read, in lower case."""
        ...

    def pick(self, wish: Decide | Refuse) -> Picked:
        """Decide at once; nothing is recorded yet."""
        ...
