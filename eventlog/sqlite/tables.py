"""The tables of a segment file, and the statements that read and write them.

Rules.  Statements are SQLAlchemy Core's, made once, and SQLAlchemy keeps what they compile to.
Their rows are taken from the driver's cursor, as plain tuples (`docs/adr/0007-statements.md` says what that saves).
A segment's tables are as they are on disk: a change of them is another `FORMAT` in `segments.py`.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sqlalchemy import (
    BLOB,
    REAL,
    TEXT,
    Column,
    Connection,
    Executable,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    bindparam,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.dialects import sqlite

from pointsman.core.events import Class

SqlValue: TypeAlias = int | float | str | bytes | None
SqlRow: TypeAlias = tuple[SqlValue, ...]
SqlParameters: TypeAlias = Mapping[str, SqlValue | Sequence[int]]

SEGMENT = MetaData()

ENTRIES = Table(
    "entries",
    SEGMENT,
    Column("position", Integer, primary_key=True, doc="place of the entry in the log, counted from 1"),
    Column("recorded_at", REAL, nullable=False, doc="time of the entry's batch, seconds since 1970"),
    Column("kind", Integer, nullable=False, doc="class of the entry"),
    Column("body", BLOB, nullable=False, doc="the event, as MessagePack"),
)

# It finds control and membership entries without reading the traffic between them, and costs traffic nothing.
# A query has to say the condition literally: SQLite does not see that a parameter fulfils it.
_RARE = ENTRIES.c.kind < literal_column("3")
Index("rare", ENTRIES.c.position, sqlite_where=_RARE)

BATCHES = Table(
    "batches",
    SEGMENT,
    Column("last", Integer, primary_key=True, doc="position of the batch's last entry"),
    Column("first", Integer, nullable=False, doc="position of its first"),
    Column("recorded_at", REAL, nullable=False, doc="time of the commit, seconds since 1970"),
    Column("digest", BLOB, nullable=False, doc="digest of the chain after the batch"),
    Column("classes", BLOB, nullable=False, doc="packed class records, ascending by class"),
)

SNAPSHOTS = Table(
    "snapshots",
    SEGMENT,
    Column("position", Integer, primary_key=True, doc="position of the last entry folded"),
    Column("version", Integer, nullable=False, doc="version of the projection"),
    Column("state", BLOB, nullable=False, doc="what the log adds up to, as MessagePack"),
    Column("digest", BLOB, nullable=False, doc="digest over the other columns and the chain's digest at the position"),
)

META = Table(
    "meta",
    SEGMENT,
    Column("name", TEXT, primary_key=True, doc="name of a field of SegmentMeta"),
    Column("value", BLOB, nullable=False, doc="value of the field, as MessagePack"),
    sqlite_with_rowid=False,
)


def rows(connection: Connection, statement: Executable, parameters: SqlParameters | None = None) -> Sequence[SqlRow]:
    """All rows of a query, as the driver's plain tuples; the read transaction is over when this returns."""
    result = connection.execute(statement, parameters)
    cursor = result.cursor
    assert cursor is not None, "the statement returns rows"
    found: Sequence[SqlRow] = cursor.fetchall()
    result.close()
    return found


def text_rows(connection: Connection, statement: str, parameters: tuple[SqlValue, ...] = ()) -> Sequence[SqlRow]:
    """As `rows`, of a statement in text."""
    result = connection.exec_driver_sql(statement, parameters)
    cursor = result.cursor
    assert cursor is not None, "the statement returns rows"
    found: Sequence[SqlRow] = cursor.fetchall()
    result.close()
    return found


# --- what a segment is asked ----------------------------------------------------------------------

_ENTRY = select(ENTRIES.c.position, ENTRIES.c.recorded_at, ENTRIES.c.kind, ENTRIES.c.body)
_WITHIN = ENTRIES.c.position.between(bindparam("first"), bindparam("last"))
_LIMIT = bindparam("limit", type_=Integer)
_IN_CLASSES = ENTRIES.c.kind.in_(bindparam("classes", expanding=True))
_BATCH = select(BATCHES.c.first, BATCHES.c.last, BATCHES.c.recorded_at, BATCHES.c.digest, BATCHES.c.classes)
_SNAPSHOT = select(SNAPSHOTS.c.position, SNAPSHOTS.c.version, SNAPSHOTS.c.state, SNAPSHOTS.c.digest)

ALL_ENTRIES = _ENTRY.where(_WITHIN).order_by(ENTRIES.c.position)
"""Entries from `first` to `last`."""
SOME_ENTRIES = ALL_ENTRIES.limit(_LIMIT)
"""The first `limit` of them."""
ENTRIES_OF_CLASSES = SOME_ENTRIES.where(_IN_CLASSES)
"""The first `limit` of them that are of one of `classes`."""
RARE_ENTRIES = ENTRIES_OF_CLASSES.where(_RARE)
"""The same for classes that the index `rare` has all entries of."""

TAGGED_ENTRIES = (
    select(ENTRIES.c.position, ENTRIES.c.body)
    .where(
        _WITHIN,
        ENTRIES.c.kind == int(Class.TRAFFIC),
        ENTRIES.c.recorded_at >= bindparam("since"),
        # Behind the one byte that says how many fields there are.
        func.substr(ENTRIES.c.body, 2, bindparam("tag_bytes")) == bindparam("tag", type_=BLOB),
    )
    .order_by(ENTRIES.c.position.desc())
    .limit(_LIMIT)
)
"""Position and body of the newest `limit` traffic entries whose bodies begin with `tag`."""

RECORDED_BEFORE = (
    select(ENTRIES.c.recorded_at)
    .where(ENTRIES.c.position < bindparam("before"))
    .order_by(ENTRIES.c.position.desc())
    .limit(1)
)
"""Query for the time at which the entry before a position was recorded."""

NEXT_BATCHES = _BATCH.where(BATCHES.c.last > bindparam("after")).order_by(BATCHES.c.last).limit(_LIMIT)
"""The first `limit` batches that end after a position; columns in the order of `Batch`."""
LAST_BATCH = _BATCH.order_by(BATCHES.c.last.desc()).limit(1)
"""The newest batch."""

SNAPSHOT_AT = _SNAPSHOT.where(SNAPSHOTS.c.position == bindparam("at"))
"""The snapshot of a position; columns in the order of `StoredSnapshot`."""
SNAPSHOT_BEFORE = (
    _SNAPSHOT.where(SNAPSHOTS.c.position <= bindparam("at"), SNAPSHOTS.c.version == bindparam("of_version"))
    .order_by(SNAPSHOTS.c.position.desc())
    .limit(1)
)
"""The newest snapshot at or before a position that a version of the projection made."""

ENDS: Select[tuple[int | None, int | None, int]] = select(
    func.min(ENTRIES.c.position),
    func.max(ENTRIES.c.position),
    select(func.coalesce(func.max(BATCHES.c.last), bindparam("otherwise", type_=Integer))).scalar_subquery(),
)
"""The first and the last entry, and where the last batch ends."""

ALL_META = select(META.c.name, META.c.value)

# --- what is written to a segment -----------------------------------------------------------------

ADD_META = insert(META)
_SNAPSHOT_ROW = sqlite.insert(SNAPSHOTS)
ADD_SNAPSHOT = _SNAPSHOT_ROW.on_conflict_do_update(
    index_elements=["position"], set_={name: _SNAPSHOT_ROW.excluded[name] for name in ("version", "state", "digest")}
)
"""The same position again is the same snapshot, or one that an older version left at the head, which no batch covers."""

ADD_BATCH = str(insert(BATCHES).compile(dialect=sqlite.dialect()))
"""Statement for the driver's cursor, with the values in the order of the table's columns."""
