"""Event streams: many of them, readers that do not read, and what a restart does to a page that is open."""

import json
import random
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.lowlevel
from worlds.console_world import OLD, World, served, world
from worlds.waiting import HUNG

from pointsman.web.serving.console_server import LIMITS
from pointsman.web.serving.http_limits import HttpLimits
from pointsman.web.stream import GAPS, HEARTBEAT, STREAMS_MAX, Broadcast, Subscription


class Reader:
    """A page's event stream, read by hand."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.rest = b""

    async def ask(self, host: str) -> None:
        """Send the request."""
        await self.stream.send_all(f"GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    async def until(self, mark: bytes) -> bytes:
        """Read up to `mark`; what stands before it."""
        while mark not in self.rest:
            data = await self.stream.receive_some(65_536)
            if not data:
                raise EOFError(self.rest[-200:])
            self.rest += data
        found, _, self.rest = self.rest.partition(mark)
        return found

    async def topics(self) -> set[str]:
        """The topics of the next event."""
        await self.until(b"event: changed\ndata: ")
        return set(json.loads(await self.until(b"\n\n")))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Reader]:
    """A stream whose first event has come."""
    port = int(url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        reader = Reader(stream)
        await reader.ask(f"127.0.0.1:{port}")
        yield reader


def run(tmp_path: Path, body: Callable[[World], Awaitable[None]]) -> None:
    """Run `body` with a world, bounded in time."""

    async def main() -> None:
        with trio.fail_after(20):
            async with world(tmp_path, 3) as made:
                await body(made)

    trio.run(main)


async def get(url: str, path: str) -> tuple[int, bytes]:
    """One request: status and body."""
    port = int(url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        data = b"".join([part async for part in stream])
    return int(data[9:12]), data.partition(b"\r\n\r\n")[2]


def test_a_stream_begins_with_all_topics_and_tells_what_changed(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url, opened(url) as reader:
            head = await reader.until(b"\r\n\r\n")
            assert b"200" in head.split(b"\r\n")[0]
            assert b"text/event-stream" in head
            first = await reader.topics()
            assert first == set(GAPS)
            made.broadcast.changed("pools")
            assert await reader.topics() == {"pools"}

    run(tmp_path, body)


def test_a_new_decision_is_told_and_can_be_read_within_a_second(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url, opened(url) as reader:
            await reader.topics()
            await trio.sleep(0.6)
            for _ in range(3):
                begun = trio.current_time()
                position = await made.request(random.Random(1), OLD)
                await made.index()
                while "decisions" not in await reader.topics():
                    pass
                _, page = await get(url, "/decisions")
                assert f'href="/decisions/{position}"'.encode() in page
                assert trio.current_time() - begun < 1.0

    run(tmp_path, body)


def test_updates_coalesce_under_load(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url, opened(url) as reader:
            await reader.topics()
            told = 0
            with trio.move_on_after(2.2):
                async with trio.open_nursery() as nursery:

                    async def press() -> None:
                        while True:
                            made.broadcast.changed("decisions", "log", "pools")
                            await trio.sleep(0.001)

                    nursery.start_soon(press)
                    while True:
                        await reader.topics()
                        told += 1
            assert 2 <= told <= 8

    run(tmp_path, body)


def test_two_hundred_streams_are_open_and_pages_are_still_served(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url, trio.open_nursery() as nursery:
            heard, release = [0], trio.Event()

            async def read() -> None:
                async with opened(url) as reader:
                    await reader.topics()
                    heard[0] += 1
                    while "routes" not in await reader.topics():
                        pass
                    heard[0] += 1
                    await release.wait()

            for _ in range(200):
                nursery.start_soon(read)
            while heard[0] < 200:
                await trio.sleep(0.01)
            assert made.broadcast.statistics().streams == 200
            made.broadcast.changed("routes")
            begun = trio.current_time()
            assert (await get(url, "/pools"))[0] == 200
            assert trio.current_time() - begun < 2.0
            while heard[0] < 400:
                await trio.sleep(0.01)
            release.set()
        assert made.broadcast.statistics().streams == 0

    run(tmp_path, body)


def test_beyond_the_limit_a_stream_is_refused_and_room_comes_back(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        made.broadcast._streams_max = 2
        async with served(made) as url:
            async with opened(url) as one, opened(url) as two:
                await one.topics()
                await two.topics()
                status, told = await get(url, "/events")
                assert status == 503
                assert b"2 event streams are open, wanted at most 2" in told
            while made.broadcast.statistics().streams:
                await trio.sleep(0.01)
            async with opened(url) as again:
                assert await again.topics()

    run(tmp_path, body)


def test_a_reader_that_never_reads_costs_nothing_and_is_let_go(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        gaps = dict(GAPS)
        GAPS.update(dict.fromkeys(GAPS, 0.0))
        try:
            async with served(made, limits=HttpLimits(write=1.0)) as url, opened(url) as reader:
                reader.stream.setsockopt(1, 8, 2048)  # SOL_SOCKET, SO_RCVBUF
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                while not made.broadcast.statistics().streams:
                    await trio.sleep(0.01)
                [subscription] = made.broadcast._open
                while made.broadcast.statistics().streams:
                    made.broadcast.changed(*GAPS)
                    assert len(subscription.topics) <= len(GAPS)
                    await trio.lowlevel.checkpoint()
                assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000
        finally:
            GAPS.update(gaps)

    run(tmp_path, body)


def test_a_server_that_ends_waits_for_nobody_who_does_not_read(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        begun = 0.0
        gaps = dict(GAPS)
        GAPS.update(dict.fromkeys(GAPS, 0.0))
        try:
            async with trio.open_nursery() as nursery:
                async with served(made) as url:
                    for _ in range(5):
                        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
                        stream.setsockopt(1, 8, 2048)
                        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        nursery.start_soon(_hold, stream)
                    until = trio.current_time() + 1.5
                    while trio.current_time() < until:
                        made.broadcast.changed(*GAPS)
                        await trio.lowlevel.checkpoint()
                    begun = trio.current_time()
                nursery.cancel_scope.cancel()
                assert trio.current_time() - begun < LIMITS.grace + 1.0
        finally:
            GAPS.update(gaps)

    run(tmp_path, body)


async def _hold(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


def test_a_stream_ends_when_the_server_does_and_begins_anew_with_all_topics(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url, opened(url) as reader:
            await reader.topics()
            port = int(url.rpartition(":")[2])
            made.broadcast.end()
            await reader.until(b"0\r\n\r\n")  # in order, not cut
        begun = time.monotonic()
        async with served(made, port) as url, opened(url) as reader:
            assert await reader.topics() == set(GAPS)
        assert time.monotonic() - begun < 3.0

    run(tmp_path, body)


def test_a_reader_that_goes_away_frees_its_place_at_once(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url:
            for _ in range(50):
                async with opened(url) as reader:
                    await reader.topics()
            with trio.fail_after(HUNG):
                while made.broadcast.statistics().streams:
                    await trio.sleep(0.01)

    run(tmp_path, body)


def test_a_topic_is_told_once_in_its_gap_and_never_lost() -> None:
    async def main() -> None:
        subscription = Subscription()
        assert set(subscription.take(0.0)) == set(GAPS)
        assert subscription.pause(0.0) == HEARTBEAT
        subscription.add("pools")
        assert subscription.take(0.5) == []
        assert subscription.pause(0.5) == GAPS["pools"] - 0.5
        assert subscription.take(GAPS["pools"]) == ["pools"]
        assert subscription.take(10.0) == []

    trio.run(main)


def test_a_connection_is_closed_when_its_reader_asks_for_that(tmp_path: Path) -> None:
    async def body(made: World) -> None:
        async with served(made) as url:
            for path in ("/pools", "/nowhere", "/requests/x", "/static/console.css"):
                with trio.fail_after(3):
                    await get(url, path)

    run(tmp_path, body)


def test_nothing_is_kept_for_streams_that_are_not_there() -> None:
    broadcast = Broadcast()
    for _ in range(1000):
        broadcast.changed("decisions")

    assert broadcast.statistics().streams == 0
    assert broadcast.statistics().streams_max == STREAMS_MAX
