"""What a log adds up to when it is opened, and whether what that rests on is as it was written.

Rules.  Nothing is changed here.  Checked are the chain from the snapshot to the head, and that each segment follows
the one before it.  Whatever is wrong is reported, never repaired.
"""

from itertools import pairwise

import msgspec

from pointsman.core.events import Entry
from pointsman.eventlog.chain import Batch, check_batch, genesis
from pointsman.eventlog.errors import NotKeptError, corrupt
from pointsman.eventlog.stores.reading import LogHead, LogReader, SegmentMeta
from pointsman.eventlog.stores.snapshots import Projection, StoredSnapshot, says


class Recovered(msgspec.Struct):
    """What the store says of a log: where it ends, and what it adds up to there."""

    meta: SegmentMeta
    """What the last segment says of itself."""
    head: LogHead
    projection: Projection
    folded: int
    """Count of entries that were folded for it."""
    unfollowed: StoredSnapshot | None
    """Snapshot at the head of a last segment without a batch: the next batch is to cover it."""


def recover(reader: LogReader) -> Recovered:
    """Read what the log adds up to, checking what that rests on."""
    _check_links(reader)
    head = reader.head()
    try:
        projection = reader.projection_before(head.position)
    except NotKeptError as error:
        raise corrupt(reader.directory, "the log", f"its state cannot be folded: {error}") from error
    start = projection.position
    _fold(reader, projection, head)
    last = reader.segments()[-1]
    unfollowed = last.snapshot(head.position) if head.position == last.first - 1 > 0 else None
    if unfollowed is not None and not says(unfollowed, projection):
        raise corrupt(reader.directory, last.where, "its first snapshot is not what the log before adds up to")
    if (problem := last.stray_entry()) is not None:
        raise corrupt(reader.directory, last.where, problem)
    return Recovered(last.meta(), head, projection, head.position - start, unfollowed)


def _check_links(reader: LogReader) -> None:
    """Each segment begins where the one before it ends, in position and digest."""
    segments = reader.segments()
    for before, segment in pairwise(segments):
        meta = segment.meta()
        mine, theirs = before.meta(), before.last_batch()
        last, digest = (theirs.last, theirs.digest) if theirs else (mine.first - 1, mine.previous_digest)
        if meta.log_id != mine.log_id:
            problem = f"is of log {meta.log_id}, and {before.name} of log {mine.log_id}"
            raise corrupt(reader.directory, segment.where, problem)
        if last != meta.first - 1 or digest != meta.previous_digest:
            problem = (
                f"follows position {meta.first - 1} with digest {meta.previous_digest.hex()[:16]}, "
                f"and {before.name} ends at {last} with {digest.hex()[:16]}: a segment is missing or an older copy"
            )
            raise corrupt(reader.directory, segment.where, problem)
    meta = segments[0].meta()
    if meta.first == 1 and meta.previous_digest != genesis(meta.log_id):
        raise corrupt(reader.directory, segments[0].where, "its chain does not begin at its log id")


def _fold(reader: LogReader, projection: Projection, head: LogHead) -> None:
    """Fold the batches after the projection, checking each; at least the last one is checked."""
    position = projection.position
    previous = _digest_at(reader, position)
    if position == head.position and position > 0 and head.position >= reader.segments()[-1].first:
        _check_last(reader, head)
    while position < head.position:
        for batch in reader.batches(position):
            entries = _check(reader, batch, previous, position)
            for entry in entries:
                _apply(reader, projection, entry)
            for record in batch.records:
                projection.totals.count(record.kind, batch.recorded_at, record.entries, record.body_bytes)
            position, previous = batch.last, batch.digest


def _digest_at(reader: LogReader, position: int) -> bytes:
    digest = reader.digest_at(position)
    if digest is None:
        raise corrupt(reader.directory, f"snapshot at position {position}", "no batch ends there")
    return digest


def _check_last(reader: LogReader, head: LogHead) -> None:
    batch = reader.batch_at(head.position)
    _check(reader, batch, _digest_at(reader, batch.first - 1), batch.first - 1)


def _check(reader: LogReader, batch: Batch, previous: bytes, position: int) -> list[Entry]:
    """The entries of the batch that should follow `position`."""
    segment = reader.holding(batch.last)
    entries = list(reader.entries(batch.first, batch.last))
    problem = check_batch(batch, previous, entries)
    if batch.first != position + 1:
        problem = f"follows position {position}"
    if problem is not None:
        where = f"{segment.where}, batch of positions {batch.first} to {batch.last}"
        raise corrupt(reader.directory, where, problem)
    return entries


def _apply(reader: LogReader, projection: Projection, entry: Entry) -> None:
    try:
        projection.apply(entry)
    except (msgspec.DecodeError, AssertionError, LookupError, ValueError) as error:
        where = f"{reader.holding(entry.position).where}, entry {entry.position}"
        problem = f"this version cannot fold it ({type(error).__name__}: {error}); another version may have written it"
        raise corrupt(reader.directory, where, problem) from error
