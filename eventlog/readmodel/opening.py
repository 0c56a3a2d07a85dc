"""Opening the read model: the one place that knows which store a path is of."""

from pathlib import Path

from pointsman.eventlog.readmodel.queries import ReadModel
from pointsman.eventlog.readmodel.sqlite.answering import SqliteReadModel


def open_read_model(path: Path) -> ReadModel:
    """Ask the read model at `path`, which need not be there yet."""
    return SqliteReadModel(path)
