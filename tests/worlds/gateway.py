"""A real Envoy in its reference configuration, the picker's service behind it, and a model server."""

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPMessage, HTTPResponse
from typing import NamedTuple

from worlds.envoy import reserve_port
from worlds.waiting import wait_for
from worlds.wire import FixedPicking, MemoryFeed

from pointsman.core.events import RequestFinished
from pointsman.core.processes.settings import StreamLimits
from pointsman.core.state.projection import ClusterState
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.serving.grpc_server import GrpcServer


class ModelServer(asyncio.Protocol):
    """HTTP/1.1: answers with what it was asked, or as the path says; grants an upgrade, and echoes what follows."""

    upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        headers = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
        if any(name == b"upgrade" for name, _ in headers):
            if not self.upgraded:
                self.upgraded = True
                granted = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
                self.transport.write(granted)
            self.transport.write(rest)
            self.buffer = head + end
            return
        chunked = any(n == b"transfer-encoding" for n, _ in headers)
        length = next((int(v) for n, v in headers if n == b"content-length"), 0)
        if chunked:
            body, done, tail = _dechunked(rest)
            if not done:
                return
        else:
            if len(rest) < length:
                return
            body, tail = rest[:length], rest[length:]
        self.buffer = tail
        asyncio.get_running_loop().create_task(self.answer(head.split(b"\r\n")[0].decode(), headers, body))

    async def answer(self, line: str, headers: list[list[bytes]], body: bytes) -> None:
        path = line.split(" ")[1]
        if path == "/sse":
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for i in range(5):
                self.transport.write(_chunk(b'data: {"i":%d}\n\n' % i))
                await asyncio.sleep(0.1)
            self.transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        if path == "/empty":
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        echo = {"line": line, "headers": [[n.decode(), v.decode("latin-1")] for n, v in headers]}
        reply = body if path == "/raw" else json.dumps(echo | {"body": body.decode("latin-1")}).encode()
        status = b"500 Oops" if path == "/fail" else b"200 OK"
        cookies = b"set-cookie: a=1\r\nset-cookie: b=2\r\n"
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, cookies, len(reply), reply)
        )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _dechunked(data: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return body, False, data
        if size == b"0":
            return body, True, rest[2:]
        body, data = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def _manager(kind: str, ext_proc: dict[str, object]) -> dict[str, object]:
    return {
        "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": ext_proc},
            {"name": "router", "typed_config": {"@type": kind + "filters.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "destination", "timeout": "20s"}}],
                }
            ]
        },
    }


def envoy_config(listener: int, picker: int) -> dict[str, object]:
    """The reference configuration: both bodies FULL_DUPLEX_STREAMED, all phases, ORIGINAL_DST by header."""
    kind = "type.googleapis.com/envoy.extensions."
    limits = {"thresholds": [{"max_connections": 40000, "max_pending_requests": 40000, "max_requests": 40000}]}
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": kind + "upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }

    def address(port: int) -> dict[str, object]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}

    mode = dict.fromkeys(
        ("request_header_mode", "response_header_mode", "request_trailer_mode", "response_trailer_mode"), "SEND"
    ) | dict.fromkeys(("request_body_mode", "response_body_mode"), "FULL_DUPLEX_STREAMED")
    ext_proc: dict[str, object] = {
        "@type": kind + "filters.http.ext_proc.v3.ExternalProcessor",
        "message_timeout": "1000s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
        "processing_mode": mode,
    }
    manager = _manager(kind, ext_proc)
    destination = {
        "name": "destination",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "1s",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": "x-gateway-destination-endpoint"},
    }
    picking = {
        "name": "picker",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": limits,
        "typed_extension_protocol_options": http2,
        "load_assignment": {
            "cluster_name": "picker",
            "endpoints": [{"lb_endpoints": [{"endpoint": address(picker)}]}],
        },
    }
    filters = [{"name": "hcm", "typed_config": manager}]
    return {
        "static_resources": {
            "listeners": [
                {"name": "l", **address(listener), "enable_reuse_port": True, "filter_chains": [{"filters": filters}]}
            ],
            "clusters": [destination, picking],
        },
    }


class Site:
    """Envoy, a picker's service and a model server; the last two in a thread of their own."""

    def __init__(self, engine: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.feed = MemoryFeed(ClusterState())
        self.load = Load(StreamLimits(body_bytes_max=10_000_000))
        self.picking = FixedPicking(self.feed, "")
        self.held = reserve_port()
        self.port: int = self.held.getsockname()[1]
        self.picker = socket.create_server(("127.0.0.1", 0))
        self.run(self._start(engine))

    def run(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(15)

    async def _start(self, engine: str) -> None:
        backend = await self.loop.create_server(ModelServer, "127.0.0.1", 0)
        self.backend = backend
        self.picking.destination = f"127.0.0.1:{backend.sockets[0].getsockname()[1]}"
        self.epp = ExternalProcessor(self.picking, self.feed, self.load)
        self.server = GrpcServer([self.epp], engine)
        await self.server.listen(self.picker)

    async def _stop(self) -> None:
        self.server.stop_accepting()
        await self.server.disconnect()
        self.backend.close()

    def close(self) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
        self.held.close()

    @contextmanager
    def asking(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> Iterator[HTTPResponse]:
        """One HTTP/1.1 request; the response with its body still to be read."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=15)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # Envoy may answer before it has read all
                connection.request(method, path, body, names, encode_chunked=not isinstance(body, bytes | None))
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> "Answer":
        """One HTTP/1.1 request and all of its response."""
        with self.asking(method, path, body, **headers) as response:
            return Answer(response.status, response.headers, response.read())

    def events(self, kind: type[RequestFinished], count: int = 1) -> list[RequestFinished]:
        """The ends, once there are so many."""
        wait_for(lambda: len(self.feed.of(kind)) >= count, 5, f"{count} of {kind.__name__}")
        return self.feed.of(kind)


class Answer(NamedTuple):
    """A response read to its end."""

    status: int
    headers: HTTPMessage
    body: bytes

    def echo(self) -> dict[str, list[str]]:
        """What the server saw: header values by name, with the request line and the body."""
        seen = json.loads(self.body)
        headers: dict[str, list[str]] = {"line": [seen["line"]], "body": [seen["body"]]}
        for name, value in seen["headers"]:
            headers.setdefault(name, []).append(value)
        return headers
