"""The simulated model server when clients leave, faults are ordered, bytes are bad and processes end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h11
import pytest
import trio
import trio.testing
from worlds.simulated import FOOD, LLAMA, QUICK, Reply, ask, completion, metric, simulated
from worlds.waiting import HUNG

from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.engine.sequence import Sequence
from pointsman.cluster.simulator.server import RequestLog, SimulatedServer, SimulatorSpec
from pointsman.cluster.simulator.simulators import serve_simulators


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    model = ServerModel(max_num_seqs=1, decode_step=0.01)

    async def check(server: str) -> None:
        for streamed in (True, False):
            with trio.move_on_after(0.1):
                await ask(
                    server,
                    "/v1/completions",
                    completion(model=LLAMA, max_tokens=5_000, ignore_eos=True, stream=streamed),
                )
        started = time.monotonic()
        assert (await ask(server, "/v1/completions", completion(model=LLAMA, max_tokens=1))).status == 200
        assert time.monotonic() - started < 1
        page = (await ask(server, "/metrics")).body.decode()
        assert 'finished_reason="abort"} 2.0' in page

    simulated(check, model, tmp_path / "requests.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [line["ended"] for line in lines] == ["disconnected", "disconnected", "complete"]


def test_the_request_log_has_one_line_a_request(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"

    async def check(server: str) -> None:
        for number in range(20):
            body = completion(model="nobody" if number == 7 else FOOD, stream=number % 2 == 0)
            await ask(server, "/v1/completions", body, headers={"x-request-id": f"id-{number}"})
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["request_id"] for line in lines] == [f"id-{n}" for n in range(20)]
        assert [line["status"] for line in lines] == [404 if n == 7 else 200 for n in range(20)]
        assert {line["server"] for line in lines} == {server}
        assert all(line["completion_tokens"] == 10 for line in lines if line["status"] == 200)

    simulated(check, QUICK, log)


def test_faults_come_when_ordered_and_end_when_told() -> None:
    async def check(server: str) -> None:
        async def fail(fault: str, **more: object) -> Reply:
            return await ask(server, "/v1/completions", {**completion(), **more}, headers={"x-sim-fault": fault})

        assert (await fail("status=503")).status == 503
        assert (await fail("nonsense")).body == b"}} nonsense {{"
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await fail("reset", stream=True)
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await fail("reset")
        with pytest.raises(h11.RemoteProtocolError):
            await fail("garbage")
        with trio.move_on_after(0.2) as patience:
            await fail("hang")
        assert patience.cancelled_caught
        started = time.monotonic()
        assert (await fail("slow=0.2")).status == 200
        assert time.monotonic() - started >= 0.2
        assert (await fail("typo")).status == 400

        assert (await ask(server, "/sim/fault", {"fault": "status=500", "path": "/metrics", "count": 2})).status == 200
        assert [(await ask(server, "/metrics")).status for _ in range(3)] == [500, 500, 200]
        await ask(server, "/sim/fault", {"fault": "status=500"})
        assert [(await ask(server, "/v1/completions", completion())).status for _ in range(3)] == [500] * 3
        await ask(server, "/sim/fault", method="DELETE")
        assert (await ask(server, "/v1/completions", completion())).status == 200

    simulated(check)


def test_bytes_that_are_not_http_end_only_their_connection() -> None:
    async def check(server: str) -> None:
        host, _, port = server.rpartition(":")
        for rubbish in (
            b"\x16\x03\x01\x02\x00",
            b"GET\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        ):
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(rubbish)
                await stream.send_eof()
                with trio.fail_after(HUNG):
                    while await stream.receive_some(1_000):
                        pass
        assert (await ask(server, "/health")).status == 200

    simulated(check)


def test_many_servers_of_one_process_have_states_of_their_own_and_end_at_sigterm(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from pointsman.cluster.simulator.server import SimulatorSpec\n"
        "from pointsman.cluster.simulator.simulators import run_simulators\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        specs = [SimulatorSpec(f'127.0.1.{n}', 0, f'model-{n}', ()) for n in (1, 2, 3)]\n"
        "        print(*await nursery.start(run_simulators, specs, Path(sys.argv[1])), flush=True)\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-P", "-c", program, str(tmp_path / "requests.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            servers = process.stdout.readline().split()

            async def check() -> None:
                for number, server in enumerate(servers, 1):
                    body = completion(model=f"model-{number}", max_tokens=number)
                    assert (await ask(server, "/v1/completions", body)).status == 200
                    assert await metric(server, "generation_tokens_total") == number
                host, _, port = servers[0].rpartition(":")
                async with await trio.open_tcp_stream(host, int(port)):  # an open connection does not keep it alive
                    os.kill(process.pid, signal.SIGTERM)
                    await trio.to_thread.run_sync(process.wait, 5)

            trio.run(check)
        finally:
            process.kill()
    assert process.returncode == 0
    assert len(servers) == 3
    assert [s.partition(":")[0] for s in servers] == ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [line["server"] for line in lines] == servers


def test_an_address_in_use_is_an_error_before_anything_serves() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = SimulatorSpec("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            trio.run(serve_simulators, [spec])


class Asker:
    """What a server tells of tokens."""

    def __init__(self) -> None:
        self.told = trio.Event()

    def notify(self) -> None:
        self.told.set()


def test_a_request_withdrawn_at_once_does_not_put_its_server_to_sleep() -> None:
    async def main() -> None:
        server = SimulatedServer(SimulatorSpec("127.0.0.1", 0, LLAMA, (), QUICK), RequestLog(None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await trio.testing.wait_all_tasks_blocked()
            withdrawn, asker = Sequence(10, [], 5, "length"), Asker()
            server.submit([withdrawn], asker)
            server.withdraw([withdrawn])
            await trio.testing.wait_all_tasks_blocked()
            server.submit([Sequence(10, [], 1, "length")], asker)
            with trio.fail_after(HUNG):
                await asker.told.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
