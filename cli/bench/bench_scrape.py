"""CPU of a scrape: fetch and extract a 19 KB vLLM page from real servers in another process."""

import asyncio
import multiprocessing
import multiprocessing.connection
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from pointsman.cli.bench.vllm_page import vllm_page
from pointsman.cluster.scraping.page_client import PageAddress, PageClient
from pointsman.core.parsers.metrics.engines import ENGINES
from pointsman.core.parsers.metrics.server_metrics import extract

PAGE_BYTES_MAX = 1 << 20
START_WITHIN = 30.0
WARMING = 0.3
"""Seconds in which connections are made, and nothing is measured."""
SLICES = 5

CHUNKED = True
"""Whether pages come in chunks, as uvicorn sends vLLM's."""


class _Server(asyncio.Protocol):
    """Answers every request with the page, in one chunk."""

    def __init__(self, page: bytes) -> None:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(page), page) if CHUNKED else page
        framing = b"transfer-encoding: chunked" if CHUNKED else b"content-length: %d" % len(page)
        self._reply = (
            b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 09:00:00 GMT\r\nserver: uvicorn\r\n"
            b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" + framing + b"\r\n\r\n" + body
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._reply * data.count(b"\r\n\r\n"))


def _serve(count: int, pipe: multiprocessing.connection.Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        page = vllm_page()
        servers = [await loop.create_server(lambda: _Server(page), "127.0.0.1", 0) for _ in range(count)]
        pipe.send([s.sockets[0].getsockname()[1] for s in servers])
        await loop.run_in_executor(None, pipe.poll, None)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that started this: it closes the pipe
    asyncio.run(main())


@contextmanager
def page_servers(count: int) -> Iterator[list[int]]:
    """Start `count` servers on loopback, in a process of their own; yield their ports."""
    ours, theirs = multiprocessing.Pipe()
    servers = multiprocessing.get_context("spawn").Process(target=_serve, args=(count, theirs), daemon=True)
    servers.start()
    theirs.close()  # only so does this process see the other end close
    try:
        if not ours.poll(START_WITHIN):
            raise OSError(f"the servers of pages did not start within {START_WITHIN:.0f} s")
        try:
            ports: list[int] = ours.recv()
        except EOFError as error:
            raise OSError("the servers of pages could not be started") from error
        yield ports
    finally:
        ours.close()
        servers.join(5)


def back_to_back(ports: Sequence[int], seconds: float) -> float:
    """Median CPU microseconds to fetch and extract a page, of all servers in turn without a pause."""
    engine, count = ENGINES["vllm"], 0
    found: list[float] = []

    async def one(port: int) -> None:
        nonlocal count
        client = PageClient(PageAddress("127.0.0.1", port), PAGE_BYTES_MAX)
        while True:
            extract((await client.fetch()).body, engine, time.time())
            count += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for port in ports:
                nursery.start_soon(one, port)
            await trio.sleep(WARMING)
            for _ in range(SLICES):
                before, cpu = count, time.process_time()
                await trio.sleep(seconds / SLICES)
                found.append((time.process_time() - cpu) / (count - before) * 1e6)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return statistics.median(found)
