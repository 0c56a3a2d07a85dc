"""Reading a log of SQLite files.

Rules.  Connections are read-only, and every read is over when its function returns: see `stores/reading.py`.
"""

from collections.abc import AsyncGenerator, Collection, Iterator
from pathlib import Path
from typing import Self

import trio

from pointsman.core.events import Class, Entry
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import VERSION
from pointsman.eventlog.chain import Batch
from pointsman.eventlog.errors import NotKeptError, corrupt
from pointsman.eventlog.sqlite.segment import OpenSegments, Segment
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.eventlog.stores.projecting import projection_at, projection_before
from pointsman.eventlog.stores.reading import LogHead, TaggedPage
from pointsman.eventlog.stores.snapshots import Projection, StoredSnapshot, has_its_digest

COVER_BATCHES = 64
"""Batches after a snapshot among which one covers it: it is written as soon as the commit before is told."""

PAGE = 4096
"""Positions in one page: about a megabyte and two milliseconds."""


class SegmentLogReader:
    """Reads the log in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open = OpenSegments(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the reader may be used again."""
        self._open.close()

    # --- segments ---------------------------------------------------------------------------------

    def segments(self) -> list[Segment]:
        """The segments, oldest first; never empty."""
        found = segment_paths(self.directory)
        if not found:
            raise NotKeptError(f"{self.directory} holds no log: no file named like 00000000000000000001.segment")
        self._open.close_others(found)
        return [Segment(self._open, path) for path in found]

    def holding(self, position: int) -> Segment:
        """The segment that holds `position`, or will."""
        best = None
        for segment in (segments := self.segments()):
            if segment.first > position:
                break
            best = segment
        if best is None:
            kept = segments[0].first
            raise NotKeptError(f"position {position} is not kept: the log in {self.directory} begins with {kept}")
        return best

    # --- entries and batches ----------------------------------------------------------------------

    @property
    def log_id(self) -> str:
        """The id that the log got when it was created."""
        return self.segments()[-1].meta().log_id

    def first(self) -> int:
        """The first position that is kept."""
        return self.segments()[0].first

    def head(self) -> LogHead:
        """The last committed position, its digest and time."""
        segment = self.segments()[-1]
        batch = segment.last_batch()
        if batch is None:
            meta = segment.meta()
            return LogHead(meta.first - 1, meta.previous_digest, meta.previous_recorded_at)
        return LogHead(batch.last, batch.digest, batch.recorded_at)

    def entries(self, first: int, last: int | None = None, classes: Collection[int] | None = None) -> Iterator[Entry]:
        """The kept entries from `first` to `last` (or the head as it is met), of these classes, in order."""
        for page in self.pages(first, last, classes):
            yield from page

    def pages(
        self, first: int, last: int | None = None, classes: Collection[int] | None = None
    ) -> Iterator[list[Entry]]:
        """As `entries`, a page at a time; never an empty page."""
        end = self.head().position if last is None else min(last, self.head().position)
        segments = self.segments()
        for index, segment in enumerate(segments):
            stop = segments[index + 1].first - 1 if index + 1 < len(segments) else end
            start = max(first, segment.first)
            while start <= min(stop, end):
                until = min(start + PAGE - 1, stop, end)
                if classes is not None and max(classes, default=9) < Class.LOAD:
                    until = min(stop, end)  # the index finds them
                page = segment.page(start, until, classes, PAGE)
                start = page[-1].position + 1 if len(page) == PAGE else until + 1
                if page:
                    yield page

    def tagged(self, tag: str, span: tuple[int, int], since: float, limit: int) -> TaggedPage:
        """The newest traffic entries with a tag, recorded at `since` or later, in the span's newest segment."""
        segment = self.holding(span[1])
        first = max(span[0], segment.first)
        found = segment.tagged(tag, (first, span[1]), since, limit)
        if len(found) == limit:
            first = found[-1][0]
        return TaggedPage(found, first, segment.recorded_before(first))

    def batches(self, after: int, limit: int = 256) -> list[Batch]:
        """The next batches that end after `after`, of one segment."""
        return self.holding(after + 1).batches(after, limit)

    def batch_at(self, position: int) -> Batch:
        """The batch that holds `position`; `NotKeptError` where none does."""
        found = self.holding(position).batches(position - 1, 1)
        if not found or found[0].first > position:
            raise NotKeptError(f"position {position} is in no batch of the log in {self.directory}")
        return found[0]

    def digest_at(self, position: int) -> bytes | None:
        """The chain's digest where a batch ends at `position`; None inside a batch or outside the log."""
        try:
            batch = self.batch_at(position)
        except NotKeptError:
            batch = None
        if batch is not None:
            return batch.digest if batch.last == position else None
        meta = self.segments()[0].meta()
        return meta.previous_digest if meta.first == position + 1 else None

    async def follow(
        self, after: int, classes: Collection[int] | None = None, interval: float = 0.05
    ) -> AsyncGenerator[list[Entry], None]:
        """Pages of the entries after `after` for ever, as they are committed; polls, in a thread.

        Whoever stops early closes it, with `contextlib.aclosing`.
        """
        while True:
            pages, head = await trio.to_thread.run_sync(self._next_pages, after, classes)
            for page in pages:
                yield page
            if head == after:
                await trio.sleep(interval)
            after = head

    def _next_pages(self, after: int, classes: Collection[int] | None) -> tuple[list[list[Entry]], int]:
        """At most a page's worth of positions after `after`, and the position up to which that looked."""
        until = min(self.head().position, max(after, self.first() - 1) + PAGE)
        return list(self.pages(after + 1, until, classes)), max(until, after)

    # --- snapshots --------------------------------------------------------------------------------

    def snapshot_before(self, position: int) -> StoredSnapshot | None:
        """The newest snapshot at or before `position` that this version's projection made, checked; see `LogReader`."""
        for segment in reversed(self.segments()):
            until = position
            while until >= segment.first - 1 and (found := segment.snapshot_before(until, VERSION)) is not None:
                if self._covered(segment, found):
                    return found
                until = found.position - 1
        begins = self.segments()[0]
        if not 0 < begins.first - 1 <= position or (found := begins.snapshot(begins.first - 1)) is None:
            return None
        self._covered(begins, found)  # there is no other to start from; `log verify` tells where the chain lacks it
        return found

    def _covered(self, segment: Segment, snapshot: StoredSnapshot) -> bool:
        """Whether the chain has the snapshot; `LogCorruptError` where its bytes are other ones.

        The chain does not have one that was written right before its process ended.
        """
        self._check_digest(segment, snapshot)
        if snapshot.position == 0:
            return True
        batches = [] if snapshot.position >= self.head().position else self.batches(snapshot.position, COVER_BATCHES)
        digest = next((found for one in batches if (found := one.snapshots.get(snapshot.position)) is not None), None)
        if digest not in (None, snapshot.digest):
            where = f"{segment.where}, snapshot at position {snapshot.position}"
            raise corrupt(self.directory, where, "it is not the one that the chain has")
        return digest is not None

    def _check_digest(self, segment: Segment, snapshot: StoredSnapshot) -> None:
        meta = segment.meta()
        at_start = snapshot.position == meta.first - 1
        chain = meta.previous_digest if at_start else self.digest_at(snapshot.position)
        if chain is None or not has_its_digest(snapshot, chain):
            where = f"{segment.where}, snapshot at position {snapshot.position}"
            raise corrupt(self.directory, where, "its bytes do not have the digest that was written with it")

    def projection_before(self, position: int) -> Projection:
        """What the newest snapshot at or before `position` says, or the empty beginning."""
        return projection_before(self, position)

    def projection_at(self, position: int) -> Projection:
        """What the log adds up to at `position`, from the newest snapshot before it."""
        return projection_at(self, position)

    def state_at(self, position: int) -> ClusterState:
        """The cluster state at `position`."""
        return projection_at(self, position).cluster
