"""Answering questions from the read model's SQLite file, while it is written."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

import msgspec
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from pointsman.eventlog.errors import ReadModelUnavailableError
from pointsman.eventlog.readmodel.queries import PAGE_MAX, DecisionPage, Filters, ReadModelState
from pointsman.eventlog.readmodel.rollups import SPAN, ChangeRow, EndpointRow, MoveRow, RequestRow, Span
from pointsman.eventlog.sqlite.segments import SQL_ERRORS, reason
from pointsman.eventlog.sqlite.tables import SqlRow, SqlValue, text_rows

ROLLUPS_MAX = 10_000
"""A day of one pool at the finest."""

STRETCH = 12
"""Bits of a position within a stretch of the log: about a thousand decisions.

Searches go from stretch to stretch.  Ids are random: an index over all of them would have every fold touch all its
pages, and one that begins with the stretch has it touch some.  Of other fields, what occurs in a stretch is kept, and
no index over each decision.
"""

OCCURRING = ("model", "endpoint")
"""The fields of which is kept what occurs in each stretch."""

UNUSUAL = "status IS NOT 200"
"""What an index over statuses holds: it would be of little use for the one that nearly all have."""

_STRETCHES = f"""
    WITH RECURSIVE stretches (stretch) AS (
        SELECT max((SELECT min(position) FROM requests), ?1) >> {STRETCH}
        UNION ALL
        SELECT stretch + 1 FROM stretches WHERE stretch < min((SELECT max(position) FROM requests), ?2) >> {STRETCH}
    )
"""
"""Those from a position to another, as far as there are decisions."""

_LAST = 1 << 62
"""Beyond every position."""

REQUEST_SEARCHED = RequestRow.__struct_fields__.index("status") + 1
"""Fields of a request that have a column of their own, because questions are asked with them."""

REQUEST_COLUMNS = ", ".join([*RequestRow.__struct_fields__[:REQUEST_SEARCHED], "rest"])
"""A column costs more than the same value among the others in one, so what is only shown lies in `rest`."""
SPAN_COLUMNS = ", ".join(Span.__struct_fields__)
CHANGE_COLUMNS = ", ".join(ChangeRow.__struct_fields__)
MOVE_COLUMNS = ", ".join(MoveRow.__struct_fields__)
ENDPOINT_COLUMNS = ", ".join(EndpointRow.__struct_fields__)


_encode = msgspec.msgpack.Encoder().encode


def as_request(row: SqlRow) -> RequestRow:
    """The row of REQUEST_COLUMNS."""
    *searched, rest = row
    assert isinstance(rest, bytes)
    return msgspec.convert([*searched, *msgspec.msgpack.decode(rest)], RequestRow)


def from_request(row: RequestRow) -> tuple[object, ...]:
    """The values of REQUEST_COLUMNS."""
    values = msgspec.structs.astuple(row)
    # A `bytearray`, because the driver looks for an adapter for each `bytes`.
    return (*values[:REQUEST_SEARCHED], bytearray(_encode(values[REQUEST_SEARCHED:])))


def _conditions(filters: Filters) -> tuple[list[str], list[SqlValue]]:
    """What `filters` say of a row, beside its position."""
    where: list[str] = []
    parameters: list[SqlValue] = []
    for condition, value in (
        ("pool = ?", filters.pool),
        ("model = ?", filters.model),
        ("status = ?", filters.status),
        ("endpoint IN (SELECT number FROM endpoints WHERE name = ?)", filters.endpoint),
        ("recorded_at >= ?", filters.since),
        ("recorded_at < ?", filters.until),
        ("reason = ?", None if filters.reason == "*" else filters.reason),
    ):
        if value is not None:
            where.append(condition)
            parameters.append(value)
    if filters.reason is not None:
        where.append("reason > ''")
    if filters.status not in (None, 200):
        where.append(UNUSUAL)
    return where, parameters


def _index(filters: Filters) -> str:
    """The index that has the few decisions of a kind: left alone, SQLite walks the table in order of position."""
    if filters.reason == "*":
        return "INDEXED BY by_refused"
    if filters.reason is not None:
        return "INDEXED BY by_reason"
    return "INDEXED BY by_status" if filters.status not in (None, 200) else ""


def _within(
    connection: Connection, filters: Filters, bounds: tuple[int, int], order: str, limit: int
) -> list[RequestRow]:
    """The first decisions from a position to another."""
    where, parameters = _conditions(filters)
    condition = " AND ".join(["position BETWEEN ? AND ?", *where])
    statement = f"""
        SELECT {REQUEST_COLUMNS} FROM requests {_index(filters)}
        WHERE {condition} ORDER BY position {order} LIMIT ?"""
    return [as_request(row) for row in text_rows(connection, statement, (*bounds, *parameters, limit))]


def as_span(row: SqlRow) -> Span:
    """The row of SPAN_COLUMNS."""
    values: dict[str, object] = dict(zip(Span.__struct_fields__, row, strict=True))
    values["refused"] = msgspec.json.decode(str(values["refused"]))
    return msgspec.convert(values, Span)


def as_change(row: SqlRow) -> ChangeRow:
    """The row of CHANGE_COLUMNS."""
    values: dict[str, object] = dict(zip(ChangeRow.__struct_fields__, row, strict=True))
    for name in ("before", "after"):
        values[name] = msgspec.json.decode(str(values[name]))
    return msgspec.convert(values, ChangeRow)


def as_move(row: SqlRow) -> MoveRow:
    """The row of MOVE_COLUMNS."""
    values: dict[str, object] = dict(zip(MoveRow.__struct_fields__, row, strict=True))
    for name in ("backends", "before"):
        values[name] = msgspec.json.decode(str(values[name]))
    return msgspec.convert(values, MoveRow)


def as_endpoint(row: SqlRow) -> EndpointRow:
    """The row of ENDPOINT_COLUMNS."""
    return msgspec.convert(dict(zip(EndpointRow.__struct_fields__, row, strict=True)), EndpointRow)


def _merged(name: str, start: str) -> str:
    """How a column of several spans becomes one."""
    match name:
        case "pool" | "refused":
            return f"max({name})"
        case "start":
            return start
        case "in_flight_last":
            return "max(in_flight_last)"
        case _:
            return f"max({name})" if name.endswith("_max") else f"sum({name})"


class SqliteReadModel:
    """Read-only; each question opens the file anew, so that a rebuilt one is found."""

    def __init__(self, path: Path) -> None:
        uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        self._engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(uri, uri=True, timeout=5.0, check_same_thread=False),
            poolclass=NullPool,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQL_ERRORS as error:
            raise ReadModelUnavailableError(reason(error)) from error

    def _rows(self, statement: str, parameters: tuple[SqlValue, ...] = ()) -> list[SqlRow]:
        with self._connected() as connection:
            return list(text_rows(connection, statement, parameters))

    def state(self) -> ReadModelState:
        """How far the read model has got."""
        found = {str(name): value for name, value in self._rows("SELECT name, value FROM meta")}
        return ReadModelState(str(found.get("log_id", "")), int(found.get("position") or 0))

    def find_request(self, request_id: str) -> list[int]:
        """Positions of the decisions about a request id, newest first."""
        return [row.position for row in self.requests(request_id)]

    def requests(self, request_id: str) -> list[RequestRow]:
        """The decisions about a request id, newest first: clients choose ids, so there may be several."""
        statement = f"""{_STRETCHES}
            SELECT {REQUEST_COLUMNS}
            FROM stretches CROSS JOIN requests ON position >> {STRETCH} = stretch AND request_id = ?3
            ORDER BY position DESC LIMIT ?4"""
        return [as_request(row) for row in self._rows(statement, (0, _LAST, request_id, PAGE_MAX))]

    def decision(self, position: int) -> RequestRow | None:
        """The decision at a position."""
        found = self._rows(f"SELECT {REQUEST_COLUMNS} FROM requests WHERE position = ?", (position,))
        return as_request(found[0]) if found else None

    def decisions(
        self, filters: Filters, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> DecisionPage:
        """A page of the newest decisions before a cursor, or of the oldest after one."""
        limit = max(1, min(limit, PAGE_MAX))
        low, high = self._bounds(filters, before, after)
        order = "ASC" if after is not None else "DESC"
        found: list[RequestRow] = []
        with self._connected() as connection:
            for bounds in self._stretches(connection, filters, (low, high), order):
                found += _within(connection, filters, bounds, order, limit + 1 - len(found))
                if len(found) > limit:
                    break
        more, page = len(found) > limit, found[:limit]
        if after is not None:
            page.reverse()
            return DecisionPage(page, page[-1].position if page else None, page[0].position if more else None)
        newer = page[0].position if page and before is not None else None
        return DecisionPage(page, page[-1].position if more else None, newer)

    def _bounds(self, filters: Filters, before: int | None, after: int | None) -> tuple[int, int]:
        """The first and the last position that can be found."""
        low = 0 if after is None else min(after, _LAST) + 1
        high = _LAST if before is None else min(before, _LAST) - 1
        if filters.since is not None:
            low = max(low, self._position_at(filters.since))
        if filters.until is not None:
            high = min(high, self._position_at(filters.until) - 1)
        return low, high

    def _stretches(
        self, connection: Connection, filters: Filters, bounds: tuple[int, int], order: str
    ) -> list[tuple[int, int]]:
        """Where to look between two positions: in the stretches in which all occurs that is looked for, or everywhere."""
        conditions: list[str] = []
        parameters: list[SqlValue] = [*bounds]
        for name in OCCURRING:
            if (value := getattr(filters, name)) is not None:
                values = "SELECT number FROM endpoints WHERE name = ?" if name == "endpoint" else "?"
                here = f"occurring.stretch = stretches.stretch AND field = '{name}' AND value IN ({values})"
                conditions.append(f"EXISTS (SELECT 1 FROM occurring WHERE {here})")
                parameters.append(value)
        if not conditions or _index(filters):
            return [bounds]
        statement = f"{_STRETCHES} SELECT stretch FROM stretches WHERE {' AND '.join(conditions)} ORDER BY 1 {order}"
        found = [row[0] for row in text_rows(connection, statement, tuple(parameters)) if isinstance(row[0], int)]
        return [(max(bounds[0], at << STRETCH), min(bounds[1], (at + 1 << STRETCH) - 1)) for at in found]

    def _position_at(self, at: float) -> int:
        """The first position that can hold a decision recorded at `at` or later: found by halving its ten seconds."""
        span = int(at // SPAN) * SPAN
        bounds = (
            "SELECT (SELECT min(first) FROM moments WHERE start >= ?), (SELECT min(first) FROM moments WHERE start > ?)"
        )
        step = "SELECT recorded_at FROM requests WHERE position >= ? ORDER BY position LIMIT 1"
        with self._connected() as connection:
            [(low, high)] = text_rows(connection, bounds, (span, span))
            if not isinstance(low, int):
                return 1 << 62
            last = next(row[0] for row in text_rows(connection, "SELECT max(position) FROM requests"))
            end = high if isinstance(high, int) else (last + 1 if isinstance(last, int) else low)
            while low < end:
                middle = (low + end) // 2
                found = list(text_rows(connection, step, (middle,)))
                if found and isinstance(found[0][0], float) and found[0][0] < at:
                    low = middle + 1
                else:
                    end = middle
        return low

    def rollups(self, pool: str, since: float, until: float, width: int = SPAN) -> list[Span]:
        """What a pool did from `since` to `until`, ascending, `width` seconds (a multiple of SPAN) to a row.

        Spans in which nothing happened are left out; the reasons of refusals are told only at the finest width.
        """
        start = f"start - start % {int(width)}"
        columns = ", ".join(_merged(name, start) for name in Span.__struct_fields__)
        statement = f"SELECT {columns} FROM spans WHERE pool = ? AND start >= ? AND start < ? GROUP BY {start} ORDER BY 2 LIMIT ?"
        bounds = (int(since // width) * width, int(until // width) * width + width)
        return [as_span(row) for row in self._rows(statement, (pool, *bounds, ROLLUPS_MAX))]

    def changes(self, route: str, limit: int) -> list[ChangeRow]:
        """The latest changes of a route's weights, newest first."""
        statement = f"SELECT {CHANGE_COLUMNS} FROM changes WHERE route = ? ORDER BY position DESC LIMIT ?"
        return [as_change(row) for row in self._rows(statement, (route, limit))]

    def moves(self, route: str, limit: int) -> list[MoveRow]:
        """The latest times at which a route's weights became others, newest first."""
        statement = f"SELECT {MOVE_COLUMNS} FROM moves WHERE route = ? ORDER BY position DESC LIMIT ?"
        return [as_move(row) for row in self._rows(statement, (route, limit))]

    def counts_after(self, position: int, recorded_at: float) -> dict[str, int]:
        """Decisions by pool after an entry that was recorded at `recorded_at`: at most ten seconds are counted singly."""
        [(boundary, until)] = self._rows(
            "SELECT coalesce(min(start), 1 << 62), coalesce(min(first), 1 << 62) FROM moments WHERE start > ?",
            (int(recorded_at // SPAN) * SPAN,),
        )
        singly = "SELECT pool, count(*) FROM requests WHERE position > ? AND position < ? GROUP BY pool"
        whole = "SELECT pool, sum(routed + refused_count) FROM spans WHERE start >= ? GROUP BY pool"
        counts: dict[str, int] = {}
        for pool, count in (*self._rows(singly, (position, until)), *self._rows(whole, (boundary,))):
            assert isinstance(count, int)
            counts[str(pool)] = counts.get(str(pool), 0) + count
        return counts

    def endpoint_names(self, numbers: Iterable[int]) -> dict[int, EndpointRow]:
        """The endpoints of these numbers, as far as they are known."""
        wanted = sorted(set(numbers))[:PAGE_MAX]
        marks = ", ".join("?" * len(wanted))
        statement = f"SELECT {ENDPOINT_COLUMNS} FROM endpoints WHERE number IN ({marks})"
        return {row.number: row for row in map(as_endpoint, self._rows(statement, tuple(wanted)))}

    def endpoints(self, pool: str | None = None) -> list[EndpointRow]:
        """Endpoints that ever joined, by number."""
        statement = f"SELECT {ENDPOINT_COLUMNS} FROM endpoints WHERE ?1 IS NULL OR pool = ?1 ORDER BY number"
        return [as_endpoint(row) for row in self._rows(statement, (pool,))]
