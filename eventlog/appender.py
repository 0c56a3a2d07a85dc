"""Appending to a log: a bounded queue in front of the writer thread, and what happens after each commit.

Rules.  An entry gets its position when it is queued, so entries stand in the log in the order of the queue.
The projection and `on_commit` follow the commits, in order, in the Trio thread; nothing there sees an entry
that is not on disk.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec
import trio

from pointsman.core.events import Class, Event, class_of, encode
from pointsman.core.state.marks import Mark, skim
from pointsman.eventlog.errors import LogFullError
from pointsman.eventlog.stores.log import Log
from pointsman.eventlog.stores.reading import LogHead
from pointsman.eventlog.stores.writer import Done, Stall, Writer
from pointsman.eventlog.stores.writing import Commit

CLOSE_GRACE = 5.0
"""Seconds that closing waits for the disk to take what is queued."""

DURATIONS = 1000
"""Commits over which the percentile is taken: ten seconds at full rate."""

TRAFFIC_COST, CLUSTER_COST = 1, 6
"""Cost of folding an entry of traffic, and any other; a snapshot is taken when they add up to the limit's cost."""


class AppenderStatistics(msgspec.Struct, frozen=True):
    """How far the log has come, and what its commits cost."""

    head: int
    digest: bytes
    queued_events: int
    queued_bytes: int
    commits: int
    commit_duration: float
    """Seconds that the last commit took."""
    commit_duration_p99: float
    """Seconds that 99 of 100 commits stayed within, among the last thousand."""
    checkpoint_duration: float
    wal_pages: int
    stalled_since: float | None
    stalled_because: str
    refused_events: int
    """Count of entries that found the queue full."""
    segment: str
    entries_by_class: dict[int, int]
    bytes_today_by_class: dict[int, int]


class Appender:
    """Appends to an open log; `run` must be started in a nursery.

    `on_commit` is called for each batch after it is on disk and folded into the log's projection.
    """

    def __init__(self, log: Log, on_commit: Callable[[Commit], None]) -> None:
        self.log = log
        self._on_commit = on_commit
        self._limits = log.limits
        self._writer = Writer(log.store, log.limits, self._deliver)
        self._queued_position = log.head.position
        self._queued_bytes = 0
        self._bytes_easy = log.limits.queue_bytes * 7 // 8
        self._position_easy = log.head.position + log.limits.queue_events * 7 // 8
        """Bytes and position up to which the queue takes everything, without a closer look."""
        self._refused = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self._done: deque[Done | None] = deque()
        self._arrived = trio.Event()
        """Event that is set when `run` has something to do."""
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._ended = False
        self._commits = 0
        self._durations: deque[float] = deque(maxlen=DURATIONS)
        self._snapshot_cost = 0

    # --- appending --------------------------------------------------------------------------------

    def append_nowait(self, event: Event) -> int:
        """Queue an event; the position it will have.  `LogFullError` where the queue is full."""
        kind, body = class_of(event), encode(event)
        return self.append_skimmed_nowait(kind, body, skim(kind, body) if kind is Class.TRAFFIC else event)

    def append_skimmed_nowait(self, kind: int, body: bytes, event: Event | Mark) -> int:
        """Queue an event that a picker process encoded and the feed has skimmed."""
        queued = self._queued_bytes + len(body)
        if queued > self._bytes_easy or self._queued_position >= self._position_easy:
            self._check_room(kind, queued)
        self._queued_bytes = queued
        self._queued_position = position = self._queued_position + 1
        writer = self._writer
        writer.kinds.append(int(kind))
        writer.bodies.append(body)
        writer.events.append(event)
        self._ring()
        return position

    def append_run_nowait(self, kinds: Sequence[int], bodies: Sequence[bytes], events: Sequence[Event | Mark]) -> bool:
        """Queue skimmed events that follow each other; whether there was room for all, otherwise none is queued."""
        queued = self._queued_bytes + sum(map(len, bodies))
        if queued > self._bytes_easy or self._queued_position + len(bodies) > self._position_easy:
            return False
        self._queued_bytes = queued
        self._queued_position += len(bodies)
        writer = self._writer
        writer.kinds.extend(kinds)
        writer.bodies.extend(bodies)
        writer.events.extend(events)
        self._ring()
        return True

    def _ring(self) -> None:
        writer = self._writer
        if not writer.awake:
            writer.awake = True
            writer.wake.ring()
        if len(writer.events) >= self._limits.batch_events:
            writer.full.ring()

    def _check_room(self, kind: int, queued: int) -> None:
        """Refuse an entry that has no room.

        Called when seven eighths of the queue are taken: the last eighth is for control and membership.
        """
        events, limits = self._queued_position - self.log.head.position, self._limits
        if self._ended:
            self._refuse("closed")
        if events >= limits.queue_events or queued > limits.queue_bytes:
            self._refuse("full")
        if kind >= Class.LOAD and (events >= limits.queue_events * 7 // 8 or queued * 8 > limits.queue_bytes * 7):
            self._refuse("seven eighths full, and the rest is for membership and control")

    def _refuse(self, state: str) -> None:
        self._refused += 1
        stall = self._writer.stall
        because = f"; commits have failed since {stall.since:.0f}: {stall.cause}" if stall else ""
        queued = self._queued_position - self.log.head.position
        raise LogFullError(
            f"the log's queue is {state}: {queued} entries and {self._queued_bytes} bytes wait for the disk{because}"
        )

    async def append(self, event: Event) -> int:
        """Append and wait for the commit; the position.

        Cancelled while it waits, the entry is committed all the same.
        """
        position = self.append_nowait(event)
        await self.wait_committed(position)
        return position

    async def append_many(self, events: Iterable[Event]) -> int:
        """Append events next to each other, not of necessity in one batch; the last position once all are on disk.

        Without events it waits for everything that is queued, and returns the position of the last of that.
        """
        position = self._queued_position
        for event in events:
            position = self.append_nowait(event)
        await self.wait_committed(position)
        return position

    async def wait_committed(self, position: int) -> None:
        """Return when everything up to `position` is on disk."""
        assert position <= self._queued_position, f"position {position} was never queued"
        while self.log.head.position < position:
            if self._ended:
                raise LogFullError(f"the log was closed before position {position} was on disk")
            if self._waiting and self._waiting[-1][0] == position:
                event = self._waiting[-1][1]
            else:
                event = trio.Event()
                at = bisect_left(self._waiting, position, key=lambda waiting: waiting[0])
                self._waiting.insert(at, (position, event))
            await event.wait()

    # --- after a commit ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the writer thread until cancelled or closed; then what is queued is written, for CLOSE_GRACE."""
        self._token = trio.lowlevel.current_trio_token()
        if self.log.store.segment_full or self.log.folded > self._limits.snapshot_cost:
            self._offer_snapshot()
        self._writer.start()
        task_status.started()
        try:
            await self._wait_end()
        finally:
            self._writer.close()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_GRACE):
                await self._wait_end()
            self._writer.abandon()
            with trio.CancelScope(shield=True):
                await self._wait_end()
            self._writer.join()
            self._end()

    def close(self) -> None:
        """Write what is queued and let `run` return."""
        self._writer.close()

    def _end(self) -> None:
        self._ended = True
        self._position_easy = self._queued_position
        for _, event in self._waiting:
            event.set()
        self._waiting.clear()

    def _deliver(self, done: Done | None) -> None:
        """Take what the writer thread has done, or None at its end; called in that thread."""
        self._done.append(done)
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._follow)
        except trio.RunFinishedError:
            self._writer.abandon()  # nobody is left to be told

    def _follow(self) -> None:
        """Follow what was delivered, in the turn of the loop that hears of it: waking a task would take another turn."""
        try:
            while self._done:
                done = self._done.popleft()
                if done is None:
                    self._ended, self._failure = True, self._writer.failure
                else:
                    self._committed(done)
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            self._failure = error
        if self._ended or self._failure is not None:
            self._arrived.set()

    async def _wait_end(self) -> None:
        """Return when the writer has ended; raise what ended it, or what following a commit raised."""
        while True:
            if (failure := self._failure) is not None:
                self._failure = None
                raise failure
            if self._ended:
                return
            self._arrived = trio.Event()
            await self._arrived.wait()

    def _committed(self, done: Done) -> None:
        commit, log = done.commit, self.log
        log.head = LogHead(commit.last, commit.digest, commit.recorded_at)
        self._queued_bytes -= done.body_bytes
        self._position_easy = commit.last + self._limits.queue_events * 7 // 8
        self._commits += 1
        self._durations.append(done.duration)
        self._fold(done)
        if (done.wants_snapshot or self._snapshot_cost >= self._limits.snapshot_cost) and not self._done:
            self._offer_snapshot()
        while self._waiting and self._waiting[0][0] <= commit.last:
            self._waiting.popleft()[1].set()
        self._on_commit(commit)

    def _fold(self, done: Done) -> None:
        projection = self.log.projection
        projection.apply_batch(done.commit.first, done.commit.kinds, done.commit.events)
        for record in done.records:
            projection.totals.count(record.kind, done.commit.recorded_at, record.entries, record.body_bytes)
            self._snapshot_cost += record.entries * (TRAFFIC_COST if record.kind == Class.TRAFFIC else CLUSTER_COST)

    def _offer_snapshot(self) -> None:
        self._snapshot_cost = 0
        self._writer.snapshots.append((self.log.projection.snapshot(), self.log.head.digest))
        self._writer.wake.ring()

    # --- questions --------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many entries wait for the disk."""
        return self._queued_position - self.log.head.position

    def statistics(self) -> AppenderStatistics:
        """How far the log has come, and what its commits cost."""
        stall: Stall | None = self._writer.stall
        durations = sorted(self._durations)
        totals = self.log.projection.totals
        return AppenderStatistics(
            head=self.log.head.position,
            digest=self.log.head.digest,
            queued_events=self._queued_position - self.log.head.position,
            queued_bytes=self._queued_bytes,
            commits=self._commits,
            commit_duration=self._durations[-1] if durations else 0.0,
            commit_duration_p99=durations[len(durations) * 99 // 100] if durations else 0.0,
            checkpoint_duration=self._writer.checkpoint_duration,
            wal_pages=self._writer.wal_pages,
            stalled_since=None if stall is None else stall.since,
            stalled_because="" if stall is None else stall.cause,
            refused_events=self._refused,
            segment=self.log.store.segment_name,
            entries_by_class=dict(totals.entries),
            bytes_today_by_class=dict(totals.bytes_today),
        )
