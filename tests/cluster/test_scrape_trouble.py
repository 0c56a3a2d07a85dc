"""What a scraper makes of servers that hang, drip, flood, reset, close or answer with something else."""

import math
import resource
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
import trio

from pointsman.cluster.scraping.scraper import PAGE_TIME
from pointsman.core.events import (
    LoadSampled,
    ScrapeFailed,
)

POOL = "default/llama"
Handler = Callable[[trio.SocketStream], Awaitable[None]]
from worlds.scraped_world import World, hang, ok, page, scraped


async def reset(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc")
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()


async def endless(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"1000\r\n" + b"x" * 4096 + b"\r\n")


async def drip(stream: trio.SocketStream) -> None:
    for byte in ok(page()):
        await stream.send_all(bytes((byte,)))
        await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (hang, "timed out"),
        (drip, "timed out"),
        (reset, "connection reset by peer"),
        (endless, "page over 1,048,576 bytes"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", "status 500"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://other/x\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"\x16\x03\x01garbage\r\n\r\n", "not HTTP/1"),
        (ok(b"<html>\n"), "no metric of its engine in the page, wanted vllm:num_requests_waiting"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n" + b"x" * 100_000, "page over 1,048,576 bytes"),
    ],
    ids=["hang", "drip", "reset", "endless", "500", "302", "garbage", "html", "50 MB"],
)
def test_what_is_no_page_is_a_failure_with_its_cause(answer: bytes | Handler, cause: str) -> None:
    async def body(world: World) -> None:
        good = await world.server(ok(page(5)))
        bad = await world.server(answer)
        await world.until(lambda: len(world.told(ScrapeFailed)) >= 3)

        assert set(world.causes()) == {cause}
        assert len(world.causes()) == 1  # the others are the same
        assert math.isinf(world.state.age[1])
        assert (world.state.waiting[0], world.state.age[0]) == (5, 0)
        bad.answer = ok(page(6))
        await world.until(lambda: world.state.waiting[1] == 6)

        assert world.state.age[1] == 0
        assert good.connections == 1

    scraped(body)


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        (hang, False),
        (reset, False),
        (endless, True),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: http://other/x\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 307 Loop\r\nLocation: /metrics\r\nContent-Length: 0\r\n\r\n", True),
        (ok(b"<html>\n"), True),
        (b"\x16\x03\x01garbage\r\n\r\n", False),
    ],
    ids=["hang", "reset", "endless", "404", "elsewhere", "loop", "html", "garbage"],
)
def test_a_server_that_answers_without_a_page_is_told_from_one_that_does_not_answer(
    answer: bytes | Handler, alive: bool
) -> None:
    async def body(world: World) -> None:
        await world.server(answer)
        await world.until(lambda: len(world.told(ScrapeFailed)) >= 2)

        assert world.state.unreadable[0] == alive

    scraped(body)


@pytest.mark.parametrize("where", ["/metrics/", "http://127.0.0.1:{port}/metrics/"])
def test_a_redirect_on_the_same_server_leads_to_its_page(where: str) -> None:
    async def body(world: World) -> None:
        server = await world.server(b"")
        location = where.format(port=world.state.endpoints[1].port)
        moved = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()

        async def mounted(stream: trio.SocketStream) -> None:
            await stream.send_all(ok(page(9)) if server.paths[-1] == b"/metrics/" else moved)

        server.answer = mounted
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)

        assert world.state.waiting[0] == 9
        assert server.paths.count(b"/metrics") == 1  # it is not asked there again
        assert world.told(ScrapeFailed) == []

    scraped(body)


def test_a_page_that_is_slow_and_arrives_is_fresh() -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await trio.sleep(0.6)
        await stream.send_all(ok(page(0)))

    async def body(world: World) -> None:
        await world.server(slow)
        await world.until(lambda: len(world.told(LoadSampled)) >= 2)

        assert world.told(ScrapeFailed) == []
        assert world.state.age[0] == 0
        assert world.results > 2 * world.state.threshold / world.state.interval  # a wait is no lost scraper

    scraped(body)


def test_fifty_megabytes_are_neither_held_nor_read() -> None:
    sent = 0

    async def flood(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(800):
            await stream.send_all(bytes(65536))
            sent += 65536

    async def body(world: World) -> None:
        await world.server(flood)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await world.until(lambda: len(world.told(ScrapeFailed)) >= 1)

        assert world.causes() == ["page over 1,048,576 bytes"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
        assert sent < 40_000_000

    scraped(body)


def test_a_refused_connection_is_a_failure() -> None:
    async def body(world: World) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        world.join(port)
        await world.until(lambda: len(world.told(ScrapeFailed)) >= 2)

        assert world.causes() == ["connection refused"]

    scraped(body)


def test_a_server_that_closes_between_scrapes_has_not_failed() -> None:
    async def close_after(stream: trio.SocketStream) -> None:
        await stream.send_all(ok(page()))
        await stream.aclose()  # without having said so

    async def body(world: World) -> None:
        server = await world.server(close_after)
        await world.until(lambda: len(world.told(LoadSampled)) >= 5)

        assert server.connections >= 5
        assert world.told(ScrapeFailed) == []

    scraped(body)


def test_a_server_that_hangs_is_stale_when_the_time_of_a_page_is_over_and_fresh_with_its_next_page() -> None:
    async def body(world: World) -> None:
        server = await world.server(ok(page()))
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)
        server.answer = hang
        await world.until(lambda: world.state.age[0] > world.state.threshold)
        last = max(at for at, event in world.events if isinstance(event, LoadSampled))
        failed = next(at for at, event in world.events if isinstance(event, ScrapeFailed))

        # An attempt begins within an interval, and is given up at a look that is one more away.
        assert PAGE_TIME <= failed - last < PAGE_TIME + 2 * world.state.interval + 0.15
        assert abs(world.state.age[0] - (failed - last)) < 0.15
        server.answer = ok(page())
        await world.until(lambda: world.state.age[0] == 0)

    scraped(body)


def test_one_failure_makes_no_sample_stale() -> None:
    failing = True

    async def fail_once(stream: trio.SocketStream) -> None:
        nonlocal failing
        body = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n" if failing else ok(page())
        failing = False
        await stream.send_all(body)

    async def body(world: World) -> None:
        server = await world.server(ok(page()))
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)
        server.answer = fail_once
        await world.until(lambda: bool(world.told(ScrapeFailed)))

        assert 0 < world.state.age[0] <= world.state.threshold
        await world.until(lambda: world.state.age[0] == 0)

    scraped(body)


def test_a_pause_of_this_process_is_no_failure_of_a_server() -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await trio.sleep(0.04)
        await stream.send_all(ok(page()))

    async def body(world: World) -> None:
        server = await world.server(slow)
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)
        for _ in range(3):
            asked = server.requests
            await world.until(lambda asked=asked: server.requests > asked)  # type: ignore[misc]
            time.sleep(0.6)  # noqa: ASYNC251  nothing of this process runs: neither scraper nor server
            await trio.sleep(0.2)

        assert world.told(ScrapeFailed) == []
        assert world.scraper.statistics().stalls >= 3

    scraped(body)


def test_a_server_that_keeps_failing_is_asked_less_often_but_often_enough() -> None:
    async def body(world: World) -> None:
        server = await world.server(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
        await trio.sleep(1.0)
        asked = server.requests
        await trio.sleep(1.5)

        assert 4 <= server.requests - asked <= 15  # each quarter of a second, and not each 50 ms

    scraped(body)


# --- pace -------------------------------------------------------------------------------------------
