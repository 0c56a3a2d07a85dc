"""Opening the read model: the one place that knows which store a path is of."""

from pathlib import Path

from pointsman.eventlog.readmodel.queries import ReadModel
from pointsman.eventlog.readmodel.sqlite.answering import SqliteReadModel
from pointsman.eventlog.readmodel.sqlite.writing import SqliteReadModelStore
from pointsman.eventlog.readmodel.storing import ReadModelStore


def open_read_model(path: Path) -> ReadModel:
    """Ask the read model at `path`, which need not be there yet."""
    return SqliteReadModel(path)


def open_read_model_store(path: Path) -> ReadModelStore:
    """Write the read model at `path`, which is created where it is not there."""
    return SqliteReadModelStore(path)
