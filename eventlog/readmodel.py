"""Questions to the read model, from any process, while it is written."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Self
from urllib.parse import quote

import msgspec
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pointsman.eventlog.rollups import SPAN, ChangeRow, EndpointRow, MoveRow, RequestRow, Span
from pointsman.eventlog.segments import Row, Value, rows

PAGE_MAX = 500
"""Decisions to a page, whatever is asked for."""

ROLLUPS_MAX = 10_000
"""A day of one pool at the finest."""

STRETCH = 14
"""Bits of a position within a stretch of the log, in which request ids are indexed by themselves.

Ids are random: those of one fold lie on some pages of such an index, and on all pages of one over the whole table.
"""

REQUEST_SEARCHED = RequestRow.__struct_fields__.index("status") + 1
"""Fields of a request that have a column of their own, because questions are asked with them."""

REQUEST_COLUMNS = ", ".join([*RequestRow.__struct_fields__[:REQUEST_SEARCHED], "rest"])
"""A column costs more than the same value among the others in one, so what is only shown lies in `rest`."""
SPAN_COLUMNS = ", ".join(Span.__struct_fields__)
CHANGE_COLUMNS = ", ".join(ChangeRow.__struct_fields__)
MOVE_COLUMNS = ", ".join(MoveRow.__struct_fields__)
ENDPOINT_COLUMNS = ", ".join(EndpointRow.__struct_fields__)


class Filters(msgspec.Struct, frozen=True):
    """Which decisions; what is None does not matter."""

    pool: str | None = None
    model: str | None = None
    endpoint: str | None = None
    """Name of the pod."""
    status: int | None = None
    reason: str | None = None
    """Of a refusal; `*` for any."""
    since: float | None = None
    """Recorded then or later."""
    until: float | None = None
    """Recorded before then."""


class DecisionPage(msgspec.Struct, frozen=True):
    """Decisions, newest first, and the cursors of the pages beside it."""

    rows: list[RequestRow]
    older: int | None
    """`before` of the next page; None at the end."""
    newer: int | None
    """`after` of the page before; None where this page is the newest that was asked for."""


class ReadModelState(msgspec.Struct, frozen=True):
    """How far the read model has got."""

    log_id: str
    position: int


_encode = msgspec.msgpack.Encoder().encode


def as_request(row: Row) -> RequestRow:
    """The row of REQUEST_COLUMNS."""
    *searched, rest = row
    assert isinstance(rest, bytes)
    return msgspec.convert([*searched, *msgspec.msgpack.decode(rest)], RequestRow)


def from_request(row: RequestRow) -> tuple[object, ...]:
    """The values of REQUEST_COLUMNS."""
    values = msgspec.structs.astuple(row)
    # A `bytearray`, because the driver looks for an adapter for each `bytes`.
    return (*values[:REQUEST_SEARCHED], bytearray(_encode(values[REQUEST_SEARCHED:])))


def as_span(row: Row) -> Span:
    """The row of SPAN_COLUMNS."""
    values: dict[str, object] = dict(zip(Span.__struct_fields__, row, strict=True))
    values["refused"] = msgspec.json.decode(str(values["refused"]))
    return msgspec.convert(values, Span)


def as_change(row: Row) -> ChangeRow:
    """The row of CHANGE_COLUMNS."""
    values: dict[str, object] = dict(zip(ChangeRow.__struct_fields__, row, strict=True))
    for name in ("before", "after"):
        values[name] = msgspec.json.decode(str(values[name]))
    return msgspec.convert(values, ChangeRow)


def as_move(row: Row) -> MoveRow:
    """The row of MOVE_COLUMNS."""
    values: dict[str, object] = dict(zip(MoveRow.__struct_fields__, row, strict=True))
    for name in ("backends", "before"):
        values[name] = msgspec.json.decode(str(values[name]))
    return msgspec.convert(values, MoveRow)


def as_endpoint(row: Row) -> EndpointRow:
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


class ReadModel:
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

    def _rows(self, statement: str, parameters: tuple[Value, ...] = ()) -> list[Row]:
        with self._engine.connect() as connection:
            return list(rows(connection, statement, parameters))

    def state(self) -> ReadModelState:
        """How far the read model has got."""
        found = {str(name): value for name, value in self._rows("SELECT name, value FROM meta")}
        return ReadModelState(str(found.get("log_id", "")), int(found.get("position") or 0))

    def find_request(self, request_id: str) -> list[int]:
        """Positions of the decisions about a request id, newest first."""
        return [row.position for row in self.requests(request_id)]

    def requests(self, request_id: str) -> list[RequestRow]:
        """The decisions about a request id, newest first: clients choose ids, so there may be several."""
        statement = f"""
            WITH RECURSIVE stretches (stretch) AS (
                SELECT max(position) >> {STRETCH} FROM requests
                UNION ALL
                SELECT stretch - 1 FROM stretches WHERE stretch > (SELECT min(position) >> {STRETCH} FROM requests)
            )
            SELECT {REQUEST_COLUMNS}
            FROM stretches CROSS JOIN requests ON position >> {STRETCH} = stretch AND request_id = ?
            ORDER BY position DESC LIMIT ?"""
        return [as_request(row) for row in self._rows(statement, (request_id, PAGE_MAX))]

    def decision(self, position: int) -> RequestRow | None:
        """The decision at a position."""
        found = self._rows(f"SELECT {REQUEST_COLUMNS} FROM requests WHERE position = ?", (position,))
        return as_request(found[0]) if found else None

    def decisions(
        self, filters: Filters, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> DecisionPage:
        """A page of the newest decisions before a cursor, or of the oldest after one."""
        limit = max(1, min(limit, PAGE_MAX))
        where, parameters = self._where(filters)
        if before is not None:
            where.append("position < ?")
            parameters.append(before)
        if after is not None:
            where.append("position > ?")
            parameters.append(after)
        order = "ASC" if after is not None else "DESC"
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        # Left alone, SQLite walks the whole table in order of position to find the few that were refused.
        index = "INDEXED BY by_refused" if filters.reason == "*" else ""
        statement = f"SELECT {REQUEST_COLUMNS} FROM requests {index} {condition} ORDER BY position {order} LIMIT ?"
        found = [as_request(row) for row in self._rows(statement, (*parameters, limit + 1))]
        more, page = len(found) > limit, found[:limit]
        if after is not None:
            page.reverse()
            return DecisionPage(page, page[-1].position if page else None, page[0].position if more else None)
        newer = page[0].position if page and before is not None else None
        return DecisionPage(page, page[-1].position if more else None, newer)

    def _where(self, filters: Filters) -> tuple[list[str], list[Value]]:
        where: list[str] = []
        parameters: list[Value] = []
        for column in ("pool", "model", "status"):
            if (value := getattr(filters, column)) is not None:
                where.append(f"{column} = ?")
                parameters.append(value)
        if filters.endpoint is not None:
            where.append("endpoint IN (SELECT number FROM endpoints WHERE name = ?)")
            parameters.append(filters.endpoint)
        if filters.reason == "*":
            where.append("reason > ''")
        elif filters.reason is not None:
            where.append("reason = ?")
            parameters.append(filters.reason)
        if filters.since is not None:
            where += ["position >= ?", "recorded_at >= ?"]
            parameters += [self._position_at(filters.since), filters.since]
        if filters.until is not None:
            where += ["position < ?", "recorded_at < ?"]
            parameters += [self._position_at(filters.until), filters.until]
        return where, parameters

    def _position_at(self, at: float) -> int:
        """The first position that can hold a decision recorded at `at` or later: found by halving its ten seconds."""
        span = int(at // SPAN) * SPAN
        bounds = (
            "SELECT (SELECT min(first) FROM moments WHERE start >= ?), (SELECT min(first) FROM moments WHERE start > ?)"
        )
        step = "SELECT recorded_at FROM requests WHERE position >= ? ORDER BY position LIMIT 1"
        with self._engine.connect() as connection:
            [(low, high)] = rows(connection, bounds, (span, span))
            if not isinstance(low, int):
                return 1 << 62
            last = next(row[0] for row in rows(connection, "SELECT max(position) FROM requests"))
            end = high if isinstance(high, int) else (last + 1 if isinstance(last, int) else low)
            while low < end:
                middle = (low + end) // 2
                found = list(rows(connection, step, (middle,)))
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
