"""One picker's socket in the control process.

It is read and written without Trio's streams, so that a commit goes out within `push`, where it is published:
waking a task for it costs more than all else that the feed does with a commit.
"""

import socket

import trio

from pointsman.core.feed.control_end import ControlEnd, ControlFeed
from pointsman.core.feed.frames import HEARTBEAT, FeedError

READ_BYTES = 256 << 10
"""Bytes of one read: more than a Unix socket holds."""
WRITE_DEADLINE = 5.0
"""Seconds after which a picker process that reads nothing is taken to hang; it gets a snapshot when it is back."""


class PickerConnection:
    """A picker's socket, and the control process's end of what is said over it."""

    def __init__(self, feed: ControlFeed, plain: socket.socket) -> None:
        plain.setblocking(False)
        self.end = ControlEnd(feed)
        self.room = trio.Event()
        """Event that is set, and replaced by a new one, when the log's queue has room again."""
        self.asked = trio.Event()
        """Event that is set, and replaced by a new one, when the picker has asked for what warms its index."""
        self.scope = trio.CancelScope()
        self.dropped = ""
        """Reason for which the control process closes it; empty where it does not."""
        self._socket = plain
        self._pending = memoryview(b"")
        """Bytes that the socket has not taken yet."""
        self._stuck = False
        self._wake = trio.Event()
        self._pause: trio.CancelScope | None = None

    def drop(self, reason: object) -> None:
        """Close it; the picker comes back and says what it has."""
        self.dropped = self.dropped or str(reason)
        self.scope.cancel()

    def close(self) -> None:
        """Close the socket; call it when no task reads or writes it any more."""
        self._socket.close()

    async def read_some(self) -> bytes:
        """Wait until the socket holds something and return it; nothing at its end."""
        while True:
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError:
                return b""  # the other end is gone, and everything it sent has been read

    def read_nowait(self) -> bytes | None:
        """What the socket holds; None where it holds nothing, or is at its end."""
        try:
            return self._socket.recv(READ_BYTES) or None
        except OSError:
            return None

    async def pause(self, until: float) -> None:
        """Leave reading to the commits, until one of them finds nothing to read or the time is `until`."""
        with trio.CancelScope(deadline=until) as self._pause:
            await trio.sleep_forever()
        self._pause = None

    @property
    def paused(self) -> bool:
        """Whether the connection's own task has left reading to the commits."""
        return self._pause is not None and not self._pause.cancel_called

    def extend_pause(self, until: float) -> None:
        """Let the pause last until `until`, because there was something to read."""
        if self._pause is not None:
            self._pause.deadline = until

    def resume(self) -> None:
        """Have the connection's own task read again, because there was nothing to read, or no room for it."""
        if self._pause is not None:
            self._pause.cancel()

    def push(self, now: float) -> None:
        """Hand the socket what there is to say, as much as it takes without waiting."""
        if self._stuck:
            return
        try:
            while self._pending or self._next(now):
                self._pending = self._pending[self._socket.send(self._pending) :]
        except BlockingIOError:
            self._stuck = True
            self._wake.set()
        except OSError:
            return  # what the picker sent before it died is still to be read
        except FeedError as error:
            self.drop(error)

    def _next(self, now: float) -> bool:
        self._pending = memoryview(self.end.data_to_send(now))
        return bool(self._pending)

    async def wait_due(self) -> None:
        """Wait until there is a heartbeat to push, or room for what the socket did not take."""
        if not self._stuck:
            with trio.move_on_after(HEARTBEAT):
                self._wake = trio.Event()
                await self._wake.wait()
        if self._stuck:
            with trio.move_on_after(WRITE_DEADLINE) as waiting:
                await trio.lowlevel.wait_writable(self._socket)
            if waiting.cancelled_caught:
                self.drop(f"it has read nothing for {WRITE_DEADLINE:.0f} s")
            self._stuck = False
