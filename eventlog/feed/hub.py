"""The control process's end of the feed: one task reads and one writes for each picker's socket.

Rules.
- Each end reads at once when it was idle, and under load with each commit, in the turn that publishes it: waking for
  every message costs three times as much.
- Nobody waits for a picker: what it has not read is its place in the tail, and one that reads nothing for
  WRITE_DEADLINE, or loses its place, is disconnected.
- Where the log's queue is full nothing more is read from that picker; its entries wait in its own buffer.
- A socket that was closed is read to its end before the epoch behind it is ended in the log.
- What warms a picker's prefix index is read in a thread, for one picker at a time, and sent behind all commits.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from pointsman.core.events import Class, Event, PickerEnded
from pointsman.core.feed.control_end import ControlFeed, FeedHealth, LogView
from pointsman.core.feed.frames import HEARTBEAT, Cold, FeedError, Hello
from pointsman.core.feed.tail import Tail, TailBatch
from pointsman.core.state.marks import Mark
from pointsman.core.state.membership import EpochKey
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError
from pointsman.eventlog.feed.picker_connection import PickerConnection
from pointsman.eventlog.feed.warming_pages import read_warming
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.log import Log

PAUSE = 0.030
"""Seconds after which a picker is read though no commit came: three times the log's commit interval."""
HELLO_DEADLINE = 5.0
"""Seconds for a new connection to say Hello: what connects and says nothing is no picker."""
LOOK_BACK = 100_000
"""Entries before the head that are searched for ends of epochs.

The last control process may have recorded an end and died before it told the supervisor, which then reports it again.
"""
DRAIN_DEADLINE = 5.0
"""Seconds to read what a dead picker's socket still holds: milliseconds are enough, unless the log is stuck."""

SOCKET_PATH_BYTES_MAX = 107
"""Bytes that the path of a Unix socket may have on Linux, less the zero at its end."""

_logger = logging.getLogger("pointsman.feed")

Append = Callable[[int, bytes, Event | Mark], object]
"""Queues an event, encoded and skimmed, for the log; `LogFullError` where there is no room."""
AppendRun = Callable[[Sequence[int], Sequence[bytes], Sequence[Event | Mark]], bool]
"""Queues events that follow each other; False where there is no room for all, and then none is queued."""


class FeedStatistics(msgspec.Struct, frozen=True):
    """The state of the feed, as the control process sees it."""

    connected: int
    open_epochs: int
    backlog: int
    """Entries that wait for room in the log's queue."""
    entries_lost: int
    """Entries told as lost since this control process started."""
    connections: int
    disconnected: int
    """Connections that the control process closed, for garbage or for not reading."""


class FeedHub:
    """What the control process does with its pickers."""

    def __init__(
        self,
        log: LogView,
        tail: Tail,
        append: Append,
        append_run: AppendRun,
        digest_at: Callable[[int], bytes | None],
        *,
        queued: Callable[[], int],
        ended_among: Callable[[Collection[EpochKey]], Collection[EpochKey]] = lambda keys: keys,
        read_warming: Callable[[EpochKey, Cold], bytes] | None = None,
    ) -> None:
        self.feed = ControlFeed(log, tail, warms=read_warming is not None)
        self._log = log
        self._append = append
        self._append_run = append_run
        self._digest_at = digest_at
        self._queued = queued
        self._ended_among = ended_among
        self._read_warming = read_warming
        self._one_reader = trio.CapacityLimiter(1)
        self._connections: dict[EpochKey, PickerConnection] = {}
        self._changed = trio.Event()
        self._progress_at: float | None = None
        self._scraped_at: float | None = None
        self._health_due = 0.0
        self._accepted = self._disconnected = 0

    @classmethod
    def over(cls, log: Log, appender: Appender) -> "FeedHub":
        """The feed of an open log; the appender's `on_commit` has to call `publish`."""
        return cls(
            log=log,
            tail=Tail(log.head.position, log.head.digest),
            append=appender.append_skimmed_nowait,
            append_run=appender.append_run_nowait,
            digest_at=partial(_digest_at, log.directory),
            queued=lambda: appender.queued,
            ended_among=partial(_ended_among, log.directory),
            read_warming=partial(read_warming, log.directory),
        )

    # --- what the control process tells -----------------------------------------------------------

    def publish(self, commit: TailBatch) -> None:
        """Take the next commit, from the appender's `on_commit`."""
        now = self._progress_at = trio.current_time()
        self.feed.publish(commit)
        self._empty_backlogs()
        for connection in self._connections.values():
            if connection.end.fell_out:
                connection.drop(f"it has read up to position {connection.end.position}, the head is {commit.last}")
        self._push(now)
        for key, connection in self._connections.items():
            if connection.paused and not self._read_now(connection, key, now):
                connection.resume()

    def advise(self, numbers: Collection[int]) -> None:
        """Have pickers avoid endpoints that left or are not ready, before the entry that says so is committed."""
        self.feed.advise(numbers)
        self._push(trio.current_time())

    def withdraw(self, numbers: Collection[int]) -> None:
        """Take the advice about these endpoints back."""
        self.feed.withdraw(numbers)
        self._push(trio.current_time())

    def scraped(self, now: float) -> None:
        """Note that some scrape had a result at `now`, which is Trio's time."""
        self._scraped_at = now

    def picker_ended(self, picker: str, epoch: int, cause: str, last_n: int) -> None:
        """End the epoch of a picker process that is gone in the log; call it when `drained` has returned.

        `last_n` is from the page it shared with the supervisor; 0 where that is unknown.
        """
        key = (picker, epoch)
        if (connection := self._connections.get(key)) is not None:
            connection.drop("its epoch has ended")
        self.feed.end_epoch(key, cause, last_n)
        self._empty_backlogs()

    def end_unreported(self, alive: Collection[EpochKey], last_n: Mapping[EpochKey, int]) -> list[EpochKey]:
        """End every open epoch that is not among those which the supervisor reports alive; return the ones ended.

        `last_n` has the number of the last decision of each life that ended lately.  Such a life may have begun and
        ended without a commit in between, so that the log knows nothing of an epoch in which requests were answered.
        """
        gone = [key for key in self.feed.open_epochs() if key not in alive and key not in self._connections]
        unheard = [key for key, n in last_n.items() if n and key not in alive and key not in self.feed.ledgers]
        if unheard:
            ended = self._ended_among(unheard)
            gone += [key for key in unheard if key not in ended]
        for key in gone:
            self.picker_ended(*key, "gone when the control process started", last_n.get(key, 0))
        return gone

    async def drained(self, picker: str, epoch: int, within: float = DRAIN_DEADLINE) -> bool:
        """Wait until all that a dead picker's socket held is in the log's queue; False where `within` was too short."""
        key = (picker, epoch)
        with trio.move_on_after(within):
            while key in self._connections or self._has_backlog(key):
                await self._changed.wait()
            return True
        return False

    def statistics(self) -> FeedStatistics:
        """The state of the feed."""
        ledgers = self.feed.ledgers.values()
        return FeedStatistics(
            connected=len(self._connections),
            open_epochs=len(self.feed.open_epochs()),
            backlog=sum(len(ledger.backlog) for ledger in ledgers),
            entries_lost=sum(ledger.lost for ledger in ledgers),
            connections=self._accepted,
            disconnected=self._disconnected,
        )

    # --- inside -------------------------------------------------------------------------------------

    def _has_backlog(self, key: EpochKey) -> bool:
        ledger = self.feed.ledgers.get(key)
        return ledger is not None and bool(ledger.backlog)

    def _empty_backlogs(self) -> None:
        for key, ledger in self.feed.ledgers.items():
            if ledger.backlog and self._empty(key):
                if (connection := self._connections.get(key)) is not None:
                    connection.room.set()
                self._note()

    def _empty(self, key: EpochKey) -> bool:
        """Move an epoch's backlog into the log's queue; whether all of it found room."""
        backlog = self.feed.ledgers[key].backlog
        if not backlog:
            return True
        kinds, bodies, events = zip(*backlog, strict=True)
        if self._append_run(kinds, bodies, events):
            backlog.clear()
            return True
        try:
            while backlog:
                self._append(*backlog[0])
                backlog.popleft()
        except LogFullError:
            return False
        return True

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _push(self, now: float) -> None:
        self._refresh_health(now)
        for connection in self._connections.values():
            connection.push(now)

    def _refresh_health(self, now: float) -> None:
        if now < self._health_due:
            return
        self._health_due = now + HEARTBEAT / 2
        if self._progress_at is None or self._queued() == 0:
            self._progress_at = now
        state = self._log.state
        if not state.endpoints:
            self._scraped_at = None
        elif self._scraped_at is None:
            self._scraped_at = now  # the first endpoint is about to be scraped
        age = None if self._scraped_at is None else max(0.0, now - self._scraped_at)
        self.feed.health = FeedHealth(now - self._progress_at, age, state.interval)

    # --- one connection -----------------------------------------------------------------------------

    async def serve(self, stream: trio.SocketStream) -> None:
        """Speak with one picker until either side has enough."""
        connection = PickerConnection(self.feed, socket.socket(fileno=stream.socket.detach()))
        self._accepted += 1
        try:
            hello = await self._read_hello(connection)
            if hello is not None and await self._welcome(connection, hello):
                await self._serve_picker(connection, (hello.picker, hello.epoch))
        except FeedError as error:
            connection.drop(error)
        finally:
            if connection.dropped:
                self._disconnected += 1
                _logger.warning("feed connection closed: %s", connection.dropped)
            connection.close()

    async def _read_hello(self, connection: PickerConnection) -> Hello | None:
        with trio.move_on_after(HELLO_DEADLINE):
            while data := await connection.read_some():
                if (hello := connection.end.receive(data)) is not None:
                    return hello
            return None
        raise FeedError(f"no Hello came in {HELLO_DEADLINE:.0f} s")

    async def _welcome(self, connection: PickerConnection, hello: Hello) -> bool:
        """Answer a Hello; False where the picker is not taken."""
        tail = self.feed.tail
        digest = tail.digest_at(hello.position)
        if digest is None and 0 < hello.position <= tail.head:
            digest = await trio.to_thread.run_sync(self._digest_at, hello.position)
        connection.end.welcome(hello, digest)
        if connection.end.refused is None:
            return True
        connection.push(trio.current_time())
        connection.drop(f"{hello.picker} is refused: {connection.end.refused}")
        return False

    async def _serve_picker(self, connection: PickerConnection, key: EpochKey) -> None:
        if (former := self._connections.get(key)) is not None:
            former.drop("it was connected anew")  # the new connection sends again what the former did not bring
        self._connections[key] = connection
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, connection)
                    nursery.start_soon(self._warm, connection, key)
                    await self._read(connection, key)
                    nursery.cancel_scope.cancel()
        finally:
            if self._connections.get(key) is connection:
                del self._connections[key]
            self._empty(key)
            self._note()

    async def _read(self, connection: PickerConnection, key: EpochKey) -> None:
        while data := await connection.read_some():
            self._receive(connection, data)
            if self._empty(key):
                await connection.pause(trio.current_time() + PAUSE)
            while not self._empty(key):
                connection.room = trio.Event()
                await connection.room.wait()  # ends with the next commit; the picker's own buffer is bounded

    def _read_now(self, connection: PickerConnection, key: EpochKey, now: float) -> bool:
        """Read what has come since the last commit; False where the connection's own task has to go on with it."""
        data = connection.read_nowait()
        if not data:
            return False
        self._receive(connection, data)
        connection.extend_pause(now + PAUSE)
        return self._empty(key)

    def _receive(self, connection: PickerConnection, data: bytes) -> None:
        try:
            connection.end.receive(data)
        except FeedError as error:
            connection.drop(error)
        if connection.end.cold is not None:
            connection.asked.set()

    async def _warm(self, connection: PickerConnection, key: EpochKey) -> None:
        """Send what warms the picker's index, a piece at a time: it asks for the next when it has taken one in."""
        while self._read_warming is not None:
            await connection.asked.wait()
            connection.asked = trio.Event()
            cold, connection.end.cold = connection.end.cold, None
            if cold is not None:
                read = partial(self._read_warming, key, cold)
                piece = await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._one_reader)
                connection.end.warm(piece)
                connection.push(trio.current_time())

    async def _write(self, connection: PickerConnection) -> None:
        while True:
            now = trio.current_time()
            self._refresh_health(now)
            connection.push(now)
            await connection.wait_due()


async def serve_feed(hub: FeedHub, listener: trio.SocketListener) -> None:
    """Accept pickers until cancelled."""
    await trio.serve_listeners(hub.serve, [listener])


def listen_at(path: Path) -> trio.SocketListener:
    """Bind the feed's socket, for this user only; call it with the log's lock held, as it replaces any socket there."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise OSError(
            errno.ENAMETOOLONG,
            f"the path of the feed's socket has {length} bytes, wanted at most {SOCKET_PATH_BYTES_MAX}",
            str(path),
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen(128)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(mask)


def _ended_among(directory: Path, keys: Collection[EpochKey]) -> set[EpochKey]:
    """The epochs among `keys` whose end is among the last LOOK_BACK entries of the log."""
    with open_reader(directory) as reader:
        first = max(reader.first(), reader.head().position - LOOK_BACK)
        ends = [entry.event for entry in reader.entries(first, None, (Class.CONTROL,))]
    return {(e.picker, e.epoch) for e in ends if isinstance(e, PickerEnded) and (e.picker, e.epoch) in keys}


def _digest_at(directory: Path, position: int) -> bytes | None:
    with open_reader(directory) as reader:
        return reader.digest_at(position)
