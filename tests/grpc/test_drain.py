"""A server that ends in order, with both HTTP/2 engines."""

import asyncio

import pytest
from hyperframe.frame import GoAwayFrame, HeadersFrame, RstStreamFrame
from worlds.running import bounded, running
from worlds.wire import (
    RawClient,
    request_body,
    request_headers,
    response_body,
    response_headers,
)

from pointsman.core.events import RequestFinished, RequestRouted

BODY = b'{"model":"m","prompt":"hello"}'


def test_a_drain_lets_streams_finish(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run:
            client = await RawClient.connect(run.port)
            client.open(1)
            client.data(1, request_headers().SerializeToString(), request_body(BODY).SerializeToString())
            while not run.feed.of(RequestRouted):
                await asyncio.sleep(0.01)

            run.server.stop_accepting()
            warned = await client.until(GoAwayFrame)
            assert isinstance(warned, GoAwayFrame)
            assert warned.last_stream_id == 2**31 - 1
            assert await run.server.finish(0.1) is False
            with pytest.raises(OSError):  # noqa: PT011 -- refused or reset, by timing
                await asyncio.wait_for(asyncio.open_connection("127.0.0.1", run.port), 1)

            client.data(1, response_headers().SerializeToString(), response_body(b"{}").SerializeToString())
            await client.until(HeadersFrame, 1, "END_STREAM")
            assert await run.server.finish(5) is True
            await run.server.disconnect()
            await client.until(GoAwayFrame)
            assert await client.reader.read() == b""
            assert [e.cause for e in run.feed.of(RequestFinished)] == ["complete"]
            client.writer.close()

    bounded(main)


def test_what_is_open_at_the_end_of_a_drain_is_told(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run:
            client = await RawClient.connect(run.port)
            client.open(1)
            client.data(1, request_headers().SerializeToString(), request_body(BODY).SerializeToString())
            while not run.feed.of(RequestRouted):
                await asyncio.sleep(0.01)

            run.server.stop_accepting()
            await run.server.disconnect()

            await client.until(HeadersFrame, 1, "END_STREAM")
            assert [e.cause for e in run.feed.of(RequestFinished)] == ["drained"]
            assert run.load.streams == 0
            client.writer.close()

    bounded(main)


def test_one_reset_stream_leaves_the_others(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run:
            client = await RawClient.connect(run.port)
            for stream_id in (1, 3):
                client.open(stream_id)
                client.data(stream_id, request_headers().SerializeToString(), request_body(BODY).SerializeToString())
            while len(run.feed.of(RequestRouted)) < 2:
                await asyncio.sleep(0.01)
            client.writer.write(RstStreamFrame(1, 8).serialize())
            client.data(3, response_headers().SerializeToString(), response_body(b"{}").SerializeToString())
            await client.until(HeadersFrame, 3, "END_STREAM")
            await asyncio.sleep(0.05)

            assert sorted(e.cause for e in run.feed.of(RequestFinished)) == ["complete", "disconnected"]
            client.writer.close()

    bounded(main)


def test_a_client_that_says_goaway_ends_its_connection_and_nothing_else(engine: str) -> None:
    async def main() -> None:
        async with running(engine) as run:
            faults: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
            client = await RawClient.connect(run.port)
            client.open(1)
            client.data(1, request_headers().SerializeToString())
            client.writer.write(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
            assert (await client.reader.read()).count(b"\0") >= 0
            client.writer.close()

            assert faults == []
            assert run.load.streams == 0

    bounded(main)
