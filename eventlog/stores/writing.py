"""Writing a log, whichever store holds it.

Rules.  One thread uses a store at a time, and a log has one store that writes it.
A batch is prepared once; writing it may fail and be tried again, with the same bytes.
A store that is refused by its disk or database raises `StoreRefusedError`, and one that finds another head than
it left `StoreMovedError`; after either the same call may be made again.
"""

from itertools import repeat
from typing import Protocol

import msgspec

from pointsman.core.events import Entry, Event
from pointsman.core.state.marks import Mark
from pointsman.eventlog.chain import Batch
from pointsman.eventlog.stores.reading import LogHead
from pointsman.eventlog.stores.snapshots import LogSnapshot


class StoreLimits(msgspec.Struct, frozen=True):
    """The bounds of a log's writing side."""

    segment_bytes: int = 256 << 20
    """Size from which on a segment is full.  A segment is the grain of retention: this is an eightieth of 20 GB."""
    segment_age: float = 43_200.0
    """Seconds after which a segment is full: a fourteenth of 7 days."""
    batch_interval: float = 0.010
    """Seconds between the beginnings of two commits, at least."""
    batch_events: int = 1000
    """Entries in one commit, at most."""
    batch_bytes: int = 4 << 20
    """Bytes of bodies in one commit, so that bodies of unusual size do not make it long."""
    queue_events: int = 200_000
    """Entries that may wait: with `queue_bytes`, ten seconds of a stalled disk at 20,000 events/s, a minute at 3,000."""
    queue_bytes: int = 64 << 20
    """Bytes of bodies that may wait."""
    snapshot_cost: int = 60_000
    """Cost of folding, in traffic entries, after which a snapshot is taken: a fifth of a second of folding."""
    checkpoint_interval: float = 0.5
    """Seconds between two checkpoints, at least."""


class Commit(msgspec.Struct, frozen=True):
    """A batch that is on disk."""

    first: int
    last: int
    recorded_at: float
    digest: bytes
    kinds: list[int]
    bodies: list[bytes]
    events: list[Event | Mark]
    """Events or marks of the entries, which the folds read, in order."""
    body_bytes: int

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its entries, in order, made when they are asked for."""
        return tuple(map(Entry, range(self.first, self.last + 1), repeat(self.recorded_at), self.kinds, self.bodies))


class Prepared(msgspec.Struct, frozen=True):
    """A batch that is to be written: positions, time and digest are settled."""

    batch: Batch
    kinds: list[int]
    bodies: list[bytes]
    body_bytes: int

    def commit(self, events: list[Event | Mark]) -> Commit:
        """What is told once it is on disk."""
        first, last, recorded_at, digest = self.batch.first, self.batch.last, self.batch.recorded_at, self.batch.digest
        return Commit(first, last, recorded_at, digest, self.kinds, self.bodies, events, self.body_bytes)


class LogStore(Protocol):
    """The side of a store that writes one log."""

    @property
    def head(self) -> LogHead:
        """The head that the store has on disk; it moves when a batch is there, and not before."""

    @property
    def segment_name(self) -> str:
        """The name of the segment that is written."""

    @property
    def segment_full(self) -> bool:
        """Whether the next batch should begin a new segment, which needs a snapshot at the head."""

    def prepare(self, kinds: list[int], bodies: list[bytes]) -> Prepared:
        """Settle the next batch; its time is the clock's, and never before that of the batch before."""

    def write(self, prepared: Prepared) -> None:
        """Have the batch on disk when this returns."""

    def add_snapshot(self, snapshot: LogSnapshot, chain_digest: bytes) -> None:
        """Write a snapshot, at whose position the chain stands at `chain_digest`; the store may leave out an old one."""

    def begin_segment(self, snapshot: LogSnapshot) -> None:
        """Step to a new segment with `snapshot`, which is of the head, as its first."""

    def finish_step(self) -> None:
        """Complete a step to a new segment that an error broke off, if there is one."""

    def checkpoint(self) -> tuple[int, int]:
        """Bring what was committed to its final place; how many pages waited for that, and how many were moved."""

    def disconnect(self) -> None:
        """Close the connection; the next call opens it anew."""
