"""How long a log is kept: whole segments go, oldest first, by age and by size.

Rules.  The segment that is written never goes.  A drop is an entry before it is done, and what people did is archived
before that; a crash between leaves a segment that the next look deletes.
"""

from itertools import pairwise
from typing import Literal

import msgspec

from pointsman.core.events import Class, SegmentDropped
from pointsman.core.processes.settings import KeepLimits
from pointsman.eventlog.stores.archive import drops, write_archive
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.stores.snapshots import DAY, totals_of
from pointsman.eventlog.stores.writing import StoreLimits

SEGMENTS_KEPT = 16
"""Segments that a log of full size has at least, so that what goes at once is a small part of it."""

SEGMENT_MIN = 1 << 20
"""Bytes below which a segment is not worth its file."""


_USUAL = StoreLimits()


def store_limits(keep: KeepLimits, limits: StoreLimits = _USUAL) -> StoreLimits:
    """Limits of a store whose segments are small against what is kept."""
    size, age = limits.segment_bytes, limits.segment_age
    if keep.size:
        size = max(min(size, keep.size // SEGMENTS_KEPT), SEGMENT_MIN)
    if keep.age:
        age = min(age, keep.age / SEGMENTS_KEPT)
    return msgspec.structs.replace(limits, segment_bytes=size, segment_age=age)


class SegmentSpan(msgspec.Struct, frozen=True):
    """A segment that is complete."""

    first: int
    last: int
    ended_at: float
    """Time of its last batch."""
    size: int
    """Bytes on disk."""


class LogSpace(msgspec.Struct, frozen=True):
    """What a log takes, and how fast that grows."""

    size: int
    """Bytes of segments, archive and read model."""
    first: int
    """First position that is kept."""
    since: float
    """Time at which the kept part begins."""
    growth: float
    """Bytes a day, over what is kept; 0 while that is not worth a rate."""
    complete: tuple[SegmentSpan, ...]
    """Complete segments, oldest first."""


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a log, and what room there is for it."""

    keep: KeepLimits
    space: LogSpace
    free: int
    """Bytes that the disk has left."""

    @property
    def full_in(self) -> float | None:
        """Seconds until the disk is full at the present rate; None where the limits come first, or nothing grows."""
        room = self.keep.size - self.space.size if self.keep.size else self.free
        if self.space.growth <= 0 or room < self.free:
            return None
        until = self.free / self.space.growth * DAY
        return None if self.keep.age and until > self.keep.age else until

    @property
    def reach(self) -> float | None:
        """Seconds that are kept once the limits hold, at the present rate; None where nothing bounds it."""
        bounds = [self.keep.age] if self.keep.age else []
        if self.keep.size and self.space.growth > 0:
            bounds.append(self.keep.size / self.space.growth * DAY)
        return min(bounds, default=None)


GROWTH_MIN = 60.0
"""Seconds that are kept before a rate is told."""


def look(reader: LogReader, beside: int) -> LogSpace:
    """Measure a log; `beside` are bytes that grow with it elsewhere."""
    segments = reader.segments()
    complete = []
    for segment, following in pairwise(segments):
        meta = following.meta()
        complete.append(SegmentSpan(segment.first, meta.first - 1, meta.previous_recorded_at, segment.size))
    begins = segments[0].meta()
    since = begins.previous_recorded_at or begins.created_at
    kept = reader.head().recorded_at - since
    size = sum(one.size for one in complete) + segments[-1].size
    growth = size / kept * DAY if kept >= GROWTH_MIN else 0.0
    return LogSpace(size + beside, segments[0].first, since, growth, tuple(complete))


class Due(msgspec.Struct, frozen=True):
    """A segment that is to go."""

    span: SegmentSpan
    cause: Literal["age", "size"]


def due(space: LogSpace, keep: KeepLimits, now: float) -> list[Due]:
    """The segments that are to go, oldest first."""
    found, size = list[Due](), space.size
    for span in space.complete:
        if keep.size and size > keep.size:
            found.append(Due(span, "size"))
        elif keep.age and span.ended_at < now - keep.age:
            found.append(Due(span, "age"))
        else:
            break
        size -= span.size
    return found


def leftovers(reader: LogReader) -> list[int]:
    """First positions of segments whose drop is in the log, and which are there all the same."""
    dropped = {drop.first for drop in drops(reader.entries(1, None, (Class.CONTROL,)))}
    return [segment.first for segment in reader.segments()[:-1] if segment.first in dropped]


def archive(reader: LogReader, going: Due) -> SegmentDropped:
    """Write down what is kept of a segment that is to go; the entry to append before it does."""
    span = going.span
    segment, following = reader.holding(span.first), reader.holding(span.last + 1)
    before, after = segment.snapshot(span.first - 1), following.snapshot(span.last)
    entries = dict[int, int]()
    if before is not None and after is not None:
        counted, until = totals_of(before).entries, totals_of(after).entries
        entries = {kind: count - counted.get(kind, 0) for kind, count in until.items() if count > counted.get(kind, 0)}
    drop = SegmentDropped(
        span.first,
        span.last,
        segment.meta().previous_digest,
        following.meta().previous_digest,
        span.ended_at,
        span.size,
        entries,
        going.cause,
    )
    return write_archive(reader, drop)
