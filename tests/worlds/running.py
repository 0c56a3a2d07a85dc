"""The picker's service on loopback, with one fixed decision behind it."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from worlds.wire import (
    FixedPicking,
    MemoryFeed,
)

from pointsman.core.processes.settings import Patience, StreamLimits
from pointsman.core.state.projection import ClusterState
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.serving.grpc_server import GrpcServer


class Running:
    """A server with one fixed decision behind it."""

    def __init__(
        self, engine: str, limits: StreamLimits, message_bytes_max: int, streams_max: int, *, patience: Patience
    ) -> None:
        self.feed = MemoryFeed(ClusterState())
        self.load = Load(limits)
        picking = FixedPicking(self.feed, "10.0.0.1:8000")
        self.epp = ExternalProcessor(picking, self.feed, self.load, message_bytes_max)
        self.server = GrpcServer([self.epp], engine, streams_max, patience=patience)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]


@asynccontextmanager
async def running(
    engine: str,
    limits: StreamLimits | None = None,
    tls: ssl.SSLContext | None = None,
    message_bytes_max: int = 4 * 2**20,
    streams_max: int = 4096,
    *,
    patience: Patience | None = None,
) -> AsyncIterator[Running]:
    run = Running(engine, limits or StreamLimits(), message_bytes_max, streams_max, patience=patience or Patience())
    await run.server.listen(run.socket, tls)
    try:
        yield run
    finally:
        run.server.stop_accepting()
        await run.server.disconnect()


def bounded(main: Callable[[], Awaitable[None]]) -> None:
    """Run with an end."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(limited())
