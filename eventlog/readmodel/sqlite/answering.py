"""Answering questions from the read model's SQLite file, while it is written."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import REAL, TEXT, ColumnElement, Connection, Executable, Integer, bindparam, func, select

from pointsman.eventlog.errors import ReadModelUnavailableError
from pointsman.eventlog.readmodel.queries import (
    PAGE_MAX,
    SORTED_MAX,
    DecisionPage,
    Filters,
    ReadModelState,
    Slowest,
)
from pointsman.eventlog.readmodel.rows import SPAN, ChangeRow, EndpointRow, IncidentRow, MoveRow, RequestRow, Span
from pointsman.eventlog.readmodel.sqlite.tables import (
    CHANGES,
    ENDPOINTS,
    INCIDENTS,
    META,
    MOMENTS,
    MOVES,
    OCCURRING,
    REFUSALS,
    REQUESTS,
    SPANS,
    STRETCH,
    UNUSUAL,
    as_request,
    as_value,
)
from pointsman.eventlog.sqlite.engines import connect
from pointsman.eventlog.sqlite.segments import SQL_ERRORS, reason
from pointsman.eventlog.sqlite.tables import SqlParameters, SqlRow, SqlValue, rows, text_rows

ROLLUPS_MAX = 10_000
"""A day of one pool at the finest."""

_STRETCHES = f"""
    WITH RECURSIVE stretches (stretch) AS (
        SELECT max((SELECT min(position) FROM requests), ?1) >> {STRETCH}
        UNION ALL
        SELECT stretch + 1 FROM stretches WHERE stretch < min((SELECT max(position) FROM requests), ?2) >> {STRETCH}
    )
"""
"""Stretches between two positions, as far as there are decisions."""

_LAST = 1 << 62
"""Position that is higher than every one in a log."""

_NAMED = "SELECT number FROM endpoints WHERE ? IN (name, name || ':' || port)"
"""Numbers of the endpoints of a pod, or the one of a pod and port."""

_REQUEST = ", ".join(REQUESTS.c.keys())


def _conditions(filters: Filters) -> tuple[list[str], list[SqlValue]]:
    """What `filters` say of a row, beside its position."""
    where: list[str] = []
    parameters: list[SqlValue] = []
    for condition, value in (
        ("pool = ?", filters.pool),
        ("model = ?", filters.model),
        ("status = ?", filters.status),
        (f"endpoint IN ({_NAMED})", filters.endpoint),
        ("decided_at >= ?", filters.since),
        ("decided_at < ?", filters.until),
        ("reason = ?", None if filters.reason == "*" else filters.reason),
    ):
        if value is not None:
            where.append(condition)
            parameters.append(value)
    if filters.reason is not None:
        where.append("reason > ''")
    if filters.failed:
        where.append("failed")
    if filters.degraded:
        where.append("degraded")
    if filters.status not in (None, 200):
        where.append(UNUSUAL)
    return where, parameters


def _index(filters: Filters) -> str:
    """The index that has the few decisions of a kind: left alone, SQLite walks the table in order of position."""
    if filters.reason == "*":
        return "INDEXED BY by_refused"
    if filters.reason is not None:
        return "INDEXED BY by_reason"
    if filters.failed:
        return "INDEXED BY by_failed"
    if filters.degraded:
        return "INDEXED BY by_degraded"
    return "INDEXED BY by_status" if filters.status not in (None, 200) else ""


def _within(
    connection: Connection, filters: Filters, bounds: tuple[int, int], order: str, limit: int
) -> list[RequestRow]:
    """The first decisions from a position to another."""
    where, parameters = _conditions(filters)
    condition = " AND ".join(["position BETWEEN ? AND ?", *where])
    statement = f"""
        SELECT {_REQUEST} FROM requests {_index(filters)}
        WHERE {condition} ORDER BY position {order} LIMIT ?"""
    return [as_request(row) for row in text_rows(connection, statement, (*bounds, *parameters, limit))]


def _merged(column: ColumnElement[object], start: ColumnElement[object]) -> ColumnElement[object]:
    """How a column of several spans becomes one."""
    match column.key:
        case "pool":
            return func.max(column)
        case "start":
            return start
        case name:
            if str(name).endswith("_min"):
                return func.min(column)
            return func.max(column) if str(name).endswith("_max") else func.sum(column)


_META = select(META.c.name, META.c.value)
_REQUEST_AT = select(REQUESTS).where(REQUESTS.c.position == bindparam("at"))

_OF_ROUTE, _MOST = bindparam("of_route", type_=TEXT), bindparam("most", type_=Integer)
_CHANGES = select(CHANGES).where(CHANGES.c.route == _OF_ROUTE).order_by(CHANGES.c.position.desc()).limit(_MOST)
_MOVES = select(MOVES).where(MOVES.c.route == _OF_ROUTE).order_by(MOVES.c.position.desc()).limit(_MOST)

_WITHIN = (bindparam("low", type_=REAL), bindparam("high", type_=REAL))
_MOVED = select(MOVES).where(MOVES.c.recorded_at.between(*_WITHIN)).order_by(MOVES.c.position.desc()).limit(_MOST)
_INCIDENTS = select(INCIDENTS).where(INCIDENTS.c.at.between(*_WITHIN)).order_by(INCIDENTS.c.at.desc()).limit(_MOST)

_ENDPOINTS = select(ENDPOINTS).order_by(ENDPOINTS.c.number)
_ENDPOINTS_OF_POOL = _ENDPOINTS.where(ENDPOINTS.c.pool == bindparam("of_pool"))
_ENDPOINTS_NAMED = select(ENDPOINTS).where(ENDPOINTS.c.number.in_(bindparam("numbers", expanding=True)))

_MOMENT = select(MOMENTS.c.first, MOMENTS.c.last).where(MOMENTS.c.start == bindparam("start"))
_COUNTS_SINGLY = (
    select(REQUESTS.c.pool, func.count())
    .where(REQUESTS.c.position.between(bindparam("low"), bindparam("high")))
    .where(REQUESTS.c.decided_at >= bindparam("at"), REQUESTS.c.decided_at < bindparam("boundary"))
    .group_by(REQUESTS.c.pool)
)
_COUNTS_BY_SPAN = (
    select(SPANS.c.pool, func.sum(SPANS.c.routed + SPANS.c.refused_count))
    .where(SPANS.c.start >= bindparam("from_start"))
    .group_by(SPANS.c.pool)
)
"""Decisions by pool: of a part of one span, and in all spans from one on."""

_FIRST_AND_LAST = select(func.min(MOMENTS.c.first), func.max(MOMENTS.c.last)).where(
    MOMENTS.c.start >= bindparam("since"), MOMENTS.c.start < bindparam("until")
)
_REFUSALS = (
    select(REFUSALS.c.reason, func.sum(REFUSALS.c.refused_count))
    .where(REFUSALS.c.start >= bindparam("low"), REFUSALS.c.start < bindparam("high"))
    .group_by(REFUSALS.c.reason)
)

_BEGINS = (SPANS.c.start - SPANS.c.start % bindparam("width", type_=Integer)).label("begins")
_ROLLUPS = (
    select(*(_merged(column, _BEGINS) for column in SPANS.c))
    .where(SPANS.c.pool == bindparam("of_pool"), SPANS.c.start >= bindparam("low"), SPANS.c.start < bindparam("high"))
    .group_by(_BEGINS)
    .order_by(_BEGINS)
    .limit(ROLLUPS_MAX)
)
"""The spans of a pool from `low` to before `high`, `width` seconds to a row: some twenty columns, so it is made once."""


class SqliteReadModel:
    """Read-only; each question opens the file anew, so that a rebuilt one is found."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between questions."""

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with connect(self._path, "ro") as connection:
                yield connection
        except SQL_ERRORS as error:
            raise ReadModelUnavailableError(reason(error)) from error

    def _ask(self, statement: Executable, parameters: SqlParameters | None = None) -> Sequence[SqlRow]:
        with self._connected() as connection:
            return rows(connection, statement, parameters)

    def _rows(self, statement: str, parameters: tuple[SqlValue, ...] = ()) -> list[SqlRow]:
        with self._connected() as connection:
            return list(text_rows(connection, statement, parameters))

    def state(self) -> ReadModelState:
        """How far the read model has got."""
        found = {str(name): value for name, value in self._ask(_META)}
        return ReadModelState(str(found.get("log_id", "")), int(found.get("position") or 0))

    def find_request(self, request_id: str) -> list[int]:
        """Positions of the decisions about a request id, newest first."""
        return [row.position for row in self.requests(request_id)]

    def requests(self, request_id: str) -> list[RequestRow]:
        """The decisions about a request id, newest first: clients choose ids, so there may be several."""
        statement = f"""{_STRETCHES}
            SELECT {_REQUEST}
            FROM stretches CROSS JOIN requests ON position >> {STRETCH} = stretch AND request_id = ?3
            ORDER BY position DESC LIMIT ?4"""
        return [as_request(row) for row in self._rows(statement, (0, _LAST, request_id, PAGE_MAX))]

    def requests_beginning(self, beginning: str) -> list[RequestRow]:
        """The decisions about request ids that begin so, newest first."""
        statement = f"""{_STRETCHES}
            SELECT {_REQUEST} FROM stretches CROSS JOIN requests
            ON position >> {STRETCH} = stretch AND request_id >= ?3 AND request_id < ?4
            ORDER BY position DESC LIMIT ?5"""
        end = beginning + chr(0x10FFFF)
        return [as_request(row) for row in self._rows(statement, (0, _LAST, beginning, end, PAGE_MAX))]

    def slowest(self, filters: Filters, by: Slowest, limit: int) -> tuple[list[RequestRow], int]:
        """The slowest that were found in the newest SORTED_MAX positions that may match, and the first of these."""
        low, high = self._bounds(filters, None, None)
        where, parameters = _conditions(filters)
        with self._connected() as connection:
            [(last,)] = text_rows(connection, "SELECT max(position) FROM requests")
            low = max(low, min(high, last if isinstance(last, int) else 0) - SORTED_MAX + 1)
            condition = " AND ".join(["position BETWEEN ? AND ?", f"{by} IS NOT NULL", *where])
            statement = f"""
                SELECT {_REQUEST} FROM requests {_index(filters)}
                WHERE {condition} ORDER BY {by} DESC, position DESC LIMIT ?"""
            found = text_rows(connection, statement, (low, high, *parameters, max(1, min(limit, PAGE_MAX))))
            return [as_request(row) for row in found], max(1, low)

    def decision(self, position: int) -> RequestRow | None:
        """The decision at a position."""
        found = self._ask(_REQUEST_AT, {"at": position})
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
        if filters.since is None and filters.until is None:
            return low, high
        # Decisions are nearly in the order of their times: only after a standstill are old ones among new ones.
        start = -_LAST if filters.since is None else int(filters.since // SPAN) * SPAN
        end = _LAST if filters.until is None else filters.until
        [(first, last)] = self._ask(_FIRST_AND_LAST, {"since": start, "until": end})
        if not isinstance(first, int) or not isinstance(last, int):
            return 1, 0
        return max(low, first), min(high, last)

    def _stretches(
        self, connection: Connection, filters: Filters, bounds: tuple[int, int], order: str
    ) -> list[tuple[int, int]]:
        """Where to look between two positions: in the stretches in which all occurs that is looked for, or everywhere."""
        conditions: list[str] = []
        parameters: list[SqlValue] = [*bounds]
        for name in OCCURRING:
            if (value := getattr(filters, name)) is not None:
                values = _NAMED if name == "endpoint" else "?"
                here = f"occurring.stretch = stretches.stretch AND field = '{name}' AND value IN ({values})"
                conditions.append(f"EXISTS (SELECT 1 FROM occurring WHERE {here})")
                parameters.append(value)
        if not conditions or _index(filters):
            return [bounds]
        statement = f"{_STRETCHES} SELECT stretch FROM stretches WHERE {' AND '.join(conditions)} ORDER BY 1 {order}"
        found = [row[0] for row in text_rows(connection, statement, tuple(parameters)) if isinstance(row[0], int)]
        return [(max(bounds[0], at << STRETCH), min(bounds[1], (at + 1 << STRETCH) - 1)) for at in found]

    def rollups(self, pool: str, since: float, until: float, width: int = SPAN) -> list[Span]:
        """What a pool did from `since` to `until`, ascending, `width` seconds (a multiple of SPAN) to a row.

        Spans in which nothing happened are left out.
        """
        bounds = {"low": int(since // width) * width, "high": int(until // width) * width + width}
        found = self._ask(_ROLLUPS, {"of_pool": pool, "width": width, **bounds})
        return [as_value(row, Span) for row in found]

    def changes(self, route: str, limit: int) -> list[ChangeRow]:
        """The latest changes of a route's weights, newest first."""
        return [as_value(row, ChangeRow) for row in self._ask(_CHANGES, {"of_route": route, "most": limit})]

    def moves(self, route: str, limit: int) -> list[MoveRow]:
        """The latest times at which a route's weights became others, newest first."""
        return [as_value(row, MoveRow) for row in self._ask(_MOVES, {"of_route": route, "most": limit})]

    def moved(self, since: float, until: float, limit: int) -> list[MoveRow]:
        """The latest times, of a time, at which the weights of any route became others, newest first."""
        return [as_value(row, MoveRow) for row in self._ask(_MOVED, {"low": since, "high": until, "most": limit})]

    def incidents(self, since: float, until: float, limit: int) -> list[IncidentRow]:
        """The latest incidents of a time, newest first."""
        found = self._ask(_INCIDENTS, {"low": since, "high": until, "most": limit})
        return [as_value(row, IncidentRow) for row in found]

    def counts_since(self, at: float) -> dict[str, int]:
        """Decisions by pool that were made at `at` or later: at most ten seconds are counted singly."""
        start = int(at // SPAN) * SPAN
        found = list(self._ask(_COUNTS_BY_SPAN, {"from_start": start + SPAN}))
        for low, high in self._ask(_MOMENT, {"start": start}):
            found += self._ask(_COUNTS_SINGLY, {"low": low, "high": high, "at": at, "boundary": start + SPAN})
        counts: dict[str, int] = {}
        for pool, count in found:
            assert isinstance(count, int)
            counts[str(pool)] = counts.get(str(pool), 0) + count
        return counts

    def refusals(self, since: float, until: float) -> dict[str, int]:
        """Refusals by reason in the spans from `since` to before `until`."""
        bounds = {"low": int(since // SPAN) * SPAN, "high": until}
        return {str(why): int(str(count)) for why, count in self._ask(_REFUSALS, bounds)}

    def endpoint_names(self, numbers: Iterable[int]) -> dict[int, EndpointRow]:
        """The endpoints of these numbers, as far as they are known."""
        wanted = sorted(set(numbers))[:PAGE_MAX]
        found = self._ask(_ENDPOINTS_NAMED, {"numbers": wanted})
        return {row.number: row for row in (as_value(one, EndpointRow) for one in found)}

    def endpoints(self, pool: str | None = None) -> list[EndpointRow]:
        """Endpoints that ever joined, by number."""
        found = self._ask(_ENDPOINTS) if pool is None else self._ask(_ENDPOINTS_OF_POOL, {"of_pool": pool})
        return [as_value(row, EndpointRow) for row in found]
