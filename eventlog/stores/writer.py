"""The writer thread: takes what is queued, commits it in batches, checkpoints, and tells what it did.

Rules.  The thread owns the store; the Trio thread only appends to the pending columns and `snapshots`, and rings.
A batch that the disk refuses stays held and is tried again, later and later, until it is written
or the log is closed; nothing behind it overtakes it.
"""

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate

import msgspec

from pointsman.core.events import Event
from pointsman.core.state.marks import Mark
from pointsman.eventlog.chain import ClassRecord
from pointsman.eventlog.errors import StoreMovedError, StoreRefusedError
from pointsman.eventlog.stores.snapshots import LogSnapshot
from pointsman.eventlog.stores.writing import Commit, LogStore, Prepared, StoreLimits

RETRY_FIRST = 0.05
RETRY_MAX = 2.0
"""Seconds between attempts: soon after a hiccup, and no load on a disk that stays full."""

SNAPSHOT_WAIT = 0.05
"""Seconds that a full segment waits for a snapshot of its end before it takes another batch."""


class Done(msgspec.Struct, frozen=True):
    """A commit as it is handed to the Trio thread."""

    commit: Commit
    records: list[ClassRecord]
    body_bytes: int
    duration: float
    wants_snapshot: bool


class Stall(msgspec.Struct, frozen=True):
    """The disk refuses."""

    since: float
    """Wall time of the first refusal."""
    cause: str
    attempts: int


class Bell:
    """Wakes one thread that waits; `threading.Event` takes a lock and a list for each wait, a hundred times a second."""

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        """End the wait, or the next one."""
        if self._silent.locked():
            with suppress(RuntimeError):  # another thread has just rung it
                self._silent.release()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it rings, so long at most."""
        self._silent.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    def hush(self) -> None:
        """Forget that it rang."""
        self._silent.acquire(blocking=False)


class Writer:
    """Runs in a thread of its own; `deliver` is called there for each commit, and with None at the end."""

    def __init__(self, store: LogStore, limits: StoreLimits, deliver: Callable[[Done | None], None]) -> None:
        self.kinds: list[int] = []
        self.bodies: list[bytes] = []
        self.events: list[Event | Mark] = []
        """The entries that wait, by column; added to in this order, so that as many are whole as there are events."""
        self.snapshots: deque[tuple[LogSnapshot, bytes]] = deque()
        """Snapshots to write, each with the chain's digest at its position."""
        self.wake = Bell()
        """Rung after each addition to `snapshots`, and to the pending columns where `awake` is not set."""
        self.awake = False
        """Whether the thread will look at the pending columns without being woken; cleared only here."""
        self.full = Bell()
        """Rung when a whole batch is pending: no need to wait for more."""
        self.stall: Stall | None = None
        self.failure: BaseException | None = None
        """Exception that ended the thread, where nobody had closed it."""
        self.checkpoint_duration = 0.0
        self.wal_pages = 0
        """Pages in the WAL at the last checkpoint; it grows while a reader stays in one transaction."""
        self._store = store
        self._limits = limits
        self._deliver = deliver
        self._held: tuple[Prepared, list[Event | Mark]] | None = None
        self._closing = threading.Event()
        self._abandoned = False
        self._last_start = 0.0
        self._next_checkpoint = float("inf")
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, then end; `deliver(None)` is the end."""
        self._closing.set()
        self.wake.ring()
        self.full.ring()

    def abandon(self) -> None:
        """End without writing what the disk refuses."""
        self._abandoned = True
        self.close()

    def join(self) -> None:
        """Wait for the thread, after its end was delivered."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while not (self._closing.is_set() and not self.events and self._held is None) and not self._abandoned:
                self._turn()
            self._store.disconnect()
        except BaseException as error:  # noqa: BLE001 - the Trio thread raises it
            self.failure = error
        finally:
            self._deliver(None)

    def _turn(self) -> None:
        if self._held is None:
            self._wait()
        try:
            self._store.finish_step()
            self._write_snapshots()
            if self._held is None and self.events:
                self._take()
            if self._held is not None:
                self._commit()
            if time.monotonic() >= self._next_checkpoint:
                self._checkpoint()
            self.stall = None
        except (StoreRefusedError, StoreMovedError, OSError) as error:
            self._back_off(error)

    def _wait(self) -> None:
        """Until there is something to do, and no sooner than a batch interval after the last commit began."""
        pause = self._last_start + self._limits.batch_interval - time.monotonic()
        if pause > 0 and not self._closing.is_set():
            self.full.hush()
            if len(self.events) < self._limits.batch_events:
                self.full.wait(pause)
        if not self.events:
            self._wait_work()
        if self._store.segment_full:
            self._wait_snapshot()

    def _wait_work(self) -> None:
        self.wake.hush()
        self.awake = False
        if not self.events and not self.snapshots and not self._closing.is_set():
            until = self._next_checkpoint - time.monotonic()
            self.wake.wait(None if until == float("inf") else max(until, 0.0))
        self.awake = True

    def _wait_snapshot(self) -> None:
        deadline = time.monotonic() + SNAPSHOT_WAIT
        head = self._store.head.position
        while time.monotonic() < deadline and not self._closing.is_set():
            self.wake.hush()
            if self.snapshots and self.snapshots[-1][0].cluster.position == head:
                return
            self.wake.wait(0.002)

    def _take(self) -> None:
        count, most = min(len(self.events), self._limits.batch_events), self._limits.batch_bytes
        bodies = self.bodies[:count]
        if sum(map(len, bodies)) > most:
            count = max(bisect_right(list(accumulate(map(len, bodies))), most), 1)
            bodies = bodies[:count]
        kinds, events = self.kinds[:count], self.events[:count]
        # What is added meanwhile is added behind.
        del self.kinds[:count], self.bodies[:count], self.events[:count]
        self._held = (self._store.prepare(kinds, bodies), events)

    def _commit(self) -> None:
        assert self._held is not None
        prepared, events = self._held
        self._last_start = start = time.monotonic()
        self._store.write(prepared)
        now = time.monotonic()
        self._held = None
        if self._next_checkpoint == float("inf"):
            self._next_checkpoint = now + self._limits.checkpoint_interval
        records, full = prepared.batch.records, self._store.segment_full
        self._deliver(Done(prepared.commit(events), records, prepared.body_bytes, now - start, full))

    def _write_snapshots(self) -> None:
        while self.snapshots:
            snapshot, chain_digest = self.snapshots[0]
            if self._store.segment_full and snapshot.cluster.position == self._store.head.position:
                self._store.begin_segment(snapshot)
            else:
                self._store.add_snapshot(snapshot, chain_digest)
            self.snapshots.popleft()

    def _checkpoint(self) -> None:
        start = time.monotonic()
        self._next_checkpoint = start + self._limits.checkpoint_interval
        pages, moved = self._store.checkpoint()
        self.checkpoint_duration, self.wal_pages = time.monotonic() - start, pages
        if pages == moved:
            self._next_checkpoint = float("inf")

    def _back_off(self, error: Exception) -> None:
        attempts = 1 if self.stall is None else self.stall.attempts + 1
        since = time.time() if self.stall is None else self.stall.since
        self.stall = Stall(since, str(error), attempts)
        pause = min(RETRY_FIRST * 2 ** (attempts - 1), RETRY_MAX)
        if self._closing.is_set():
            time.sleep(min(pause, RETRY_FIRST))
        else:
            self._closing.wait(pause)
