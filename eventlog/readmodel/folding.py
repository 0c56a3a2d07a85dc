"""The read model: indexes and roll-ups in a file of their own, folded behind the log.

Rules.  Everything in it follows from the log: delete the file and it comes back.
A fold takes a bounded number of entries and one transaction; the writer of the log never waits for it.
Commits that are told are folded as they are; whatever was not told, or found no room, is read from the log.
It belongs to one log: another log id, or another digest where it stopped, and it begins again.
"""

import logging
import sqlite3
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path

import msgspec
import trio
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pointsman.core.events import Entry
from pointsman.core.state.marks import skim
from pointsman.eventlog.errors import NotKeptError, StoreRefusedError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.readmodel.rollups import ChangeRow, EndpointRow, MoveRow, RequestRow, Span, Summary
from pointsman.eventlog.readmodel.sqlite.answering import (
    CHANGE_COLUMNS,
    ENDPOINT_COLUMNS,
    MOVE_COLUMNS,
    OCCURRING,
    REQUEST_COLUMNS,
    SPAN_COLUMNS,
    STRETCH,
    UNUSUAL,
    as_change,
    as_endpoint,
    as_move,
    as_request,
    as_span,
    from_request,
)
from pointsman.eventlog.sqlite.segments import SQL_ERRORS, refusals
from pointsman.eventlog.sqlite.tables import text_rows
from pointsman.eventlog.stores.writing import Commit

VERSION = 7
"""Of the tables and the fold; another one in the file, and it is built again."""

BATCHES = 64
"""Commit batches that are read for one fold: under load two thirds of a second."""

ENTRIES = 20_000
"""Of told commits to one fold: a second at most, and as many rows to a transaction as a disk takes at once."""

TRIM = 5_000
"""Rows of segments that are gone, removed with one fold."""

INTERVAL, INTERVAL_LOADED = 0.25, 1.0
"""Seconds between folds while the log is followed: larger folds cost less, and a page is a second behind at most."""

LOADED = 250
"""Rows of one fold from which on it is a load."""

TOLD_BYTES_MAX = 16 << 20
"""Of bodies that wait for the next fold: a second at 20,000 entries/s."""

PARAMETERS = 400
"""To a statement."""

_ON_CONFLICT = "ON CONFLICT (position) DO UPDATE SET status = excluded.status, rest = excluded.rest"
"""What a decision was does not change, so the indexes over that stay as they are."""

TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    f"CREATE TABLE requests (position INTEGER PRIMARY KEY, {REQUEST_COLUMNS.removeprefix('position, ')})",
    f"CREATE INDEX by_request_id ON requests (position >> {STRETCH}, request_id)",
    f"CREATE INDEX by_status ON requests (status) WHERE {UNUSUAL}",
    "CREATE INDEX by_reason ON requests (reason) WHERE reason > ''",
    "CREATE INDEX by_refused ON requests (position) WHERE reason > ''",
    """CREATE TABLE occurring (
        stretch INTEGER NOT NULL, field TEXT NOT NULL, value NOT NULL, PRIMARY KEY (stretch, field, value)
    ) WITHOUT ROWID""",
    f"CREATE TABLE spans ({SPAN_COLUMNS}, PRIMARY KEY (pool, start)) WITHOUT ROWID",
    f"CREATE TABLE changes ({CHANGE_COLUMNS}, PRIMARY KEY (change)) WITHOUT ROWID",
    "CREATE INDEX by_route ON changes (route, position)",
    f"CREATE TABLE moves (position INTEGER PRIMARY KEY, {MOVE_COLUMNS.removeprefix('position, ')})",
    "CREATE INDEX by_moved_route ON moves (route, position)",
    "CREATE TABLE moments (start INTEGER PRIMARY KEY, first INTEGER NOT NULL)",
    f"CREATE TABLE endpoints (number INTEGER PRIMARY KEY, {ENDPOINT_COLUMNS.removeprefix('number, ')})",
    "CREATE INDEX by_name ON endpoints (name)",
)


RETRY = 2.0
"""Seconds before a fold that the disk refused is tried again."""

_REFUSED = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
)
"""What SQLite says of a disk, and not of the file."""

_logger = logging.getLogger("pointsman.readmodel")


class ReadModelWriter:
    """The writing side; one for a file, used by one thread at a time."""

    def __init__(self, path: Path, log_directory: Path) -> None:
        self.path = path
        self.position = 0
        self._log = open_reader(log_directory)
        self._summary = Summary()
        self._digest = b""
        self._connection: Connection | None = None
        self._told: deque[Commit] = deque()
        self._told_up_to: int | None = None
        self._bytes_told = self._bytes_taken = 0
        """The first is of whoever tells, the second of the thread that folds."""
        self.rows_written = 0
        """By the last fold."""

    def tell(self, commit: Commit) -> None:
        """Take the next commit, for the next fold; from any one thread."""
        self._told_up_to = commit.last
        if self._bytes_told - self._bytes_taken < TOLD_BYTES_MAX:
            self._bytes_told += commit.body_bytes
            self._told.append(commit)

    @property
    def behind(self) -> bool:
        """Whether a fold has something to do, as far as can be said without looking into the log."""
        return self._told_up_to is None or self.position < self._told_up_to

    def close(self) -> None:
        """Close both files."""
        self._log.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = self._connect()
                self._resume(self._connection)
            except SQL_ERRORS as error:
                if _of_the_disk(error):
                    self.close()
                    raise
                # Not a database, or not ours: nothing in it that the log does not have.
                self.close()
                for suffix in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                self._connection = self._connect()
                self._rebuild(self._connection)
        return self._connection

    def _connect(self) -> Connection:
        engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(self.path, timeout=5.0, check_same_thread=False),
            poolclass=NullPool,
        )
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")  # what a power cut takes is folded again
        return connection

    def _resume(self, connection: Connection) -> None:
        """Take up where the file ends, or begin again where it is not of this log and version."""
        found = {str(name): value for name, value in text_rows(connection, "SELECT name, value FROM meta")}
        position, digest = found.get("position"), found.get("digest")
        if (
            found.get("version") != VERSION
            or found.get("log_id") != self._log.log_id
            or not isinstance(position, int)
            or not isinstance(digest, bytes)
            or (position >= self._log.first() - 1 and self._log.digest_at(position) != digest)
        ):
            self._rebuild(connection)
            return
        self.position, self._digest, self._summary = position, digest, Summary()
        last = "(SELECT max(start) FROM spans)"
        self._summary.resume(
            [
                as_endpoint(row)
                for row in text_rows(connection, f"SELECT {ENDPOINT_COLUMNS} FROM endpoints WHERE left IS NULL")
            ],
            [
                as_request(row)
                for row in text_rows(
                    connection, f"SELECT {REQUEST_COLUMNS} FROM requests WHERE {UNUSUAL} AND status IS NULL"
                )
            ],
            [as_span(row) for row in text_rows(connection, f"SELECT {SPAN_COLUMNS} FROM spans WHERE start = {last}")],
            [
                as_change(row)
                for row in text_rows(
                    connection,
                    f"SELECT {CHANGE_COLUMNS} FROM changes WHERE state = 'writing'"
                    " OR position IN (SELECT max(position) FROM changes GROUP BY route)",
                )
            ],
            [
                as_move(row)
                for row in text_rows(
                    connection,
                    f"SELECT {MOVE_COLUMNS} FROM moves WHERE position IN (SELECT max(position) FROM moves GROUP BY route)",
                )
            ],
        )

    def _rebuild(self, connection: Connection) -> None:
        self.position, self._digest, self._summary = 0, b"", Summary()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for name in _tables(connection):
            connection.exec_driver_sql(f'DROP TABLE "{name}"')
        for statement in TABLES:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("COMMIT")

    @refusals()
    def fold(self) -> bool:
        """Fold the next batches and write what came of them; whether there may be more."""
        connection = self._open()
        if self.position < self._log.first() - 1:
            self._skip_to(self._log.first() - 1)
        if not self._fold_told() and not self._fold_log():
            return False
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            self._write(connection)
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            self.close()  # opened again, it takes up where the file ends
            raise
        self.rows_written = len(self._summary.rows)
        self._summary.written()
        return True

    def _fold_told(self) -> bool:
        """Fold what was told and comes next; whether that was anything."""
        folded, told = 0, self._told
        while told and folded < ENTRIES:
            commit = told[0]
            if commit.first > self.position + 1:
                break  # what comes before has to be read
            if commit.first == self.position + 1:
                self._summary.fold(commit.recorded_at, enumerate(commit.events, commit.first))
                self.position, self._digest = commit.last, commit.digest
                folded += len(commit.events)
            self._bytes_taken += commit.body_bytes
            told.popleft()
        return folded > 0

    def _fold_log(self) -> bool:
        """Fold the next batches of the log; whether there are any."""
        if not self.behind:
            return False
        try:
            batches = self._log.batches(self.position, BATCHES)
        except NotKeptError:
            return False
        if not batches:
            return False
        entries = self._log.entries(batches[0].first, batches[-1].last)
        for recorded_at, together in groupby(entries, _recorded_at):
            skimmed = ((entry.position, skim(entry.kind, entry.body)) for entry in together)
            self._summary.fold(recorded_at, skimmed)
        self.position, self._digest = batches[-1].last, batches[-1].digest
        return True

    def _skip_to(self, position: int) -> None:
        """Segments went away before they were folded: what they said of endpoints is in the snapshot."""
        projection = self._log.projection_at(position)
        self.position = position
        members = [
            EndpointRow(one.number, one.pool, one.namespace, one.name, one.address, one.port, position)
            for one in projection.cluster.endpoints.values()
        ]
        self._summary = Summary()
        self._summary.resume(members, [], [], [])
        self._summary.endpoints = {one.number: one for one in members}

    def _write(self, connection: Connection) -> None:
        summary = self._summary
        _put(connection, "requests", list(map(from_request, summary.rows.values())), _ON_CONFLICT)
        _put(connection, "occurring", _occurring(summary.rows.values()), "ON CONFLICT DO NOTHING")
        _put(connection, "endpoints", [msgspec.structs.astuple(row) for row in summary.endpoints.values()])
        _put(connection, "spans", [_as_row(span, ("refused",)) for span in summary.spans.values()])
        _put(connection, "changes", [_as_row(row, ("before", "after")) for row in summary.changes.values()])
        _put(connection, "moves", [_as_row(row, ("backends", "before")) for row in summary.moves])
        _put(connection, "moments", list(summary.moments.items()))
        meta = {"version": VERSION, "log_id": self._log.log_id, "position": self.position, "digest": self._digest}
        _put(connection, "meta", list(meta.items()))
        first = self._log.first()
        connection.exec_driver_sql(
            "DELETE FROM requests WHERE position IN (SELECT position FROM requests WHERE position < ? LIMIT ?)",
            (first, TRIM),
        )
        connection.exec_driver_sql("DELETE FROM occurring WHERE stretch < ?", (first >> STRETCH,))


def _of_the_disk(error: BaseException) -> bool:
    said = error.orig if isinstance(error, DBAPIError) else error
    return getattr(said, "sqlite_errorcode", 0) & 0xFF in _REFUSED


def _tables(connection: Connection) -> list[str]:
    statement = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [str(row[0]) for row in text_rows(connection, statement)]


def _occurring(requests: Iterable[RequestRow]) -> list[tuple[object, ...]]:
    """The values of OCCURRING, by stretch."""
    stretches: defaultdict[int, list[RequestRow]] = defaultdict(list)
    for row in requests:
        stretches[row.position >> STRETCH].append(row)
    return [
        (stretch, field, value)
        for stretch, there in stretches.items()
        for field in OCCURRING
        for value in set(map(attrgetter(field), there))
        if value is not None
    ]


def _as_row(value: Span | ChangeRow | MoveRow, encoded: tuple[str, ...]) -> tuple[object, ...]:
    """The columns of `value`, some of them as JSON."""
    return tuple(
        msgspec.json.encode(part).decode() if name in encoded else part
        for name, part in zip(value.__struct_fields__, msgspec.structs.astuple(value), strict=True)
    )


def _put(connection: Connection, table: str, values: list[tuple[object, ...]], otherwise: str = "") -> None:
    """Insert rows; those that are there are replaced, or changed as `otherwise` says."""
    if not values:
        return
    # On the driver's cursor, some rows to a statement: each one gives up the interpreter lock and waits for it.
    cursor = connection.connection.cursor()
    width, verb = len(values[0]), "INSERT" if otherwise else "INSERT OR REPLACE"
    stride = max(1, PARAMETERS // width)
    one = f"({', '.join('?' * width)})"
    for start in range(0, len(values), stride):
        some = values[start : start + stride]
        statement = f"{verb} INTO {table} VALUES {', '.join([one] * len(some))} {otherwise}"
        cursor.execute(statement, tuple(chain.from_iterable(some)))


def _recorded_at(entry: Entry) -> float:
    return entry.recorded_at


async def follow_log(model: ReadModelWriter, folded: Callable[[], None] = lambda: None) -> None:
    """Fold for ever, in a thread, at the pace of the log; `folded` is called when something was."""
    try:
        while True:
            try:
                while model.behind and await trio.to_thread.run_sync(model.fold):
                    folded()
            except (StoreRefusedError, OSError) as error:
                # A disk that is full or read-only stops the pages' indexes, and nothing else.
                _logger.warning("the read model waits for the disk: %s", error)
                model.close()
                await trio.sleep(RETRY)
            await trio.sleep(INTERVAL if model.rows_written < LOADED else INTERVAL_LOADED)
    finally:
        model.close()
