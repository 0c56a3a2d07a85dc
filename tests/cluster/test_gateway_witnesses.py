"""Clients, gateway, pickers and model servers together: the records of each tell the same story."""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest
import trio
from worlds.envoy import FixedPickers, Gateway, run_gateway
from worlds.pools import NEW, OLD, folded, pool, split
from worlds.simulated import FOOD, LLAMA, QUICK, ask, completion

from pointsman.cluster.clients.chat_clients import Clients, Mix
from pointsman.cluster.simulator.server import SimulatorSpec
from pointsman.cluster.simulator.simulators import serve_simulators


@asynccontextmanager
async def demo(
    home: Path, pickers: FixedPickers, shares: tuple[int, int]
) -> AsyncIterator[tuple[Gateway, dict[int, str]]]:
    """The gateway in front of a simulated server and a picker for each pool; and what each picker port names."""
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            specs = [SimulatorSpec("127.0.0.1", 0, LLAMA, (FOOD,), QUICK) for _ in range(2)]
            servers = await nursery.start(serve_simulators, specs, home / "requests.jsonl")
            ports = {name: pickers.start(server) for name, server in zip((OLD, NEW), servers, strict=True)}
            # Starting and stopping Envoy waits for a process: the servers must go on meanwhile.
            running = run_gateway(home, folded(pool(OLD), pool(NEW), split(*shares)), ports)
            gateway = await trio.to_thread.run_sync(running.__enter__)
            try:
                yield gateway, dict(zip(ports.values(), servers, strict=True))
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(running.__exit__, None, None, None)
            nursery.cancel_scope.cancel()


async def drive(gateway: Gateway) -> int:
    """Traffic for a second, then the requests of the guides; returns how many were answered."""
    clients = Clients(f"http://127.0.0.1:{gateway.port}", 150, Mix(max_tokens=(2, 10)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients.run)
        await trio.sleep(1)
        clients.set_rate(0)
        while clients.statistics().under_way:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    found = clients.statistics()
    assert set(found.by_status) == {200}, found
    assert found.failed == 0
    server = f"127.0.0.1:{gateway.port}"
    chat = {
        "model": LLAMA,
        "max_tokens": 100,
        "temperature": 0,
        "messages": [
            {"role": "developer", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Linux is said to be an open source kernel because "},
        ],
    }
    review = {**chat, "model": FOOD, "messages": [{"role": "reviewer", "content": "Write a review"}]}
    for path, body in (
        ("/v1/completions", completion(max_tokens=100)),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", review),
    ):
        reply = await ask(server, path, body)
        assert reply.status == 200
        assert reply.json()["model"] == body["model"]
    streamed = await ask(server, "/v1/completions", completion(stream=True, max_tokens=50))
    assert len(streamed.events()) == 50
    return found.started + 4


def test_every_request_is_in_the_records_of_its_picker_its_server_and_the_gateway_once(tmp_path: Path) -> None:
    async def main(pickers: FixedPickers) -> tuple[int, dict[int, str], list[dict[str, object]]]:
        async with demo(tmp_path, pickers, (80, 20)) as (gateway, named):
            sent = await drive(gateway)
            lines = await trio.to_thread.run_sync(gateway.access_log, sent)
        return sent, named, lines

    with FixedPickers() as pickers:
        sent, named, lines = trio.run(main, pickers)
    served = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]

    by_server = Counter((line["request_id"], line["server"]) for line in served)
    by_picker = Counter((request, named[port]) for port, asked in pickers.asked.items() for request in asked)
    by_gateway = Counter((line["request_id"], line["endpoint"]) for line in lines)
    assert by_server == by_picker == by_gateway
    assert set(by_server.values()) == {1}
    assert len(by_server) == sent
    assert len({server for _, server in by_server}) == 2
    assert {line["status"] for line in served} == {line["status"] for line in lines} == {200}


async def broken_after(server: str, headers: dict[str, str], within: float) -> float:
    """Seconds until a streamed reply breaks off; an error reply in its place would be whole."""
    started = time.monotonic()
    body = completion(model=LLAMA, stream=True, max_tokens=5_000, ignore_eos=True)
    with trio.fail_after(within), pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
        await ask(server, "/v1/completions", body, headers=headers)
    return time.monotonic() - started


def test_a_stream_that_breaks_off_is_told_to_the_client_soon(tmp_path: Path) -> None:
    async def main(pickers: FixedPickers) -> None:
        async with demo(tmp_path, pickers, (1, 0)) as (gateway, named):
            server = f"127.0.0.1:{gateway.port}"
            assert await broken_after(server, {"x-sim-fault": "reset"}, 5) < 0.8

            async def kill() -> None:
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(pickers.stop, next(iter(named)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                assert 0.2 < await broken_after(server, {}, 5) < 1.1

    with FixedPickers() as pickers:
        trio.run(main, pickers)
