"""Writing the read model's SQLite file.

Rules.  What a fold brings is written in one transaction.  A file that is no database, or not one of ours, is
replaced: nothing is in it that the log does not have.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter
from pathlib import Path

import msgspec
from sqlalchemy import Connection, Table, bindparam, delete, func, inspect, or_, select, text
from sqlalchemy.exc import DBAPIError

from pointsman.eventlog.readmodel.rollups import Summary
from pointsman.eventlog.readmodel.rows import ChangeRow, EndpointRow, MoveRow, RequestRow
from pointsman.eventlog.readmodel.sqlite.tables import (
    CHANGES,
    ENDPOINTS,
    INCIDENTS,
    META,
    MOMENTS,
    MOVES,
    OCCURRENCES,
    OCCURRING,
    READ_MODEL,
    REFUSALS,
    REQUESTS,
    SPANS,
    STRETCH,
    UNUSUAL,
    as_request,
    as_value,
    from_request,
    from_value,
)
from pointsman.eventlog.readmodel.storing import ReadModelEnd
from pointsman.eventlog.sqlite.engines import connect
from pointsman.eventlog.sqlite.segments import SQL_ERRORS, refusals
from pointsman.eventlog.sqlite.tables import rows

PARAMETERS = 400
"""Values to one INSERT, about: larger ones bring nothing more."""

TRIM = 5_000
"""Rows of segments that are gone, removed with one fold."""

_ENDED = ("status", "failed", "duration", "first_token", "rest")
_ON_CONFLICT = f"ON CONFLICT (position) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _ENDED)}"
"""What becomes of a decision that is there: what it was does not change, so the indexes over that stay as they are."""


def _added(table: Table) -> str:
    """What becomes of a row that is there when another is added to it: sums, and the highest and lowest of all."""
    key = [column.name for column in table.primary_key]

    def merged(name: str) -> str:
        if name == "first" or name == "last" or name.endswith("_max"):
            return f"{name} = {'min' if name == 'first' else 'max'}({name}, excluded.{name})"
        if name.endswith("_min"):  # of NULL and a number, `min` makes NULL
            return f"{name} = coalesce(min({name}, excluded.{name}), {name}, excluded.{name})"
        return f"{name} = {name} + excluded.{name}"

    parts = ", ".join(merged(column.name) for column in table.columns if column.name not in key)
    return f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {parts}"


_REFUSED = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
)
"""What SQLite says of a disk, and not of the file."""

_OLDEST = select(REQUESTS.c.position).where(REQUESTS.c.position < bindparam("first")).limit(TRIM)
_TRIM_REQUESTS = delete(REQUESTS).where(REQUESTS.c.position.in_(_OLDEST))
_TRIM_OCCURRENCES = delete(OCCURRENCES).where(OCCURRENCES.c.stretch < bindparam("before"))


class SqliteReadModelStore:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: Connection | None = None

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def is_open(self) -> bool:
        """Whether the file is open, which it is from `take_up` to `close`."""
        return self._connection is not None

    @refusals()
    def take_up(self, fits: Callable[[ReadModelEnd], bool]) -> tuple[ReadModelEnd, Summary] | None:
        """Where the file ends and what a summary goes on with; None where that does not fit, and then it is emptied."""
        try:
            self._connection = connection = self._connect()
            end = _end(connection)
            if end is not None and fits(end):
                return end, _summary(connection)
            _empty(connection)
        except (*SQL_ERRORS, msgspec.MsgspecError) as error:
            self.close()
            if _of_the_disk(error):
                raise
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self._connection = self._connect()
            _empty(self._connection)
        except BaseException:
            self.close()  # the next attempt takes up from the beginning
            raise
        return None

    def _connect(self) -> Connection:
        connection = connect(self.path, "rwc")
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")  # what a power cut takes is folded again
        return connection

    @refusals()
    def write(self, summary: Summary, end: ReadModelEnd, first: int) -> None:
        """Write what a summary gathered, and remove some of what is older than the log's `first` position."""
        connection = self._connection
        assert connection is not None, "a read model is taken up before it is written"
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        _put(connection, REQUESTS, list(map(from_request, summary.rows.values())), _ON_CONFLICT)
        _put(connection, OCCURRENCES, _occurring(summary.rows.values()), "ON CONFLICT DO NOTHING")
        _put(connection, ENDPOINTS, list(map(from_value, summary.endpoints.values())))
        for table, added in ((SPANS, summary.spans), (REFUSALS, summary.refusals), (MOMENTS, summary.moments)):
            _put(connection, table, list(map(from_value, added.values())), _added(table))
        _put(connection, CHANGES, list(map(from_value, summary.changes.values())))
        _put(connection, MOVES, list(map(from_value, summary.moves)))
        _put(connection, INCIDENTS, list(map(from_value, summary.incidents)))
        _put(connection, META, list(msgspec.structs.asdict(end).items()))
        connection.execute(_TRIM_REQUESTS, {"first": first})
        connection.execute(_TRIM_OCCURRENCES, {"before": first >> STRETCH})
        connection.exec_driver_sql("COMMIT")


def _end(connection: Connection) -> ReadModelEnd | None:
    found = {str(name): value for name, value in rows(connection, select(META.c.name, META.c.value))}
    try:
        return msgspec.convert(found, ReadModelEnd, builtin_types=(bytes,))
    except msgspec.ValidationError:
        return None


def _summary(connection: Connection) -> Summary:
    """What a summary needs of what earlier ones wrote."""
    summary = Summary()
    present = select(ENDPOINTS).where(ENDPOINTS.c.left.is_(None))
    unfinished = select(REQUESTS).where(text(UNUSUAL), REQUESTS.c.status.is_(None))
    [(newest,)] = rows(connection, select(func.max(SPANS.c.start)))
    last_changes = select(func.max(CHANGES.c.position)).group_by(CHANGES.c.route)
    changes = select(CHANGES).where(or_(CHANGES.c.state == "writing", CHANGES.c.position.in_(last_changes)))
    moves = select(MOVES).where(MOVES.c.position.in_(select(func.max(MOVES.c.position)).group_by(MOVES.c.route)))
    summary.resume(
        [as_value(row, EndpointRow) for row in rows(connection, present)],
        [as_request(row) for row in rows(connection, unfinished)],
        newest if isinstance(newest, int) else -1,
        [as_value(row, ChangeRow) for row in rows(connection, changes)],
        [as_value(row, MoveRow) for row in rows(connection, moves)],
    )
    return summary


def _empty(connection: Connection) -> None:
    names = inspect(connection).get_table_names()
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    for name in names:
        connection.exec_driver_sql(f'DROP TABLE "{name}"')
    READ_MODEL.create_all(connection, checkfirst=False)
    connection.exec_driver_sql("COMMIT")


def _of_the_disk(error: BaseException) -> bool:
    said = error.orig if isinstance(error, DBAPIError) else error
    return getattr(said, "sqlite_errorcode", 0) & 0xFF in _REFUSED


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


def _put(connection: Connection, table: Table, values: list[tuple[object, ...]], otherwise: str = "") -> None:
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
        statement = f"{verb} INTO {table.name} VALUES {', '.join([one] * len(some))} {otherwise}"
        cursor.execute(statement, tuple(chain.from_iterable(some)))
