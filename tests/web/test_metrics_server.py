"""The metrics page as it is sent."""

import socket
from collections.abc import Iterator

import trio
import trio.lowlevel

from pointsman.web.metrics.metrics_server import serve_metrics

PIECES = 100


def test_others_run_between_two_pieces_of_a_page() -> None:
    turns = [0]

    async def count() -> None:
        while True:
            turns[0] += 1
            await trio.lowlevel.checkpoint()

    def page() -> Iterator[str]:
        begun = turns[0]
        for n in range(PIECES):
            assert turns[0] - begun >= n - 1, "in one turn of the loop each task runs once, in any order"
            yield "" if n % 2 else f"line_{n} 1\n"

    async def main() -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        address, found = listening.getsockname(), b""
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count)
                nursery.start_soon(serve_metrics, page, listening.detach())
                async with await trio.open_tcp_stream(*address) as stream:
                    await stream.send_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
                    while not found.endswith(b"\r\n0\r\n\r\n"):
                        found += await stream.receive_some()
                nursery.cancel_scope.cancel()
        return found

    found = trio.run(main)

    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"line_") == PIECES // 2
