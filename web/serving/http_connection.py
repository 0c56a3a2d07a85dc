"""One connection of an HTTP port: hypercorn's HTTP/1.1 over a Trio stream, with an end for whatever the client owes.

Rules.  A client owes its request, then the rest of it, then the reading of the answer; for each it has a time, and
crumbs gain it none.  While it owes nothing, as while a page is made or an event stream is quiet, nothing presses.
"""

import math
from contextlib import suppress

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from pointsman.web.serving.http_limits import HttpLimits

RECEIVED_MAX = 2**16
"""Bytes read at a time."""


class Http11(H11Protocol):
    """hypercorn's HTTP/1.1 without its ways into HTTP/2, which nobody takes without TLS and which have no time limits."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Take every request for one of HTTP/1.1."""


class HttpConnection:
    """One client."""

    def __init__(self, stream: trio.SocketStream, limits: HttpLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._deadline = math.inf
        self._protocol: Http11 | None = None
        self.quiet = True
        """Whether nothing of a request has come since the last one was answered."""
        self.writing_since: float | None = None
        """Time since when the kernel takes no more of an answer; None while it does."""
        self.owing_since: float | None = None
        """Time since when the rest of a request is owed, or a whole one; None while a request is being answered."""
        self._owe(limits.idle)

    def _owe(self, seconds: float) -> None:
        """From now on the client has so many seconds; infinitely many where it owes nothing."""
        now = trio.current_time()
        self.owing_since = None if seconds == math.inf else now
        self._deadline = self._reading.deadline = now + seconds

    async def run(self, app: AppWrapper, config: Config, context: WorkerContext) -> None:
        """Serve it to its end."""
        found = self._stream.socket
        try:
            client = parse_socket_addr(found.family, found.getpeername())
            server = parse_socket_addr(found.family, found.getsockname())
            async with TaskGroup() as tasks:
                self._protocol = Http11(
                    app, config, context, tasks, ConnectionState({}), False, client, server, self._take
                )
                await self._protocol.initiate()
                await self._read(self._protocol)
        except OSError:
            pass  # it is gone
        finally:
            self.close()

    async def _read(self, protocol: Http11) -> None:
        while True:
            data = b""
            with trio.CancelScope(deadline=self._deadline) as self._reading:
                try:
                    data = bytes(await self._stream.receive_some(RECEIVED_MAX))
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
            if self._reading.cancelled_caught:
                self.close()  # what it owed did not come
                break
            if self.quiet and data:
                self.quiet = False
                self._owe(self._limits.headers)
            await protocol.handle(RawData(data))
            if not self.quiet and self.owing_since and protocol.connection.their_state in (h11.DONE, h11.MUST_CLOSE):
                self._owe(math.inf)
            if not data:
                break
        await protocol.handle(Closed())

    async def _take(self, event: Event) -> None:
        """Do what the protocol wants done."""
        assert self._protocol is not None, "it is the protocol that calls"
        if isinstance(event, RawData):
            async with self._sending:
                gone = not await self._write(event.data)
            if gone:
                await self._protocol.handle(Closed())
        elif isinstance(event, Closed):
            self.close()
            await self._protocol.handle(Closed())
        elif isinstance(event, Updated):
            self.quiet = event.idle
            self._owe(self._limits.idle if event.idle else self._limits.body)

    async def _write(self, data: bytes) -> bool:
        """Write, and say whether the kernel took it in time."""
        self.writing_since = trio.current_time()
        # Quart cancels the task in which this runs as soon as an answer is complete, so the deadline is what ends it.
        with trio.CancelScope(deadline=self.writing_since + self._limits.write, shield=True) as scope:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        if scope.cancelled_caught:
            self.close()
            return False
        self.writing_since = None
        return True

    def close(self) -> None:
        """Close at once, even with data unread; tasks that wait for this connection are woken.

        There is no checkpoint in it: Quart may be about to cancel the task that closes.
        """
        with suppress(OSError):
            self._stream.socket.shutdown(trio.socket.SHUT_WR)
        self._stream.socket.close()
