"""One segment file, read."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import Connection, Executable

from pointsman.core.events import Class, Entry
from pointsman.eventlog.chain import Batch
from pointsman.eventlog.errors import NotKeptError, corrupt
from pointsman.eventlog.sqlite.segments import (
    SQL_ERRORS,
    as_batch,
    connect_read_only,
    first_position,
    last_batch,
    read_meta,
    reason,
    segment_size,
    wal_path,
)
from pointsman.eventlog.sqlite.tables import (
    ALL_ENTRIES,
    ENDS,
    ENTRIES_OF_CLASSES,
    NEXT_BATCHES,
    RARE_ENTRIES,
    RECORDED_BEFORE,
    SNAPSHOT_AT,
    SNAPSHOT_BEFORE,
    SOME_ENTRIES,
    TAGGED_ENTRIES,
    SqlParameters,
    SqlRow,
    rows,
)
from pointsman.eventlog.sqlite.wal import lost_commits
from pointsman.eventlog.stores.reading import SegmentMeta
from pointsman.eventlog.stores.snapshots import StoredSnapshot

OPEN_MAX = 4
"""Connections kept; readers walk forwards, so the newest and their own place suffice."""


class OpenSegments:
    """The connections of one reader."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: OrderedDict[Path, tuple[Connection, SegmentMeta]] = OrderedDict()

    def get(self, path: Path) -> tuple[Connection, SegmentMeta]:
        """A segment's connection and meta rows; `LogCorruptError` where it cannot be opened."""
        if (known := self._open.get(path)) is not None:
            self._open.move_to_end(path)
            return known
        try:
            connection = connect_read_only(path)
        except SQL_ERRORS as error:
            if not path.exists():
                raise _gone(path) from error
            raise corrupt(self.directory, f"segment {path}", reason(error)) from error
        try:
            found = (connection, read_meta(connection, path))
        except BaseException:
            connection.close()
            raise
        while len(self._open) >= OPEN_MAX:
            self._open.popitem(last=False)[1][0].close()
        self._open[path] = found
        return found

    def close_others(self, paths: Collection[Path]) -> None:
        """Close those that are not among `paths`: a segment that was dropped takes its room until nobody has it open."""
        for path in self._open.keys() - set(paths):
            self._open.pop(path)[0].close()

    def close(self) -> None:
        """Close all; they are opened again when they are needed."""
        while self._open:
            self._open.popitem()[1][0].close()


def _gone(path: Path) -> NotKeptError:
    return NotKeptError(f"segment {path} is not kept: it was dropped meanwhile")


class Segment:
    """The segment at `path`; whatever SQLite cannot read is `LogCorruptError`."""

    def __init__(self, open_segments: OpenSegments, path: Path) -> None:
        self.path = path
        self._open = open_segments

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def where(self) -> str:
        """The file's whole path, for messages."""
        return f"segment {self.path}"

    @property
    def first(self) -> int:
        """The first position, by the file's name."""
        return first_position(self.path)

    @property
    def size(self) -> int:
        """The bytes of the file and its WAL."""
        try:
            return segment_size(self.path)
        except FileNotFoundError as error:
            raise _gone(self.path) from error

    def meta(self) -> SegmentMeta:
        """What the segment says of itself."""
        return self._open.get(self.path)[1]

    def _rows(self, statement: Executable, parameters: SqlParameters) -> Sequence[SqlRow]:
        try:
            return rows(self._open.get(self.path)[0], statement, parameters)
        except SQL_ERRORS as error:
            raise corrupt(self._open.directory, self.where, reason(error)) from error

    def page(self, first: int, last: int, classes: Collection[int] | None, limit: int) -> list[Entry]:
        """The first entries in a span of positions, of these classes."""
        span = {"first": first, "last": last, "limit": limit}
        if classes is None:
            found = self._rows(SOME_ENTRIES, span)
        else:
            statement = RARE_ENTRIES if max(classes, default=9) < Class.LOAD else ENTRIES_OF_CLASSES
            found = self._rows(statement, {**span, "classes": [int(kind) for kind in classes]})
        return [Entry(*row) for row in found]  # type: ignore[arg-type]  # the chain is what checks them

    def entries(self, first: int, last: int) -> list[Entry]:
        """All entries in a span of positions, in order."""
        found = self._rows(ALL_ENTRIES, {"first": first, "last": last})
        return [Entry(*row) for row in found]  # type: ignore[arg-type]  # the chain is what checks them

    def tagged(self, tag: str, span: tuple[int, int], since: float, limit: int) -> list[tuple[int, bytes]]:
        """Position and body of the newest traffic entries in a span that have a tag."""
        begins = msgspec.msgpack.encode(tag)
        looked_for: SqlParameters = {"since": since, "tag": begins, "tag_bytes": len(begins)}
        found = self._rows(TAGGED_ENTRIES, {"first": span[0], "last": span[1], "limit": limit, **looked_for})
        return [(position, body) for position, body in found]  # type: ignore[misc]  # the schema says what it is

    def recorded_before(self, position: int) -> float | None:
        """When the entry before `position` was recorded, where the segment has one."""
        found = self._rows(RECORDED_BEFORE, {"before": position})
        return found[0][0] if found else None  # type: ignore[return-value]  # the schema says what it is

    def batches(self, after: int, limit: int) -> list[Batch]:
        """The next batches that end after `after`, in order."""
        try:
            return [as_batch(row) for row in self._rows(NEXT_BATCHES, {"after": after, "limit": limit})]
        except ValueError as error:
            raise corrupt(self._open.directory, self.where, str(error)) from error

    def last_batch(self) -> Batch | None:
        """The newest batch; None in a segment that has none yet."""
        try:
            return last_batch(self._open.get(self.path)[0])
        except (*SQL_ERRORS, ValueError) as error:
            raise corrupt(self._open.directory, self.where, reason(error)) from error

    def snapshot(self, position: int) -> StoredSnapshot | None:
        """The snapshot of exactly this position, unchecked."""
        return self._snapshot(SNAPSHOT_AT, {"at": position})

    def snapshot_before(self, position: int, version: int) -> StoredSnapshot | None:
        """The newest snapshot at or before `position` that a projection of this version made, unchecked."""
        return self._snapshot(SNAPSHOT_BEFORE, {"at": position, "of_version": version})

    def _snapshot(self, statement: Executable, parameters: SqlParameters) -> StoredSnapshot | None:
        found = self._rows(statement, parameters)
        return StoredSnapshot(*found[0]) if found else None  # type: ignore[arg-type]  # the digest is what checks it

    def stray_entry(self) -> str | None:
        """What is wrong at the segment's ends: an entry in no batch, or commits that SQLite does not reach."""
        if (lost := lost_commits(wal_path(self.path))) is not None:
            return lost
        begins = self.meta().first
        lowest, highest, last = self._rows(ENDS, {"otherwise": begins - 1})[0]
        if isinstance(highest, int) and isinstance(last, int) and highest > last:
            return f"entry {highest} is in no batch: the last batch ends at {last}"
        if isinstance(lowest, int) and lowest < begins:
            return f"entry {lowest} is in no batch: the segment begins with {begins}"
        return None
