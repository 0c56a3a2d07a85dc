"""The picker process's end of the feed.

Rules.
- The decisions of one turn of the loop go out in one send, when the turn ends and its owner says `flush`; outcomes go
  with the next send, within OUTCOME_DELAY.  `n` is in the page shared with the supervisor before anything is sent or answered.
- Nobody waits for the control process.  What its socket does not take stays in the buffer, whose bound is the feed's.
- Everything runs in turns of the loop, on the plain socket: what arrives is applied where it is read.
  What warms the prefix index is taken in beside the work, for a third of the time at most.
"""

import asyncio
import logging
import mmap
import os
import random
import socket
import time
from contextlib import suppress
from pathlib import Path

from pointsman.core.events import Origin, PickerEvent
from pointsman.core.feed.buffer import BUFFER_BYTES_MAX
from pointsman.core.feed.frames import EpochRefusedError, FeedError
from pointsman.core.feed.picker_end import PickerEnd, PickerFeedStatistics, PickerIdentity
from pointsman.core.processes.last_page import PAGE_BYTES, begin_page, put_down, take_in_hand, write_last_n, write_turns
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import TrafficState

OUTCOME_DELAY = 0.005
TICK = 0.1
"""Five of them in the silence that makes a feed lost."""
BACK_OFF_MIN, BACK_OFF_MAX = 0.010, 0.250
"""A control process that restarts is found a quarter of a second after it listens, at the latest."""
STEADY = 1.0
"""A connection that held so long is tried again at once."""
WARM_PAUSE = 0.001
"""Seconds between two steps of warming, or twice what the last step took where that is longer: requests come first."""
READ_BYTES = 256 << 10
"""Bytes of one read: more than a Unix socket holds."""

_logger = logging.getLogger("pointsman.feed")


class PickerFeed:
    """The feed of this process: made within its loop; `run` connects, and connects again, until it is cancelled."""

    def __init__(
        self,
        path: Path,
        me: PickerIdentity,
        traffic: TrafficState,
        *,
        page: Path | None = None,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        self.traffic = traffic
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._end = PickerEnd(me, traffic, buffer_bytes_max)
        self._state, self._buffer = self._end.state, self._end.buffer
        self._page = None if page is None else _map_page(page, me.epoch)
        self._socket: socket.socket | None = None
        self._pending = memoryview(b"")
        """Bytes that the socket has not taken yet of the last ones that the end gave out."""
        self._writing = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._fed = asyncio.Event()
        self._settled = asyncio.Event()
        self._flush_later: asyncio.TimerHandle | None = None
        self._warm_later: asyncio.TimerHandle | None = None
        self._note_last_n()

    # --- what the process asks and tells ----------------------------------------------------------

    @property
    def cluster(self) -> ClusterState | None:
        """The cluster state at the last commit that came; None before the first, when nothing may be accepted."""
        return self._state.cluster

    @property
    def degraded(self) -> bool:
        """The feed is lost; decisions go on and say so."""
        return self._end.degraded

    def origin(self) -> Origin:
        """Who writes the next entry, and on which state; it has to be recorded at once."""
        me, cluster = self._end.me, self._state.cluster
        return Origin(me.picker, me.epoch, self._buffer.last_n + 1, 0 if cluster is None else cluster.position)

    def record(self, event: PickerEvent) -> None:
        """Give out the `n` that `origin` told; the entry goes out with the next `flush`, or soon."""
        self._buffer.record(event)
        if self._page is not None:
            write_last_n(self._page, self._buffer.last_n)
        if self._flush_later is None:
            # Left to fire where a decision takes the outcomes along: cheaper than one timer for each.
            self._flush_later = self._loop.call_later(OUTCOME_DELAY, self._flush_outcomes)

    def take_in_hand(self, request_id: str, path: str, body_bytes: int) -> None:
        """Tell the supervisor which request is begun to be read, in case that it never ends."""
        if self._page is not None:
            take_in_hand(self._page, f"{request_id[:100]!r}, {path[:60]!r}, {body_bytes} bytes")

    def put_down(self) -> None:
        """It was read."""
        if self._page is not None:
            put_down(self._page)

    def flush(self) -> None:
        """Hand what was recorded to the socket."""
        if self._socket is not None and not self._writing:
            self._send(self._socket)

    async def wait_fed(self) -> None:
        """Return once there is a cluster state."""
        await self._fed.wait()

    async def wait_settled(self, within: float) -> bool:
        """Wait until the log has everything that was recorded; whether that came within so many seconds."""
        self.flush()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while len(self._buffer):
                    self._settled.clear()
                    await self._settled.wait()
                return True
        return False

    def statistics(self) -> PickerFeedStatistics:
        """How the feed is."""
        return self._end.statistics()

    # --- the connection -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the feed connected until cancelled; `EpochRefusedError` where this process has to be replaced."""
        ticking = self._loop.create_task(self._tick())
        failures = 0
        try:
            while True:
                began = time.monotonic()
                if self._connect():
                    await asyncio.wait((self._closed, ticking), return_when=asyncio.FIRST_COMPLETED)
                    if self._closed.done():
                        self._closed.result()
                if ticking.done():
                    ticking.result()
                failures = 0 if time.monotonic() - began >= STEADY else failures + 1
                if failures:
                    longest = min(BACK_OFF_MAX, BACK_OFF_MIN * 2 ** min(failures, 10))
                    await asyncio.sleep(longest * random.uniform(0.5, 1.0))
        finally:
            ticking.cancel()
            if self._warm_later is not None:
                self._warm_later.cancel()
            self._let_go()  # an end of our own is no loss of the feed, and no entry could tell of it
            if self._page is not None:
                self._page.release()
                self._page = None

    def _connect(self) -> bool:
        self._closed = self._loop.create_future()
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connecting.connect(str(self._path))  # a Unix socket is connected at once or not at all
        except OSError:
            connecting.close()
            return False
        self._socket = connecting
        self._end.connected(time.monotonic())
        self._loop.add_reader(connecting, self._readable, connecting)
        self._send(connecting)
        return True

    def _let_go(self) -> bool:
        """Close the socket; False where there is none."""
        if self._socket is None:
            return False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._socket = None
        self._writing = False
        self._pending = memoryview(b"")
        return True

    def _disconnect(self, error: Exception | None = None) -> None:
        if not self._let_go():
            return
        self._end.disconnected(time.monotonic(), time.time())
        self._note_last_n()
        if error is None:
            self._closed.set_result(None)
        elif isinstance(error, OSError) or (isinstance(error, FeedError) and not isinstance(error, EpochRefusedError)):
            _logger.warning("feed connection closed: %s", error)
            self._closed.set_result(None)
        else:
            self._closed.set_exception(error)

    async def _tick(self) -> None:
        turns = 0
        while True:
            turns += 1
            if self._page is not None:
                write_turns(self._page, turns)
            await asyncio.sleep(TICK)
            self._end.tick(time.monotonic(), time.time())
            self._after_end()

    def _after_end(self) -> None:
        """The end may have recorded something by itself."""
        self._note_last_n()
        self.flush()

    def _readable(self, connected: socket.socket) -> None:
        try:
            data = connected.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._disconnect(error)
            return
        if not data:
            self._disconnect()
            return
        try:
            self._end.receive(data, time.monotonic(), time.time())
        except Exception as error:  # noqa: BLE001  raised again by `run`
            self._disconnect(error)
            return
        if self._end.cluster is not None and not self._fed.is_set():
            self._fed.set()
        if not len(self._buffer):
            self._settled.set()
        if self._warm_later is None and self._end.warmer.pending:
            self._warm_later = self._loop.call_later(WARM_PAUSE, self._warm)
        self._after_end()

    def _warm(self) -> None:
        began = time.monotonic()
        self._end.warm()
        took = time.monotonic() - began
        self._warm_later = None
        warmer = self._end.warmer
        if warmer.pending:
            self._warm_later = self._loop.call_later(max(WARM_PAUSE, 2 * took), self._warm)
        elif warmer.wanting:
            self.flush()  # it asks for more
        else:
            _logger.info("the prefix index has %d blocks of %d decisions before", warmer.blocks, warmer.decisions)

    def _flush_outcomes(self) -> None:
        self._flush_later = None
        self.flush()

    def _send(self, connected: socket.socket) -> None:
        try:
            while self._pending or self._next():
                sent = connected.send(self._pending)
                self._pending = self._pending[sent:]
        except (BlockingIOError, InterruptedError):
            self._writing = True
            self._loop.add_writer(connected, self._writable, connected)
        except OSError:
            return  # what the other end said before it went is still to be read, and then its end

    def _next(self) -> bool:
        data = self._end.data_to_send()
        self._pending = memoryview(data)
        return bool(data)

    def _writable(self, connected: socket.socket) -> None:
        self._writing = False
        self._loop.remove_writer(connected)
        self._send(connected)

    def _note_last_n(self) -> None:
        if self._page is not None:
            write_last_n(self._page, self._buffer.last_n)


def _map_page(path: Path, epoch: int) -> memoryview:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, PAGE_BYTES)
        page = memoryview(mmap.mmap(descriptor, PAGE_BYTES))
    finally:
        os.close(descriptor)
    begin_page(page, epoch)
    return page
