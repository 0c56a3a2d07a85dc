"""Segment files: each is one SQLite database with all classes of a span of positions.

Rules.  The name carries the first position, so the directory is its own catalog.
A segment appears under its name only when its schema, its meta rows and its first snapshot are on disk.
One connection writes and checkpoints, the writer's; all others open read-only and so cannot checkpoint
(SQLite before 3.51.3 can corrupt a log that two connections checkpoint).
Nobody opens these files but through SQLite: closing another descriptor of a file drops its locks.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from pointsman.eventlog.chain import Batch
from pointsman.eventlog.errors import StoreRefusedError, corrupt
from pointsman.eventlog.sqlite.engines import connect
from pointsman.eventlog.sqlite.tables import ADD_META, ADD_SNAPSHOT, ALL_META, LAST_BATCH, SEGMENT, SqlRow, rows
from pointsman.eventlog.stores.reading import SegmentMeta
from pointsman.eventlog.stores.snapshots import StoredSnapshot

APPLICATION_ID = 0x50545331
"""`PTS1` in the SQLite header."""
FORMAT = 1
"""Version of a segment's tables; `user_version` in the SQLite header."""
SQLITE_MIN = (3, 32, 0)
"""First version with 32,766 parameters to a statement."""

_NAME = re.compile(r"(\d{20})\.segment")
_UNFINISHED = ".unfinished"

SQL_ERRORS = (DBAPIError, sqlite3.Error)
"""What SQLite's refusals arrive as: through SQLAlchemy when a statement starts, from the driver while rows come."""


def segment_path(directory: Path, first: int) -> Path:
    """Where the segment that begins with `first` lies."""
    return directory / f"{first:020d}.segment"


def first_position(path: Path) -> int:
    """The first position of the segment, by its name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, f"{path.name} is no segment's name"
    return int(match[1])


def segment_paths(directory: Path) -> list[Path]:
    """The segments in `directory`, oldest first."""
    try:
        names = sorted(name for name in os.listdir(directory) if _NAME.fullmatch(name))
    except FileNotFoundError:
        return []
    return [directory / name for name in names]


def _connect(path: Path, *, write: bool) -> Connection:
    target = path.absolute()
    mode = "rw" if write else "ro"
    if not write and not os.access(target.parent, os.W_OK) and not _has_wal(target):
        mode = "ro&immutable=1"  # SQLite cannot put its shared memory file beside a database it may not write to
    return connect(target, mode)


def wal_path(path: Path) -> Path:
    """Where the WAL of a segment lies, if it has one."""
    return path.with_name(path.name + "-wal")


def _has_wal(path: Path) -> bool:
    wal = wal_path(path)
    return wal.exists() and wal.stat().st_size > 0


def connect_read_only(path: Path) -> Connection:
    """Open a segment for reading; the connection cannot write or checkpoint, and belongs to one thread at a time."""
    return _connect(path, write=False)


def connect_writer(path: Path) -> Connection:
    """Open a segment for the one connection that writes and checkpoints it."""
    assert sqlite3.sqlite_version_info >= SQLITE_MIN, f"SQLite is {sqlite3.sqlite_version}, wanted 3.32 or later"
    connection = _connect(path, write=True)
    try:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA synchronous=FULL")
        connection.exec_driver_sql("PRAGMA wal_autocheckpoint=0")
        connection.exec_driver_sql("PRAGMA locking_mode=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def create_segment(directory: Path, meta: SegmentMeta, snapshot: StoredSnapshot) -> Path:
    """Put a new segment on disk, whole or not at all; a finished one that is already there is kept."""
    path = segment_path(directory, meta.first)
    if path.exists():
        sync(directory)  # an attempt that got so far may have failed at just this
        return path
    unfinished = path.with_name(path.name + _UNFINISHED)
    _discard(unfinished)
    sqlite3.connect(unfinished).close()
    try:
        connection = connect_writer(unfinished)
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version={FORMAT}")
            SEGMENT.create_all(connection, checkfirst=False)
            said = msgspec.structs.asdict(meta).items()
            connection.execute(
                ADD_META, [{"name": name, "value": msgspec.msgpack.encode(value)} for name, value in said]
            )
            insert_snapshot(connection, snapshot)
            connection.exec_driver_sql("COMMIT")
        finally:
            connection.close()
        sync(unfinished)
        os.rename(unfinished, path)
        sync(directory)
    except BaseException:
        _discard(unfinished)
        raise
    return path


def settle(path: Path) -> None:
    """Have on disk all that is read of a segment: whoever wrote it may not have come to its sync."""
    wal = wal_path(path)
    if wal.exists():
        sync(wal)  # no locks go with this descriptor: SQLite's are on the files beside the WAL


def discard_unfinished(directory: Path) -> None:
    """Remove what crashes left of segments that never got their name; for whoever holds the lock."""
    for path in directory.glob(f"*.segment{_UNFINISHED}*"):
        path.unlink()


def _discard(unfinished: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the file or directory on disk; not for a segment that is open."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def segment_size(path: Path) -> int:
    """The bytes of a segment and its WAL."""
    wal = wal_path(path)
    return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


def delete_segment(path: Path) -> None:
    """Delete a segment that is complete; whoever reads it may go on until it closes it."""
    for one in (path, wal_path(path), path.with_name(path.name + "-shm")):  # without the first nobody opens the others
        one.unlink(missing_ok=True)
    sync(path.parent)


def insert_snapshot(connection: Connection, snapshot: StoredSnapshot) -> None:
    """Add a snapshot, in the place of another one of the position."""
    connection.execute(ADD_SNAPSHOT, msgspec.structs.asdict(snapshot))


def read_meta(connection: Connection, path: Path) -> SegmentMeta:
    """What the segment says of itself; `LogCorruptError` where it is not one of ours."""
    where = f"segment {path}"
    try:
        (application,) = rows(connection, text("PRAGMA application_id"))[0]
        (version,) = rows(connection, text("PRAGMA user_version"))[0]
        if application != APPLICATION_ID:
            raise corrupt(
                path.parent, where, f"application id is {application!r}, wanted {APPLICATION_ID}: not a log's"
            )
        if version != FORMAT:
            raise corrupt(path.parent, where, f"format is {version!r}, wanted {FORMAT}: written by another version")
        found = {
            str(name): msgspec.msgpack.decode(value)
            for name, value in rows(connection, ALL_META)
            if isinstance(value, bytes)
        }
        meta = msgspec.convert(found, SegmentMeta)
    except SQL_ERRORS as error:
        raise corrupt(path.parent, where, reason(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise corrupt(path.parent, where, f"its meta table does not decode: {error}") from error
    if meta.first != first_position(path):
        raise corrupt(path.parent, where, f"begins with position {meta.first}, not with what its name says")
    return meta


def reason(error: BaseException) -> str:
    """What SQLite or the operating system says, without the statement."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return f"SQLite says: {said}" if isinstance(said, sqlite3.Error) else str(said)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what SQLite refuses into `StoreRefusedError`."""
    try:
        yield
    except (*SQL_ERRORS, ValueError) as error:
        raise StoreRefusedError(reason(error)) from error


def as_batch(row: SqlRow) -> Batch:
    """The batch of a row of NEXT_BATCHES; `ValueError` where its values are of other types."""
    try:
        return msgspec.convert(dict(zip(Batch.__struct_fields__, row, strict=True)), Batch, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ValueError(f"batch {row[0]!r} to {row[1]!r} holds other values than were written: {error}") from error


def last_batch(connection: Connection) -> Batch | None:
    """The newest batch of a segment, None in one that has none yet."""
    found = rows(connection, LAST_BATCH)
    return as_batch(found[0]) if found else None
