"""Two pools with a server and a picker each, behind a gateway: what a rollout is about."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from worlds.envoy import FixedPickers, Gateway, run_gateway

from pointsman.core.events import BackendRef, Event, PoolApplied, RouteMatch, RouteObserved, RouteRule
from pointsman.core.state.projection import ClusterState

OLD, NEW = "default/vllm-llama3-8b-instruct", "default/vllm-llama3-8b-instruct-new"


def pool(name: str, failure_mode: str = "FailClose", app_protocol: str = "http") -> PoolApplied:
    return PoolApplied(name, {"app": name}, (8000,), failure_mode=failure_mode, app_protocol=app_protocol)


def folded(*events: Event) -> ClusterState:
    state = ClusterState()
    for position, event in enumerate(events, 1):
        state.apply_event(position, event)
    return state


def split(old: int, new: int) -> RouteObserved:
    rule = RouteRule((RouteMatch(),), (BackendRef(OLD, old), BackendRef(NEW, new)))
    return RouteObserved("default/llm-route", (rule,))


class Server(BaseHTTPRequestHandler):
    """A server that says its own name and shows what it got."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if "upgrade" in self.headers:
            self.echo()
        else:
            self.answer(b"")

    def echo(self) -> None:
        """Grant an upgrade, and give back each line that comes."""
        self.send_response(101)
        self.send_header("connection", "Upgrade")
        self.send_header("upgrade", self.headers["upgrade"])
        self.end_headers()
        for line in self.rfile:
            self.wfile.write(line)
        self.close_connection = True

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.answer(body)

    def answer(self, body: bytes) -> None:
        got = {"path": self.path, "headers": dict(self.headers.items()), "body_bytes": len(body)}
        reply = json.dumps(got).encode()
        self.send_response(200)
        self.send_header("x-server", ":".join(map(str, self.connection.getsockname())))
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def two_servers() -> Iterator[tuple[str, str]]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Server) for _ in range(2)]
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield (f"127.0.0.1:{servers[0].server_address[1]}", f"127.0.0.1:{servers[1].server_address[1]}")
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class Client:
    """One keep-alive connection to the gateway."""

    def __init__(self, gateway: Gateway, patience: float = 10.0) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()

    def ask(
        self, path: str = "/v1/completions", headers: dict[str, str] | None = None, body: bytes | None = b"{}"
    ) -> tuple[int, dict[str, str], bytes]:
        method = "GET" if body is None else "POST"
        self.connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
        response = self.connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


@contextmanager
def rollout(home: Path, state: ClusterState) -> Iterator[tuple[Gateway, FixedPickers, dict[str, int]]]:
    """The gateway in front of one server and one picker for each of the two pools."""
    with two_servers() as (old, new), FixedPickers() as pickers:
        ports = {OLD: pickers.start(old), NEW: pickers.start(new)}
        pickers.named = {ports[OLD]: old, ports[NEW]: new}
        with run_gateway(home, state, ports) as gateway:
            yield gateway, pickers, ports
