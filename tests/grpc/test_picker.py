"""The picker process, with a real log behind its feed and real streams before it."""

import asyncio
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from grpclib.client import Channel
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from hyperframe.frame import HeadersFrame
from worlds.picker_process import Control, PickerProcess, picker
from worlds.waiting import HUNG
from worlds.wire import (
    RawClient,
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

from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION
from pointsman.core.deciding.verdict import OK, verify_decision
from pointsman.core.events import (
    EndpointJoined,
    Event,
    PickerStarted,
    PoolApplied,
    PoolDeleted,
    RequestFinished,
    RequestRouted,
    ResponseStarted,
)
from pointsman.core.processes.last_page import read_page
from pointsman.core.processes.leash import Drain, LeashError, Listen, PickerMessage, Stop, Unlisten, encode
from pointsman.core.processes.settings import PickerOptions
from pointsman.eventlog.opening import open_reader
from pointsman.grpc.picker_leash import PickerLeash

E = TypeVar("E", bound=Event)

POOL = "ns/pool"
PROGRAM = (
    "import sys, msgspec; from pointsman.core.processes.settings import PickerSettings; from pointsman.grpc.picker import run_picker;"
    "run_picker(msgspec.json.decode(sys.argv[1], type=PickerSettings))"
)
BODY = b'{"model":"m","prompt":"hello"}'
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control(tmp_path) as control:
        yield control


MEMBERS = (
    PoolApplied(POOL, {"app": "m"}, (8000,)),
    EndpointJoined(1, POOL, "uid-1", "ns", "pod-1", "10.0.0.1", 8000),
    EndpointJoined(2, POOL, "uid-2", "ns", "pod-2", "10.0.0.2", 8000),
)


async def whole(channel: Channel) -> str:
    async with open_stream(channel) as stream:
        await say(stream, request_headers(("x-request-id", "r")), request_body(BODY))
        replies = await hear(stream, 2)
        await say(stream, response_headers(), response_body(b'{"usage":{"prompt_tokens":3}}'))
        await hear(stream, 2)
        assert await stream.recv_message() is None
        await stream.end()
        return destination(replies[0])


async def health(port: int, service: str = "") -> int:
    channel = Channel("127.0.0.1", port)
    try:
        return (await HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=5)).status
    finally:
        channel.close()


def test_decisions_reach_the_log_and_can_be_verified_there(control: Control) -> None:
    control.append(*MEMBERS)
    with picker(control) as process:
        port = process.listen(pool=POOL)
        process.wait_ready()

        async def main() -> None:
            async with connected(port) as channel:
                for _ in range(20):
                    assert await whole(channel) in ("10.0.0.1:8000", "10.0.0.2:8000")

        asyncio.run(main())
        routed, ends = control.of(RequestRouted, 20), control.of(RequestFinished, 20)
        started = control.of(PickerStarted)[0]
        page = read_page(process.page.read_bytes())

        assert (started.origin.n, started.scheduler, started.plugins) == (1, SCHEDULER_VERSION, PLUGIN_VERSIONS)
        assert [e.request_n for e in ends] == [e.origin.n for e in routed]
        assert [e.prompt_tokens for e in ends] == [3] * 20
        assert len(control.of(ResponseStarted, 20)) == 20
        assert page is not None
        assert page.epoch == started.origin.epoch
        assert page.last_n >= ends[-1].origin.n
        epoch = control.log.state.epochs["picker-0", started.origin.epoch]
        with open_reader(control.home / "log") as reader:
            verdicts = [verify_decision(reader.state_at(e.origin.applied), e, epoch) for e in routed]
        assert verdicts == [OK] * 20

        process.tell(Stop(3.0))
        assert process.process.wait(10) == 0
        assert process.end() == ""


def test_nothing_is_accepted_before_there_is_a_state(tmp_path: Path) -> None:
    control = Control(tmp_path)
    process = PickerProcess(control)
    try:
        health_port, port = process.listen_health(), process.listen(pool=POOL)

        async def before() -> None:
            for service in ("", "liveness", "readiness", "inference-extension"):
                assert await health(health_port, service) == NOT_SERVING
            reader, writer = await asyncio.open_connection("127.0.0.1", port)  # the kernel holds it
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await reader.read(1)
            writer.close()
            await writer.wait_closed()

        asyncio.run(before())
        with control:
            process.wait_ready()

            async def after() -> None:
                assert await health(health_port) == NOT_SERVING, "the pool is not known"
                async with connected(port) as channel, open_stream(channel) as stream:
                    await say(stream, request_headers(end=True))
                    reply = (await hear(stream, 1))[0].immediate_response
                    assert (reply.status.code, reply.body[-21:]) == (503, b"pool is not known yet")
                    await stream.cancel()

            asyncio.run(after())
            control.append(*MEMBERS)

            async def known() -> None:
                while await health(health_port) != SERVING:
                    await asyncio.sleep(0.01)
                async with connected(port) as channel:
                    assert await whole(channel) != ""

            asyncio.run(asyncio.wait_for(known(), 5))
            control.append(PoolDeleted(POOL))

            async def gone() -> None:
                while await health(health_port) == SERVING:
                    await asyncio.sleep(0.01)

            asyncio.run(asyncio.wait_for(gone(), 5))
            process.process.terminate()
            assert process.process.wait(10) == 0
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.end()


def test_a_drain_serves_on_and_a_stop_lets_streams_finish(control: Control) -> None:
    control.append(*MEMBERS)
    with picker(control, PickerOptions(health_checking=True)) as process:
        health_port, port = process.listen_health(), process.listen(pool=POOL)
        process.wait_ready()

        async def main() -> None:
            assert await health(health_port) == SERVING
            assert await health(port, "envoy.service.ext_proc.v3.ExternalProcessor") == SERVING
            process.tell(Drain(30.0))
            while await health(health_port) == SERVING:
                await asyncio.sleep(0.01)
            assert await health(port) == NOT_SERVING
            async with connected(port) as channel:
                assert await whole(channel) != ""

        asyncio.run(asyncio.wait_for(main(), HUNG))
        began = time.monotonic()
        process.tell(Stop(5.0))
        assert process.process.wait(10) == 0
        assert time.monotonic() - began < 2, "no stream was in progress"


@pytest.mark.parametrize("how", ["stop", "leash", "signal"])
def test_what_is_in_progress_at_the_end_is_in_the_log_as_drained(control: Control, how: str) -> None:
    control.append(*MEMBERS)
    with picker(control, stop_within=0.2) as process:
        port = process.listen(pool=POOL)
        process.wait_ready()

        async def main() -> None:
            client = await RawClient.connect(port)
            client.open(1)
            client.data(1, request_headers().SerializeToString(), request_body(BODY).SerializeToString())
            await asyncio.to_thread(control.of, RequestRouted)
            if how == "stop":
                process.tell(Stop(3.0))
            elif how == "leash":
                process.leash.close()
            else:
                process.process.send_signal(signal.SIGTERM)
            await client.until(HeadersFrame, 1, "END_STREAM")
            await asyncio.to_thread(process.process.wait, 10)
            client.writer.close()
            with suppress(OSError):
                await client.writer.wait_closed()

        asyncio.run(main())
        assert process.process.returncode == 0
        assert [e.cause for e in control.of(RequestFinished)] == ["drained"]
        assert process.end() == ""


def test_tls_and_several_pools_are_served_side_by_side(control: Control) -> None:
    other = PoolApplied("ns/other", {"app": "o"}, (9000,))
    control.append(*MEMBERS, other, EndpointJoined(3, "ns/other", "uid-3", "ns", "pod-3", "10.0.0.3", 9000))
    with picker(control) as process:
        plain, secure = process.listen(pool=POOL), process.listen(pool="ns/other", tls=True)
        process.wait_ready()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.set_alpn_protocols(["h2"])

        async def main() -> None:
            async with connected(plain) as first, connected(secure, tls=tls) as second:
                assert (await whole(first)).startswith("10.0.0.")
                assert await whole(second) == "10.0.0.3:9000"
            process.tell(Unlisten(POOL, plain))
            for _ in range(100):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", plain)
                    writer.close()
                    await writer.wait_closed()
                except ConnectionRefusedError:
                    break
                except ConnectionResetError:
                    continue  # closed between its greeting and ours
                await asyncio.sleep(0.02)
            else:
                raise AssertionError("the port is still open")
            async with connected(secure, tls=tls) as channel:
                assert await whole(channel) == "10.0.0.3:9000"
            await asyncio.sleep(0.1)  # the client's side of TLS says goodbye

        asyncio.run(asyncio.wait_for(main(), HUNG))


def test_an_order_that_is_none_ends_the_process_with_its_words(control: Control) -> None:
    with picker(control) as process:
        process.leash.sendall(b'{"type":"listne"}\n')

        assert process.process.wait(10) == 0
        assert "Invalid value 'listne'" in process.end()


# --- the leash alone --------------------------------------------------------------------------------


def test_orders_are_read_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    leash = PickerLeash(theirs)
    data = encode(Unlisten("a", 1)) + encode(Stop()) + encode(Stop(0.5))

    found: list[tuple[PickerMessage, socket.socket | None]] = []
    for i in range(len(data)):
        ours.send(data[i : i + 1])
        found += leash.receive()
    assert leash.receive() == []
    ours.close()

    assert found == [(Unlisten("a", 1), None), (Stop(), None), (Stop(0.5), None)]
    assert leash.receive() == [(Stop(), None)]
    leash.close()


def test_each_socket_belongs_to_its_order() -> None:
    ours, theirs = socket.socketpair()
    leash = PickerLeash(theirs)
    ports = []
    for pool in ("a", "b", "c"):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            ports.append(sock.getsockname()[1])
            socket.send_fds(ours, [encode(Listen(pool, 1))], [sock.fileno()])

    found: list[tuple[PickerMessage, socket.socket | None]] = []
    while len(found) < 3:
        found += leash.receive()
    ours.send(encode(Listen("d", 1)))
    with pytest.raises(LeashError, match="without a socket"):
        leash.receive()

    assert [order for order, _ in found] == [Listen("a", 1), Listen("b", 1), Listen("c", 1)]
    handed = [sock for _, sock in found if sock is not None]
    assert [sock.getsockname()[1] for sock in handed] == ports
    for sock in handed:
        sock.close()
    leash.close()
    ours.close()
