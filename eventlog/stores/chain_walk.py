"""Walking the whole chain: every batch of every segment, against its entries and the batch before.

The entries are folded on the way, and each snapshot has to say what they add up to, and to be the one that the chain
has.

What comes before the first segment was dropped: the log says so itself, and the archive has what the log says of it.
"""

from collections.abc import Iterator

import msgspec

from pointsman.core.events import Entry, SegmentDropped
from pointsman.eventlog.chain import Batch, check_batch, genesis
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.stores.archive import dropped_before, drops
from pointsman.eventlog.stores.reading import LogReader, SegmentReader
from pointsman.eventlog.stores.snapshots import Projection, has_its_digest, restore, says

BATCHES = 64
"""Batches of one page: some thousands of entries under load."""


class ChainFault(msgspec.Struct, frozen=True):
    """The first place where the log is not what was written."""

    segment: str
    first: int
    """Positions of the batch; both 0 where the fault is not in one."""
    last: int
    problem: str
    """What was found and what was wanted."""


class ChainReport(msgspec.Struct, frozen=True):
    """What a walk found; the figures go up to the fault."""

    log_id: str
    segments: int
    batches: int
    entries: int
    snapshots: int
    first: int
    """First position that is kept."""
    previous_digest: bytes
    """Digest of the chain before `first`: taken on trust, unless the log is kept from its beginning."""
    head: int
    digest: bytes
    fault: ChainFault | None = None
    dropped: tuple[SegmentDropped, ...] = ()
    """Segments that were dropped before `first`, oldest first."""
    unchecked: tuple[int, ...] = ()
    """Positions of published heads that lie before `first`, where nothing can be compared with them."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found wrong."""
        return self.fault is None


class _Walk:
    """Where the walk stands."""

    def __init__(self, reader: LogReader, heads: dict[int, bytes]) -> None:
        self.reader = reader
        self.heads = heads
        self.log_id = ""
        self.segments = self.batches = self.entries = self.snapshots = 0
        self.first = 1
        self.anchor = self.digest = b""
        self.position = 0
        self.projection = Projection()
        self.digests: dict[int, bytes] = {}
        """Digests of the snapshots that were met, by position."""
        self.covered: set[int] = set()
        """Positions of those that a batch covers."""
        self.drops: list[SegmentDropped] = []
        """Drops that the kept entries tell of."""
        self.dropped: tuple[SegmentDropped, ...] = ()
        self.unchecked: tuple[int, ...] = ()
        self.fault: ChainFault | None = None

    def report(self) -> ChainReport:
        return ChainReport(
            self.log_id,
            self.segments,
            self.batches,
            self.entries,
            self.snapshots,
            self.first,
            self.anchor,
            self.position,
            self.digest,
            self.fault,
            self.dropped,
            self.unchecked,
        )

    def fail(self, segment: SegmentReader, problem: str, batch: Batch | None = None) -> bool:
        first, last = (batch.first, batch.last) if batch else (0, 0)
        self.fault = ChainFault(segment.name, first, last, problem)
        return False

    def enter(self, segment: SegmentReader) -> bool:
        """Check that the segment follows the one before."""
        meta = segment.meta()
        if self.segments == 0:
            self.log_id, self.first = meta.log_id, meta.first
            self.position, self.digest = meta.first - 1, meta.previous_digest
            self.anchor = self.digest
            if meta.first == 1 and self.digest != genesis(meta.log_id):
                return self.fail(segment, "the chain does not begin at the log id")
            if meta.first > 1 and not self._start(segment):
                return False
        elif meta.log_id != self.log_id:
            return self.fail(segment, f"is of log {meta.log_id}, wanted {self.log_id}")
        elif (meta.first - 1, meta.previous_digest) != (self.position, self.digest):
            return self.fail(
                segment,
                f"follows position {meta.first - 1} with digest {meta.previous_digest.hex()[:16]}, "
                f"wanted {self.position} with {self.digest.hex()[:16]}",
            )
        self.segments += 1
        return self._check_snapshot(segment)

    def follow(self, segment: SegmentReader, batch: Batch, entries: list[Entry]) -> bool:
        """Check the next batch."""
        if batch.first != self.position + 1:
            return self.fail(segment, f"a batch begins with {batch.first}, wanted {self.position + 1}", batch)
        problem = check_batch(batch, self.digest, entries)
        if problem is not None:
            return self.fail(segment, problem, batch)
        self.position, self.digest = batch.last, batch.digest
        self.batches += 1
        self.entries += len(entries)
        self.drops += drops(entries)
        if not self._fold(segment, batch, entries) or not self._check_covers(segment, batch):
            return False
        known = self.heads.get(batch.last)
        if known is not None and known != batch.digest:
            return self.fail(segment, f"its digest is {batch.digest.hex()}, and {known.hex()} was published", batch)
        if (inside := next((at for at in self.heads if batch.first <= at < batch.last), None)) is not None:
            return self.fail(segment, f"a head at {inside} was published, and no batch ends there", batch)
        return self._check_snapshot(segment)

    def _start(self, segment: SegmentReader) -> bool:
        """Take up what was dropped from the snapshot at the head of what is kept."""
        snapshot = segment.snapshot(self.position)
        if snapshot is None:
            return self.fail(
                segment, f"the snapshot at position {self.position} is missing: what was dropped is not told"
            )
        try:
            self.projection = restore(snapshot)
        except (msgspec.DecodeError, ValueError, LookupError) as error:
            return self.fail(segment, f"the snapshot at position {self.position} does not decode: {error}")
        return True

    def _fold(self, segment: SegmentReader, batch: Batch, entries: list[Entry]) -> bool:
        for entry in entries:
            try:
                self.projection.apply(entry)
            except (msgspec.DecodeError, AssertionError, LookupError, ValueError) as error:
                return self.fail(segment, f"entry {entry.position} cannot be folded: {error}", batch)
        for record in batch.records:
            self.projection.totals.count(record.kind, batch.recorded_at, record.entries, record.body_bytes)
        return True

    def _check_covers(self, segment: SegmentReader, batch: Batch) -> bool:
        """Check that the snapshots that a batch covers are those that are there."""
        for position, digest in batch.snapshots.items():
            if position < self.first - 1:
                continue  # it was dropped
            found = self.digests.get(position)
            self.covered.add(position)
            if found is None:
                return self.fail(
                    segment, f"the snapshot at position {position} is missing, and the chain has it", batch
                )
            if found != digest:
                return self.fail(
                    segment, f"the snapshot at position {position} is not the one that the chain has", batch
                )
        return True

    def _check_snapshot(self, segment: SegmentReader) -> bool:
        snapshot = segment.snapshot(self.position)
        if snapshot is None:
            return True
        if not has_its_digest(snapshot, self.digest):
            return self.fail(segment, f"the snapshot at position {self.position} does not have its digest")
        if not says(snapshot, self.projection):
            return self.fail(segment, f"the snapshot at position {self.position} is not what the entries add up to")
        if self.position > 0:
            self.digests[self.position] = snapshot.digest
        self.snapshots += 1
        return True


def walk_chain(reader: LogReader, heads: dict[int, bytes] | None = None) -> ChainReport:
    """Walk the log, which may be in use; `heads` are digests by position that were published earlier."""
    while True:
        walk = _Walk(reader, heads or {})
        segment = reader.segments()[0]
        try:
            while _walk_segment(walk, segment) and (later := _successor(reader, segment)) is not None:
                segment = later
        except NotKeptError as error:
            if reader.first() > segment.first:
                continue  # it was dropped while it was walked
            walk.fail(segment, str(error))
        except LogCorruptError as error:
            walk.fail(segment, str(error))
        break
    if walk.fault is not None or not _walk_dropped(walk):
        return walk.report()
    missing = sorted(position for position in walk.heads if position > walk.position)
    if missing:
        walk.fail(reader.segments()[-1], f"the log ends at {walk.position}, and a head at {missing[0]} was published")
    return walk.report()


def _walk_dropped(walk: _Walk) -> bool:
    """Check that what is not kept was dropped by entries that follow each other back to the first position."""
    if walk.first > 1 and walk.first - 1 not in walk.covered:
        return walk.fail(
            walk.reader.segments()[0], "the chain does not have the snapshot that what is kept begins with"
        )
    before, digest = walk.first - 1, walk.anchor
    ends = {0: genesis(walk.log_id)}
    oldest = walk.reader.segments()[0]
    try:
        for drop, _ in dropped_before(walk.reader.directory, walk.drops):
            if drop.first >= walk.first:
                continue  # the entry is there, and the segment is still to go
            if (drop.last, drop.digest) != (before, digest):
                break
            ends[drop.last] = drop.digest
            before, digest = drop.first - 1, drop.previous_digest
            walk.dropped = (drop, *walk.dropped)
    except LogCorruptError as error:
        return walk.fail(oldest, str(error))
    if before > 0:
        return walk.fail(oldest, f"the log begins with {walk.first}, and no entry says that {before} was dropped")
    if digest != ends[0]:
        return walk.fail(oldest, "the chain does not begin at the log id")
    for position, published in sorted(walk.heads.items()):
        if position in ends and ends[position] != published:
            return walk.fail(
                oldest, f"its digest at {position} was {ends[position].hex()}, {published.hex()} was published"
            )
    walk.unchecked = tuple(sorted(at for at in walk.heads if at < walk.first and at not in ends))
    return True


def _successor(reader: LogReader, segment: SegmentReader) -> SegmentReader | None:
    return next((one for one in reader.segments() if one.first > segment.first), None)


def _walk_segment(walk: _Walk, segment: SegmentReader) -> bool:
    """Check one segment; False once a fault was found."""
    if not walk.enter(segment) or not _walk_batches(walk, segment):
        return False
    # Where a successor has appeared meanwhile, this segment has its last batch only now.
    if _successor(walk.reader, segment) is not None and not _walk_batches(walk, segment):
        return False
    problem = segment.stray_entry()
    return True if problem is None else walk.fail(segment, problem)


def _walk_batches(walk: _Walk, segment: SegmentReader) -> bool:
    for batches in _pages(walk, segment):
        try:
            entries = segment.entries(batches[0].first, batches[-1].last)
        except LogCorruptError as error:
            return walk.fail(segment, str(error), batches[0])
        start = 0
        for batch in batches:
            stop = start
            while stop < len(entries) and entries[stop].position <= batch.last:
                stop += 1
            if not walk.follow(segment, batch, entries[start:stop]):
                return False
            start = stop
    return True


def _pages(walk: _Walk, segment: SegmentReader) -> Iterator[list[Batch]]:
    """The batches of a segment, some thousands of entries at a time."""
    while True:
        found = segment.batches(walk.position, BATCHES)
        if not found:
            return
        yield found
