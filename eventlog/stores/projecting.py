"""What a log adds up to at a position, from the newest snapshot before it."""

import msgspec

from pointsman.eventlog.errors import NotKeptError, corrupt
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.stores.snapshots import Projection, restore


def projection_before(reader: LogReader, position: int) -> Projection:
    """What the newest snapshot at or before `position` says, or the empty beginning."""
    snapshot = reader.snapshot_before(position)
    if snapshot is not None and snapshot.position > 0:
        try:
            return restore(snapshot)
        except (msgspec.DecodeError, ValueError) as error:
            where = f"snapshot at position {snapshot.position}"
            raise corrupt(reader.directory, where, f"it does not decode: {error}") from error
    if snapshot is None and reader.first() > 1:
        raise NotKeptError(f"no snapshot at or before position {position}, and the log begins with {reader.first()}")
    return Projection()


def projection_at(reader: LogReader, position: int) -> Projection:
    """Fold the log up to `position`, from the newest snapshot before it."""
    head = reader.head().position
    if position > head:
        raise NotKeptError(f"position {position} is not written: the log in {reader.directory} ends at {head}")
    projection = projection_before(reader, position)
    for entry in reader.entries(projection.position + 1, position):
        projection.apply(entry)
    return projection
