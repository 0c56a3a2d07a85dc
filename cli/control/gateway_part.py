"""What follows from the committed state for others: the ports that pools need, and the gateway's files."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from pointsman.cli.control.control_leash import ControlLeash
from pointsman.cluster.gateway.envoy import GatewayPorts, XdsFiles, write_xds, xds
from pointsman.core.processes.leash import PoolPort, WantedPorts
from pointsman.core.processes.settings import ControlSettings
from pointsman.core.rollout.answers import refused_shares
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.stores.log import Log

DEFAULT_PICKER_PORT = 9002
"""The picker's port for an InferencePool whose `endpointPickerRef` names none."""

SETTLE = 0.02
"""Seconds in which changes are gathered before files are written: the events of one object come together."""

TOLD_MAX = 20
"""Lines about shares that are refused after one change: as many as a screen shows; the console has all."""

FAIL_OPEN, FAIL_CLOSED = 2.0, 5.0
"""Seconds without a picker after which the gateway stops asking, by the pool's failure mode.

Until then requests wait for the next picker; after five the gateway would give them up in any case.
"""


async def follow_routes(
    settings: ControlSettings, log: Log, leash: ControlLeash, moved: Callable[[], trio.Event]
) -> None:
    """Tell the supervisor the wanted ports and Envoy its files, now and after every change."""
    wanted: WantedPorts | None = None
    written: XdsFiles = {}
    refused: list[str] = []
    told = 0
    while True:
        event = moved()
        now_wanted = _ports(log.state)
        if not settings.pool and now_wanted != wanted:
            wanted = now_wanted
            await leash.say(wanted)
        since = leash.unpicked_since
        down, look_at = _down(since, trio.current_time())
        if settings.gateway is not None:
            files = _files(settings, log.state, leash.bound, down)
            if files != written:
                write = partial(write_xds, Path(settings.gateway.directory), files)
                await trio.to_thread.run_sync(write)
                written = files
            before, refused = refused, _refused(log.state)
            for line in [line for line in refused if line not in before][:TOLD_MAX]:
                leash.tell(f"warning: {line}")
            if down != told:
                leash.tell(_WORDS[down])
                told = down
        with trio.move_on_at(look_at):
            await event.wait()
        await trio.sleep(SETTLE)


def _refused(state: ClusterState) -> list[str]:
    return refused_shares(state.routes.values(), state.pools, state.grants.values())


_WORDS = (
    "a picker is ready: the gateway asks again",
    "no picker is ready: the gateway balances the pools that fail open by itself",
    "no picker is ready still: the gateway answers 500 for the pools that fail closed",
)


def _down(since: float | None, now: float) -> tuple[int, float]:
    """Which pools the gateway has stopped asking for, as an index of `_WORDS`; and when that changes by itself."""
    if since is None:
        return 0, math.inf
    if now < since + FAIL_OPEN:
        return 0, since + FAIL_OPEN
    return (1, since + FAIL_CLOSED) if now < since + FAIL_CLOSED else (2, math.inf)


def _without(state: ClusterState, down: int) -> frozenset[str]:
    return frozenset(
        [name for name, pool in state.pools.items() if down >= (1 if pool.failure_mode == "FailOpen" else 2)]
    )


def _ports(state: ClusterState) -> WantedPorts:
    pools = sorted(state.pools.items())
    return WantedPorts(tuple([PoolPort(name, pool.picker_port or DEFAULT_PICKER_PORT) for name, pool in pools]))


def _files(settings: ControlSettings, state: ClusterState, bound: dict[str, int], down: int) -> XdsFiles:
    gateway = settings.gateway
    assert gateway is not None
    ports = GatewayPorts(
        gateway.address, gateway.port, bound, settings.picker_tls, _without(state, down), gateway.admin
    )
    return xds(state, ports, Path(gateway.directory), Path(gateway.access_log))
