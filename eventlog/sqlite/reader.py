"""Reading the log, from any process, while it is written.

Rules.  Every read is a page in a transaction of its own, so no reader keeps the writer's file from shrinking.
Connections are read-only.  A reader belongs to one thread at a time.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterator
from pathlib import Path
from typing import Self

import msgspec
import trio
from sqlalchemy import Connection

from pointsman.core.events import Class, Entry
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import VERSION
from pointsman.eventlog.chain import Batch
from pointsman.eventlog.errors import NotKeptError, corrupt
from pointsman.eventlog.sqlite.segments import (
    BATCH_COLUMNS,
    SQL_ERRORS,
    Meta,
    SnapshotRow,
    SqlRow,
    SqlValue,
    as_batch,
    connect_read_only,
    first_position,
    last_batch,
    placeholders,
    read_meta,
    reason,
    rows,
    segment_paths,
)
from pointsman.eventlog.sqlite.snapshots import Projection, restore, row_digest

PAGE = 4096
"""Positions in one page: about a megabyte and two milliseconds."""

OPEN_SEGMENTS_MAX = 4
"""Connections kept; readers walk forwards, so the newest and their own place suffice."""

_ENTRIES = "SELECT position, recorded_at, kind, body FROM entries"


class LogHead(msgspec.Struct, frozen=True):
    """How far the log goes."""

    position: int
    digest: bytes
    recorded_at: float


class LogReader:
    """Reads the log in `directory`; `LogCorruptError` where it is none or SQLite cannot read it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: OrderedDict[Path, tuple[Connection, Meta]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the reader may be used again."""
        while self._open:
            self._open.popitem()[1][0].close()

    # --- segments ---------------------------------------------------------------------------------

    def segments(self) -> list[Path]:
        """The segments, oldest first; never empty."""
        found = segment_paths(self.directory)
        if not found:
            raise NotKeptError(f"{self.directory} holds no log: no file named like 00000000000000000001.segment")
        return found

    def meta(self, path: Path) -> Meta:
        """What a segment says of itself."""
        return self._segment(path)[1]

    def _segment(self, path: Path) -> tuple[Connection, Meta]:
        if (known := self._open.get(path)) is not None:
            self._open.move_to_end(path)
            return known
        try:
            connection = connect_read_only(path)
        except SQL_ERRORS as error:
            raise corrupt(self.directory, f"segment {path}", reason(error)) from error
        try:
            found = (connection, read_meta(connection, path))
        except BaseException:
            connection.close()
            raise
        while len(self._open) >= OPEN_SEGMENTS_MAX:
            self._open.popitem(last=False)[1][0].close()
        self._open[path] = found
        return found

    def query(self, path: Path, statement: str, parameters: tuple[SqlValue, ...] = ()) -> list[SqlRow]:
        """Rows of one segment."""
        try:
            return list(rows(self._segment(path)[0], statement, parameters))
        except SQL_ERRORS as error:
            raise corrupt(self.directory, f"segment {path}", reason(error)) from error

    def holding(self, position: int) -> Path:
        """The segment that holds `position` or would."""
        best = None
        for path in self.segments():
            if first_position(path) > position:
                break
            best = path
        if best is None:
            kept = first_position(self.segments()[0])
            raise NotKeptError(f"position {position} is not kept: the log in {self.directory} begins with {kept}")
        return best

    # --- entries and batches ----------------------------------------------------------------------

    @property
    def log_id(self) -> str:
        """Of the log in the directory."""
        return self.meta(self.segments()[-1]).log_id

    def first(self) -> int:
        """The first position that is kept."""
        return first_position(self.segments()[0])

    def head(self) -> LogHead:
        """The last committed position, its digest and time."""
        path = self.segments()[-1]
        batch = self.last_batch(path)
        if batch is None:
            meta = self.meta(path)
            return LogHead(meta.first - 1, meta.previous_digest, meta.previous_recorded_at)
        return LogHead(batch.last, batch.digest, batch.recorded_at)

    def entries(self, first: int, last: int | None = None, classes: Collection[int] | None = None) -> Iterator[Entry]:
        """The kept entries from `first` to `last` (or the head as it is met), of these classes, in order."""
        for page in self.pages(first, last, classes):
            yield from page

    def pages(
        self, first: int, last: int | None = None, classes: Collection[int] | None = None
    ) -> Iterator[list[Entry]]:
        """As `entries`, a page at a time; never an empty page."""
        end = self.head().position if last is None else min(last, self.head().position)
        paths = self.segments()
        for index, path in enumerate(paths):
            stop = first_position(paths[index + 1]) - 1 if index + 1 < len(paths) else end
            start = max(first, first_position(path))
            while start <= min(stop, end):
                until = min(start + PAGE - 1, stop, end)
                if classes is not None and max(classes, default=9) < Class.LOAD:
                    until = min(stop, end)  # the index finds them
                page, start = self._page(path, start, until, classes)
                if page:
                    yield page

    def _page(self, path: Path, start: int, until: int, classes: Collection[int] | None) -> tuple[list[Entry], int]:
        """At most a page of the segment's entries in [start, until], and where the next page starts."""
        where = "position BETWEEN ? AND ?"
        parameters: tuple[SqlValue, ...] = (start, until)
        if classes is not None:
            rare = "kind < 3 AND " if max(classes, default=9) < Class.LOAD else ""
            where += f" AND {rare}kind IN ({placeholders(classes)})"
            parameters += tuple(int(kind) for kind in classes)
        found = self.query(path, f"{_ENTRIES} WHERE {where} ORDER BY position LIMIT {PAGE}", parameters)
        page = [Entry(*row) for row in found]  # type: ignore[arg-type]  # the chain is what checks them
        return page, page[-1].position + 1 if len(page) == PAGE else until + 1

    def batches(self, after: int, limit: int = 256) -> list[Batch]:
        """The next batches that end after `after`, of one segment."""
        return self.segment_batches(self.holding(after + 1), after, limit)

    def segment_batches(self, path: Path, after: int, limit: int) -> list[Batch]:
        """The next batches that end after `after`, in a segment that need not begin where its name says."""
        statement = f"SELECT {BATCH_COLUMNS} FROM batches WHERE last > ? ORDER BY last LIMIT ?"
        return self._batches(path, statement, (after, limit))

    def segment_entries(self, path: Path, first: int, last: int) -> list[Entry]:
        """All entries of one segment in a span of batches."""
        found = self.query(path, f"{_ENTRIES} WHERE position BETWEEN ? AND ? ORDER BY position", (first, last))
        return [Entry(*row) for row in found]  # type: ignore[arg-type]  # the chain is what checks them

    def stray_entry(self, path: Path) -> str | None:
        """What is wrong with the first or last entry of a segment, where they are in no batch."""
        begins = self.meta(path).first
        statement = "SELECT min(position), max(position), (SELECT coalesce(max(last), ?) FROM batches) FROM entries"
        lowest, highest, last = self.query(path, statement, (begins - 1,))[0]
        if isinstance(highest, int) and isinstance(last, int) and highest > last:
            return f"entry {highest} is in no batch: the last batch ends at {last}"
        if isinstance(lowest, int) and lowest < begins:
            return f"entry {lowest} is in no batch: the segment begins with {begins}"
        return None

    def batch_at(self, position: int) -> Batch:
        """The batch that holds `position`; `NotKeptError` where none does."""
        path = self.holding(position)
        statement = f"SELECT {BATCH_COLUMNS} FROM batches WHERE last >= ? ORDER BY last LIMIT 1"
        found = self._batches(path, statement, (position,))
        if not found or found[0].first > position:
            raise NotKeptError(f"position {position} is in no batch of the log in {self.directory}")
        return found[0]

    def _batches(self, path: Path, statement: str, parameters: tuple[SqlValue, ...]) -> list[Batch]:
        try:
            return [as_batch(row) for row in self.query(path, statement, parameters)]
        except ValueError as error:
            raise corrupt(self.directory, f"segment {path}", str(error)) from error

    def digest_at(self, position: int) -> bytes | None:
        """The chain's digest where a batch ends at `position`; None inside a batch or outside the log."""
        try:
            batch = self.batch_at(position)
        except NotKeptError:
            batch = None
        if batch is not None:
            return batch.digest if batch.last == position else None
        meta = self.meta(self.segments()[0])
        return meta.previous_digest if meta.first == position + 1 else None

    def last_batch(self, path: Path) -> Batch | None:
        """The newest batch of a segment."""
        try:
            return last_batch(self._segment(path)[0])
        except (*SQL_ERRORS, ValueError) as error:
            raise corrupt(self.directory, f"segment {path}", reason(error)) from error

    async def follow(
        self, after: int, classes: Collection[int] | None = None, interval: float = 0.05
    ) -> AsyncGenerator[list[Entry], None]:
        """Pages of the entries after `after` for ever, as they are committed; polls, in a thread.

        Whoever stops early closes it, with `contextlib.aclosing`.
        """
        while True:
            pages, head = await trio.to_thread.run_sync(self._next_pages, after, classes)
            for page in pages:
                yield page
            if head == after:
                await trio.sleep(interval)
            after = head

    def _next_pages(self, after: int, classes: Collection[int] | None) -> tuple[list[list[Entry]], int]:
        """At most a page's worth of positions after `after`, and the position up to which that looked."""
        until = min(self.head().position, max(after, self.first() - 1) + PAGE)
        return list(self.pages(after + 1, until, classes)), max(until, after)

    # --- snapshots --------------------------------------------------------------------------------

    def snapshot_row(self, position: int) -> SnapshotRow | None:
        """The newest snapshot at or before `position` that this version's projection made, checked."""
        for path in reversed(self.segments()):
            if first_position(path) - 1 > position:
                continue
            found = self.query(
                path,
                "SELECT position, version, state, digest FROM snapshots"
                " WHERE position <= ? AND version = ? ORDER BY position DESC LIMIT 1",
                (position, VERSION),
            )
            if found:
                row = SnapshotRow(*found[0])  # type: ignore[arg-type]  # the digest is what checks it
                self._check_snapshot(path, row)
                return row
        return None

    def _check_snapshot(self, path: Path, row: SnapshotRow) -> None:
        meta = self.meta(path)
        chain = meta.previous_digest if row.position == meta.first - 1 else self.digest_at(row.position)
        wanted = None
        if chain is not None and isinstance(row.state, bytes):
            wanted = row_digest(chain, row.position, row.version, row.state)
        if row.digest != wanted:
            where = f"segment {path}, snapshot at position {row.position}"
            raise corrupt(self.directory, where, "its bytes do not have the digest that was written with it")

    def projection_at(self, position: int) -> Projection:
        """Fold the log up to `position`, from the newest snapshot before it."""
        head = self.head().position
        if position > head:
            raise NotKeptError(f"position {position} is not written: the log in {self.directory} ends at {head}")
        projection = self.projection_before(position)
        for entry in self.entries(projection.position + 1, position):
            projection.apply(entry)
        return projection

    def projection_before(self, position: int) -> Projection:
        """What the newest snapshot at or before `position` says, or the empty beginning."""
        row = self.snapshot_row(position)
        if row is not None:
            try:
                return restore(row)
            except (msgspec.DecodeError, ValueError) as error:
                where = f"snapshot at position {row.position}"
                raise corrupt(self.directory, where, f"it does not decode: {error}") from error
        if self.first() > 1:
            raise NotKeptError(f"no snapshot at or before position {position}, and the log begins with {self.first()}")
        return Projection()

    def state_at(self, position: int) -> ClusterState:
        """The cluster state at `position`."""
        return self.projection_at(position).cluster
