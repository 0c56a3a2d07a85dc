"""`pointsman traffic`: requests with shared prefixes, as clients send them."""

import math
import signal

import trio

from pointsman.cli.arguments import Parser
from pointsman.cli.failure import Failure
from pointsman.cluster.clients.chat_clients import Clients, ClientStatistics, Mix, generate_traffic

TOLD_EVERY = 5.0
"""Seconds between two printed lines of counts."""


def run(name: str, words: list[str]) -> int:
    """Send until SIGTERM or SIGINT."""
    parser = Parser(
        name,
        "Send requests as users of a few applications do, each with its own long system prompt.",
        f"{name} http://127.0.0.1:8080 --rate 50",
    )
    parser.add_argument("url", help="the gateway")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (default: 20)")
    parser.add_argument("--connections", type=int, default=64, help="requests under way at most (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the randomness, to send the same again")
    options = parser.parse_args(words)
    try:
        Clients(options.url, options.rate, connections=options.connections)
    except ValueError as error:
        raise Failure(str(error), 2) from error
    trio.run(_send, options.url, options.rate, options.connections, options.seed)
    return 0


async def _send(url: str, rate: float, connections: int, seed: int) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def until_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(until_signal)

            async def clients(*, task_status: trio.TaskStatus[Clients]) -> None:
                await generate_traffic(url, rate, Mix(), connections=connections, seed=seed, task_status=task_status)

            sending: Clients = await nursery.start(clients)
            while True:
                await trio.sleep(TOLD_EVERY)
                print(_line(sending.statistics()), flush=True)


def _line(told: ClientStatistics) -> str:
    by_status = " ".join(f"{status}: {count}" for status, count in sorted(told.by_status.items()))
    first = "-" if math.isnan(told.first_byte_p50) else f"{told.first_byte_p50 * 1000:.0f} ms"
    return (
        f"sent {told.started} · {by_status or 'no reply yet'} · broken {told.failed} · not sent {told.missed}"
        f" · under way {told.under_way} · first byte {first}"
    )
