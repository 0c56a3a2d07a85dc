"""Clients for the demo and for load: users of a few applications, each with its own long system prompt.

Requests start when their time has come, whether or not earlier ones were answered; at most `connections`
are under way, and what does not fit is counted as missed, not sent later.
Nothing is printed: `Clients.statistics` tells.
"""

import json
import math
import random
import time
from collections import Counter, deque
from urllib.parse import urlsplit

import h11
import msgspec
import trio

IDLE_MAX = 3.0
"""Seconds after which an unused connection is not trusted: the gateway or server may be closing it."""
BEHIND_MAX = 1.0
"""Seconds by which a request may be late and is still sent; later ones are dropped."""
RECENT = 2_000
"""Number of recent requests that the percentiles are taken over."""


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the clients ask for."""

    models: tuple[tuple[str, float], ...] = (("meta-llama/Llama-3.1-8B-Instruct", 0.7), ("food-review-1", 0.3))
    """Models, each with its share of the requests."""
    systems: int = 6
    """Applications, each with a system prompt that all its users share."""
    users: int = 60
    system_bytes: int = 6_000
    """Length of a system prompt; 6,000 bytes are about 1,500 tokens."""
    streamed: float = 0.5
    """Share of the requests that ask for a stream."""
    chat: float = 0.5
    """Share of the requests that go to `/v1/chat/completions`; the rest goes to `/v1/completions`."""
    max_tokens: tuple[int, int] = (20, 120)
    """Least and most tokens that a request asks for."""

    def __post_init__(self) -> None:
        shares = [share for _, share in self.models]
        if not shares or min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"models {self.models!r}, wanted shares from 0, one of them above it")
        if not (0 <= self.streamed <= 1 and 0 <= self.chat <= 1):
            raise ValueError(f"streamed is {self.streamed} and chat {self.chat}, wanted 0 to 1")
        if min(self.systems, self.users, *self.max_tokens) < 1 or self.max_tokens[0] > self.max_tokens[1]:
            raise ValueError("systems, users and max_tokens are at least 1, and max_tokens a range")


class ClientStatistics(msgspec.Struct, frozen=True):
    """What became of the requests so far."""

    started: int
    missed: int
    """Requests that were not sent, because too many were under way."""
    under_way: int
    by_status: dict[int, int]
    """Counts of whole replies by status."""
    failed: int
    """Requests without a whole reply: the connection broke, or the deadline came."""
    connections_opened: int
    first_byte_p50: float
    """Seconds to the first byte of the body, over the recent requests; not a number without any."""
    first_byte_p99: float
    duration_p50: float
    duration_p99: float


class _ClientConnection:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.idle_since = 0.0


class _Broken(Exception):
    """Raised where the connection ended before the reply did."""


class Clients:
    """Sends requests to one address at a rate."""

    def __init__(
        self,
        url: str,
        rate: float,
        mix: Mix | None = None,
        *,
        poisson: bool = True,
        connections: int = 64,
        deadline: float = 120.0,
        headers: dict[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"url {url!r}, wanted http://host:port")
        if connections < 1:
            raise ValueError(f"{connections} connections, wanted at least 1")
        self._address = (parts.hostname, parts.port or 80)
        self._host = parts.netloc
        self._mix = mix or Mix()
        self._poisson = poisson
        self._connections = connections
        self._deadline = deadline
        self._headers = headers or {}
        self._random = random.Random(seed)
        self._systems = [_text(self._random, self._mix.system_bytes) for _ in range(self._mix.systems)]
        self._idle: list[_ClientConnection] = []
        self._by_status: Counter[int] = Counter()
        self._started = self._missed = self._under_way = self._failed = self._opened = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._rate_changed = trio.Event()
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Send this many requests a second from here on; 0 sends none."""
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate {rate}, wanted 0 or more requests a second")
        self.rate = rate
        self._rate_changed.set()

    async def run(self) -> None:
        """Send until cancelled; what is under way then breaks off."""
        try:
            async with trio.open_nursery() as nursery:
                await self._start_all(nursery)
        finally:
            with trio.CancelScope(shield=True):
                for connection in self._idle:
                    await trio.aclose_forcefully(connection.stream)
            self._idle.clear()

    async def _start_all(self, nursery: trio.Nursery) -> None:
        due = trio.current_time()
        while True:
            if self.rate == 0:
                self._rate_changed = trio.Event()
                await self._rate_changed.wait()
                due = trio.current_time()
                continue
            due = max(due + self._gap(), trio.current_time() - BEHIND_MAX)
            self._rate_changed = trio.Event()
            with trio.move_on_at(due):
                await self._rate_changed.wait()
            if self._rate_changed.is_set():  # perhaps in the moment the wait ended
                due = trio.current_time()  # times that followed from the old rate no longer hold
                continue
            if self._under_way >= self._connections:
                self._missed += 1
                continue
            self._started += 1
            self._under_way += 1
            nursery.start_soon(self._one)

    def _gap(self) -> float:
        return self._random.expovariate(self.rate) if self._poisson else 1 / self.rate

    async def _one(self) -> None:
        path, body = self._request()
        started = time.monotonic()
        try:
            with trio.fail_after(self._deadline):
                status, first = await self._exchange(path, body)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError, _Broken):
            self._failed += 1
        else:
            self._by_status[status] += 1
            self._recent.append((first - started, time.monotonic() - started))
        finally:
            self._under_way -= 1

    async def _exchange(self, path: str, body: bytes) -> tuple[int, float]:
        """Status and time of the first byte; a connection that was closed while idle is replaced once."""
        while self._idle:
            connection = self._idle.pop()
            if trio.current_time() - connection.idle_since > IDLE_MAX:
                await trio.aclose_forcefully(connection.stream)
                continue
            try:
                return await self._on(connection, path, body)
            except (trio.BrokenResourceError, _Broken):
                if connection.http.their_state is not h11.SEND_RESPONSE:
                    raise  # a part of the reply came, so sending it again could have it answered twice
                break
        stream = await trio.open_tcp_stream(*self._address)
        self._opened += 1
        return await self._on(_ClientConnection(stream), path, body)

    async def _on(self, connection: _ClientConnection, path: str, body: bytes) -> tuple[int, float]:
        http, kept = connection.http, False
        fields = {"host": self._host, "content-type": "application/json", "content-length": str(len(body))}
        request = h11.Request(method="POST", target=path, headers=[*fields.items(), *self._headers.items()])
        try:
            data = [http.send(event) or b"" for event in (request, h11.Data(data=body), h11.EndOfMessage())]
            await connection.stream.send_all(b"".join(data))
            status, first = 0, math.nan
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    received = await connection.stream.receive_some(65_536)
                    if not received and http.their_state is h11.SEND_RESPONSE:
                        raise _Broken
                    http.receive_data(received)
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    first = time.monotonic() if math.isnan(first) else first
                elif isinstance(event, h11.EndOfMessage):
                    break
            if http.our_state is h11.DONE and http.their_state is h11.DONE:
                http.start_next_cycle()
                connection.idle_since = trio.current_time()
                self._idle.append(connection)
                kept = True
            return status, time.monotonic() if math.isnan(first) else first
        finally:
            if not kept:
                await trio.aclose_forcefully(connection.stream)

    def _request(self) -> tuple[str, bytes]:
        mix, draw = self._mix, self._random
        user = draw.randrange(mix.users)
        system = self._systems[user % mix.systems]
        question = f"I am user {user}. {_text(draw, 120)}"
        body: dict[str, object] = {
            "model": draw.choices([name for name, _ in mix.models], [share for _, share in mix.models])[0],
            "max_tokens": draw.randint(*mix.max_tokens),
            "temperature": 0,
        }
        if draw.random() < mix.streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if draw.random() < mix.chat:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
            return "/v1/chat/completions", json.dumps({**body, "messages": messages}).encode()
        return "/v1/completions", json.dumps({**body, "prompt": f"{system}\n{question}"}).encode()

    def statistics(self) -> ClientStatistics:
        """The counts at this moment."""
        firsts = sorted(first for first, _ in self._recent)
        durations = sorted(duration for _, duration in self._recent)
        return ClientStatistics(
            started=self._started,
            missed=self._missed,
            under_way=self._under_way,
            by_status=dict(self._by_status),
            failed=self._failed,
            connections_opened=self._opened,
            first_byte_p50=_percentile(firsts, 0.5),
            first_byte_p99=_percentile(firsts, 0.99),
            duration_p50=_percentile(durations, 0.5),
            duration_p99=_percentile(durations, 0.99),
        )


async def generate_traffic(
    url: str,
    rate: float,
    mix: Mix | None = None,
    *,
    connections: int = 64,
    seed: int = 0,
    task_status: trio.TaskStatus[Clients] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send to `url` until cancelled; `started` gets the `Clients`, for their statistics and to change the rate."""
    clients = Clients(url, rate, mix, connections=connections, seed=seed)
    task_status.started(clients)
    await clients.run()


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za")


def _text(draw: random.Random, size: int) -> str:
    words: list[str] = []
    length = 0
    while length < size:
        words.append("".join(draw.choices(_SYLLABLES, k=3)))
        length += 7
    return " ".join(words)[:size]
