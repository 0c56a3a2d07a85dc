"""Peers that mean no good, on the ports of a picker process: each pays for itself, and a gateway is served meanwhile."""

import asyncio
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest
from worlds.attacker import (
    CHECK,
    INITIAL_WINDOW,
    PROCESS,
    Attacker,
    data,
    prefixed,
    request,
    setting,
    update,
)
from worlds.picker_process import Control, PickerProcess, picker
from worlds.waiting import HUNG, Stopwatch, wait_for
from worlds.wire import (
    connected,
    hear,
    open_stream,
    request_body,
    request_headers,
    response_body,
    response_headers,
    say,
)

from pointsman.core.events import EndpointJoined, PoolApplied
from pointsman.core.processes.settings import PickerOptions, StreamLimits
from pointsman.grpc.http2.frames import DATA, HEADERS, PREFACE, SETTINGS, frame
from pointsman.grpc.http2.machine import STREAMS_MAX

POOL = "ns/pool"
MEMBERS = (
    PoolApplied(POOL, {"app": "m"}, (8000,)),
    EndpointJoined(1, POOL, "uid-1", "ns", "pod-1", "10.0.0.1", 8000),
)
MIB = 1 << 20
HELD_MAX = 64 * MIB
OPTIONS = PickerOptions(limits=StreamLimits(held_bytes_max=HELD_MAX))
CPU_MAX = 1.5
"""Seconds of CPU that one of these attacks may cost: some tenths, and what the gateway's requests take."""
BODY = b'{"model":"m","prompt":"' + b"hello " * 20_000 + b'"}'


class Gateway(threading.Thread):
    """A good client on a connection of its own: one request after the other."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._over = threading.Event()
        self.served = 0
        self.longest = 0.0
        """Seconds of the longest request, without those in which the machine had no core for it."""
        self.failure = ""

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(HUNG), connected(self._port) as channel:
                while not self._over.is_set():
                    watch = Stopwatch()
                    async with open_stream(channel) as stream:
                        await say(stream, request_headers(), request_body(BODY))
                        await hear(stream, 3)  # the headers, and a body of two chunks
                        await say(stream, response_headers(), response_body(b"{}"))
                        await hear(stream, 2)
                        assert await stream.recv_message() is None
                        await stream.end()
                    self.longest = max(self.longest, watch.seconds())
                    self.served += 1
                    await asyncio.sleep(0.01)
        except Exception as error:  # noqa: BLE001  told by the test
            self.failure = f"{type(error).__name__}: {error}"

    def __enter__(self) -> Self:
        self.start()
        wait_for(lambda: self.served or self.failure, 20, "the first request")
        self.longest = 0.0
        return self

    def __exit__(self, *exc: object) -> None:
        served = self.served
        wait_for(lambda: self.served > served + 1 or self.failure, 20, "a request after the attack")
        self._over.set()
        self.join(HUNG)


class Site:
    """A picker process with a pool's port and a health port."""

    def __init__(self, process: PickerProcess) -> None:
        self.process = process
        self.port = process.listen(pool=POOL)
        self.health = process.listen_health()
        process.wait_ready()

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the process has taken."""
        fields = Path(f"/proc/{self.process.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> int:
        """Bytes of memory that it has."""
        return int(Path(f"/proc/{self.process.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Control(tmp_path) as control:
        control.append(*MEMBERS)
        with picker(control, OPTIONS) as process:
            yield Site(process)
            assert process.process.poll() is None, process.written()
        assert "Traceback" not in process.written()


@contextmanager
def served(site: Site, cpu_max: float = CPU_MAX) -> Iterator[None]:
    """A gateway is served while the body runs, and the process takes no more CPU than that."""
    with Gateway(site.port) as gateway:
        before = site.cpu
        yield
        spent = site.cpu - before
    print(f"{spent:.2f} s of CPU, {gateway.served} requests served meanwhile, the longest in {gateway.longest:.2f} s")
    assert gateway.failure == ""
    assert spent < cpu_max
    assert gateway.longest < 2.0


def crumbs(site: Site) -> None:
    """A message of nearly four MiB, and then bytes of it one by one."""
    with Attacker(site.port) as attacker:
        (stream,) = attacker.open()
        attacker.send(data(stream, prefixed(4 * MIB - 5, bytes(3_900_000))))
        time.sleep(0.3)
        attacker.send(frame(DATA, 0, stream, b"x") * 40_000)
        attacker.closed(3)


def crumbs_of_many(site: Site) -> None:
    """Frames of twenty bytes, which no limit takes for crumbs, into a large message."""
    with Attacker(site.port) as attacker:
        (stream,) = attacker.open()
        attacker.send(data(stream, prefixed(4 * MIB - 5, bytes(3_500_000))))
        time.sleep(0.3)
        attacker.send(frame(DATA, 0, stream, bytes(20)) * 20_000)
        time.sleep(1)


def windows_set(site: Site) -> None:
    """SETTINGS that change the window of thousands of streams, thousands of times."""
    with Attacker(site.port) as attacker:
        attacker.open(STREAMS_MAX)
        time.sleep(0.5)
        changes = setting(INITIAL_WINDOW, 65_536) + setting(INITIAL_WINDOW, 65_535)
        attacker.send(changes * 4_500)
        attacker.closed(3)


def settings_stuffed(site: Site) -> None:
    """SETTINGS frames that are full of settings that nobody knows."""
    stuffed = frame(SETTINGS, 0, 0, b"".join(i.to_bytes(2, "big") + bytes(4) for i in range(10, 2740)))
    with Attacker(site.port) as attacker:
        attacker.send(stuffed * 1_000)
        attacker.closed(3)


def window_opened(site: Site) -> None:
    """WINDOW_UPDATE for the connection, thousands of times, while thousands of streams wait."""
    with Attacker(site.port, settings=b"") as attacker:
        attacker.open(STREAMS_MAX)
        time.sleep(0.5)
        attacker.send(update(0, 1) * 9_900)
        attacker.closed(2)


def window_opened_by_crumbs(site: Site) -> None:
    """One waiting answer of a megabyte, fetched byte by byte."""
    message = request_headers().SerializeToString()
    body = request_body(bytes(2 * MIB)).SerializeToString()
    with Attacker(site.port, settings=b"\0\4\0\0\0\0") as attacker:
        (stream,) = attacker.open()
        attacker.send(data(stream, prefixed(len(message), message) + prefixed(len(body), body)))
        time.sleep(0.5)
        attacker.send(update(stream, 1) * 9_900)
        attacker.closed(2)


def blocks(site: Site) -> None:
    """Header blocks as large as they may be, each for a stream that is refused."""
    headers = request("/none", *((f"x-{i}", "v" * 100) for i in range(200)))
    with Attacker(site.port) as attacker:
        attacker.open(300, headers)
        attacker.closed(2)


COSTLY: list[Callable[[Site], None]] = [
    crumbs,
    crumbs_of_many,
    windows_set,
    settings_stuffed,
    window_opened,
    window_opened_by_crumbs,
    blocks,
]


@pytest.mark.parametrize("attack", COSTLY)
def test_what_a_frame_costs_is_bounded_by_its_bytes(site: Site, attack: Callable[[Site], None]) -> None:
    with served(site):
        attack(site)


def partial_messages(site: Site, attackers: list[Attacker]) -> None:
    for attacker in attackers:
        for stream in attacker.open(20):
            attacker.send(data(stream, prefixed(4 * MIB - 5, bytes(3_900_000))), 5)


def bodies(site: Site, attackers: list[Attacker]) -> None:
    headers = request_headers().SerializeToString()
    chunk = request_body(bytes(1 * MIB), end=False).SerializeToString()
    for attacker in attackers:
        for stream in attacker.open(20):
            attacker.send(data(stream, prefixed(len(headers), headers) + 4 * prefixed(len(chunk), chunk)), 5)


def bodies_in_crumbs(site: Site, attackers: list[Attacker]) -> None:
    headers = request_headers().SerializeToString()
    chunk = request_body(b"xy", end=False).SerializeToString()
    crumbs = prefixed(len(chunk), chunk) * 20_000
    for attacker in attackers:
        for stream in attacker.open(20):
            attacker.send(data(stream, prefixed(len(headers), headers) + crumbs), 5)


def unread_answers(site: Site, attackers: list[Attacker]) -> None:
    headers = request_headers().SerializeToString()
    body = request_body(bytes(3_900_000)).SerializeToString()
    for attacker in attackers:
        attacker.send(setting(INITIAL_WINDOW, 0))
        for stream in attacker.open(20):
            attacker.send(data(stream, prefixed(len(headers), headers) + prefixed(len(body), body)), 5)


def unread_bytes(site: Site, attackers: list[Attacker]) -> None:
    headers = request_headers().SerializeToString()
    body = request_body(bytes(3_900_000)).SerializeToString()
    for attacker in attackers:
        attacker.send(setting(INITIAL_WINDOW, 2**31 - 1) + update(0, 2**30))
        for stream in attacker.open(20):
            attacker.send(data(stream, prefixed(len(headers), headers) + prefixed(len(body), body)), 5)


def probes_without_end(site: Site, attackers: list[Attacker]) -> None:
    for _ in range(8):
        attacker = Attacker(site.health)
        attackers.append(attacker)
        (stream,) = attacker.open(1, request(CHECK))
        attacker.send(data(stream, prefixed(2**31, bytes(60 * MIB))), 5)


def streams(site: Site, attackers: list[Attacker]) -> None:
    for attacker in attackers:
        attacker.open(STREAMS_MAX)


HOARDS: list[Callable[[Site, list[Attacker]], None]] = [
    partial_messages,
    bodies,
    bodies_in_crumbs,
    unread_answers,
    unread_bytes,
    probes_without_end,
    streams,
]


@pytest.mark.parametrize("hoard", HOARDS)
def test_all_that_peers_have_the_picker_hold_is_within_its_limit(
    site: Site, hoard: Callable[[Site, list[Attacker]], None]
) -> None:
    before = site.resident
    with served(site, cpu_max=20), ExitStack() as stack:
        attackers = [Attacker(site.port) for _ in range(4)]
        hoard(site, attackers)
        for one in attackers:
            stack.callback(one.socket.close)
        time.sleep(0.5)
        grown = site.resident - before
    print(f"grown by {grown >> 20} MiB against a limit of {HELD_MAX >> 20}")
    assert grown < HELD_MAX + 64 * MIB


def test_without_descriptors_it_says_so_once_and_serves_who_is_there(site: Site) -> None:
    pid = site.process.process.pid
    with served(site):
        have = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (have + 10, have + 10))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(Attacker(site.port))
            time.sleep(3)
        wait_for(lambda: answers(site), 20, "a new connection")
    told = site.process.written()

    assert told.count("no more connections are accepted for now") == 1
    assert len(told) < 2000


def answers(site: Site) -> bool:
    with Attacker(site.port) as attacker:
        return bool(attacker.read(1))


@pytest.mark.parametrize(
    "headers",
    [
        request(PROCESS, ("content-length", "9" * 5000)),
        request(PROCESS, ("content-length", "")),
        request(PROCESS, ("grpc-timeout", "\xb2H")),
        request(PROCESS, ("grpc-timeout", "9" * 5000 + "H")),
        request(PROCESS, ("grpc-timeout", "H")),
        request(PROCESS, ("x-bin", "!!!")),
        request("/nowhere", ("x-bin", "!!!")),
        request(CHECK, ("x-bin", "!!!")),
        request(PROCESS, ("grpc-encoding", "nonsense")),
    ],
    ids=lambda headers: f"{headers[2][1][-7:]} {headers[-1][0]} {headers[-1][1][:3]}",
)
def test_headers_that_cannot_be_are_answered_by_the_protocol(site: Site, headers: list[tuple[str, str]]) -> None:
    with Attacker(site.port) as attacker:
        attacker.read(0.5)
        (stream,) = attacker.open(1, headers)
        attacker.send(frame(DATA, 1, stream))
        answer = attacker.read(0.5)

    assert answer
    assert not site.process.written()


@pytest.mark.parametrize("message", [b"\1\0\0\0\1x", b"\0\0\0\0\2\xff\xff", b"\0\xff\xff\xff\xff", b"\2\0\0\0\1x"])
def test_messages_that_cannot_be_are_answered_by_the_protocol(site: Site, message: bytes) -> None:
    for port, path in ((site.port, PROCESS), (site.health, CHECK)):
        with Attacker(port) as attacker:
            attacker.read(0.5)
            (stream,) = attacker.open(1, request(path))
            attacker.send(frame(DATA, 1, stream, message))

            assert b"grpc-status" in attacker.read(0.5), path


def test_a_peer_that_speaks_something_else_is_let_go_of(site: Site) -> None:
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1", PREFACE[:-1] + b"X"):
        with Attacker(site.port, greeting=False) as attacker:
            attacker.send(said)

            assert attacker.closed(), said


def test_a_header_block_that_never_ends_is_let_go_of(site: Site) -> None:
    with served(site), Attacker(site.port) as attacker:
        attacker.send(frame(HEADERS, 0, 1, bytes(100)) + frame(9, 0, 1, b"\0") * 100_000)

        assert attacker.closed()
