"""The writing side of the segments: batches, snapshots, checkpoints, the step to a new segment.

Rules.  One thread uses a store at a time, and there is one store for a directory (the lock sees to it).
A batch is prepared once; writing it may fail and be tried again, with the same bytes.
`Store.head` moves only when a batch is on disk.
"""

import time
from bisect import bisect_right
from pathlib import Path

import msgspec
from sqlalchemy import Connection, text
from sqlalchemy.engine.interfaces import DBAPICursor

from pointsman.eventlog.chain import Batch, covering, runs, seal
from pointsman.eventlog.errors import StoreMovedError
from pointsman.eventlog.sqlite.segments import (
    connect_writer,
    create_segment,
    insert_snapshot,
    last_batch,
    refusals,
    segment_path,
    settle,
)
from pointsman.eventlog.sqlite.tables import ADD_BATCH, SqlRow, rows
from pointsman.eventlog.stores.reading import LogHead, SegmentMeta
from pointsman.eventlog.stores.snapshots import LogSnapshot, StoredSnapshot, stored
from pointsman.eventlog.stores.writing import Prepared, StoreLimits

STRIDES = (*range(1, 65), 128, 256, 512)
"""Numbers of rows that an INSERT may have.

Fewer statements cost less, and each gives up the interpreter lock once and waits to get it back; the driver keeps
each of these prepared.
"""

_ROWS = [f"(?1 + {row}, ?2, ?3, ?{row + 4})" for row in range(STRIDES[-1])]
_INSERT = {stride: f"INSERT INTO entries VALUES {', '.join(_ROWS[:stride])}" for stride in STRIDES}
"""The first row's position, the time and the class of all rows, and each row's body: binding a value is what costs."""
_CHECKPOINT = text("PRAGMA wal_checkpoint(PASSIVE)")
_ENTRY_OVERHEAD = 22
"""Bytes that SQLite needs for an entry beside its body, about; a segment's size is counted, not asked for."""


class SegmentStore:
    """Writes the log in `directory`, whose head is `head`, from the segment described by `meta` on."""

    def __init__(self, directory: Path, meta: SegmentMeta, head: LogHead, limits: StoreLimits) -> None:
        self.directory = directory
        self.head = head
        self._meta = meta
        self._limits = limits
        self._connection: Connection | None = None
        self._tried: Prepared | None = None
        """A batch whose commit has begun and has not succeeded."""
        self._inode = 0
        self._bytes = self.segment.stat().st_size
        self._covers = b""
        """Packed records of the snapshots that the next batch is to cover."""
        self._next: tuple[SegmentMeta, LogSnapshot] | None = None
        """Beginning of the new segment, set while the step to it is under way: no batch goes into the old one any more."""

    @property
    def segment(self) -> Path:
        """The file that is written."""
        return segment_path(self.directory, self._meta.first)

    @property
    def segment_name(self) -> str:
        """The name of the file that is written."""
        return self.segment.name

    @property
    def segment_full(self) -> bool:
        """Whether the next batch should begin a new segment, which needs a snapshot at the head."""
        if self.head.position < self._meta.first:
            return False
        age = self.head.recorded_at - self._meta.created_at
        return self._bytes >= self._limits.segment_bytes or age >= self._limits.segment_age

    def prepare(self, kinds: list[int], bodies: list[bytes]) -> Prepared:
        """Settle the next batch; the time is what the clock says, and never goes back."""
        recorded_at = max(time.time(), self.head.recorded_at)
        first = self.head.position + 1
        batch = seal(self.head.digest, first, recorded_at, kinds, bodies, covers=self._covers)
        self._covers = b""
        return Prepared(batch, kinds, bodies, sum(map(len, bodies)))

    @refusals()
    def write(self, prepared: Prepared) -> None:
        """Have the batch on disk when this returns; after an error, the same batch may be tried again."""
        connection = self._writable()
        if self.head.position >= prepared.batch.last:
            return  # the attempt before this one got further than its error said
        self._tried = prepared
        try:
            # On the driver's cursor: docs/adr/0007-statements.md has what SQLAlchemy would cost.
            cursor = connection.connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            self._insert(cursor, prepared)
            cursor.execute("COMMIT")
        except BaseException:
            self.disconnect()  # the next attempt opens the file anew, and looks at what it holds
            raise
        self._moved(prepared)

    def _moved(self, prepared: Prepared) -> None:
        batch, self._tried = prepared.batch, None
        self.head = LogHead(batch.last, batch.digest, batch.recorded_at)
        self._bytes += prepared.body_bytes + _ENTRY_OVERHEAD * len(prepared.kinds) + len(batch.classes) + 64

    def _insert(self, cursor: DBAPICursor, prepared: Prepared) -> None:
        batch = prepared.batch
        # The driver looks for an adapter for each `bytes`, and for a `bytearray` it does not: a third of the time.
        bodies = list(map(bytearray, prepared.bodies))
        start = 0
        for kind, count in runs(prepared.kinds):
            end = start + count
            while start < end:
                stride = STRIDES[bisect_right(STRIDES, end - start) - 1]
                some = bodies[start : start + stride]
                cursor.execute(_INSERT[stride], (batch.first + start, batch.recorded_at, kind, *some))
                start += stride
        cursor.execute(ADD_BATCH, (batch.last, batch.first, batch.recorded_at, batch.digest, batch.classes))

    def _writable(self) -> Connection:
        """The connection, opened where there is none."""
        if self._connection is not None:
            return self._connection
        connection = connect_writer(self.segment)
        try:
            self._compare(last_batch(connection))
            status = self.segment.stat()
            self._inode, self._bytes = status.st_ino, status.st_size
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _compare(self, found: Batch | None) -> None:
        """Check that the file ends where this store left it; a commit that reported an error may be there."""
        if self._tried is not None and found == self._tried.batch:
            settle(self.segment)  # its own sync may be what failed
            self._moved(self._tried)
        digest = self._meta.previous_digest if found is None else found.digest
        if digest != self.head.digest:
            last = self._meta.first - 1 if found is None else found.last
            raise StoreMovedError(
                f"{self.segment} ends at position {last}, digest {digest.hex()[:16]}, "
                f"wanted {self.head.position}, {self.head.digest.hex()[:16]}: something else wrote to it"
            )

    @refusals()
    def checkpoint(self) -> tuple[int, int]:
        """Move what the WAL holds into the segment, as far as readers allow; pages in the WAL, and pages moved."""
        if self._connection is None:
            return (0, 0)
        self._check_in_place()
        found: SqlRow = rows(self._connection, _CHECKPOINT)[0]
        return (int(found[1] or 0), int(found[2] or 0))

    def _check_in_place(self) -> None:
        """Raise where the segment's file was deleted or replaced: commits would go to a file without a name."""
        if self.segment.stat().st_ino != self._inode:
            raise StoreMovedError(f"{self.segment} is another file than the one that was opened")

    @refusals()
    def add_snapshot(self, snapshot: LogSnapshot, chain_digest: bytes) -> None:
        """Write a snapshot of a position in this segment; one of an earlier segment is of no use here."""
        if snapshot.cluster.position < self._meta.first - 1:
            return
        connection, kept = self._writable(), stored(snapshot, chain_digest)
        try:
            insert_snapshot(connection, kept)
        except BaseException:
            self.disconnect()
            raise
        self.cover(kept)

    def cover(self, snapshot: StoredSnapshot) -> None:
        """Have the next batch cover a snapshot that is written."""
        self._covers += covering(snapshot.position, snapshot.digest)

    @refusals()
    def begin_segment(self, snapshot: LogSnapshot) -> None:
        """Step to a new segment with `snapshot`, which is of the head, as its first; may be tried again."""
        assert snapshot.cluster.position == self.head.position, "a segment begins with a snapshot of the head"
        head = self.head
        meta = msgspec.structs.replace(
            self._meta,
            first=head.position + 1,
            previous_digest=head.digest,
            previous_recorded_at=head.recorded_at,
            created_at=head.recorded_at,
        )
        self._next = (meta, snapshot)
        self.finish_step()

    @refusals()
    def finish_step(self) -> None:
        """Complete a step to a new segment that an error broke off, if there is one."""
        if self._next is None:
            return
        meta, snapshot = self._next
        kept = stored(snapshot, self.head.digest)
        create_segment(self.directory, meta, kept)
        if self._connection is not None:
            rows(self._connection, _CHECKPOINT)  # nobody will, once this connection is gone
        self.disconnect()
        self._meta, self._next = meta, None
        self.cover(kept)
        self._writable()

    @refusals()
    def disconnect(self) -> None:
        """Close the connection; as the last one of the file it moves the whole WAL into the segment."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
