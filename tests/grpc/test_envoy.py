"""Requests of every kind through a real Envoy, with the picker's service between it and a model server."""

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import NamedTuple

import h2.connection
import h2.events
import pytest
from envoy import envoy_binary, reserve_port, wait_until
from wire import FixedPicking, MemoryFeed

from pointsman.cluster.envoy import envoy_command
from pointsman.core.events import RequestFinished, RequestRefused, RequestRouted, ResponseStarted
from pointsman.core.projection import ClusterState
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.protocol import Limits, Load
from pointsman.grpc.server import GrpcServer

BODY = b'{"model":"m","seed":12345678901234567890,"prompt":"h\xc3\xa9llo","x":1e400}'


class ModelServer(asyncio.Protocol):
    """HTTP/1.1: answers with what it was asked, or as the path says."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        headers = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
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


def envoy_config(listener: int, picker: int, admin: str) -> dict[str, object]:
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
    ext_proc = {
        "@type": kind + "filters.http.ext_proc.v3.ExternalProcessor",
        "message_timeout": "1000s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
        "processing_mode": mode,
    }
    manager = {
        "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
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
        "admin": {"address": {"pipe": {"path": admin}}},
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
        self.load = Load(Limits(body_bytes_max=10_000_000))
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
        wait_until(lambda: len(self.feed.of(kind)) >= count, 5, f"{count} of {kind.__name__}")
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


@pytest.fixture(scope="module", params=["pointsman", "h2"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    binary = envoy_binary()
    home = tmp_path_factory.mktemp("envoy")
    site = Site(request.param)
    config = home / "envoy.json"
    config.write_text(
        json.dumps(envoy_config(site.port, site.picker.getsockname()[1], str(Path("/tmp") / f"{home.name}{site.port}")))
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(envoy_command(binary, config), stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or _answers(site.port), 20, "Envoy listens")
            assert process.poll() is None, (home / "log").read_text()
            yield site
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            site.close()


@pytest.fixture
def site(running: Site) -> Site:
    """The site, with nothing recorded yet."""
    wait_until(lambda: running.load.streams == 0, 5, "no stream of an earlier test")
    running.feed.events.clear()
    running.feed.restart()
    return running


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_post_reaches_the_server_byte_for_byte(site: Site) -> None:
    response = site.ask("POST", "/v1/completions", BODY, content_type="application/json")
    seen = response.echo()

    assert response.status == 200
    assert seen["body"][0].encode("latin-1") == BODY
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-went-into-resp-headers"] == "true"
    assert "x-request-id" in seen
    end = site.events(RequestFinished)[0]
    assert (end.cause, end.status) == ("complete", 200)
    assert site.feed.of(RequestRouted)[0].request.body_bytes == len(BODY)


def test_a_get_is_routed_too(site: Site) -> None:
    seen = site.ask("GET", "/v1/models").echo()

    assert seen["line"] == ["GET /v1/models HTTP/1.1"]
    assert site.events(RequestFinished)[0].cause == "complete"


def test_an_empty_post_and_a_head_come_through(site: Site) -> None:
    assert site.ask("POST", "/v1/completions", b"").echo()["body"] == [""]
    assert site.ask("HEAD", "/empty").status == 204
    assert [e.cause for e in site.events(RequestFinished, 2)] == ["complete", "complete"]


def test_a_chunked_upload_and_a_large_reply_come_through(site: Site) -> None:
    pieces = [b"%06d" % i * 20_000 for i in range(25)]

    response = site.ask("POST", "/raw", iter(pieces))

    assert response.body == b"".join(pieces)
    end = site.events(RequestFinished)[0]
    assert (end.cause, end.response_bytes) == ("complete", 3_000_000)


def test_events_are_streamed_as_they_come(site: Site) -> None:
    with site.asking("POST", "/sse", BODY) as response:
        first = response.readline()
        early = not site.feed.of(RequestFinished)
        rest = response.read()

    assert first == b'data: {"i":0}\n'
    assert early, "the first event came before the response had ended"
    assert rest.endswith(b"data: [DONE]\n\n")
    end = site.events(RequestFinished)[0]
    assert end.streamed
    assert end.chunks >= 5
    assert end.first_token is not None
    assert end.duration - end.first_token > 0.3


def test_control_headers_do_not_reach_the_server(site: Site) -> None:
    names = {"x-llm-d-inference-objective": "batch", "x-gateway-model-name-rewrite": "x", "x-slo-ttft-ms": "5"}
    seen = site.ask("POST", "/v1/completions", BODY, **names, x_mine="kept").echo()

    assert seen["x-mine"] == ["kept"]
    assert [n for n in seen if "objective" in n or "rewrite" in n or "slo" in n] == []


def test_header_bytes_that_are_no_text_pass(site: Site) -> None:
    response = site.ask("POST", "/v1/completions", BODY, x_gateway_inference_fairness_id="caf\xe9", x_odd="\xff\xfe")

    assert response.echo()["x-odd"] == ["\xff\xfe"]
    assert site.events(RequestFinished)[0].cause == "complete"


def test_repeated_headers_stay_repeated(site: Site) -> None:
    connection = HTTPConnection("127.0.0.1", site.port, timeout=15)
    connection.putrequest("POST", "/v1/completions")
    for name, value in (("x-twice", "1"), ("x-twice", "2"), ("content-length", str(len(BODY)))):
        connection.putheader(name, value)
    connection.endheaders(BODY)

    with connection.getresponse() as response:
        seen = json.loads(response.read())
    connection.close()

    assert [v for n, v in seen["headers"] if n == "x-twice"] == ["1", "2"]


def test_a_body_over_the_limit_gets_413(site: Site) -> None:
    for body in (b"x" * 10_000_001, iter([b"x" * 1_000_000] * 11)):
        site.feed.restart()
        response = site.ask("POST", "/v1/completions", body)

        assert response.status == 413
        assert response.headers["x-llm-d-request-dropped-reason"] == "rejected-body-too-large"
        assert b"inference error: PayloadTooLarge" in response.body
        assert [e.reason for e in site.feed.of(RequestRefused)] == ["body-too-large"]
        assert site.load.held_bytes == 0


def test_a_servers_error_is_seen(site: Site) -> None:
    assert site.ask("POST", "/fail", BODY).status == 500
    assert site.events(RequestFinished)[0].status == 500
    assert site.feed.of(ResponseStarted)[0].status == 500


def test_a_client_that_leaves_ends_its_request(site: Site) -> None:
    with site.asking("POST", "/sse", BODY) as response:
        response.readline()

    assert site.events(RequestFinished)[0].cause == "disconnected"


def test_a_server_that_cannot_be_reached_is_an_early_reply(site: Site) -> None:
    good, site.picking.destination = site.picking.destination, "127.0.0.1:1"
    try:
        response = site.ask("POST", "/v1/completions", BODY)
    finally:
        site.picking.destination = good

    assert response.status == 503
    assert (site.events(RequestFinished)[0].cause, site.events(RequestFinished)[0].status) == ("complete", 503)


def test_a_request_over_http2_that_ends_with_trailers_is_answered(site: Site) -> None:
    for body in (BODY, b""):
        sock = socket.create_connection(("127.0.0.1", site.port), timeout=10)
        client = h2.connection.H2Connection()
        client.initiate_connection()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/v1/completions")]
        client.send_headers(1, head)
        if body:
            client.send_data(1, body)
        client.send_headers(1, [("x-sum", "7")], end_stream=True)
        reply, ended = b"", False
        while not ended:
            sock.sendall(client.data_to_send())
            for event in client.receive_data(sock.recv(65_536)):
                if isinstance(event, h2.events.DataReceived):
                    reply += event.data
                ended = ended or isinstance(event, h2.events.StreamEnded)
        sock.close()

        assert json.loads(reply)["body"].encode("latin-1") == body


def test_a_burst_over_cold_connections_is_served_whole(site: Site) -> None:
    results: list[int] = []

    def one() -> None:
        results.append(site.ask("POST", "/v1/completions", BODY).status)

    threads = [threading.Thread(target=one) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)

    assert results == [200] * 60
    assert len(site.events(RequestFinished, 60)) == 60


def test_a_drain_does_not_break_replies_in_progress(site: Site) -> None:
    async def leave() -> None:
        site.epp.draining = True
        await site.server.disconnect()
        site.epp.draining = False

    with site.asking("POST", "/sse", BODY) as response:
        response.readline()
        site.run(leave())
        rest = response.read()

    assert rest.endswith(b"data: [DONE]\n\n")
    assert site.events(RequestFinished)[0].cause == "drained"
    assert site.ask("POST", "/v1/completions", BODY).status == 200
