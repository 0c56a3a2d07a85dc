"""The streams of one HTTP/2 connection: which are open, and how those closed that may still have frames under way.

A stream is one request and its response.  Each side ends its own direction; a reset ends both.
A frame that was under way when a stream closed is no fault of the peer's where we closed it (RFC 9113, section 5.1),
so who reset a stream is remembered for a while.
"""

from collections import deque
from enum import Enum, auto
from typing import Protocol

from h2.exceptions import StreamClosedError

CLOSED_REMEMBERED = 8_192
"""Streams whose reset is remembered: twice the streams that may have frames under way."""


class Taker(Protocol):
    """Takes what comes on one stream, in place of events."""

    def take(self, data: bytes, size: int) -> bool:
        """Data came; `size` is what it counts for in the windows.  Whether it is acknowledged now, and not later."""
        ...

    def half_closed(self) -> None:
        """The peer will send nothing more."""
        ...

    def reset(self) -> None:
        """The stream is gone."""
        ...


class StreamState:
    """One open stream."""

    __slots__ = (
        "consumed",
        "content_left",
        "id",
        "local_closed",
        "receivable",
        "remote_closed",
        "sendable",
        "taker",
    )

    def __init__(self, stream_id: int, receivable: int, sendable: int) -> None:
        self.id = stream_id
        self.receivable = receivable
        """Bytes that the peer may still send."""
        self.sendable = sendable
        """Bytes that we may still send; negative after the peer shrank its window."""
        self.consumed = 0
        """Bytes consumed that the peer was not told of yet."""
        self.content_left: int | None = None
        """Bytes of content that are still to come; None where the request did not say how many it has."""
        self.taker: Taker | None = None
        """Taker of what comes; None where events tell of the stream."""
        self.local_closed = False
        """Whether we have ended our direction."""
        self.remote_closed = False
        """Whether the peer has ended its direction."""

    @property
    def closed(self) -> bool:
        """Asked by grpclib."""
        return self.local_closed and self.remote_closed

    @property
    def open(self) -> bool:
        """Asked by grpclib."""
        return not self.closed


class ResetBy(Enum):
    """Who reset a stream."""

    US = auto()
    PEER = auto()


class Streams:
    """All streams that the peer began."""

    def __init__(self) -> None:
        self.open: dict[int, StreamState] = {}
        self.highest = 0
        """Number of the newest stream; the peer numbers them upwards, with odd numbers."""
        self._resets: dict[int, ResetBy] = {}
        self._order: deque[int] = deque()
        """Numbers in `_resets`, oldest first."""

    def at(self, stream_id: int) -> StreamState:
        """The open stream; raises `StreamClosedError` where there is none."""
        stream = self.open.get(stream_id)
        if stream is None:
            raise StreamClosedError(stream_id)
        return stream

    def begun(self, stream_id: int) -> bool:
        """Whether the peer has ever begun a stream of this number."""
        return 0 < stream_id <= self.highest and bool(stream_id & 1)

    def close_local(self, stream: StreamState) -> None:
        """We end our direction."""
        stream.local_closed = True
        if stream.remote_closed:
            self.open.pop(stream.id, None)

    def close_remote(self, stream: StreamState) -> None:
        """The peer ends its direction."""
        stream.remote_closed = True
        if stream.local_closed:
            self.open.pop(stream.id, None)

    def reset(self, stream_id: int, by: ResetBy) -> None:
        """Forget a stream that was reset, if it ever was open, and remember by whom."""
        stream = self.open.pop(stream_id, None)
        if stream is not None:
            stream.local_closed = stream.remote_closed = True
        if stream_id not in self._resets:
            self._order.append(stream_id)
            if len(self._order) > CLOSED_REMEMBERED:
                del self._resets[self._order.popleft()]
        self._resets[stream_id] = by

    def reset_by(self, stream_id: int) -> ResetBy | None:
        """Who reset a stream; None where nobody did, or too long ago."""
        return self._resets.get(stream_id)
