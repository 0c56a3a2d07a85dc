"""Snapshots: what the log adds up to at a position, written down so that a fold need not begin at 1.

A snapshot holds the cluster state, the open requests and the totals.  Its digest covers the chain's digest
at its position, so a snapshot of another log or another moment is not taken for one of this.
"""

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from pointsman.core.events import Class, Entry, Event
from pointsman.core.state.marks import Mark, skim
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import VERSION, ClusterSnapshot, restore as restore_cluster, snapshot_of
from pointsman.eventlog.chain import runs

DAY = 86_400.0


class Totals(msgspec.Struct):
    """Entries of each class since the log began, and bytes of their bodies on the day (UTC) of the newest."""

    entries: dict[int, int] = {}
    day: int = 0
    bytes_today: dict[int, int] = {}

    def count(self, kind: int, recorded_at: float, entries: int, body_bytes: int) -> None:
        """Add what was committed at one time."""
        day = int(recorded_at // DAY)
        if day != self.day:
            self.day, self.bytes_today = day, {}
        self.entries[kind] = self.entries.get(kind, 0) + entries
        self.bytes_today[kind] = self.bytes_today.get(kind, 0) + body_bytes


class _Open(msgspec.Struct, frozen=True, array_like=True):
    """The open requests of one epoch: number of each to the endpoint that it was routed to."""

    picker: str
    epoch: int
    requests: dict[int, int]


class LogSnapshot(msgspec.Struct, frozen=True):
    """A snapshot as values; nothing in it changes after it was taken."""

    cluster: ClusterSnapshot
    open: list[_Open]
    totals: Totals


class StoredSnapshot(msgspec.Struct, frozen=True):
    """A snapshot as a store keeps it."""

    position: int
    version: int
    """Version of the projection that made it."""
    state: bytes
    digest: bytes
    """Digest over the chain's digest at the position, and over the other fields."""


class _State(msgspec.Struct, frozen=True, array_like=True):
    """What the bytes of a stored state hold: the cluster state's own, so that it can be sent on without decoding."""

    cluster: bytes
    open: list[_Open]
    totals: Totals


class Projection:
    """What the log adds up to at `position`."""

    def __init__(self) -> None:
        self.cluster = ClusterState()
        self.open_requests = OpenRequests()
        self.totals = Totals()

    @property
    def position(self) -> int:
        """Position of the last entry folded."""
        return self.cluster.position

    def apply(self, entry: Entry) -> None:
        """Fold the next entry."""
        self.apply_event(entry.position, entry.kind, skim(entry.kind, entry.body))

    def apply_event(self, position: int, kind: int, event: Event | Mark) -> None:
        """Fold the next entry, whose body is already decoded."""
        expected = self.cluster.position + 1
        assert position == expected, f"entry {position} where {expected} should come"
        self.cluster.apply_event(position, event)
        if kind == Class.TRAFFIC or kind == Class.CONTROL:
            self.open_requests.apply_event(event)

    def apply_batch(self, first: int, kinds: Sequence[int], events: Sequence[Event | Mark]) -> None:
        """Fold the next entries, from `first` on, whose bodies are already skimmed."""
        expected = self.cluster.position + 1
        assert first == expected, f"entry {first} where {expected} should come"
        start = 0
        for kind, count in runs(kinds):
            end = start + count
            if kind == Class.TRAFFIC:
                marks: Sequence[Mark] = events[start:end]  # type: ignore[assignment]  # traffic is skimmed to marks
                self.cluster.apply_traffic(first + end - 1, marks)
                self.open_requests.apply_traffic(marks)
            else:
                for position, event in enumerate(events[start:end], first + start):
                    self.apply_event(position, kind, event)
            start = end

    def snapshot(self) -> LogSnapshot:
        """Take a snapshot; later entries do not change it."""
        return LogSnapshot(
            snapshot_of(self.cluster),
            [
                _Open(picker, epoch, dict(requests))
                for (picker, epoch), requests in sorted(self.open_requests.by_epoch.items())
                if requests
            ],
            msgspec.structs.replace(
                self.totals, entries=dict(self.totals.entries), bytes_today=dict(self.totals.bytes_today)
            ),
        )


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_state = msgspec.msgpack.Decoder(_State)
_cluster = msgspec.msgpack.Decoder(ClusterSnapshot)


def stored(snapshot: LogSnapshot, chain_digest: bytes) -> StoredSnapshot:
    """The snapshot as it is kept, at a position where the chain stands at `chain_digest`."""
    state = msgspec.msgpack.encode(_State(_encoder.encode(snapshot.cluster), snapshot.open, snapshot.totals))
    position, version = snapshot.cluster.position, snapshot.cluster.version
    return StoredSnapshot(position, version, state, snapshot_digest(chain_digest, position, version, state))


def snapshot_digest(chain_digest: bytes, position: int, version: int, state: bytes) -> bytes:
    """The digest that a stored snapshot must carry."""
    return sha256(chain_digest + f"{position} {version} ".encode() + state).digest()


def has_its_digest(snapshot: StoredSnapshot, chain_digest: bytes) -> bool:
    """Whether the snapshot is the one that was taken where the chain stood at `chain_digest`; its types are unchecked."""
    position, version, state = snapshot.position, snapshot.version, snapshot.state
    return isinstance(state, bytes) and snapshot.digest == snapshot_digest(chain_digest, position, version, state)


def totals_of(snapshot: StoredSnapshot) -> Totals:
    """The totals in a stored snapshot; `msgspec.DecodeError` where they are not there."""
    return _state.decode(snapshot.state).totals


def says(snapshot: StoredSnapshot, projection: Projection) -> bool:
    """Whether a stored snapshot says what a projection of its position does; one of another version is not compared."""
    if snapshot.version != VERSION:
        return True
    try:
        return _bytes(restore(snapshot)) == _bytes(projection)
    except (msgspec.DecodeError, ValueError, LookupError):
        return False


def _bytes(projection: Projection) -> bytes:
    return stored(projection.snapshot(), b"").state


def restore(snapshot: StoredSnapshot) -> Projection:
    """What the snapshot says; `msgspec.DecodeError` or `ValueError` where a later version made it."""
    decoded = _state.decode(snapshot.state)
    projection = Projection()
    projection.cluster = restore_cluster(_cluster.decode(decoded.cluster))
    projection.open_requests.by_epoch = {(one.picker, one.epoch): one.requests for one in decoded.open}
    projection.totals = decoded.totals
    return projection
