"""Peers of a pool's port that take their time, on plain sockets, and limits short enough to see."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress

import hpack
from worlds.attacker import PROCESS, data, prefixed, request
from worlds.waiting import Stopwatch
from worlds.wire import (
    connected,
    destination,
    hear,
    open_stream,
    request_body,
    request_headers,
    response_body,
    response_headers,
    say,
)

from pointsman.core.processes.settings import Patience
from pointsman.grpc.http2.frames import (
    END_HEADERS,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
)
from pointsman.grpc.http2.header_blocks import write_block

SHORT = Patience(greeting=0.4, message=0.6, unread=0.8, stream_unread=1.0, idle=1.0, leaving=0.3, vanished=1, look=0.05)
LATE = 0.6
"""Seconds by which a limit may be late here: a look, and what a busy machine takes."""
BODY = b'{"model":"m","prompt":"hello"}'
GREETING = PREFACE + frame(SETTINGS, 0, 0)
GREETED = GREETING + 2 * frame(SETTINGS, 1, 0)
"""A greeting, and that what the server wants of us is known."""
OPENING = frame(HEADERS, END_HEADERS, 1, write_block(request(PROCESS)))
WHOLE = data(1, prefixed(len(request_headers().SerializeToString()), request_headers().SerializeToString()))
"""A message that came whole: nothing of the stream is waited for."""


class Peer:
    """One connection that sends what it is told, and hears what it is answered unless it is deaf."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.heard = bytearray()
        self.seconds = self.quiet_seconds = 0.0
        """How long the connection lasted, once it is over; and without the time in which the machine had no core."""
        self.say()
        self.over = asyncio.create_task(self._hear(reader))

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                self.heard += piece
        self.seconds, self.quiet_seconds = time.monotonic() - self.began, self.watch.seconds()

    def say(self, *pieces: bytes) -> None:
        """Send, and count the time from here."""
        self.began, self.watch = time.monotonic(), Stopwatch()
        for piece in pieces:
            self.writer.write(piece)

    async def drip(self, pieces: Iterable[bytes], every: float) -> None:
        """Send a piece now and then until the connection is over."""
        for piece in pieces:
            if self.over.done():
                return
            self.writer.write(piece)
            await asyncio.sleep(every)

    def frames(self) -> list[tuple[int, int, bytes]]:
        """Kind, stream and payload of all frames that were heard."""
        found, position = [], 0
        while len(self.heard) - position >= 9:
            length = int.from_bytes(self.heard[position : position + 3], "big")
            kind = self.heard[position + 3]
            stream = int.from_bytes(self.heard[position + 5 : position + 9], "big")
            found.append((kind, stream, bytes(self.heard[position + 9 : position + 9 + length])))
            position += 9 + length
        return found

    def headers(self) -> list[tuple[str, str]]:
        """All headers and trailers that were heard."""
        decoder = hpack.Decoder()
        blocks = [decoder.decode(payload) for kind, _, payload in self.frames() if kind == HEADERS]
        return [(str(name), str(value)) for block in blocks for name, value in block]

    async def ended(self, limit: float) -> None:
        """It is ended when the limit has passed, not before."""
        await asyncio.wait_for(self.over, limit + 10)
        assert limit - 0.1 <= self.seconds, f"ended after {self.seconds:.2f} s, wanted {limit} s"
        assert self.quiet_seconds < limit + LATE, f"ended after {self.quiet_seconds:.2f} s, wanted {limit} s"


@asynccontextmanager
async def peer(port: int) -> AsyncIterator[Peer]:
    """A connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    made = Peer(reader, writer)
    try:
        yield made
    finally:
        made.over.cancel()
        writer.transport.abort()


def bytes_of(piece: bytes) -> Iterator[bytes]:
    """The bytes, one by one."""
    return (piece[n : n + 1] for n in range(len(piece)))


async def whole_exchange(port: int) -> str:
    """One request and its response on a connection of its own; the destination."""
    async with connected(port) as channel, open_stream(channel) as stream:
        await say(stream, request_headers(), request_body(BODY))
        replies = await hear(stream, 2)
        await say(stream, response_headers(), response_body(b"{}"))
        await hear(stream, 2)
        await stream.end()
        return destination(replies[0])
