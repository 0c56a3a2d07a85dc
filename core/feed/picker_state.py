"""The cluster state that a picker folds from the feed, and what it tells the traffic state.

- The cluster state changes only by a Snapshot or a whole Batch, so it always stands where a commit ended.
- After a Batch that does not fold, the state is not trusted any more, and the next Hello says that there is none.
  After a Batch that cannot be read, the next Hello asks for a Snapshot.
- Advice about an endpoint holds until an entry about it comes that was committed after the removal was seen.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

from pointsman.core.events import (
    Class,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    FeedLost,
    FeedRestored,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    decode,
)
from pointsman.core.feed.frames import OWN, UNREADABLE, BatchFrame, EpochRefusedError, FeedError, SnapshotFrame
from pointsman.core.state.marks import RefusedMark
from pointsman.core.state.membership import EpochKey
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import decode_snapshot
from pointsman.core.state.traffic import PrefixRoom
from pointsman.core.values.packing import Ints

Run: TypeAlias = tuple[int, Event | None, int]
"""A class, an event and 1; or OWN, None and how many entries of the picker's own traffic follow each other."""


class TrafficSide(Protocol):
    """What the feed tells the traffic state."""

    degraded: bool

    def follow(self, cluster: ClusterState) -> None:
        """Clear the rows of endpoints that are gone."""
        ...

    def observe(self, event: Event, cluster: ClusterState) -> None:
        """Take an entry of anybody else."""
        ...

    def replace_foreign(self, requests: Mapping[EpochKey, Mapping[int, int]], cluster: ClusterState) -> None:
        """Take the open requests of other epochs in place of what was known."""
        ...

    def advise(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints."""
        ...

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints no longer."""
        ...

    def clear_advice(self) -> None:
        """Avoid nobody."""
        ...

    def open_numbers(self) -> Ints:
        """The numbers of the own decisions whose requests are open, ascending."""
        ...

    def warm(self, endpoint: int, room: PrefixRoom, hashes: bytes) -> int:
        """Take blocks that an endpoint was given before all that is known of it."""
        ...

    def full(self) -> bool:
        """No endpoint has room for more blocks."""
        ...


class FedState:
    """A picker's cluster state, through all connections of its feed."""

    def __init__(self, key: EpochKey, traffic: TrafficSide) -> None:
        self.cluster: ClusterState | None = None
        self.digest = b""
        """Digest of the batch that ended at the cluster state's position."""
        self.log_id = ""
        self.unreadable = False
        """The entries that come next cannot be read."""
        self.snapshots = 0
        self.batches = 0
        self._key = key
        self._traffic = traffic
        self._trusted = False
        self._advised: dict[int, int] = {}

    @property
    def known(self) -> tuple[int, bytes]:
        """Position and digest to go on from; 0 where there is nothing to go on from."""
        return (self.cluster.position, self.digest) if self.cluster is not None and self._trusted else (0, b"")

    # --- advice -----------------------------------------------------------------------------------

    def advise(self, numbers: Iterable[int], after: int) -> None:
        """Avoid these endpoints until an entry about them that is later than `after`."""
        self._advised.update(dict.fromkeys(numbers, after))
        self._traffic.advise(numbers)

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints no longer."""
        for number in numbers:
            self._advised.pop(number, None)
        self._traffic.withdraw(numbers)

    def clear_advice(self) -> None:
        """Avoid nobody: the feed is connected anew."""
        self._advised.clear()
        self._traffic.clear_advice()

    def _end_advice(self, cluster: ClusterState, event: Event) -> None:
        match event:
            case EndpointJoined(number) | EndpointChanged(number) | EndpointLeft(number):
                after = self._advised.pop(number, None)
                if after is not None and cluster.position <= after and number in cluster.endpoints:
                    self._advised[number] = after  # committed before the removal was seen
                    self._traffic.advise((number,))
                else:
                    self._traffic.withdraw((number,))
            case _:
                pass
        self._advised = {number: after for number, after in self._advised.items() if number in cluster.endpoints}

    # --- the cluster state ------------------------------------------------------------------------

    def replace(self, cluster: ClusterState, snapshot: SnapshotFrame, log_id: str) -> None:
        """Stand where `snapshot` stands, whose state is `cluster`."""
        self.cluster = cluster
        self.digest, self.log_id = snapshot.digest, log_id
        self._trusted, self.unreadable = True, False
        self.snapshots += 1
        self._traffic.follow(cluster)
        self._traffic.replace_foreign({(o.picker, o.epoch): o.requests for o in snapshot.open}, cluster)

    def apply(self, batch: BatchFrame) -> None:
        """Fold the next commit; `FeedError` where it is not the next, or none."""
        cluster = self.cluster
        assert cluster is not None, "a picker that stands on a log has a state"
        if batch.first != cluster.position + 1:
            raise FeedError(f"a Batch from {batch.first} after position {cluster.position}")
        if len(batch.kinds) - batch.kinds.count(OWN) != len(batch.bodies):
            raise FeedError(f"a Batch of {len(batch.kinds)} classes with {len(batch.bodies)} bodies")
        try:
            runs = _runs(batch)
        except UNREADABLE as error:
            self.unreadable = True
            raise FeedError(f"the Batch from {batch.first} holds what is no event of ours: {error}") from error
        try:
            for kind, event, count in runs:
                if event is None:
                    self._fold_own(cluster, count)
                else:
                    self._fold(cluster, kind, event)
        except (LookupError, ValueError, AssertionError) as error:
            self._trusted = False
            what = f"{type(error).__name__}: {error}"
            raise FeedError(f"the Batch from {batch.first} does not fold at {cluster.position}: {what}") from error
        known = cluster.epochs.get(self._key)
        if batch.acknowledged and known is not None and known.highest_n < batch.acknowledged:
            self._trusted = False
            raise FeedError(f"the Batch from {batch.first} acknowledges {batch.acknowledged} after {known.highest_n}")
        self.digest = batch.digest
        self.batches += 1

    def _fold_own(self, cluster: ClusterState, count: int) -> None:
        """Fold entries of the picker's own traffic that follow each other; only the last one leaves a trace."""
        known = cluster.epochs.get(self._key)
        n = 0 if known is None else known.highest_n + count
        cluster.apply_traffic(cluster.position + count, (RefusedMark(Origin(*self._key, n, 0)),))

    def _fold(self, cluster: ClusterState, kind: int, event: Event) -> None:
        cluster.apply_event(cluster.position + 1, event)
        self._traffic.follow(cluster)
        match event:
            case PickerEnded(picker, epoch) if (picker, epoch) == self._key:
                raise EpochRefusedError(f"the log says at {cluster.position} that this epoch has ended: {event.cause}")
            case FeedLost(origin) | FeedRestored(origin) | PickerStarted(origin) | OpenRequestsListed(origin) if (
                origin.picker,
                origin.epoch,
            ) == self._key:
                pass
            case _:
                self._traffic.observe(event, cluster)
        if kind == Class.MEMBERSHIP and self._advised:
            self._end_advice(cluster, event)


def read_snapshot(snapshot: SnapshotFrame) -> ClusterState:
    """The state that a Snapshot holds; `FeedError` where it holds none."""
    try:
        cluster = decode_snapshot(snapshot.state)
    except (*UNREADABLE, LookupError, ValueError) as error:
        raise FeedError(f"a Snapshot of {len(snapshot.state)} bytes that is none of ours: {error}") from error
    if cluster.position != snapshot.position:
        raise FeedError(f"a Snapshot of position {snapshot.position} that holds {cluster.position}")
    return cluster


def _runs(batch: BatchFrame) -> list[Run]:
    """The class and the event of each entry; for own traffic that follows each other one item with its count."""
    runs: list[Run] = []
    bodies = iter(batch.bodies)
    own = 0
    for kind in batch.kinds:
        if kind == OWN:
            own += 1
            continue
        if own:
            runs.append((OWN, None, own))
            own = 0
        runs.append((kind, decode(next(bodies)), 1))
    if own:
        runs.append((OWN, None, own))
    return runs
