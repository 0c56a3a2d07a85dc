"""Peers that do not finish what they began, with both HTTP/2 engines, on real sockets with short limits."""

import asyncio
import ssl
import struct
import time
from pathlib import Path

import msgspec
import pytest
from worlds.attacker import CHECK, INITIAL_WINDOW, PROCESS, Attacker, data, prefixed, request, update
from worlds.picker_process import Control, picker
from worlds.running import bounded, running
from worlds.slow_peers import GREETED, GREETING, LATE, OPENING, SHORT, WHOLE, Peer, bytes_of, peer, whole_exchange
from worlds.waiting import Stopwatch
from worlds.wire import (
    request_body,
)

from pointsman.core.events import EndpointJoined, PoolApplied
from pointsman.core.processes.settings import Patience, PickerOptions
from pointsman.grpc.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
)
from pointsman.grpc.http2.header_blocks import write_block
from pointsman.grpc.serving.tls import server_context


def test_the_limits_are_those_that_the_documents_say() -> None:
    wanted = {
        "greeting": 10,
        "message": 60,
        "unread": 60,
        "stream_unread": 300,
        "idle": 300,
        "leaving": 5,
        "vanished": 60,
        "look": 1,
    }
    told = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()

    assert msgspec.to_builtins(Patience()) == wanted
    assert PickerOptions().patience == Patience()
    for words in (
        "closed after 10 s without TLS's and HTTP/2's greeting",
        "60 s within a message, a frame or a block of headers",
        "60 s of reading nothing",
        "5 minutes without a stream",
        "a stream of whose answers nothing is read for 5 minutes is reset",
        "60 s without an answer of its machine",
    ):
        assert words in told, words


# --- greetings ------------------------------------------------------------------------------------

DUMB = {
    "nothing": b"",
    "half a preface": PREFACE[:11],
    "a preface alone": PREFACE,
    "half of SETTINGS": GREETING[:-4],
    "an acknowledgement of ours": PREFACE + frame(SETTINGS, 1, 0),
}


@pytest.mark.parametrize("said", DUMB.values(), ids=list(DUMB))
def test_a_peer_that_does_not_greet_is_let_go_of(engine: str, said: bytes) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(said)
            await one.ended(SHORT.greeting)
            assert not run.server.connections

    bounded(main)


def test_a_greeting_in_crumbs_has_no_more_time(engine: str) -> None:
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            dripping = asyncio.create_task(one.drip(bytes_of(GREETING), 0.1))
            await one.ended(SHORT.greeting)
            dripping.cancel()

    bounded(main)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\0\1"], ids=["nothing", "half a hello"])
def test_a_peer_that_does_not_speak_its_part_of_tls_is_let_go_of(said: bytes) -> None:
    async def main() -> None:
        async with running("pointsman", tls=server_context(), patience=SHORT) as run, peer(run.port) as one:
            one.say(said)
            await one.ended(SHORT.greeting)

    bounded(main)


def test_behind_tls_the_greeting_has_its_time(engine: str) -> None:
    async def main() -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.set_alpn_protocols(["h2"])
        async with running(engine, tls=server_context(), patience=SHORT) as run:
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port, ssl=client)
            one = Peer(reader, writer)
            one.say(PREFACE)
            await one.ended(SHORT.greeting)
            writer.transport.abort()

    bounded(main)


# --- pieces that do not come whole ----------------------------------------------------------------

BLOCK = write_block(request("/none", *((f"x-{n}", "v" * 50) for n in range(20))))
HALTING: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "headers without an end": (frame(HEADERS, 0, 3, BLOCK), ()),
    "headers in crumbs": (frame(HEADERS, 0, 3, BLOCK), 60 * (frame(CONTINUATION, 0, 3, b"\0\1a\1b"),)),
    "half a frame's head": (b"\0\0\5\0", ()),
    "half of HEADERS": (frame(HEADERS, END_HEADERS, 3, BLOCK)[:200], ()),
    "half of DATA": (frame(DATA, 0, 1, bytes(10_000))[:5_000], ()),
    "DATA in crumbs": (frame(DATA, 0, 1, bytes(10_000))[:5_000], 4_000 * (b"\0",)),
    "half of a frame that nobody knows": (frame(0x42, 0, 0, bytes(900))[:500], ()),
}


@pytest.mark.parametrize("case", HALTING)
def test_a_frame_or_a_block_that_does_not_come_whole_ends_the_connection(engine: str, case: str) -> None:
    # A stream is open and owes nothing: what halts is the connection.
    said, crumbs = HALTING[case]

    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, OPENING, WHOLE)
            await asyncio.sleep(0.2)
            assert run.load.streams == 1
            one.say(said)
            dripping = asyncio.create_task(one.drip(crumbs, 0.1))
            await one.ended(SHORT.message)
            dripping.cancel()
            assert run.load.streams == 0
            assert run.load.held.bytes == 0

    bounded(main)


def test_frames_that_come_whole_all_the_time_are_no_halting(engine: str) -> None:
    # At each look another frame is half here, as on a slow way to a gateway that has much to say.
    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, OPENING, WHOLE)
            ping = frame(PING, 0, 0, bytes(8))
            one.writer.write(ping[:9])
            pieces = (ping[9:] + ping[:9] for _ in range(60))
            await one.drip(pieces, 0.03)
            assert not one.over.done()
            assert len(run.server.connections) == 1

    bounded(main)


HALF: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "nothing": (b"", ()),
    "half a prefix": (data(1, b"\0\0"), ()),
    "half a message": (data(1, prefixed(1000, bytes(500))), ()),
    "a message in crumbs": (data(1, prefixed(1000, bytes(500))), 20 * (data(1, b"x" * 10),)),
    "a message, and half of one": (WHOLE + data(1, prefixed(1000, bytes(500))), ()),
}


@pytest.mark.parametrize("case", HALF)
def test_a_message_that_does_not_come_whole_ends_its_stream_alone(engine: str, case: str) -> None:
    said, crumbs = HALF[case]

    async def main() -> None:
        async with running(engine, patience=SHORT) as run, peer(run.port) as one:
            one.say(GREETED, OPENING, said)
            await one.drip(crumbs, 0.05)
            while RST_STREAM not in [kind for kind, _, _ in one.frames()]:
                assert one.watch.seconds() < (1.0 if crumbs else SHORT.message) + LATE
                await asyncio.sleep(0.01)
            assert SHORT.message - 0.1 < time.monotonic() - one.began
            assert ("grpc-message", "no whole message came in time") in one.headers()
            assert run.load.streams == 0
            assert run.load.held.bytes == 0
            assert len(run.server.connections) == 1, "others on this connection go on"

    bounded(main)


# --- many, and a process that stood ---------------------------------------------------------------


def test_many_such_peers_at_once_hinder_nobody_and_are_all_let_go_of(engine: str) -> None:
    kinds = [*DUMB.values(), *[GREETING + OPENING + WHOLE + said for said, _ in HALTING.values()], GREETING]

    async def main() -> None:
        async with running(engine, patience=SHORT) as run:
            writers = []
            for n in range(600):
                _, writer = await asyncio.open_connection("127.0.0.1", run.port)
                writer.write(kinds[n % len(kinds)])
                writers.append(writer)
            began = time.monotonic()
            longest = 0.0
            while time.monotonic() - began < SHORT.idle + SHORT.leaving + LATE:
                asked = Stopwatch()
                assert await whole_exchange(run.port) == "10.0.0.1:8000"
                longest = max(longest, asked.seconds())
            for writer in writers:
                writer.transport.abort()
            print(f"the longest of an honest peer's requests: {longest:.3f} s")
            assert longest < 1.0
            await asyncio.sleep(0.1)
            assert not run.server.connections
            assert run.load.held.bytes == 0
            assert run.load.held.accounts == set()

    bounded(main)


def test_what_came_while_the_process_stood_is_read_before_anybody_is_let_go_of(engine: str) -> None:
    message = request_body(b"x" * 1_500_000).SerializeToString()
    rest = data(1, prefixed(len(message), message))

    def honest(port: int) -> bytes:
        with Attacker(port, settings=struct.pack(">HI", INITIAL_WINDOW, 2**31 - 1)) as one:
            one.send(2 * frame(SETTINGS, 1, 0) + update(0, 2**30) + OPENING + WHOLE + rest[:100_000])
            time.sleep(0.3)
            one.send(rest[100_000:])
            heard, until = b"", time.monotonic() + 10
            while len(heard) < 1_500_000 and time.monotonic() < until:
                heard += one.read(0.3)
            return heard

    async def main() -> None:
        async with running(engine, patience=SHORT) as run:
            asked = asyncio.create_task(asyncio.to_thread(honest, run.port))
            await asyncio.sleep(0.15)
            time.sleep(2.5)  # noqa: ASYNC251  the loop stands for longer than any limit, and the rest of the message waits
            heard = await asked
            assert len(heard) > 1_500_000

    bounded(main)


def test_a_picker_process_has_these_limits_on_all_its_ports(tmp_path: Path) -> None:
    with Control(tmp_path) as control:
        control.append(
            PoolApplied("ns/pool", {"app": "m"}, (8000,)),
            EndpointJoined(1, "ns/pool", "uid-1", "ns", "pod-1", "10.0.0.1", 8000),
        )
        with picker(control, PickerOptions(patience=SHORT)) as process:
            ports = (process.listen(pool="ns/pool"), process.listen_health())
            process.wait_ready()
            for port, path in zip(ports, (PROCESS, CHECK), strict=True):
                with Attacker(port, greeting=False) as silent:
                    watch = Stopwatch()
                    assert silent.closed()
                    assert watch.seconds() < SHORT.greeting + LATE
                with Attacker(port) as idle:
                    began, watch = time.monotonic(), Stopwatch()
                    assert idle.closed()
                    assert SHORT.idle < time.monotonic() - began
                    assert watch.seconds() < SHORT.idle + SHORT.leaving + LATE
                with Attacker(port) as halting:
                    (stream,) = halting.open(1, request(path))
                    halting.send(data(stream, prefixed(5, b"\n\3")))
                    said = halting.read(SHORT.message + LATE)
                    assert b"no whole message came in time" in said
