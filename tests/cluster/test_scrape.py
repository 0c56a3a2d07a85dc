"""Endpoints are scraped from real servers, and what those do becomes facts."""

import datetime
import math
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pointsman.cluster.pace import IDLE_FACTOR, INTERVAL_MIN, Pace, pace
from pointsman.cluster.samples import Samples
from pointsman.cluster.scrape import Scraper, ScrapeSettings
from pointsman.core.events import (
    NEVER_SAMPLED,
    EndpointJoined,
    EndpointLeft,
    Event,
    LabelsChanged,
    LoadSampled,
    PoolApplied,
    ScrapeFailed,
    ScrapePaced,
)
from pointsman.core.metrics_page import Lora, Reading
from pointsman.core.packing import unpack, unpack_floats
from pointsman.core.projection import ClusterState

POOL = "default/llama"
Handler = Callable[[trio.SocketStream], Awaitable[None]]


def page(waiting: int = 1, running: int = 2, kv_cache: float = 0.5, lora: str = "a") -> bytes:
    return (
        f"vllm:num_requests_waiting {waiting}\nvllm:num_requests_running {running}\nvllm:kv_cache_usage_perc {kv_cache}\n"
        f'vllm:lora_requests_info{{max_lora="4",running_lora_adapters="{lora}",waiting_lora_adapters=""}} 1\n'
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\n'
    ).encode()


class Server:
    """What a model server does with each request; `answer` may be replaced at any time."""

    def __init__(self, answer: bytes | Handler) -> None:
        self.answer = answer
        self.connections = self.requests = 0
        self.paths: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            async with stream:
                buffer = b""
                while data := await stream.receive_some():
                    buffer += data
                    while b"\r\n\r\n" in buffer:
                        request, _, buffer = buffer.partition(b"\r\n\r\n")
                        self.requests += 1
                        self.paths.append(request.split(b" ")[1])
                        if isinstance(self.answer, bytes):
                            await stream.send_all(self.answer)
                        else:
                            await self.answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def chunked(body: bytes) -> bytes:
    middle = len(body) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:middle], body[middle:]))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


class World:
    """A cluster state, the scraper that follows it, and all that it told."""

    def __init__(self, nursery: trio.Nursery, settings: ScrapeSettings | None = None) -> None:
        self.nursery = nursery
        self.state = ClusterState()
        self.events: list[tuple[float, Event]] = []
        self.results = 0
        self.last_request = math.inf  # busy
        self.scraper = Scraper(
            settings or ScrapeSettings(),
            lambda: self.state,
            self.take,
            last_request=lambda: self.last_request,
            on_result=self.result,
        )
        self.take([PoolApplied(POOL, {}, (8000,))])

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            self.events.append((trio.current_time(), event))
            self.state.apply_event(self.state.position + 1, event)

    def result(self) -> None:
        self.results += 1

    async def server(self, answer: bytes | Handler, host: str = "127.0.0.1") -> Server:
        """Start a server and let it join."""
        server = Server(answer)
        listeners: list[trio.SocketListener] = await self.nursery.start(trio.serve_tcp, server.serve, 0)
        for listener in listeners:
            if listener.socket.family == (socket.AF_INET6 if ":" in host else socket.AF_INET):
                self.join(listener.socket.getsockname()[1], host)
        return server

    def join(self, port: int, host: str = "127.0.0.1") -> int:
        number = self.state.next_endpoint
        self.take([EndpointJoined(number, POOL, f"uid-{number}", "default", f"llama-{number}", host, port)])
        return number

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kind)]

    def causes(self) -> list[str]:
        return [
            cause for event in self.told(ScrapeFailed) if isinstance(event, ScrapeFailed) for _, cause in event.causes
        ]

    async def until(self, condition: Callable[[], bool], limit: float = 5) -> None:
        with trio.fail_after(limit):
            while not condition():
                await trio.sleep(0.005)


def scraped(body: Callable[[World], Awaitable[None]], settings: ScrapeSettings | None = None) -> World:
    worlds: list[World] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery, settings)
            worlds.append(world)
            nursery.start_soon(world.scraper.run)
            await body(world)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return worlds[0]


# --- what servers do --------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [ok, chunked])
def test_a_page_becomes_a_sample_and_its_labels_are_told_once(framing: Callable[[bytes], bytes]) -> None:
    async def body(world: World) -> None:
        server = await world.server(framing(page(3, 17, 0.25)))
        await world.until(lambda: len(world.told(LoadSampled)) >= 5)

        assert (world.state.waiting[0], world.state.running[0], world.state.kv_cache[0]) == (3, 17, 0.25)
        assert world.state.age[0] == 0
        assert abs(world.state.sampled_at[0] - time.time()) < 1
        assert world.told(LabelsChanged) == [LabelsChanged(1, ("a",), (), 4, 16, 100)]
        assert server.connections == 1
        assert set(server.paths) == {b"/metrics"}
        server.answer = framing(page(4, lora="b"))
        await world.until(lambda: world.state.waiting[0] == 4)

        assert world.told(LabelsChanged)[1:] == [LabelsChanged(1, ("b",), (), 4, 16, 100)]
        assert world.told(ScrapeFailed) == []

    scraped(body)


def test_endpoints_are_scraped_at_the_interval_and_told_together() -> None:
    async def body(world: World) -> None:
        for _ in range(5):
            await world.server(ok(page()))
        await world.until(lambda: len(world.state.endpoints) == 5)
        await trio.sleep(0.3)
        world.events.clear()
        await trio.sleep(1.0)
        rounds = [e for e in world.told(LoadSampled) if isinstance(e, LoadSampled)]

        assert 14 <= len(rounds) <= 30  # 20 on a machine that does nothing else
        assert sum(len(unpack(e.endpoints)) for e in rounds) >= 4.5 * 14

    scraped(body)


def test_an_ipv6_server() -> None:
    async def body(world: World) -> None:
        server = Server(ok(page(7)))
        listeners = await world.nursery.start(partial(trio.serve_tcp, host="::1"), server.serve, 0)
        world.join(listeners[0].socket.getsockname()[1], "::1")
        await world.until(lambda: world.state.waiting[0] == 7)

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    scraped(body)


async def hang(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


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
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "status 302"),
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


def test_a_signal_that_is_missing_stays_as_it_was() -> None:
    async def body(world: World) -> None:
        server = await world.server(ok(page(3, 17)))
        await world.until(lambda: world.state.running[0] == 17)
        server.answer = ok(b"vllm:num_requests_waiting 9\n")
        await world.until(lambda: world.state.waiting[0] == 9)

        assert (world.state.running[0], world.state.cache_blocks[0]) == (17, 100)

    scraped(body)


def test_tls(tmp_path: Path) -> None:

    assert x509 is not None
    certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def body(world: World) -> None:
        server = Server(ok(page(8)))

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            await server.serve(stream)  # type: ignore[arg-type]

        listeners = await world.nursery.start(partial(trio.serve_ssl_over_tcp, host="127.0.0.1"), serve, 0, context)
        world.join(listeners[0].transport_listener.socket.getsockname()[1])
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)

        assert world.state.waiting[0] == 8
        assert server.connections == 1

    scraped(body, ScrapeSettings(scheme="https"))


def _certificate(directory: Path) -> Path:

    from cryptography import x509

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "llama")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    )
    certificate = (
        builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path = directory / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


# --- who is scraped ---------------------------------------------------------------------------------


def test_endpoints_that_leave_are_left_alone() -> None:
    async def body(world: World) -> None:
        server = await world.server(ok(page()))
        await world.until(lambda: bool(world.told(LoadSampled)))
        world.take([EndpointLeft(1)])
        await trio.sleep(0.2)
        asked, results = server.requests, world.results
        world.events.clear()
        await trio.sleep(0.3)

        assert server.requests == asked
        assert world.events == []
        assert world.scraper.statistics().endpoints == 0
        assert world.results > results  # nothing to scrape is no failure

    scraped(body)


def test_an_endpoint_that_leaves_while_it_hangs_is_left_alone() -> None:
    async def body(world: World) -> None:
        server = await world.server(hang)
        await world.until(lambda: server.requests == 1)
        world.take([EndpointLeft(1)])
        await trio.sleep(0.5)

        assert world.told(ScrapeFailed) == []

    scraped(body)


def test_the_metrics_port_stands_in_for_the_only_target_port() -> None:
    async def body(world: World) -> None:
        server = Server(ok(page(5)))
        listeners = await world.nursery.start(trio.serve_tcp, server.serve, 0)
        port = listeners[0].socket.getsockname()[1]
        world.scraper.settings = ScrapeSettings(metrics_port=port, path="/stats?format=text")
        world.join(1)
        await world.until(lambda: world.state.waiting[0] == 5)

        assert set(server.paths) == {b"/stats?format=text"}

    scraped(body)


def test_a_restart_tells_no_labels_again() -> None:
    async def body(world: World) -> None:
        await world.server(ok(page()))
        await world.until(lambda: bool(world.told(LabelsChanged)))
        world.events.clear()
        again = Scraper(
            ScrapeSettings(), lambda: world.state, world.take, last_request=lambda: math.inf, on_result=lambda: None
        )
        world.nursery.start_soon(again.run)
        await world.until(lambda: again.statistics().successes >= 3)

        assert world.told(LabelsChanged) == []
        assert world.told(ScrapePaced) == []

    scraped(body)


# --- staleness --------------------------------------------------------------------------------------


def test_a_server_that_hangs_is_stale_after_the_threshold_and_fresh_with_its_next_page() -> None:
    async def body(world: World) -> None:
        server = await world.server(ok(page()))
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)
        server.answer = hang
        await world.until(lambda: world.state.age[0] > world.state.threshold)
        last = max(at for at, event in world.events if isinstance(event, LoadSampled))
        failed = next(at for at, event in world.events if isinstance(event, ScrapeFailed))

        # An attempt begins within an interval and has failed within the threshold.
        assert failed - last < world.state.interval + world.state.threshold + 0.15
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


def test_without_traffic_it_is_slower_and_says_so() -> None:
    async def body(world: World) -> None:
        await world.server(ok(page()))
        await world.until(lambda: len(world.told(LoadSampled)) >= 2)

        assert world.told(ScrapePaced) == [ScrapePaced(0.05, 0.2)]
        world.last_request = -math.inf
        await world.until(lambda: len(world.told(ScrapePaced)) == 2)

        assert (world.state.interval, world.state.threshold) == (0.2, 0.6)
        world.events.clear()
        await trio.sleep(1.0)

        assert 3 <= len(world.told(LoadSampled)) <= 7
        world.last_request = math.inf
        await world.until(lambda: world.state.interval == 0.05, 0.5)

    scraped(body)


@given(st.integers(0, 5000), st.floats(1e-6, 1e-2), st.booleans(), st.floats(0.001, 10))
def test_the_threshold_is_three_intervals_at_least_and_cpu_keeps_its_budget(
    endpoints: int, cost: float, idle: bool, threshold: float
) -> None:
    found = pace(endpoints, cost, idle, threshold, None)

    assert found.interval >= INTERVAL_MIN * (IDLE_FACTOR if idle else 1)
    assert found.threshold >= max(3 * found.interval, threshold) - 0.001
    assert endpoints * cost / found.interval <= 0.3 * 1.01


@given(st.integers(1, 3000), st.floats(50e-6, 200e-6), st.lists(st.floats(0.93, 1.07), max_size=20))
def test_a_cost_that_wavers_is_no_new_pace(endpoints: int, cost: float, wavers: list[float]) -> None:
    found = pace(endpoints, cost * 1.1, False, 0.2, None)

    for waver in wavers:
        assert pace(endpoints, cost * waver, False, 0.2, found) == found


def test_a_thousand_endpoints_are_scraped_every_third_of_a_second() -> None:
    assert pace(1000, 100e-6, False, 0.2, None) == Pace(0.34, 1.02)


# --- gathering --------------------------------------------------------------------------------------

RESULTS = st.lists(
    st.tuples(st.integers(1, 4), st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 3)),
    max_size=30,
)


@given(RESULTS)
def test_the_fold_of_what_is_told_is_what_each_server_said_last(
    results: list[tuple[int, tuple[int, int] | None, int]],
) -> None:
    state, samples = ClusterState(), Samples()
    for number in range(1, 5):
        state.apply_event(state.position + 1, EndpointJoined(number, POOL, str(number), "d", str(number), "::1", 1))
        samples.follow(number, state)
    model = dict.fromkeys(range(1, 5), (0, 0, math.inf, ""))  # waiting, running, age, cause
    success: dict[int, float] = {}
    causes: dict[int, str] = {}
    now = 100.0
    for number, answer, drain in results:
        now += 1
        waiting, running, _, _ = model[number]
        if answer is None:
            cause = "timed out" if drain % 2 else "status 500"
            samples.failed(number, cause, now)
            model[number] = (waiting, running, now - success[number] if number in success else math.inf, cause)
        else:
            lora = Lora((f"a{answer[0] % 2}",), (), 4)
            samples.succeeded(number, Reading(*answer, None, lora), now, 1e9 + now)
            success[number] = now
            model[number] = (*answer, 0.0, "")
        if drain == 0:
            for event in samples.drain():
                state.apply_event(state.position + 1, event)
                if isinstance(event, ScrapeFailed):
                    causes.update(event.causes)
    for event in samples.drain():
        state.apply_event(state.position + 1, event)
        if isinstance(event, ScrapeFailed):
            causes.update(event.causes)

    assert not samples.pending
    for number, (waiting, running, age, cause) in model.items():
        slot = state.endpoints[number].slot
        assert (state.waiting[slot], state.running[slot], state.age[slot]) == (waiting, running, age)
        assert not cause or causes[number] == cause


def test_samples_are_columns_in_the_order_of_numbers() -> None:
    state, samples = ClusterState(), Samples()
    for number in (1, 2, 3):
        state.apply_event(number, EndpointJoined(number, POOL, str(number), "d", str(number), "::1", 1))
        samples.follow(number, state)
    samples.succeeded(3, Reading(30, 31, 0.5), 10.0, 1000.0)
    samples.succeeded(1, Reading(10, 11, 0.25), 10.25, 1000.25)
    samples.failed(2, "timed out", 10.5)
    sampled, failed = samples.drain()

    assert isinstance(sampled, LoadSampled)
    assert unpack(sampled.endpoints).tolist() == [1, 3]
    assert (sampled.sampled_at, unpack(sampled.earlier).tolist()) == (1000.25, [0, 250])
    assert (unpack(sampled.waiting).tolist(), unpack(sampled.running).tolist()) == ([10, 30], [11, 31])
    assert unpack_floats(sampled.kv_cache).tolist() == [0.25, 0.5]
    assert isinstance(failed, ScrapeFailed)
    assert (unpack(failed.endpoints).tolist(), unpack(failed.ages).tolist()) == ([2], [NEVER_SAMPLED])
    assert failed.causes == ((2, "timed out"),)
    assert samples.drain() == []


def test_a_sample_of_many_endpoints_takes_twelve_bytes_at_most() -> None:
    state, samples = ClusterState(), Samples()
    generator = np.random.default_rng(1)
    for number in range(1, 101):
        state.apply_event(number, EndpointJoined(number, POOL, str(number), "d", str(number), "::1", 1))
        samples.follow(number, state)
        waiting, running = (int(n) for n in generator.integers(0, 300, 2))
        samples.succeeded(number, Reading(waiting, running, float(generator.random())), 1.0, 1e9 + number / 1000)
    (event,) = samples.drain()

    assert len(msgspec.msgpack.encode(event)) <= 12 * 100
