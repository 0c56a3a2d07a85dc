"""Model servers that answer as a test says, and a scraper beside them."""

import math
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio
from worlds.waiting import HUNG

from pointsman.cluster.scraping.scraper import Scraper, ScrapeSettings
from pointsman.core.events import (
    EndpointJoined,
    Event,
    PoolApplied,
    ScrapeFailed,
)
from pointsman.core.state.projection import ClusterState

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
        self.answers: dict[bytes, bytes] = {}
        """Answers to paths that have one of their own."""
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
                        if (own := self.answers.get(self.paths[-1])) is not None:
                            await stream.send_all(own)
                        elif isinstance(self.answer, bytes):
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

    async def until(self, condition: Callable[[], bool], limit: float = HUNG) -> None:
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


async def hang(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()
