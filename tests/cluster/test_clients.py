"""The traffic generator against simulated servers on loopback."""

import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from pointsman.cluster.clients.chat_clients import Clients, Mix, generate_traffic
from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.server import SimulatorSpec
from pointsman.cluster.simulator.simulators import serve_simulators

LLAMA, FOOD = "meta-llama/Llama-3.1-8B-Instruct", "food-review-1"
QUICK = ServerModel(decode_step=0.001, decode_sequence=0.0, prefill_token=0.0, lora_load=0.0, max_num_seqs=64)


def with_server(test: Callable[[str], Awaitable[None]], model: ServerModel = QUICK, log: Path | None = None) -> None:
    """Run `test` with the URL of one simulated server."""

    async def main() -> None:
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                specs = [SimulatorSpec("127.0.0.1", 0, LLAMA, (FOOD,), model)]
                [server] = await nursery.start(serve_simulators, specs, log)
                await test(f"http://{server}")
                nursery.cancel_scope.cancel()

    trio.run(main)


async def settle(clients: Clients, ended: int) -> None:
    """Wait until so many requests have come to an end."""
    while sum((now := clients.statistics()).by_status.values()) + now.failed < ended:
        await trio.sleep(0.01)


def test_requests_come_at_the_rate_from_shared_prefixes_and_connections_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"

    async def check(url: str) -> None:
        async with trio.open_nursery() as nursery:
            mix = Mix(max_tokens=(2, 5))
            clients: Clients = await nursery.start(generate_traffic, url, 200.0, mix)
            await trio.sleep(1.5)
            clients.set_rate(0)
            started = clients.statistics().started
            await settle(clients, started)
            await trio.sleep(0.1)
            found = clients.statistics()
            nursery.cancel_scope.cancel()

        # 300 are expected: five standard deviations, and less where the machine is busy
        assert 150 < started < 390
        assert found.by_status == {200: started}
        assert (found.started, found.missed, found.failed, found.under_way) == (started, 0, 0, 0)
        assert found.connections_opened < started / 3
        assert 0 < found.first_byte_p50 <= found.first_byte_p99 < 5
        assert found.first_byte_p50 <= found.duration_p50 <= found.duration_p99
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lines) == started
        models = Counter(line["model"] for line in lines)
        assert 0.15 < models[FOOD] / started < 0.45
        paths = Counter(line["path"] for line in lines)
        assert 0.35 < paths["/v1/chat/completions"] / started < 0.65
        assert all(line["prompt_tokens"] > 1_500 for line in lines)

    with_server(check, log=log)


def test_equal_seeds_ask_the_same_questions() -> None:
    first, second, other = (Clients("http://127.0.0.1:1", 0, seed=seed) for seed in (1, 1, 2))

    asked = [[clients._request() for _ in range(20)] for clients in (first, second, other)]

    assert asked[0] == asked[1] != asked[2]


def test_the_same_application_shares_its_system_prompt() -> None:
    clients = Clients("http://127.0.0.1:1", 0, Mix(systems=3, users=10, chat=0.0))

    prompts = [json.loads(clients._request()[1])["prompt"] for _ in range(200)]

    assert len({prompt[:6_000] for prompt in prompts}) == 3
    assert len(set(prompts)) == 200


def test_without_a_rate_nothing_is_sent_until_one_is_set() -> None:
    async def check(url: str) -> None:
        async with trio.open_nursery() as nursery:
            clients: Clients = await nursery.start(generate_traffic, url, 0.0)
            await trio.sleep(0.1)
            assert clients.statistics().started == 0
            assert math.isnan(clients.statistics().first_byte_p50)
            clients.set_rate(100)
            await settle(clients, 3)
            nursery.cancel_scope.cancel()

    with_server(check)


def test_what_exceeds_the_connections_is_missed_not_sent_later() -> None:
    async def check(url: str) -> None:
        async with trio.open_nursery() as nursery:
            clients = Clients(url, 200, Mix(max_tokens=(50, 50)), connections=4, poisson=False)
            nursery.start_soon(clients.run)
            await trio.sleep(0.5)
            found = clients.statistics()
            nursery.cancel_scope.cancel()

        assert found.connections_opened <= 4
        assert found.under_way <= 4
        assert found.missed > 20
        assert found.failed == 0

    with_server(check, ServerModel(decode_step=0.02, max_num_seqs=4))


def test_failures_are_counted_and_the_clients_go_on(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        async with trio.open_nursery() as nursery:
            clients = Clients(url, 100, Mix(max_tokens=(2, 2)), headers={"x-sim-fault": "reset"})
            refused = Clients("http://127.0.0.1:1", 100)
            shed = Clients(url, 100, Mix(max_tokens=(2, 2)), headers={"x-sim-fault": "status=503"})
            hung = Clients(url, 100, headers={"x-sim-fault": "hang"}, deadline=0.05)
            for kind in (clients, refused, shed, hung):
                nursery.start_soon(kind.run)
                await settle(kind, 5)
            nursery.cancel_scope.cancel()

        for kind in (clients, refused, hung):
            assert kind.statistics().failed >= 5
            assert not kind.statistics().by_status
        assert set(shed.statistics().by_status) == {503}

    with_server(check)


def test_a_connection_the_server_closed_while_idle_is_replaced() -> None:
    async def answer_once(stream: trio.SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some(65_536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += await stream.receive_some(65_536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await stream.aclose()

    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
                nursery.start_soon(trio.serve_listeners, answer_once, [listener])
                url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
                clients = Clients(url, 100, connections=1, poisson=False)
                nursery.start_soon(clients.run)
                await settle(clients, 10)
                found = clients.statistics()
                nursery.cancel_scope.cancel()

        assert set(found.by_status) == {200}
        assert found.failed == 0
        assert found.connections_opened >= 10

    trio.run(main)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Clients("ftp://host", 1), "wanted http://host:port"),
        (lambda: Clients("http://host", -1), "wanted 0 or more"),
        (lambda: Clients("http://host", 1, connections=0), "wanted at least 1"),
        (lambda: Mix(models=()), "wanted shares"),
        (lambda: Mix(streamed=2), "wanted 0 to 1"),
        (lambda: Mix(max_tokens=(9, 3)), "a range"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
