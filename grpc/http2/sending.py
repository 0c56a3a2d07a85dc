"""What goes out on one HTTP/2 connection, within what the peer lets us send (RFC 9113).

The peer tells how large a frame may be, and by windows how many bytes of data may go out, in a stream and in all.
"""

from collections import deque

from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, FrameTooLargeError, StreamClosedError
from h2.settings import SettingCodes

from pointsman.grpc.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    frame,
    write_head,
)
from pointsman.grpc.http2.header_blocks import Headers, write_block
from pointsman.grpc.http2.streams import ResetBy, Streams, StreamState


class Sender:
    """Writes frames into `output`, and knows the peer's limits."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.output: list[bytes] = []
        """Bytes to be written, in this order; whoever writes them empties the list."""
        self.frame_bytes = FRAME_BYTES
        """Bytes of payload that the peer takes in one frame."""
        self.window = WINDOW_DEFAULT
        """Bytes of data that may go out in all streams together."""
        self.stream_window = WINDOW_DEFAULT
        """Bytes of data that may go out in a new stream."""
        self.going_away = False
        """Whether the peer was told to begin no more streams."""
        self.unacknowledged_settings: deque[dict[int, int]] = deque()
        """Settings that the peer has not acknowledged yet, oldest first."""

    def obey(self, code: int, value: int) -> None:
        """The peer sets what we may send; other settings are not about that."""
        if code == SettingCodes.MAX_FRAME_SIZE:
            self.frame_bytes = value
        elif code == SettingCodes.INITIAL_WINDOW_SIZE:
            for stream in self._streams.open.values():
                stream.sendable += value - self.stream_window
                if stream.sendable > WINDOW_MAX:
                    raise FlowControlError(f"window of stream {stream.id} is {stream.sendable}")
            self.stream_window = value

    def room(self, stream: StreamState) -> int:
        """How many bytes of data may go out on the stream."""
        return min(self.window, stream.sendable)

    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None:
        """Send response headers or trailers."""
        stream = self._sending(stream_id)
        block = write_block(headers)
        size = self.frame_bytes
        end = END_STREAM if end_stream else 0
        if len(block) <= size:
            self.output.append(frame(HEADERS, END_HEADERS | end, stream_id, block))
        else:
            self.output.append(frame(HEADERS, end, stream_id, block[:size]))
            for start in range(size, len(block), size):
                last = END_HEADERS if start + size >= len(block) else 0
                self.output.append(frame(CONTINUATION, last, stream_id, block[start : start + size]))
        if end_stream:
            self._streams.close_local(stream)

    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Send one DATA frame; the caller has looked at the window and the frame size."""
        stream = self._sending(stream_id)
        size = len(data)
        if size > self.frame_bytes:
            raise FrameTooLargeError(f"{size} bytes of data, wanted at most {self.frame_bytes}")
        if size > stream.sendable or size > self.window:
            raise FlowControlError(f"{size} bytes of data, window is {self.room(stream)}")
        stream.sendable -= size
        self.window -= size
        self.output.append(frame(DATA, END_STREAM if end_stream else 0, stream_id, data))
        if end_stream:
            self._streams.close_local(stream)

    def send_whole(self, stream_id: int, head: bytes, data: bytes, tail: bytes) -> bool:
        """Send headers, one DATA frame and trailers that end the stream; head or tail may be empty.

        They are blocks that fit a frame.  False, and nothing sent, where windows or frame size do not allow all of it.
        """
        stream = self._sending(stream_id)
        size = len(data)
        if size > stream.sendable or size > self.window or size > self.frame_bytes:
            return False
        stream.sendable -= size
        self.window -= size
        output = self.output
        if head:
            output += (write_head(len(head) << 8 | HEADERS, END_HEADERS, stream_id), head)
        output += (write_head(size << 8 | DATA, 0, stream_id), data)
        if tail:
            output += (write_head(len(tail) << 8 | HEADERS, END_HEADERS | END_STREAM, stream_id), tail)
            self._streams.close_local(stream)
        return True

    def send_settings(self, settings: dict[int, int]) -> None:
        """Send SETTINGS."""
        payload = b"".join(code.to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in settings.items())
        self.output.append(frame(SETTINGS, 0, 0, payload))
        self.unacknowledged_settings.append(settings)

    def reset(self, stream_id: int, code: ErrorCodes | int) -> None:
        """Send RST_STREAM; frames of the stream that are under way are ignored."""
        self.output.append(frame(RST_STREAM, 0, stream_id, int(code).to_bytes(4, "big")))
        self._streams.reset(stream_id, ResetBy.US)

    def go_away(self, code: ErrorCodes | int) -> None:
        """Send GOAWAY: what is open goes on, nothing new is accepted."""
        payload = self._streams.highest.to_bytes(4, "big") + int(code).to_bytes(4, "big")
        self.output.append(frame(GOAWAY, 0, 0, payload))
        self.going_away = True

    def _sending(self, stream_id: int) -> StreamState:
        stream = self._streams.open.get(stream_id)
        if stream is None or stream.local_closed:
            raise StreamClosedError(stream_id)
        return stream
