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
from pointsman.core.state.snapshot import VERSION, ClusterSnapshot, snapshot_of
from pointsman.core.state.snapshot import restore as restore_cluster
from pointsman.eventlog.chain import runs
from pointsman.eventlog.sqlite.segments import SnapshotRow

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
    picker: str
    epoch: int
    requests: dict[int, int]


class LogSnapshot(msgspec.Struct, frozen=True):
    """A snapshot as values; nothing in it changes after it was taken."""

    cluster: ClusterSnapshot
    open: list[_Open]
    totals: Totals


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """The state column: the cluster state's own bytes, so that it can be sent on without decoding."""

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
        """Of the last entry folded."""
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
_stored = msgspec.msgpack.Decoder(_Stored)
_cluster = msgspec.msgpack.Decoder(ClusterSnapshot)


def encode_row(snapshot: LogSnapshot, chain_digest: bytes) -> SnapshotRow:
    """The snapshot as it is stored, at a position where the chain stands at `chain_digest`."""
    stored = _Stored(_encoder.encode(snapshot.cluster), snapshot.open, snapshot.totals)
    state = msgspec.msgpack.encode(stored)
    position, version = snapshot.cluster.position, snapshot.cluster.version
    return SnapshotRow(position, version, state, row_digest(chain_digest, position, version, state))


def row_digest(chain_digest: bytes, position: int, version: int, state: bytes) -> bytes:
    """The digest that a snapshot row must carry."""
    return sha256(chain_digest + f"{position} {version} ".encode() + state).digest()


def restore(row: SnapshotRow) -> Projection:
    """What the snapshot says; `msgspec.DecodeError` or `ValueError` where another version made it."""
    if row.version != VERSION:
        raise ValueError(f"snapshot of projection version {row.version}, wanted {VERSION}")
    stored = _stored.decode(row.state)
    projection = Projection()
    projection.cluster = restore_cluster(_cluster.decode(stored.cluster))
    projection.open_requests.by_epoch = {(one.picker, one.epoch): one.requests for one in stored.open}
    projection.totals = stored.totals
    return projection
