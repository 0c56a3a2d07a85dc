"""Reading a log, whichever store holds it, from any process and while it is written.

Rules.  A read is a page in a transaction of its own: no reader holds up the writer for longer.
A reader belongs to one thread at a time.
A store that cannot be read, or holds something else than was written, raises `LogCorruptError`; a position that the
store does not hold raises `NotKeptError`.  No other error of a store's own leaves it.
"""

from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import msgspec

from pointsman.core.events import Entry
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.chain import Batch
from pointsman.eventlog.stores.snapshots import Projection, StoredSnapshot


class LogHead(msgspec.Struct, frozen=True):
    """How far a log goes: its last position, the chain's digest there, and when that was committed."""

    position: int
    digest: bytes
    recorded_at: float


class SegmentMeta(msgspec.Struct, frozen=True):
    """What a segment says of itself."""

    log_id: str
    first: int
    """Position that the segment's first entry has, or will have."""
    previous_digest: bytes
    """Digest of the chain before the segment."""
    previous_recorded_at: float
    """Time of the last batch before the segment."""
    created_at: float
    build: str
    """Version of Pointsman that created the segment."""


class TaggedPage(msgspec.Struct, frozen=True):
    """Entries with one tag, newest first, and how far back they were looked for."""

    entries: list[tuple[int, bytes]]
    """Position and body of each."""
    first: int
    """Position from which on all entries with the tag were found."""
    before: float | None
    """Time at which the entry before `first` was recorded, where the same segment holds one."""


class SegmentReader(Protocol):
    """One segment of a log: the part that a store keeps and drops as a whole."""

    @property
    def name(self) -> str:
        """The segment's name within its log."""

    @property
    def where(self) -> str:
        """The segment's name in messages, for somebody who looks for it."""

    @property
    def first(self) -> int:
        """The segment's first position, told without opening it."""

    @property
    def size(self) -> int:
        """The bytes that the segment takes; `NotKeptError` where it is gone."""

    def meta(self) -> SegmentMeta:
        """What the segment says of itself."""

    def entries(self, first: int, last: int) -> list[Entry]:
        """All entries in a span of positions, in order."""

    def batches(self, after: int, limit: int) -> list[Batch]:
        """The next batches that end after `after`, in order."""

    def last_batch(self) -> Batch | None:
        """The newest batch; None in a segment that has none yet."""

    def snapshot(self, position: int) -> StoredSnapshot | None:
        """The snapshot of exactly this position, unchecked."""

    def stray_entry(self) -> str | None:
        """What is wrong with the segment's first or last entry, where that is in no batch."""


class LogReader(Protocol):
    """A log that is read."""

    @property
    def directory(self) -> Path:
        """The data directory of the log."""

    @property
    def log_id(self) -> str:
        """The id that the log got when it was created."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None:
        """Let go of connections; the reader may be used again."""

    def segments(self) -> Sequence[SegmentReader]:
        """The segments, oldest first; never empty."""

    def holding(self, position: int) -> SegmentReader:
        """The segment that holds `position`, or will."""

    def first(self) -> int:
        """The first position that is kept."""

    def head(self) -> LogHead:
        """The last position that is committed."""

    def entries(self, first: int, last: int | None = None, classes: Collection[int] | None = None) -> Iterator[Entry]:
        """The kept entries from `first` to `last` (or the head as it is met), of these classes, in order."""

    def pages(
        self, first: int, last: int | None = None, classes: Collection[int] | None = None
    ) -> Iterator[list[Entry]]:
        """As `entries`, a page at a time; never an empty page."""

    def follow(
        self, after: int, classes: Collection[int] | None = None, interval: float = 0.05
    ) -> AsyncGenerator[list[Entry], None]:
        """Pages of the entries after `after` for ever, as they are committed; looks every `interval` seconds at least.

        Whoever stops early closes it, with `contextlib.aclosing`.
        """

    def tagged(self, tag: str, span: tuple[int, int], since: float, limit: int) -> TaggedPage:
        """The newest traffic entries with a tag, recorded at `since` or later, in the span's newest segment."""

    def batches(self, after: int, limit: int = 256) -> list[Batch]:
        """The next batches that end after `after`, of one segment."""

    def batch_at(self, position: int) -> Batch:
        """The batch that holds `position`."""

    def digest_at(self, position: int) -> bytes | None:
        """The chain's digest where a batch ends at `position`; None inside a batch or outside the log."""

    def snapshot_before(self, position: int) -> StoredSnapshot | None:
        """The newest snapshot at or before `position` that this version's projection made, checked.

        Where none did and the log does not go back to its beginning, the snapshot at the head of what is kept,
        whichever version made it.
        """

    def projection_before(self, position: int) -> Projection:
        """What the newest snapshot at or before `position` says, or the empty beginning."""

    def projection_at(self, position: int) -> Projection:
        """What the log adds up to at `position`, from the newest snapshot before it."""

    def state_at(self, position: int) -> ClusterState:
        """The cluster state at `position`."""
