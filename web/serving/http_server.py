"""An HTTP server for an application, on a socket that is handed in, for clients of which some mean no good.

Where as many connections are open as may be, the one that has owed something longest gives way to a new one:
a request first, the reading of an answer second.  So a thousand clients that send half a request keep nobody out.
"""

import socket
from collections.abc import Callable
from typing import cast

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from hypercorn.utils import wrap_app
from quart_trio import QuartTrio

from pointsman.web.serving.http_connection import HttpConnection
from pointsman.web.serving.http_limits import HttpLimits


class _Connections:
    """The connections that are open."""

    def __init__(self, app: QuartTrio, limits: HttpLimits) -> None:
        self.limits = limits
        self.config = Config()
        self.config.accesslog = self.config.errorlog = None
        self.config.include_server_header = False
        self.config.h11_max_incomplete_size = limits.header_bytes
        self.context = WorkerContext(None)
        self.open: set[HttpConnection] = set()
        self.none_left = trio.Event()
        self._app = wrap_app(cast(ASGIFramework, app), 0, "asgi")  # Quart spells the protocol's types its own way

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        if not self._room():
            await trio.aclose_forcefully(stream)
            return
        connection = HttpConnection(stream, self.limits)
        self.open.add(connection)
        try:
            await connection.run(self._app, self.config, self.context)
        finally:
            self.open.discard(connection)
            if not self.open:
                self.none_left.set()

    def _room(self) -> bool:
        """Whether there is room for one more, which somebody may have to make."""
        if len(self.open) < self.limits.connections:
            return True
        owing = [c for c in self.open if c.owing_since is not None or c.writing_since is not None]
        if not owing:
            return False
        first = min(owing, key=lambda c: (c.writing_since is not None, c.writing_since or c.owing_since or 0.0))
        first.close()
        self.open.discard(first)  # its task ends in a later turn of the loop
        return True


async def _hold(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold the nursery of the connections, so that cancelling the server does not cut off requests under way."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def serve_http(
    app: QuartTrio, listening: socket.socket, limits: HttpLimits, ending: Callable[[], None] = lambda: None
) -> None:
    """Serve until cancelled; then `ending` is called, and requests under way have the grace of the limits."""
    listening.setblocking(False)
    connections = _Connections(app, limits)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as outer:
        handlers: trio.Nursery = await outer.start(_hold)
        try:
            await trio.serve_listeners(connections.handle, [listener], handler_nursery=handlers)
        finally:
            ending()
            with trio.CancelScope(shield=True):
                await connections.context.terminated.set()  # those that are answered end then
                for connection in list(connections.open):
                    if connection.quiet:
                        connection.close()
                with trio.move_on_after(limits.grace):
                    while connections.open:
                        connections.none_left = trio.Event()
                        await connections.none_left.wait()
            for connection in list(connections.open):
                connection.close()
            handlers.cancel_scope.cancel()
