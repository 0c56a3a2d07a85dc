"""From the committed state to what others must know of it: ports for pickers, files for the gateway."""

import math
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

WITHOUT_PICKER = 2.0
"""Seconds without a picker after which the gateway stops asking; until then requests wait for the next one."""


async def follow_routes(
    settings: ControlSettings, log: Log, leash: ControlLeash, moved: Callable[[], trio.Event]
) -> None:
    """Tell the supervisor the wanted ports and Envoy its files, now and after every change."""
    wanted: list[dict[str, object]] | None = None
    written: XdsFiles = {}
    told = False
    while True:
        event = moved()
        now_wanted = _ports(log.state)
        if not settings.pool and now_wanted != wanted:
            wanted = now_wanted
            await leash.say("ports", wanted)
        since = leash.unpicked_since
        down = since is not None and trio.current_time() >= since + WITHOUT_PICKER
        if settings.gateway is not None:
            files = _files(settings, log.state, leash.bound, down)
            if files != written:
                write = partial(write_xds, Path(settings.gateway.directory), files)
                await trio.to_thread.run_sync(write)
                written = files
            if down != told:
                leash.tell(_WITHOUT if down else _WITH)
                told = down
        with trio.move_on_at(math.inf if since is None or down else since + WITHOUT_PICKER):
            await event.wait()
        await trio.sleep(SETTLE)


_WITHOUT = "no picker is ready: pools that fail open are balanced by the gateway, all others answer 500"
_WITH = "a picker is ready: the gateway asks again"


def _ports(state: ClusterState) -> list[dict[str, object]]:
    return [
        {"pool": name, "port": pool.picker_port or DEFAULT_PICKER_PORT} for name, pool in sorted(state.pools.items())
    ]


def _files(settings: ControlSettings, state: ClusterState, bound: dict[str, int], down: bool) -> XdsFiles:
    gateway = settings.gateway
    assert gateway is not None
    without = frozenset(state.pools) if down else frozenset[str]()
    ports = GatewayPorts(gateway.address, gateway.port, bound, settings.picker_tls, without, gateway.admin)
    return xds(state, ports, Path(gateway.directory), Path(gateway.access_log))
