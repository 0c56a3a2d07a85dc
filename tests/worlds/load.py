"""Clients for tests: requests at a rate over kept connections, each with an id, each with what became of it.

They run in a thread of their own, on plain sockets, because what is measured is not the client.
A request starts when its time has come; where all connections are busy it is missed, not sent later.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from worlds.waiting import wait_for

LLAMA, FOOD = "meta-llama/Llama-3.1-8B-Instruct", "food-review-1"
SHARED = [
    f"You are helpful assistant {i} of a railway. Answer in a word, and never leave the line. " * 12 for i in range(16)
]
TICK = 0.004
"""Seconds between two looks at what is due."""


@dataclass
class Outcome:
    """One request as its client saw it."""

    id: str
    streamed: bool
    began: float
    ended: float = 0.0
    """0 while it is under way."""
    status: int = 0
    """0 where no reply came."""
    whole: bool = False
    """The reply came to its end."""
    given_up: bool = False
    """The client left, at the end of its patience."""
    body: bytes = b""
    """The first KiB of it."""


Make = Callable[[int], tuple[str, dict[str, object], dict[str, str]]]
"""Path, body and further headers of a request by its number."""


def completion(number: int) -> tuple[str, dict[str, object], dict[str, str]]:
    """A short completion; its first KiB is that of every sixteenth."""
    body = {"model": LLAMA, "prompt": f"{SHARED[number % 16]} Request {number}.", "max_tokens": 1, "temperature": 0}
    return "/v1/completions", body, {}


def some_streamed(every: int, tokens: int) -> Make:
    """Completions of which one in `every` is a stream of so many tokens."""

    def make(number: int) -> tuple[str, dict[str, object], dict[str, str]]:
        path, body, headers = completion(number)
        if number % every == 0:
            body = body | {"stream": True, "max_tokens": tokens, "ignore_eos": True}
        return path, body, headers

    return make


class _Connection(asyncio.Protocol):
    """One connection of HTTP/1.1 with one request under way at most."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.outcome: Outcome | None = None
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self._buffer = b""
        self._left = -1
        """Bytes of the body that are still to come; -1 before the head, -2 where it is chunked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, outcome: Outcome, request: bytes) -> None:
        assert self.transport is not None
        self.outcome, self._buffer, self._left = outcome, b"", -1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        outcome = self.outcome
        if outcome is None:
            return
        if self._left == -1:
            head, found, data = (self._buffer + data).partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            outcome.status = int(head[9:12])
            self._left, self._buffer = _length(head), b""
        outcome.body = (outcome.body + data)[:1024]
        if self._left == -2:
            self._buffer = (self._buffer + data)[-5:]
            if self._buffer == b"0\r\n\r\n":
                self._done(outcome)
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._done(outcome)

    def _done(self, outcome: Outcome) -> None:
        outcome.ended, outcome.whole = time.monotonic(), True
        self.outcome, self.idle_since = None, outcome.ended
        assert self.transport is not None
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the answer came before the request was sent
        else:
            self.load.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.connections.discard(self)
        if self.outcome is not None:
            self.outcome.ended = time.monotonic()
            self.outcome = None


def _length(head: bytes) -> int:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return -2
    _, found, rest = lower.partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


@dataclass
class Load:
    """Requests to a gateway at a rate, while the block lasts; it ends when what is under way has ended."""

    port: int
    rate: float
    make: Make = completion
    connections_max: int = 128
    prefix: str = "load"
    grace: float = 20.0
    """Seconds that requests have at the end."""
    limit: int = 0
    """Requests after which no more are sent; 0 for none."""
    outcomes: list[Outcome] = field(default_factory=list)
    missed: int = 0
    connections: set[_Connection] = field(default_factory=set)
    idle: list[_Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for what is under way."""
        self._stopping.set()
        self._thread.join(self.grace + 10)
        assert not self._thread.is_alive(), "the clients did not end"

    def wait_sent(self, count: int, within: float) -> None:
        """Return once so many have been sent, since the beginning."""
        wait_for(
            lambda: len(self.outcomes) >= count or not self._thread.is_alive(),
            within,
            lambda: f"request {count} after {len(self.outcomes)}",
        )
        assert len(self.outcomes) >= count, "the clients have ended"

    def under_way(self) -> list[Outcome]:
        """What is open now."""
        return [outcome for outcome in list(self.outcomes) if not outcome.ended]

    def broken(self) -> list[Outcome]:
        """What got no whole reply, or one that is not 200."""
        return [o for o in self.outcomes if o.ended and not o.given_up and not (o.whole and o.status == 200)]

    async def _run(self) -> None:
        due = time.monotonic()
        opening: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set() and not (self.limit and len(self.outcomes) >= self.limit):
            now = time.monotonic()
            due = max(due, now - 0.25)  # what is later than that was never sent
            while due <= now and not (self.limit and len(self.outcomes) >= self.limit):
                due += 1 / self.rate
                self._start(opening)
            await asyncio.sleep(max(TICK, due - time.monotonic()))
        deadline = time.monotonic() + self.grace
        while any(not outcome.ended for outcome in self.outcomes) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            if connection.outcome is not None:
                connection.outcome.given_up = True
            if connection.transport is not None:
                connection.transport.abort()
        for task in opening:
            task.cancel()
        await asyncio.sleep(0)

    def _start(self, opening: set[asyncio.Task[None]]) -> None:
        now = time.monotonic()
        while self.idle:
            connection = self.idle.pop()
            if connection in self.connections and now - connection.idle_since < 2.0:
                self._ask(connection)
                return
            if connection.transport is not None:
                connection.transport.abort()
        if len(self.connections) + len(opening) >= self.connections_max:
            self.missed += 1
            return
        outcome, request = self._next()
        task = asyncio.get_running_loop().create_task(self._open(outcome, request))
        opening.add(task)
        task.add_done_callback(opening.discard)

    async def _open(self, outcome: Outcome, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        except OSError:
            outcome.ended = time.monotonic()
            return
        self.connections.add(connection)
        connection.ask(outcome, request)

    def _ask(self, connection: _Connection) -> None:
        connection.ask(*self._next())

    def _next(self) -> tuple[Outcome, bytes]:
        number = len(self.outcomes) + 1
        path, body, headers = self.make(number)
        outcome = Outcome(f"{self.prefix}-{number}", bool(body.get("stream")), time.monotonic())
        self.outcomes.append(outcome)
        data = json.dumps(body).encode()
        fields = {"host": "gateway", "content-type": "application/json", "x-request-id": outcome.id, **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return outcome, f"POST {path} HTTP/1.1\r\n{head}content-length: {len(data)}\r\n\r\n".encode() + data
