"""The tables of the read model's file, and how their rows become values.

Rules.  A table's columns are the fields of a struct in `rows.py`, in its order; what a field means is said there.
Numbers and texts are columns as they are, and everything else is JSON in a text.
A change of these tables is another `VERSION` in `folding.py`.
"""

from typing import TypeVar

import msgspec
from sqlalchemy import (
    BLOB,
    REAL,
    TEXT,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    literal_column,
    text,
)
from sqlalchemy.types import TypeEngine

from pointsman.eventlog.readmodel.rows import (
    ChangeRow,
    EndpointRow,
    IncidentRow,
    Moment,
    MoveRow,
    RefusalCount,
    RequestRow,
    Span,
)
from pointsman.eventlog.sqlite.tables import SqlRow

T = TypeVar("T", Span, ChangeRow, MoveRow, EndpointRow, IncidentRow)

STRETCH = 12
"""Bits of a position within a stretch of the log: about a thousand decisions.

Searches go from stretch to stretch.  Ids are random: an index over all of them would have every fold touch all its
pages, and one that begins with the stretch has it touch some.  Of other fields, what occurs in a stretch is kept, and
no index over each decision.
"""

OCCURRING = ("model", "endpoint")
"""Fields whose values are kept for each stretch, so that a search skips stretches without the value."""

UNUSUAL = "status IS NOT 200"
"""Condition of the index over statuses: it would be of little use for the one that nearly all have."""

REQUEST_SEARCHED = RequestRow.__struct_fields__.index("first_token") + 1
"""Number of fields of a request that have a column of their own, because questions are asked with them.

A column costs more than the same value among the others in one, so what is only shown lies in `rest`.
"""

READ_MODEL = MetaData()


def _columns(kind: type[msgspec.Struct], key: tuple[str, ...]) -> list[Column[object]]:
    """A column for each field of a struct."""

    def column_type(of: object) -> TypeEngine[object]:
        if of in (int, int | None, bool):
            return Integer()  # type: ignore[return-value]  # columns are not converted
        return REAL() if of in (float, float | None) else TEXT()  # type: ignore[return-value]  # as above

    return [
        Column(field.name, column_type(field.type), primary_key=field.name in key)
        for field in msgspec.structs.fields(kind)
    ]


META = Table("meta", READ_MODEL, Column("name", TEXT, primary_key=True), Column("value", BLOB), sqlite_with_rowid=False)

REQUESTS = Table(
    "requests",
    READ_MODEL,
    *_columns(RequestRow, ("position",))[:REQUEST_SEARCHED],
    Column("rest", BLOB, nullable=False),
)
_REFUSED = REQUESTS.c.reason > literal_column("''")
Index("by_request_id", REQUESTS.c.position.op(">>")(literal_column(str(STRETCH))), REQUESTS.c.request_id)
Index("by_status", REQUESTS.c.status, sqlite_where=text(UNUSUAL))
Index("by_reason", REQUESTS.c.reason, sqlite_where=_REFUSED)
Index("by_refused", REQUESTS.c.position, sqlite_where=_REFUSED)
Index("by_degraded", REQUESTS.c.position, sqlite_where=text("degraded"))
Index("by_failed", REQUESTS.c.position, sqlite_where=text("failed"))

OCCURRENCES = Table(
    "occurring",
    READ_MODEL,
    Column("stretch", Integer, nullable=False, doc="first position of the stretch, shifted by STRETCH"),
    Column("field", TEXT, nullable=False, doc="one of OCCURRING"),
    Column("value", BLOB, nullable=False, doc="value that the field has in some decision of the stretch, as it is"),
    PrimaryKeyConstraint("stretch", "field", "value"),
    sqlite_with_rowid=False,
)
SPANS = Table("spans", READ_MODEL, *_columns(Span, ("pool", "start")), sqlite_with_rowid=False)
REFUSALS = Table("refusals", READ_MODEL, *_columns(RefusalCount, ("pool", "start", "reason")), sqlite_with_rowid=False)
CHANGES = Table("changes", READ_MODEL, *_columns(ChangeRow, ("change",)), sqlite_with_rowid=False)
Index("by_route", CHANGES.c.route, CHANGES.c.position)
MOVES = Table("moves", READ_MODEL, *_columns(MoveRow, ("position",)))
Index("by_moved_route", MOVES.c.route, MOVES.c.position)
INCIDENTS = Table("incidents", READ_MODEL, *_columns(IncidentRow, ("position",)))
Index("by_time", INCIDENTS.c.at)
MOMENTS = Table("moments", READ_MODEL, *_columns(Moment, ("start",)))
ENDPOINTS = Table("endpoints", READ_MODEL, *_columns(EndpointRow, ("number",)))
Index("by_name", ENDPOINTS.c.name)

_JSON = {"before", "after", "backends"}
"""Fields that are JSON in a text."""

_FLAGS = [at for at, field in enumerate(msgspec.structs.fields(RequestRow)) if field.type is bool]

_encode = msgspec.msgpack.Encoder().encode


def as_request(row: SqlRow) -> RequestRow:
    """The request of a row of REQUESTS."""
    *searched, rest = row
    assert isinstance(rest, bytes)
    for at in _FLAGS:
        searched[at] = bool(searched[at])
    return msgspec.convert([*searched, *msgspec.msgpack.decode(rest)], RequestRow)


def from_request(row: RequestRow) -> tuple[object, ...]:
    """The row of REQUESTS."""
    values = msgspec.structs.astuple(row)
    # A `bytearray`, because the driver looks for an adapter for each `bytes`.
    return (*values[:REQUEST_SEARCHED], bytearray(_encode(values[REQUEST_SEARCHED:])))


def as_value(row: SqlRow, kind: type[T]) -> T:
    """The struct of a row of its table."""
    values: dict[str, object] = dict(zip(kind.__struct_fields__, row, strict=True))
    for name in _JSON & values.keys():
        values[name] = msgspec.json.decode(str(values[name]))
    return msgspec.convert(values, kind)


def from_value(
    value: Span | RefusalCount | Moment | ChangeRow | MoveRow | EndpointRow | IncidentRow,
) -> tuple[object, ...]:
    """The row of the struct's table."""
    return tuple(
        msgspec.json.encode(part).decode() if name in _JSON else part
        for name, part in zip(value.__struct_fields__, msgspec.structs.astuple(value), strict=True)
    )
