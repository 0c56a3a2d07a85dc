"""The gateway's side of ext_proc, for tests: messages as Envoy sends them, and a client that plays Envoy."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import TypeVar

import hpack
from grpclib.client import Channel, Stream
from grpclib.const import Cardinality
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame

from pointsman.core.deciding.refusals import REFUSALS, RefusalReason
from pointsman.core.events import Origin, PickerEvent, RequestFacts, RequestRefused, RequestRouted
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import TrafficState
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpHeaders,
    ProcessingRequest,
    ProcessingResponse,
)
from pointsman.grpc.ext_proc.actions import Incoming, Routed
from pointsman.grpc.picking import Picked, RefusedPick, Routing

E = TypeVar("E", bound=PickerEvent)

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

DESTINATION = "x-gateway-destination-endpoint"

Headers = Iterable[tuple[str, str | bytes]]

PSEUDO = ((":method", "POST"), (":scheme", "http"), (":authority", "gateway"), (":path", "/v1/completions"))


def _fill(message: HttpHeaders, headers: Headers, end: bool) -> None:
    message.end_of_stream = end
    for name, value in headers:
        header = message.headers.headers.add()
        header.key = name
        header.raw_value = value if isinstance(value, bytes) else value.encode()


def request_headers(*headers: tuple[str, str | bytes], path: str = "", end: bool = False) -> ProcessingRequest:
    """The headers of a POST; `path` replaces the default one, `end` says that no body follows."""
    message = ProcessingRequest()
    pseudo = [(n, path if path and n == ":path" else v) for n, v in PSEUDO]
    _fill(message.request_headers, [*pseudo, *headers], end)
    return message


def request_body(body: bytes, end: bool = True) -> ProcessingRequest:
    """A chunk of the request's body."""
    message = ProcessingRequest()
    message.request_body.body = body
    message.request_body.end_of_stream = end
    return message


def request_trailers() -> ProcessingRequest:
    """The request's trailers."""
    message = ProcessingRequest()
    message.request_trailers.SetInParent()
    return message


def response_headers(*headers: tuple[str, str | bytes], status: int = 200, end: bool = False) -> ProcessingRequest:
    """The response's headers; JSON unless they say otherwise."""
    message = ProcessingRequest()
    kind = () if any(n == "content-type" for n, _ in headers) else (("content-type", "application/json"),)
    _fill(message.response_headers, [(":status", str(status)), *kind, *headers], end)
    return message


def response_body(body: bytes, end: bool = True) -> ProcessingRequest:
    """A chunk of the response's body."""
    message = ProcessingRequest()
    message.response_body.body = body
    message.response_body.end_of_stream = end
    return message


def response_trailers() -> ProcessingRequest:
    """The response's trailers."""
    message = ProcessingRequest()
    message.response_trailers.SetInParent()
    return message


def with_subset(message: ProcessingRequest, hint: str | float | Sequence[str | float]) -> ProcessingRequest:
    """The same message with a subset hint: a list, or text."""
    fields = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
    fields.update({"x-gateway-destination-endpoint-subset": hint})
    return message


def served(message: ProcessingRequest, endpoint: str) -> ProcessingRequest:
    """The same message with the endpoint that the data plane used."""
    message.metadata_context.filter_metadata["envoy.lb"].update({"x-gateway-destination-endpoint-served": endpoint})
    return message


def set_headers(reply: ProcessingResponse) -> dict[str, bytes]:
    """The headers that a reply sets, whichever phase it answers."""
    kind = reply.WhichOneof("response")
    if kind == "immediate_response":
        mutation = reply.immediate_response.headers
    elif kind == "request_headers":
        mutation = reply.request_headers.response.header_mutation
    else:
        mutation = reply.response_headers.response.header_mutation
    return {option.header.key: option.header.raw_value for option in mutation.set_headers}


def destination(reply: ProcessingResponse) -> str:
    """The endpoint that a headers reply names; header and metadata must agree."""
    named = set_headers(reply)[DESTINATION].decode()
    inner = reply.dynamic_metadata.fields["envoy.lb"].struct_value
    assert inner.fields[DESTINATION].string_value == named
    return named


def streamed(replies: Iterable[ProcessingResponse]) -> tuple[bytes, bool]:
    """The bytes of the body replies among `replies`, either direction, and whether the last ends the body."""
    body, end = b"", False
    for reply in replies:
        kind = reply.WhichOneof("response")
        if kind in ("request_body", "response_body"):
            half = reply.request_body if kind == "request_body" else reply.response_body
            assert not end, "no chunk after the last"
            chunk = half.response.body_mutation.streamed_response
            assert len(chunk.body) <= 62_000
            body, end = body + chunk.body, chunk.end_of_stream
    return body, end


ExtProc = Stream[ProcessingRequest, ProcessingResponse]


@asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1", tls: SSLContext | None = None) -> AsyncIterator[Channel]:
    """A connection to a picker's port."""
    channel = Channel(host, port, ssl=tls)
    try:
        yield channel
    finally:
        channel.close()


def open_stream(channel: Channel, timeout: float | None = None) -> ExtProc:
    """One ext_proc call, to be entered with `async with`."""
    return channel.request(METHOD, Cardinality.STREAM_STREAM, ProcessingRequest, ProcessingResponse, timeout=timeout)


async def say(stream: ExtProc, *messages: ProcessingRequest) -> None:
    """Send messages in order."""
    for message in messages:
        await stream.send_message(message)


async def hear(stream: ExtProc, count: int) -> list[ProcessingResponse]:
    """The next `count` replies."""
    replies: list[ProcessingResponse] = []
    for _ in range(count):
        reply = await stream.recv_message()
        assert reply is not None, f"the stream ended after {len(replies)} replies, wanted {count}"
        replies.append(reply)
    return replies


class MemoryFeed:
    """A feed whose other end is a list."""

    def __init__(self, cluster: ClusterState) -> None:
        self.cluster = cluster
        self.traffic = TrafficState()
        self.traffic.follow(cluster)
        self.events: list[PickerEvent] = []
        self.handed_over: int
        """How many events were recorded when `flush` was last called."""
        self.restart()

    def restart(self) -> None:
        """Forget all, as a new epoch does."""
        self.events.clear()
        self.handed_over = 0

    def origin(self) -> Origin:
        """The next `n` of epoch 7."""
        return Origin("picker-0", 7, len(self.events) + 1, self.cluster.position)

    def record(self, event: PickerEvent) -> None:
        """Keep the event; numbers must come in order."""
        assert event.origin.n == len(self.events) + 1, f"n is {event.origin.n}, wanted {len(self.events) + 1}"
        self.events.append(event)

    def take_in_hand(self, request_id: str, path: str, body_bytes: int) -> None:
        """Nobody looks."""

    def put_down(self) -> None:
        """Nobody looks."""

    def flush(self) -> None:
        """Hand over."""
        self.handed_over = len(self.events)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one type."""
        return [e for e in self.events if isinstance(e, kind)]


class FixedPicking:
    """Sends every request to one endpoint, its number 1, and refuses what the protocol wants refused."""

    headers: frozenset[str] = frozenset()

    def __init__(self, feed: MemoryFeed, destination: str) -> None:
        self._feed = feed
        self.destination = destination

    def pick(self, incoming: Incoming) -> Picked:
        """Decide."""
        event = RequestRouted(self._feed.origin(), 0.0, _facts(incoming), (1,))
        return Routing(event, Routed(self.destination))

    def refuse(self, incoming: Incoming, reason: RefusalReason, message: str) -> RefusedPick:
        """Refuse."""
        status, facts = REFUSALS[reason].status, _facts(incoming)
        return RefusedPick(RequestRefused(self._feed.origin(), 0.0, facts, reason, status, message))


def _facts(incoming: Incoming) -> RequestFacts:
    return RequestFacts(incoming.headers.get("x-request-id", ""), "ns/pool", body_bytes=incoming.body_bytes)


class RawClient:
    """Frames on a socket, for what grpclib's client does not stand: it closes at the first GOAWAY."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "RawClient":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
        return client

    def open(self, stream_id: int) -> None:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", "x"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        frame = HeadersFrame(stream_id, hpack.Encoder().encode(fields))
        frame.flags.add("END_HEADERS")
        self.writer.write(frame.serialize())

    def data(self, stream_id: int, *messages: bytes) -> None:
        for message in messages:
            payload = b"\0" + struct.pack(">I", len(message)) + message
            self.writer.write(struct.pack(">I", len(payload))[1:] + b"\0\0" + struct.pack(">I", stream_id) + payload)

    async def until(self, kind: type[Frame], stream_id: int = 0, flag: str = "") -> Frame:
        """The next frame of a kind."""
        while True:
            frame, size = Frame.parse_frame_header(memoryview(await self.reader.readexactly(9)))
            frame.parse_body(memoryview(await self.reader.readexactly(size)))
            if isinstance(frame, kind) and frame.stream_id == stream_id and (not flag or flag in frame.flags):
                return frame
