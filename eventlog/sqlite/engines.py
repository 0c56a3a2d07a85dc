"""Connecting to SQLite files."""

import sqlite3
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

ENGINES = 64
"""Files whose engine is kept: a console's pages open the newest segments and the read model again and again."""

TIMEOUT = 5.0
"""Seconds that a statement waits for a lock that another connection holds."""


def connect(path: Path, mode: str) -> Connection:
    """A connection of its own to a file; `mode` is what an SQLite URI says: `ro`, `rw` or `rwc`, and more."""
    engine = _engine(f"file:{quote(str(path.absolute()))}?mode={mode}")
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


@lru_cache(ENGINES)
def _engine(uri: str) -> Engine:
    """The engine of a file: it holds no connections, only what statements compiled to, which costs more than most."""
    return create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(uri, uri=True, timeout=TIMEOUT, check_same_thread=False),
        poolclass=NullPool,
    )
