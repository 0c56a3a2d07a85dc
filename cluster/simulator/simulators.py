"""Many simulated model servers in one process: their sockets, and their life."""

import signal
from functools import partial
from pathlib import Path

import trio

from pointsman.cluster.simulator.connection import SimulatedConnection
from pointsman.cluster.simulator.server import RequestLog, SimulatedServer, SimulatorSpec

BACKLOG = 1_024
"""Connections that may wait to be accepted; a load test opens hundreds at once."""


async def serve_simulators(
    specs: list[SimulatorSpec],
    request_log: Path | None = None,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `started` gets the `address:port` of each server, in the order of `specs`.

    An address that cannot be had is an `OSError` before any server starts.
    """
    log = RequestLog(request_log)
    try:
        servers = [SimulatedServer(spec, log) for spec in specs]
        listeners = [await _listen(server) for server in servers]
        async with trio.open_nursery() as nursery:
            for server, sockets in zip(servers, listeners, strict=True):
                nursery.start_soon(server.run)
                nursery.start_soon(trio.serve_listeners, partial(_serve, server), sockets)
            task_status.started([server.name for server in servers])
    finally:
        log.close()


async def run_simulators(
    specs: list[SimulatorSpec],
    request_log: Path | None = None,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT: the whole life of a simulator process."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            task_status.started(await nursery.start(serve_simulators, specs, request_log))
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


async def _listen(server: SimulatedServer) -> list[trio.SocketListener]:
    """Open the sockets of `server`, and name it by the address that they got."""
    listeners = await trio.open_tcp_listeners(server.spec.port, host=server.spec.address, backlog=BACKLOG)
    address, port = listeners[0].socket.getsockname()[:2]
    server.name = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return listeners


async def _serve(server: SimulatedServer, stream: trio.SocketStream) -> None:
    """Answer one connection until it ends."""
    async with stream:
        await SimulatedConnection(server, stream).run()
