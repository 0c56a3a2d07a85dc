"""The console's event stream: which parts of a page are out of date.

An event carries topics (`decisions`, `pools`, `routes`, `log`), never the news themselves: the page asks for those.
So a slow reader holds a set of a few words, whatever happens meanwhile, and one that missed everything misses nothing.
"""

from collections.abc import AsyncIterator

import msgspec
import trio
from msgspec import Struct

TOPICS = ("decisions", "pools", "routes", "log")
COALESCE = 0.5
"""Seconds between two events of a stream: what people can follow."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent, so that a dead reader is noticed."""
LIFETIME = 3600.0
"""Seconds until a stream ends; a page that is still open comes back by itself."""
STREAMS_MAX = 256
"""Open at a time: tabs of a team, not of the world."""


class StreamsFull(Exception):
    """`STREAMS_MAX` are open."""


class BroadcastStatistics(Struct, frozen=True):
    """What a broadcast is doing."""

    streams: int
    streams_max: int


class Broadcast:
    """Tells every open stream which topics changed; never waits for one."""

    def __init__(self, streams_max: int = STREAMS_MAX) -> None:
        self._waiting: dict[trio.Event, set[str]] = {}
        self._open = 0
        self._streams_max = streams_max

    def changed(self, topic: str) -> None:
        """Mark `topic` as out of date on every open page."""
        for event, topics in self._waiting.items():
            topics.add(topic)
            event.set()

    def statistics(self) -> BroadcastStatistics:
        """How many streams are open, of how many."""
        return BroadcastStatistics(self._open, self._streams_max)

    def open(self) -> AsyncIterator[bytes]:
        """The bytes of one stream; raises `StreamsFull` at once where there is no room."""
        if self._open >= self._streams_max:
            raise StreamsFull(f"{self._open} event streams are open, wanted at most {self._streams_max}")
        return self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        self._open += 1
        event, topics = trio.Event(), set(TOPICS)
        self._waiting[event] = topics
        end = trio.current_time() + LIFETIME
        try:
            yield b"retry: 500\n\n"
            while trio.current_time() < end:
                if topics:
                    changed = sorted(topics)
                    topics.clear()
                    yield b"event: changed\ndata: " + msgspec.json.encode(changed) + b"\n\n"
                    await trio.sleep(COALESCE)
                del self._waiting[event]
                event = trio.Event()
                self._waiting[event] = topics
                if not topics:
                    with trio.move_on_after(HEARTBEAT) as scope:
                        await event.wait()
                    if scope.cancelled_caught:
                        yield b": still here\n\n"
        finally:
            self._waiting.pop(event, None)
            self._open -= 1
