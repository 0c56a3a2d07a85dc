"""The server on loopback, with both HTTP/2 engines: what grpclib leaves open."""

import asyncio
import gzip
import ssl
import struct

import pytest
from grpclib import GRPCError, Status
from grpclib.client import Channel
from hyperframe.frame import Frame, SettingsFrame
from worlds.running import bounded, running
from worlds.wire import (
    connected,
    destination,
    hear,
    open_stream,
    request_body,
    request_headers,
    response_body,
    response_headers,
    say,
)

from pointsman.core.events import RequestFinished, RequestRefused, RequestRouted
from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from pointsman.grpc.serving.tls import CertificateError, server_context

BODY = b'{"model":"m","prompt":"hello"}'


async def whole_exchange(channel: Channel) -> str:
    """One request and its response; the destination."""
    async with open_stream(channel) as stream:
        await say(stream, request_headers(), request_body(BODY))
        replies = await hear(stream, 2)
        await say(stream, response_headers(), response_body(b"{}"))
        await hear(stream, 2)
        assert await stream.recv_message() is None, "the server ends the stream"
        await stream.end()
        return destination(replies[0])


async def fruitless(channel: Channel, *messages: ProcessingRequest | bytes, timeout: float | None = None) -> None:
    """A call that says these messages, or these bytes, and hears until it fails."""
    async with open_stream(channel, timeout) as stream:
        await stream.send_request()
        for message in messages:
            if isinstance(message, bytes):
                await stream._stream.send_data(message, end_stream=True)
            else:
                await stream.send_message(message)
        await hear(stream, 100)


def test_a_request_and_its_response_leave_their_events(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel:
            assert await whole_exchange(channel) == "10.0.0.1:8000"
            await asyncio.sleep(0.05)

            assert [type(e).__name__ for e in run.feed.events] == [
                "RequestRouted",
                "ResponseStarted",
                "RequestFinished",
            ]
            assert run.feed.of(RequestFinished)[0].request_n == run.feed.of(RequestRouted)[0].origin.n
            assert run.feed.of(RequestFinished)[0].cause == "complete"
            assert run.load.streams == 0

    bounded(main)


def test_a_decision_is_handed_over_before_its_reply(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel, open_stream(channel) as stream:
            await say(stream, request_headers(), request_body(BODY))
            await hear(stream, 1)

            assert run.feed.handed_over == 1
            await stream.cancel()

    bounded(main)


def test_a_reset_is_the_ordinary_end(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel:
            async with open_stream(channel) as stream:
                await say(stream, request_headers(), request_body(BODY), response_headers())
                await hear(stream, 3)
                await stream.cancel()
            while not run.feed.of(RequestFinished):
                await asyncio.sleep(0.01)

            assert [e.cause for e in run.feed.of(RequestFinished)] == ["disconnected"]
            assert run.load.streams == 0
            assert await whole_exchange(channel) == "10.0.0.1:8000"

    bounded(main)
    assert [r.message for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_a_lost_connection_ends_its_requests(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run:
            async with connected(run.port) as channel:
                streams = [open_stream(channel) for _ in range(3)]
                for stream in streams:
                    await stream.__aenter__()
                    await say(stream, request_headers(), request_body(BODY))
                    await hear(stream, 1)
                channel.close()
            while len(run.feed.of(RequestFinished)) < 3:
                await asyncio.sleep(0.01)

            assert {e.cause for e in run.feed.of(RequestFinished)} == {"disconnected"}

    bounded(main)


def test_a_deadline_ends_the_request_with_that_cause(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel:
            with pytest.raises((GRPCError, asyncio.TimeoutError)):
                await fruitless(channel, request_headers(), request_body(BODY), timeout=0.2)
            while not run.feed.of(RequestFinished):
                await asyncio.sleep(0.01)

            assert run.feed.of(RequestFinished)[0].cause in ("deadline", "disconnected")  # who is first is open

    bounded(main)


def test_a_burst_on_a_cold_connection_is_served_whole(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel:
            destinations = await asyncio.gather(*[whole_exchange(channel) for _ in range(250)])

            assert destinations == ["10.0.0.1:8000"] * 250
            assert len(run.server.connections) == 1

    bounded(main)


async def first_settings(port: int) -> dict[int, int]:
    """What the server says before it was told anything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = await reader.readexactly(9)
    frame, size = Frame.parse_frame_header(memoryview(head))
    assert isinstance(frame, SettingsFrame)
    frame.parse_body(memoryview(await reader.readexactly(size)))
    writer.close()
    return frame.settings


def test_the_first_settings_tell_the_streams_limit(engine: str) -> None:
    async def main() -> None:
        async with running(engine, streams_max=1234) as run:
            assert (await first_settings(run.port))[SettingsFrame.MAX_CONCURRENT_STREAMS] == 1234

    bounded(main)


def test_an_unknown_frame_is_ignored(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel:
            assert await whole_exchange(channel) == "10.0.0.1:8000"
            connection = channel._protocol
            assert connection is not None
            transport = connection.connection._transport
            for kind in (0x0A, 0x0B, 0x42, 0xFE):  # ALTSVC, unassigned, experimental
                transport.write(struct.pack(">I", 4)[1:] + bytes((kind, 0)) + struct.pack(">I", 0) + b"\0\0h2")

            assert await whole_exchange(channel) == "10.0.0.1:8000"
            assert len(run.server.connections) == 1

    bounded(main)


def test_frames_that_carry_nothing_are_counted_by_the_second(engine: str) -> None:
    # A gateway that loses thousands of clients in a day must not lose its connection.
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel:
            assert await whole_exchange(channel) == "10.0.0.1:8000"
            assert channel._protocol is not None
            transport = channel._protocol.connection._transport
            for _ in range(2):
                transport.write((b"\0\0\0\x42\0" + struct.pack(">I", 0)) * 6000)
                await asyncio.sleep(1.1)
                assert await whole_exchange(channel) == "10.0.0.1:8000"

            assert len(run.server.connections) == 1

    bounded(main)


def test_a_message_over_the_limit_is_refused_by_its_prefix(engine: str) -> None:
    async def main() -> None:
        async with running(engine, message_bytes_max=10_000) as run, connected(run.port) as channel:
            with pytest.raises(GRPCError) as caught:
                await fruitless(channel, request_headers(), request_body(b"x" * 20_000))

            assert caught.value.status is Status.RESOURCE_EXHAUSTED
            size = request_body(b"x" * 20_000).ByteSize()
            assert caught.value.message == f"grpc: received message larger than max ({size} vs. 10000)"
            assert await whole_exchange(channel) == "10.0.0.1:8000"
            assert run.load.held.bytes == 0

    bounded(main)


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"\x01" + struct.pack(">I", 3) + b"abc", Status.UNIMPLEMENTED, "is no gzip"),
        (
            b"\x01" + struct.pack(">I", len(gzip.compress(b"x" * 10**6))) + gzip.compress(b"x" * 10**6),
            Status.RESOURCE_EXHAUSTED,
            "after decompression larger than max",
        ),
        (b"\x00" + struct.pack(">I", 3) + b"\xff\xff\xff", Status.INTERNAL, "error unmarshalling"),
        (b"\x00" + struct.pack(">I", 30) + b"abc", Status.INTERNAL, "ended within a message"),
    ],
)
def test_broken_messages_get_a_status(engine: str, data: bytes, status: Status, text: str) -> None:
    async def main() -> None:
        async with running(engine, message_bytes_max=10_000) as run, connected(run.port) as channel:
            with pytest.raises(GRPCError) as caught:
                await fruitless(channel, data)

            assert caught.value.status is status
            assert text in (caught.value.message or "")
            assert run.load.streams == 0

    bounded(main)


def test_gzip_messages_are_read(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel, open_stream(channel) as stream:
            await stream.send_request()
            for message in (request_headers(), request_body(BODY)):
                packed = gzip.compress(message.SerializeToString())
                await stream._stream.send_data(b"\x01" + struct.pack(">I", len(packed)) + packed)

            replies = await hear(stream, 2)

            assert destination(replies[0]) == "10.0.0.1:8000"
            assert run.feed.of(RequestRouted) != []
            await stream.cancel()

    bounded(main)


def test_more_streams_than_allowed_are_told_so(engine: str) -> None:
    async def main() -> None:
        limits = StreamLimits(streams_max=1)
        async with running(engine, limits) as run, connected(run.port) as channel, open_stream(channel) as first:
            await say(first, request_headers())
            while run.load.streams < 1:
                await asyncio.sleep(0.01)
            async with open_stream(channel) as second:
                await say(second, request_headers())
                reply = (await hear(second, 1))[0].immediate_response
                assert await second.recv_message() is None
                await second.end()

            assert reply.status.code == 503
            assert [e.reason for e in run.feed.of(RequestRefused)] == ["too-many-streams"]
            await say(first, request_body(BODY))
            assert destination((await hear(first, 2))[0]) == "10.0.0.1:8000"
            await first.cancel()

    bounded(main)


def test_a_half_closed_stream_ends_with_ok(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run, connected(run.port) as channel, open_stream(channel) as stream:
            await say(stream, request_headers(), request_body(BODY))
            await hear(stream, 2)
            await stream.end()

            assert await stream.recv_message() is None
            await stream.recv_trailing_metadata()
            assert run.feed.of(RequestFinished)[0].cause == "disconnected"

    bounded(main)


def test_tls_is_spoken_with_a_certificate_of_its_own(engine: str) -> None:
    async def main() -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        client.set_alpn_protocols(["h2"])
        async with running(engine, tls=server_context()) as run, connected(run.port, tls=client) as channel:
            assert await whole_exchange(channel) == "10.0.0.1:8000"

    bounded(main)


def test_certificates_that_cannot_be_used_are_named(tmp_path: object) -> None:
    with pytest.raises(CertificateError, match=r"no file .*tls\.crt, wanted tls\.crt and tls\.key in "):
        server_context(str(tmp_path))
    with pytest.raises(CertificateError, match="TLS version is 'TLSv1', wanted one of"):
        server_context(min_version="TLSv1")
