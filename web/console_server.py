"""The console's server, on loopback only.

Rules.  A browser that does not read holds nothing up: a write that the kernel does not take within WRITE_WITHIN ends
its connection, and when the server ends, connections are closed whether or not their readers have read.
"""

import socket
from contextlib import suppress
from typing import cast

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import wrap_app
from quart_trio import QuartTrio

from pointsman.web.loopback import check_loopback
from pointsman.web.stream import Broadcast

WRITE_WITHIN = 10.0
"""Seconds for the kernel to take a write: a browser that works reads all the time."""
IDLE = 30.0
"""Seconds that a connection without a request is kept."""
GRACE = 1.0
"""Seconds that requests under way have when the server ends."""
CONNECTIONS_MAX = 400
"""Connections that may be open: those of all event streams (STREAMS_MAX), and pages beside them."""
HEADER_BYTES_MAX = 32 * 1024


class _Patient:
    """A connection whose writes have a deadline; it has only those methods of a Trio stream that hypercorn uses."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket

    async def send_all(self, data: bytes) -> None:
        # hypercorn shields this call from cancellation, so the deadline is what ends it.
        with trio.move_on_after(WRITE_WITHIN) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            self.close()
            raise trio.BrokenResourceError(f"nothing was read for {WRITE_WITHIN:.0f} s")

    async def receive_some(self, max_bytes: int) -> bytes:
        return await self._stream.receive_some(max_bytes)

    # hypercorn closes in a task that Quart is about to cancel: a checkpoint here would leave the connection open.

    async def send_eof(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(trio.socket.SHUT_WR)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Close at once, even with data unread; tasks that wait for this connection are woken."""
        self.socket.close()


class _Connections:
    """The connections that are open."""

    def __init__(self, app: QuartTrio) -> None:
        self.config = Config()
        self.config.accesslog = self.config.errorlog = None
        self.config.include_server_header = False
        self.config.keep_alive_timeout = IDLE
        self.config.h11_max_incomplete_size = HEADER_BYTES_MAX
        self.context = WorkerContext(None)
        self.open: set[_Patient] = set()
        self.none_left = trio.Event()
        self._app = wrap_app(cast(ASGIFramework, app), 0, "asgi")  # Quart spells the protocol's types its own way

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        if len(self.open) >= CONNECTIONS_MAX:
            await trio.aclose_forcefully(stream)
            return
        patient = _Patient(stream)
        self.open.add(patient)
        try:
            # TCPServer wants an SSLStream or a SocketStream and uses what _Patient has.
            server = TCPServer(self._app, self.config, self.context, ConnectionState({}), patient)  # type: ignore[arg-type]
            await server.run()
        finally:
            patient.close()
            self.open.discard(patient)
            if not self.open:
                self.none_left.set()


async def _hold(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold the nursery of the connections, so that cancelling the server does not cut off requests under way."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def serve(app: QuartTrio, listening: socket.socket, broadcast: Broadcast) -> None:
    """Serve until cancelled; then requests under way have GRACE."""
    check_loopback(listening.getsockname()[0])
    listening.setblocking(False)
    connections = _Connections(app)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as outer:
        handlers: trio.Nursery = await outer.start(_hold)
        try:
            await trio.serve_listeners(connections.handle, [listener], handler_nursery=handlers)
        finally:
            broadcast.end()
            with trio.CancelScope(shield=True):
                await connections.context.terminated.set()  # idle connections end at once
                with trio.move_on_after(GRACE):
                    while connections.open:
                        connections.none_left = trio.Event()
                        await connections.none_left.wait()
            for patient in list(connections.open):
                patient.close()
            handlers.cancel_scope.cancel()
