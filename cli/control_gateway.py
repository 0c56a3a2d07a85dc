"""From the committed state to what others must know of it: ports for pickers, files for the gateway."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from pointsman.cli.control_leash import ControlLeash
from pointsman.cli.settings import ControlSettings
from pointsman.cluster.envoy import GatewayPorts, XdsFiles, write_xds, xds
from pointsman.core.projection import ClusterState
from pointsman.eventlog.log import Log

DEFAULT_PICKER_PORT = 9002
"""Of an InferencePool whose reference to its picker names no port."""

SETTLE = 0.02
"""Seconds that changes are gathered: an object's events come in a row."""


async def follow_routes(
    settings: ControlSettings, log: Log, leash: ControlLeash, moved: Callable[[], trio.Event]
) -> None:
    """Tell the supervisor the wanted ports and Envoy its files, now and after every change."""
    wanted: list[dict[str, object]] | None = None
    written: XdsFiles = {}
    while True:
        event = moved()
        now_wanted = _ports(log.state)
        if not settings.pool and now_wanted != wanted:
            wanted = now_wanted
            await leash.say("ports", wanted)
        if settings.gateway is not None:
            files = _files(settings, log.state, leash.bound)
            if files != written:
                write = partial(write_xds, Path(settings.gateway.directory), files)
                await trio.to_thread.run_sync(write)
                written = files
        await event.wait()
        await trio.sleep(SETTLE)


def _ports(state: ClusterState) -> list[dict[str, object]]:
    return [
        {"pool": name, "port": pool.picker_port or DEFAULT_PICKER_PORT} for name, pool in sorted(state.pools.items())
    ]


def _files(settings: ControlSettings, state: ClusterState, bound: dict[str, int]) -> XdsFiles:
    gateway = settings.gateway
    assert gateway is not None
    ports = GatewayPorts(gateway.address, gateway.port, bound, settings.picker_tls, admin=gateway.admin)
    return xds(state, ports, Path(gateway.directory), Path(gateway.access_log))
