"""The console's event stream: which parts of a page are out of date.

An event carries topics, never the news themselves: the page asks for those.
So a slow reader costs a set of a few words, whatever happens meanwhile.  Each stream begins with all topics, so a
reader that was away catches up at once.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import msgspec
import trio
from msgspec import Struct

GAPS: dict[str, float] = {"decisions": 0.5, "log": 0.5, "strip": 2.0, "pools": 2.0, "routes": 1.0}
"""Topics, each with the least seconds between two events about it: pages that change faster cannot be read."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent, so that a dead reader is noticed."""
LIFETIME = 3600.0
"""Seconds until a stream ends; a page that is still open comes back by itself."""
STREAMS_MAX = 256
"""Streams that may be open at a time, one for each tab: enough for a team."""
RETRY = b"retry: 500\n\n"
HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, object]]]
Send: TypeAlias = Callable[[dict[str, object]], Awaitable[None]]


class StreamsFull(Exception):
    """Raised where STREAMS_MAX streams are open already."""


class BroadcastStatistics(Struct, frozen=True):
    """How many streams are open, of how many."""

    streams: int
    streams_max: int


class Subscription:
    """The topics that one stream has still to tell its reader."""

    def __init__(self) -> None:
        self.topics = set(GAPS)
        self.wake = trio.Event()
        self.ended = False
        self._told: dict[str, float] = {}

    def add(self, topic: str) -> None:
        """Have the stream tell its reader that `topic` is out of date."""
        self.topics.add(topic)
        self.wake.set()

    def end(self) -> None:
        """Have the stream end; the page then connects again, to the next process where this one is ending."""
        self.ended = True
        self.wake.set()

    def take(self, now: float) -> list[str]:
        """The topics that may be told now."""
        ready = sorted(topic for topic in self.topics if self._due(topic) <= now)
        for topic in ready:
            self._told[topic] = now
            self.topics.discard(topic)
        return ready

    def _due(self, topic: str) -> float:
        return self._told[topic] + GAPS[topic] if topic in self._told else float("-inf")

    def pause(self, now: float) -> float:
        """Seconds until something may be told: HEARTBEAT where nothing changed."""
        return min((self._due(topic) - now for topic in self.topics), default=HEARTBEAT)

    async def wait(self) -> None:
        """Return when something may be told, after HEARTBEAT, or at the end."""
        until = trio.current_time() + HEARTBEAT
        while not self.ended and (pause := self.pause(now := trio.current_time())) > 0 and now < until:
            self.wake = trio.Event()
            with trio.move_on_after(min(pause, until - now)):
                await self.wake.wait()


class Broadcast:
    """Tells every open stream which topics changed; never waits for one."""

    def __init__(self, streams_max: int = STREAMS_MAX) -> None:
        self._open: set[Subscription] = set()
        self._streams_max = streams_max

    def changed(self, *topics: str) -> None:
        """Mark these topics as out of date on every open page."""
        for subscription in self._open:
            for topic in topics:
                subscription.add(topic)

    def end(self) -> None:
        """End all streams."""
        for subscription in self._open:
            subscription.end()

    def statistics(self) -> BroadcastStatistics:
        """How many streams are open, of how many."""
        return BroadcastStatistics(len(self._open), self._streams_max)

    @contextmanager
    def subscribed(self) -> Iterator[Subscription]:
        """A subscription while the context lasts; raises `StreamsFull` where there is no room."""
        if len(self._open) >= self._streams_max:
            raise StreamsFull(f"{len(self._open)} event streams are open, wanted at most {self._streams_max}")
        subscription = Subscription()
        self._open.add(subscription)
        try:
            yield subscription
        finally:
            self._open.discard(subscription)


async def stream_events(subscription: Subscription, receive: Receive, send: Send) -> None:
    """Answer one ASGI request with events until its reader goes away, or LIFETIME has passed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
        headers = [(name, value) for name, value in HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": RETRY, "more_body": True})
        spoke = trio.current_time()
        end = spoke + LIFETIME
        while not subscription.ended and (now := trio.current_time()) < end:
            line = b""
            if topics := subscription.take(now):
                line = b"event: changed\ndata: " + msgspec.json.encode(topics) + b"\n\n"
            elif now - spoke >= HEARTBEAT:
                line = b": still here\n\n"
            if line:
                spoke = now
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await subscription.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        nursery.cancel_scope.cancel()


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
