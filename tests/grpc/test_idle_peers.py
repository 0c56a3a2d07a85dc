"""Peers that do not read, and connections that say nothing: which are let go of, and which are not."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from worlds.attacker import INITIAL_WINDOW, data, prefixed, setting, update
from worlds.running import Running, bounded, running
from worlds.slow_peers import BODY, GREETED, GREETING, LATE, OPENING, SHORT, WHOLE, peer
from worlds.waiting import Stopwatch
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

from pointsman.core.events import RequestFinished
from pointsman.grpc.http2.frames import (
    GOAWAY,
    PING,
    RST_STREAM,
    SETTINGS,
    frame,
)

# --- peers that do not read -----------------------------------------------------------------------


def body_of(size: int) -> bytes:
    """The message of a body that is passed back as it is."""
    message = request_body(b"x" * size).SerializeToString()
    return data(1, prefixed(len(message), message))


@asynccontextmanager
async def narrow(engine: str) -> AsyncIterator[tuple[Running, socket.socket]]:
    """A server, and a connection to it that is never read, on which the kernels hold little."""
    async with running(engine, patience=SHORT) as run:
        run.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", run.port))
            yield run, deaf


def test_a_peer_that_reads_nothing_is_let_go_of(engine: str) -> None:
    async def main() -> None:
        async with narrow(engine) as (run, deaf):
            open_windows = setting(INITIAL_WINDOW, 2**31 - 1) + update(0, 2**30)
            said = GREETED + open_windows + OPENING + WHOLE + body_of(1_000_000)
            await asyncio.get_running_loop().sock_sendall(deaf, said)
            began, watch = time.monotonic(), Stopwatch()
            while not run.server.connections:
                await asyncio.sleep(0.01)
            while run.server.connections:
                await asyncio.sleep(0.01)
            assert SHORT.unread - 0.3 < time.monotonic() - began
            assert watch.seconds() < SHORT.unread + LATE
            assert run.load.streams == 0
            assert run.load.held.bytes == 0

    bounded(main)


def test_a_peer_that_reads_slowly_is_none_that_reads_nothing(engine: str) -> None:
    async def main() -> None:
        async with narrow(engine) as (run, deaf):
            loop = asyncio.get_running_loop()
            open_windows = setting(INITIAL_WINDOW, 2**31 - 1) + update(0, 2**30)
            await loop.sock_sendall(deaf, GREETED + open_windows + OPENING + WHOLE + body_of(1_000_000))
            left, until = 1_000_000, time.monotonic() + 20
            while left > 0 and time.monotonic() < until:
                left -= len(await loop.sock_recv(deaf, 1000))
                if left % 40 == 0:
                    await asyncio.sleep(0.05)
            assert left <= 0
            assert len(run.server.connections) == 1

    bounded(main)


def test_a_connection_whose_window_is_never_opened_is_let_go_of(engine: str) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, setting(INITIAL_WINDOW, 2**31 - 1), OPENING, WHOLE, body_of(200_000))
            await one.ended(SHORT.unread)
            assert run.load.held.bytes == 0

    bounded(main)


def test_a_connection_whose_window_is_opened_little_by_little_goes_on(engine: str) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, setting(INITIAL_WINDOW, 2**31 - 1), OPENING, WHOLE, body_of(200_000))
            await one.drip((update(0, 100) for _ in range(20)), 0.1)
            assert not one.over.done()
            assert run.load.streams == 1

    bounded(main)


@pytest.mark.parametrize("window", [0, 1000])
def test_a_stream_whose_window_is_never_opened_is_reset_alone(engine: str, window: int) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, setting(INITIAL_WINDOW, window), OPENING, WHOLE, body_of(20_000))
            while RST_STREAM not in [kind for kind, _, _ in one.frames()]:
                assert one.watch.seconds() < SHORT.stream_unread + LATE
                await asyncio.sleep(0.01)
            assert time.monotonic() - one.began > SHORT.stream_unread - 0.1
            assert run.load.streams == 0
            assert (RST_STREAM, 1) in [(kind, stream) for kind, stream, _ in one.frames()]
            assert run.load.held.bytes == 0
            assert run.feed.of(RequestFinished)[-1].cause == "disconnected"
            assert len(run.server.connections) == 1

    bounded(main)


def test_a_stream_whose_window_is_opened_little_by_little_goes_on(engine: str) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, setting(INITIAL_WINDOW, 0), OPENING, WHOLE, body_of(20_000))
            await one.drip((update(1, 10) for _ in range(20)), 0.1)
            assert run.load.streams == 1

    bounded(main)


# --- connections that say nothing -----------------------------------------------------------------

IDLING: dict[str, Callable[[], bytes]] = {
    "silence": lambda: b"",
    "PINGs": lambda: frame(PING, 0, 0, bytes(8)),
    "SETTINGS": lambda: frame(SETTINGS, 0, 0),
    "WINDOW_UPDATEs": lambda: update(0, 1),
    "frames that nobody knows": lambda: frame(0x42, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("case", IDLING)
def test_a_connection_without_a_stream_is_told_to_go_and_then_closed(engine: str, case: str) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETING)
            said = (IDLING[case]() for _ in range(60))
            dripping = asyncio.create_task(one.drip(said, 0.05))
            while GOAWAY not in [kind for kind, _, _ in one.frames()]:
                await asyncio.sleep(0.01)
            assert time.monotonic() - one.began > SHORT.idle - 0.1
            await one.ended(SHORT.idle + SHORT.leaving)
            dripping.cancel()
            told = [payload for kind, _, payload in one.frames() if kind == GOAWAY]
            assert told[0][:4] == struct.pack(">I", 2**31 - 1), "first it is asked to open nothing more"
            assert len(told) == 2

    bounded(main)


def test_a_stream_that_begins_while_the_peer_is_told_to_go_is_served(engine: str) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETING)
            while GOAWAY not in [kind for kind, _, _ in one.frames()]:
                await asyncio.sleep(0.01)
            one.say(OPENING, WHOLE, body_of(100))
            await asyncio.sleep(SHORT.leaving + 0.5)
            assert b"10.0.0.1:8000" in one.heard
            assert not one.over.done(), "a stream is open"

    bounded(main)


def test_a_stream_on_which_nothing_is_said_for_long_is_not_cut(engine: str) -> None:
    # As a gateway keeps one open while a model thinks; the times of this test are many of each limit.
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, connected(run.port) as channel:
            async with open_stream(channel) as stream:
                await say(stream, request_headers(), request_body(BODY))
                await hear(stream, 2)
                await asyncio.sleep(2.5)
                await say(stream, response_headers(), response_body(b"{", end=False))
                await hear(stream, 2)
                await asyncio.sleep(2.5)
                await say(stream, response_body(b"}"))
                await hear(stream, 1)
                assert await stream.recv_message() is None
                await stream.end()
            assert [e.cause for e in run.feed.of(RequestFinished)] == ["complete"]
            assert len(run.server.connections) == 1

    bounded(main)


def test_a_body_whose_next_message_comes_late_is_not_cut(engine: str) -> None:
    async def main() -> None:
        async with (
            running(engine, patience=SHORT) as run,
            connected(run.port) as channel,
            open_stream(channel) as stream,
        ):
            await say(stream, request_headers())
            for _ in range(2):
                await asyncio.sleep(1.5)
                await say(stream, request_body(b" ", end=False))
            await say(stream, request_body(BODY))
            assert destination((await hear(stream, 1))[0]) == "10.0.0.1:8000"
            await stream.cancel()

    bounded(main)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a socket go without a word")
@pytest.mark.parametrize("streams", [OPENING + WHOLE, b""], ids=["with a stream", "without one"])
def test_a_peer_whose_machine_is_gone_is_let_go_of(engine: str, streams: bytes) -> None:
    patience = msgspec.structs.replace(SHORT, idle=60.0)

    async def main() -> None:
        async with running(engine, patience=patience) as run:
            with socket.create_connection(("127.0.0.1", run.port)) as gone:
                gone.sendall(GREETING + streams)
                await asyncio.sleep(0.3)
                assert run.load.streams == (1 if streams else 0)
                gone.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR: closing says nothing to the other side
            began = time.monotonic()
            while run.server.connections:
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.02)
            assert run.load.streams == 0
            if streams:
                assert run.feed.of(RequestFinished) == [], "nothing was routed"

    bounded(main)
