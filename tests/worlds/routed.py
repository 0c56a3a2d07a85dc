"""Manifests of routes as a running gateway, in front of servers that answer and servers that do not."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from worlds.envoy import FixedPickers, Gateway, run_gateway
from worlds.pools import Client, folded, two_servers

from pointsman.cluster.objects.manifest import read_manifest
from pointsman.cluster.objects.wanted import Pod
from pointsman.core.events import Event
from pointsman.core.state.projection import ClusterState

POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: p}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: p-epp, port: {number: 9002}}
---
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: NAMESPACE}
spec:
  rules:
"""
P = "- {group: inference.networking.k8s.io, kind: InferencePool, name: p}"
TO_P = f"    backendRefs: [{P[2:]}]\n"


def pool_text(name: str = "p", namespace: str = "default") -> str:
    return POOL.replace("NAMESPACE", namespace).replace("NAME", name)


def route_text(rules: str, namespace: str = "default") -> str:
    return ROUTE.replace("NAMESPACE", namespace) + rules


def applied(*texts: str, also: tuple[Event, ...] = ()) -> tuple[ClusterState, tuple[str, ...]]:
    """The state that manifests make, and further events, and what is warned of in them."""
    manifest = read_manifest("f.yaml", "---\n".join(texts).encode())
    events: list[Event] = [found.value for found in manifest.objects if not isinstance(found.value, Pod)]
    return folded(*events, *also), manifest.warnings


@contextmanager
def gateway_of(home: Path, *texts: str) -> Iterator[tuple[Gateway, Client, list[str]]]:
    """The gateway that these manifests make, in front of one server for the pool `p` and another for the pool `q`."""
    state, _ = applied(*texts)
    with two_servers() as servers, FixedPickers() as pickers:
        named = dict(zip(("p", "q"), servers, strict=True))
        ports = {pool: pickers.start(named[pool.partition("/")[2]]) for pool in state.pools}
        with run_gateway(home, state, ports) as gateway, Client(gateway) as client:
            yield gateway, client, list(servers)


def seen(answer: tuple[int, dict[str, str], bytes]) -> tuple[str, dict[str, str]]:
    """Path and headers that the server got."""
    status, _, body = answer
    assert status == 200, answer
    got = json.loads(body)
    return got["path"], {name.lower(): value for name, value in got["headers"].items()}


class Broken:
    """A server that answers each connection as it was told: with these bytes, or by closing it; it counts requests."""

    def __init__(self, answer: bytes, linger: float = 0.0) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.requests = 0
        self._answer, self._linger = answer, linger
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._done.is_set():
            connection, _ = self.socket.accept()
            with connection:
                if connection.recv(65_536):
                    self.requests += 1
                    self._done.wait(self._linger)
                    connection.sendall(self._answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        socket.create_connection(self.socket.getsockname()).close()
        self._thread.join()
        self.socket.close()


RULE = f"  - backendRefs: [{P[2:]}]\n"


@contextmanager
def list_of(home: Path, endpoints: list[str], rule: str = RULE) -> Iterator[tuple[Gateway, Client]]:
    """The gateway, and a picker that names these endpoints for every request."""
    state, _ = applied(pool_text(), route_text(rule))
    with FixedPickers() as pickers:
        ports = {"default/p": pickers.start(", ".join(endpoints))}
        with run_gateway(home, state, ports) as gateway, Client(gateway) as client:
            yield gateway, client
