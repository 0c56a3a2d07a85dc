"""Clients of the console and of `/metrics` that take their time: each ends in a bounded one, and hinders nobody."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio
from worlds.console_world import served, world
from worlds.epp_process import EppProcess
from worlds.ports import free_port
from worlds.system import children
from worlds.waiting import HUNG, Stopwatch

from pointsman.web.metrics.metrics_server import LIMITS as METRICS, serve_metrics
from pointsman.web.serving.console_server import LIMITS as CONSOLE
from pointsman.web.serving.http_limits import HttpLimits

SHORT = HttpLimits(headers=0.6, body=0.8, write=0.7, idle=1.0)
LATE = 0.6
"""Seconds by which an end may come late."""
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /routes/default/r/rules/0/weights HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
LINES = 400_000


class Port:
    """One of the two ports, with a page to ask for."""

    def __init__(self, number: int, path: bytes) -> None:
        self.number = number
        self.path = path

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.number)

    async def ask(self) -> float:
        """An honest client's request on a connection of its own: the seconds until the first bytes of its answer."""
        watch = Stopwatch()
        async with await self.connect() as stream:
            await stream.send_all(GET % self.path)
            answer = await stream.receive_some(15)
            assert answer.startswith(b"HTTP/1.1 200"), answer
        return watch.seconds()


def page() -> Iterator[str]:
    """Metrics; some megabytes of them."""
    line = "a_line 1\n" * 1000
    return (line for _ in range(LINES // 1000))


@asynccontextmanager
async def port_of(kind: str, home: Path, limits: HttpLimits) -> AsyncIterator[Port]:
    if kind == "console":
        async with world(home, 3) as made, served(made, limits=limits) as url:
            yield Port(int(url.rpartition(":")[2]), b"/pools")
        return
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    number = listening.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_metrics, page, listening.detach(), limits)
        yield Port(number, b"/metrics")
        nursery.cancel_scope.cancel()


def run(kind: str, home: Path, limits: HttpLimits, body: Callable[[Port], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(HUNG):
            async with port_of(kind, home, limits) as port:
                await body(port)

    trio.run(main)


async def until_closed(stream: trio.SocketStream) -> bytes:
    """What is answered until the connection is over."""
    heard = b""
    with suppress(trio.BrokenResourceError):
        while piece := await stream.receive_some(65_536):
            heard += piece
    return heard


async def drip(stream: trio.SocketStream, piece: bytes, every: float) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await stream.send_all(piece)
            await trio.sleep(every)


@pytest.fixture(params=["console", "metrics"])
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def test_the_limits_are_those_that_the_documents_say() -> None:
    told = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()

    common = {"headers": 10, "body": 15, "write": 10, "idle": 30, "header_bytes": 32_768}
    assert msgspec.to_builtins(CONSOLE) == common | {"grace": 1, "connections": 400}
    assert msgspec.to_builtins(METRICS) == common | {"grace": 0.5, "connections": 100}
    words = (
        "ended after 30 s without a request, 10 s within its headers, 15 s within its body, 10 s in which nothing of "
        "an answer is read; of more than 400 connections at the console, 100 at `/metrics`, those that have owed longest"
    )
    assert words in told


SLOW: dict[str, tuple[bytes, bytes, float]] = {
    "nothing": (b"", b"", SHORT.idle),
    "half a line": (b"GET /met", b"", SHORT.headers),
    "headers without an end": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n", b"", SHORT.headers),
    "headers in crumbs": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-A: 1\r\n", SHORT.headers),
    "half a header in crumbs": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"1", SHORT.headers),
    "half a request after a whole one": (b"", b"", SHORT.headers),
    "nothing after a request": (b"", b"", SHORT.idle),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_request_that_does_not_come_is_given_up(kind: str, tmp_path: Path, case: str) -> None:
    said, crumb, limit = SLOW[case]

    async def body(port: Port) -> None:
        async with await port.connect() as stream, trio.open_nursery() as nursery:
            if case.endswith("a whole one"):
                said_now = GET % b"/static/none" + b"GET /met"
            elif case.endswith("after a request"):
                said_now = GET % b"/static/none"
            else:
                said_now = said
            began, watch = trio.current_time(), Stopwatch()
            await stream.send_all(said_now)
            if crumb:
                nursery.start_soon(drip, stream, crumb, 0.1)
            answered = await until_closed(stream)
            assert limit - 0.1 < trio.current_time() - began
            # After an answer the time begins anew.
            assert watch.seconds() < limit + (SHORT.idle if answered else 0) + LATE
            nursery.cancel_scope.cancel()
            assert (b" 404 " in answered) == ("a whole one" in case or "after a request" in case)

    run(kind, tmp_path, SHORT, body)


BODIES = {
    "no body": (b"Content-Length: 100\r\n\r\n", b""),
    "half a body": (b"Content-Length: 100\r\n\r\nfield=", b""),
    "a body in crumbs": (b"Content-Length: 60000\r\n\r\n", b"x"),
    "half a chunk": (b"Transfer-Encoding: chunked\r\n\r\n50\r\nabc", b""),
    "chunks without an end": (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a promise": (b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n", b""),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_does_not_come_is_given_up(kind: str, tmp_path: Path, case: str) -> None:
    said, crumb = BODIES[case]

    async def body(port: Port) -> None:
        async with await port.connect() as stream, trio.open_nursery() as nursery:
            watch = Stopwatch()
            await stream.send_all(POST + said)
            if crumb:
                nursery.start_soon(drip, stream, crumb, 0.1)
            await until_closed(stream)
            assert watch.seconds() < SHORT.body + LATE
            nursery.cancel_scope.cancel()

    run(kind, tmp_path, SHORT, body)


def test_an_answer_that_is_not_read_is_given_up(tmp_path: Path) -> None:
    async def body(port: Port) -> None:
        async with await port.connect() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            await stream.send_all(GET % b"/metrics")
            await trio.sleep(SHORT.write + LATE)
            heard = await until_closed(stream)
            assert len(heard) < LINES * 9, "the rest was not sent"

    run("metrics", tmp_path, SHORT, body)


def test_a_slow_request_within_the_limits_is_answered(kind: str, tmp_path: Path) -> None:
    async def body(port: Port) -> None:
        async with await port.connect() as stream:
            whole = GET % port.path
            for at in range(0, len(whole), 8):
                await stream.send_all(whole[at : at + 8])
                await trio.sleep(0.03)
            assert (await stream.receive_some(15)).startswith(b"HTTP/1.1 200")

    run(kind, tmp_path, SHORT, body)


@pytest.mark.parametrize(
    "said",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
    ],
    ids=["HTTP/2", "h2c"],
)
def test_nobody_changes_to_another_protocol_and_its_times(kind: str, tmp_path: Path, said: bytes) -> None:
    async def body(port: Port) -> None:
        async with await port.connect() as stream:
            watch = Stopwatch()
            await stream.send_all(said)
            answered = await until_closed(stream)
            assert answered.startswith(b"HTTP/1.1 ")
            assert not answered.startswith(b"HTTP/1.1 101")
            assert watch.seconds() < SHORT.idle + LATE

    run(kind, tmp_path, SHORT, body)


MANY = [b"", b"GET /met", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n", POST + b"Content-Length: 100\r\n\r\nx"]


@pytest.mark.parametrize("limits", [None, SHORT], ids=["as it is", "short"])
def test_five_hundred_slow_clients_hinder_nobody(kind: str, tmp_path: Path, limits: HttpLimits | None) -> None:
    # As it is, none of their times is over before the test is.
    within = limits or (CONSOLE if kind == "console" else METRICS)
    if limits is not None:
        within = msgspec.structs.replace(limits, connections=100)

    async def body(port: Port) -> None:
        slow = []
        events = await port.connect()
        await events.send_all(GET % b"/events")
        await events.receive_some(4096)
        try:
            for n in range(500):
                stream = await port.connect()
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(MANY[n % len(MANY)])
                slow.append(stream)
            longest = max([await port.ask() for _ in range(5)])
            print(f"the longest of an honest client's requests: {longest:.3f} s")
            assert longest < 1.0
            if kind == "console":
                with trio.fail_after(40):
                    assert await events.receive_some(4096), "an event stream owes nothing, and stays"
            if limits is not None:
                watch = Stopwatch()
                for stream in slow:
                    await until_closed(stream)
                assert watch.seconds() < max(SHORT.idle, SHORT.body) + LATE
        finally:
            for stream in [*slow, events]:
                await trio.aclose_forcefully(stream)

    run(kind, tmp_path, within, body)


def test_fifteen_hundred_slow_clients_leave_the_control_process_its_descriptors(tmp_path: Path) -> None:
    epp = EppProcess(tmp_path)
    epp.put("127.0.0.1:1")
    metrics = free_port("127.0.0.1")
    with epp.running("--secure-serving=false", f"--metrics-port={metrics}"), ExitStack() as slow:
        epp.until("epp: ready")
        control = children(epp.supervisor)["control"]
        for n in range(1500):
            made = slow.enter_context(socket.create_connection(("127.0.0.1", metrics)))
            with suppress(OSError):
                made.sendall(MANY[n % len(MANY)])
        descriptors = len(os.listdir(f"/proc/{control}/fd"))
        with socket.create_connection(("127.0.0.1", metrics)) as honest:
            honest.settimeout(10)
            honest.sendall(GET % b"/metrics")
            assert honest.recv(15).startswith(b"HTTP/1.1 200")
        assert descriptors < METRICS.connections + 60
    assert "Too many open files" not in epp.said()
