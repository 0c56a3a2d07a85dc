"""How much the peer of an HTTP/2 connection may send (RFC 9113, section 5.2): in each stream, and in all together.

A window is the number of bytes that may come before more are allowed.
Bytes that came make it smaller; it is opened again, by a WINDOW_UPDATE, when half of it was consumed:
oftener would cost a frame for little, later would have the peer wait.
"""

from pointsman.grpc.http2.frames import WINDOW_DEFAULT, WINDOW_UPDATE, frame
from pointsman.grpc.http2.streams import Streams, StreamState


class ReceiveWindows:
    """The windows that we hold open."""

    def __init__(self, streams: Streams, output: list[bytes]) -> None:
        self._streams = streams
        self._output = output
        self.stream_size = WINDOW_DEFAULT
        """Bytes of a new stream's window."""
        self.left = WINDOW_DEFAULT
        """Bytes that may still come in all streams together."""
        self.size = WINDOW_DEFAULT
        """Bytes of the connection's window when all was consumed."""
        self.consumed = 0
        """Bytes consumed that the peer was not told of yet."""

    def resize_streams(self, size: int) -> None:
        """Windows of streams are so large from here on, since the peer may use it as soon as it is told."""
        for stream in self._streams.open.values():
            stream.receivable += size - self.stream_size
        self.stream_size = size

    def enlarge(self, increment: int, stream_id: int | None) -> None:
        """Let the peer send `increment` bytes more, on the connection or on one stream."""
        if stream_id is None:
            self.left += increment
            self.size += increment
        else:
            self._streams.at(stream_id).receivable += increment
        self._output.append(frame(WINDOW_UPDATE, 0, stream_id or 0, increment.to_bytes(4, "big")))

    def acknowledge(self, length: int, stream: StreamState | None) -> None:
        """Bytes were consumed, of a stream that is still open or of none."""
        self.consumed += length
        if stream is not None:
            stream.consumed += length
        self.reopen(stream)

    def reopen(self, stream: StreamState | None) -> None:
        """Tell the peer of half a window or more that was consumed: the connection's, and that of a stream it sends on."""
        if self.consumed * 2 >= self.size:
            self.left += self.consumed
            self._output.append(frame(WINDOW_UPDATE, 0, 0, self.consumed.to_bytes(4, "big")))
            self.consumed = 0
        if stream is not None and stream.consumed * 2 >= self.stream_size and not stream.remote_closed:
            stream.receivable += stream.consumed
            self._output.append(frame(WINDOW_UPDATE, 0, stream.id, stream.consumed.to_bytes(4, "big")))
            stream.consumed = 0
