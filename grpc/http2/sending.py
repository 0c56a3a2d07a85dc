"""The HTTP/2 state machine under grpclib, for servers: frames, streams, and the half that writes (RFC 9113)."""

import struct
from collections import deque
from typing import NoReturn, Protocol

from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, FrameTooLargeError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes

from pointsman.grpc.http2.header_blocks import LIST_BYTES_MAX, Headers, write_block

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_DEFAULT = 65_535
WINDOW_MAX = 2**31 - 1
FRAME_BYTES = 16_384
"""SETTINGS_MAX_FRAME_SIZE: the least the protocol allows, and what gateways send."""
STREAMS_MAX = 4_096
"""Open at a time: a stream over it is refused alone, the connection lives (grpclib on h2 would close it at 101)."""
CONTINUATIONS_MAX = 64
"""Frames of one header block, as in h2: a block of LIST_BYTES_MAX needs four."""
NUISANCES_MAX = 10_000
"""Frames that cost work and carry none (pings, settings, priorities, empty data, resets) between two of `forgive`."""
CLOSED_REMEMBERED = 8_192
"""Closed streams whose cause is remembered: twice the streams that may have frames under way."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 1, 1, 4, 8, 32


_HEAD = struct.Struct(">IBI")
"""Of a frame: length and type together, flags, stream."""
_head, read_head = _HEAD.pack, _HEAD.unpack_from


class LocalSettings:
    """What grpclib asks of our settings."""

    __slots__ = ("initial_window_size", "max_concurrent_streams")

    def __init__(self, streams: int) -> None:
        self.initial_window_size = WINDOW_DEFAULT
        self.max_concurrent_streams = streams


class StateMachine:
    """What grpclib asks of the connection's state."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = ConnectionState.IDLE


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
    """One stream of the peer's."""

    __slots__ = (
        "content_left",
        "id",
        "local_closed",
        "receivable",
        "remote_closed",
        "sendable",
        "taker",
        "unacknowledged",
    )

    def __init__(self, stream_id: int, receivable: int, sendable: int) -> None:
        self.id = stream_id
        self.receivable = receivable
        """Bytes the peer may still send."""
        self.sendable = sendable
        """Bytes we may still send; negative after the peer shrank its window."""
        self.unacknowledged = 0
        """Bytes consumed that the peer was not told of yet."""
        self.content_left: int | None = None
        self.taker: Taker | None = None
        """None where events tell of the stream."""
        self.local_closed = False
        self.remote_closed = False

    @property
    def closed(self) -> bool:
        return self.local_closed and self.remote_closed

    @property
    def open(self) -> bool:
        return not self.closed


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _head(len(payload) << 8 | kind, flags, stream_id) + payload


class Sender:
    """What goes out on one connection, and the streams that both halves share."""

    def __init__(self, streams_max: int) -> None:
        self.streams: dict[int, StreamState] = {}
        self.local_settings = LocalSettings(streams_max)
        self.state_machine = StateMachine()
        self.max_outbound_frame_size = FRAME_BYTES
        self.outbound_flow_control_window = WINDOW_DEFAULT
        self._inbound_window = WINDOW_DEFAULT
        self._inbound_limit = WINDOW_DEFAULT
        self._unacknowledged = 0
        self._stream_window_in = WINDOW_DEFAULT
        self._stream_window_out = WINDOW_DEFAULT
        self._output: list[bytes] = []
        self._settings_sent: deque[dict[int, int]] = deque()
        self._highest = 0
        self._going_away = False
        self._closed_by_us: set[int] = set()
        self._closed_by_reset: set[int] = set()
        self._closed_by_end: set[int] = set()
        self._closed_order: deque[int] = deque()

    def initiate_connection(self) -> None:
        """Send our SETTINGS, the server's part of the preface."""
        self.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: self.local_settings.max_concurrent_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: LIST_BYTES_MAX,
            }
        )

    def update_settings(self, settings: dict[SettingCodes | int, int]) -> None:
        """Send SETTINGS; a larger stream window counts from here on, since the peer may use it at once."""
        payload = b"".join(int(code).to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in settings.items())
        self._output.append(frame(SETTINGS, 0, 0, payload))
        self._settings_sent.append({int(code): value for code, value in settings.items()})
        window = settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
        if window is not None:
            for stream in self.streams.values():
                stream.receivable += window - self._stream_window_in
            self._stream_window_in = self.local_settings.initial_window_size = window

    def increment_flow_control_window(self, increment: int, stream_id: int | None = None) -> None:
        """Let the peer send `increment` bytes more, on the connection or on one stream."""
        if stream_id is None:
            self._inbound_window += increment
            self._inbound_limit += increment
        else:
            self._stream(stream_id).receivable += increment
        self._output.append(frame(WINDOW_UPDATE, 0, stream_id or 0, increment.to_bytes(4, "big")))

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        """Count bytes as consumed; the peer is told when half a window is."""
        stream = self.streams.get(stream_id)
        self._unacknowledged += acknowledged_size
        if stream is not None:
            stream.unacknowledged += acknowledged_size
        self._open_windows(stream)

    def _open_windows(self, stream: StreamState | None) -> None:
        """Tell the peer of half a window or more that was consumed, of the connection and of a stream it still sends on."""
        if self._unacknowledged * 2 >= self._inbound_limit:
            self._inbound_window += self._unacknowledged
            self._output.append(frame(WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4, "big")))
            self._unacknowledged = 0
        if stream is None or stream.remote_closed:
            return
        if stream.unacknowledged * 2 >= self._stream_window_in:
            stream.receivable += stream.unacknowledged
            self._output.append(frame(WINDOW_UPDATE, 0, stream.id, stream.unacknowledged.to_bytes(4, "big")))
            stream.unacknowledged = 0

    def local_flow_control_window(self, stream_id: int) -> int:
        """How many bytes of data may go out on the stream."""
        return min(self.outbound_flow_control_window, self._stream(stream_id).sendable)

    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None:
        """Send response headers or trailers."""
        stream = self._sending(stream_id)
        block = write_block(headers)
        size = self.max_outbound_frame_size
        end = END_STREAM if end_stream else 0
        if len(block) <= size:
            self._output.append(frame(HEADERS, END_HEADERS | end, stream_id, block))
        else:
            self._output.append(frame(HEADERS, end, stream_id, block[:size]))
            for start in range(size, len(block), size):
                last = END_HEADERS if start + size >= len(block) else 0
                self._output.append(frame(CONTINUATION, last, stream_id, block[start : start + size]))
        if end_stream:
            self._close_local(stream)

    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Send one DATA frame; the caller has looked at the window and the frame size."""
        stream = self._sending(stream_id)
        size = len(data)
        if size > self.max_outbound_frame_size:
            raise FrameTooLargeError(f"{size} bytes of data, wanted at most {self.max_outbound_frame_size}")
        if size > stream.sendable or size > self.outbound_flow_control_window:
            raise FlowControlError(f"{size} bytes of data, window is {self.local_flow_control_window(stream_id)}")
        stream.sendable -= size
        self.outbound_flow_control_window -= size
        self._output.append(frame(DATA, END_STREAM if end_stream else 0, stream_id, data))
        if end_stream:
            self._close_local(stream)

    def send_whole(self, stream_id: int, head: bytes, data: bytes, tail: bytes) -> bool:
        """Send headers, one DATA frame and trailers that end the stream; head or tail may be empty.

        They are blocks that fit a frame.  False, and nothing sent, where windows or frame size do not allow all of it.
        """
        stream = self._sending(stream_id)
        size = len(data)
        if size > stream.sendable or size > self.outbound_flow_control_window or size > self.max_outbound_frame_size:
            return False
        stream.sendable -= size
        self.outbound_flow_control_window -= size
        output = self._output
        if head:
            output += (_head(len(head) << 8 | HEADERS, END_HEADERS, stream_id), head)
        output += (_head(size << 8 | DATA, 0, stream_id), data)
        if tail:
            output += (_head(len(tail) << 8 | HEADERS, END_HEADERS | END_STREAM, stream_id), tail)
            self._close_local(stream)
        return True

    def end_stream(self, stream_id: int) -> None:
        """End our side of the stream."""
        self.send_data(stream_id, b"", end_stream=True)

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        """Send RST_STREAM; frames of it that are under way are ignored."""
        self._stream(stream_id)
        self._reset(stream_id, error_code)

    def ping(self, opaque_data: bytes) -> None:
        """Send PING with these eight bytes."""
        self._output.append(frame(PING, 0, 0, opaque_data))

    def close_connection(self, error_code: ErrorCodes | int = 0) -> None:
        """Send GOAWAY: what is open goes on, nothing new is accepted."""
        payload = self._highest.to_bytes(4, "big") + int(error_code).to_bytes(4, "big")
        self._output.append(frame(GOAWAY, 0, 0, payload))
        self._going_away = True

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Return all that is to be written, once; `amount` is there for h2's signature and must be None."""
        assert amount is None, "the whole output is taken at once"
        output = self._output
        if not output:
            return b""
        self._output = []
        return output[0] if len(output) == 1 else b"".join(output)

    def _stream(self, stream_id: int) -> StreamState:
        stream = self.streams.get(stream_id)
        if stream is None:
            raise StreamClosedError(stream_id)
        return stream

    def _sending(self, stream_id: int) -> StreamState:
        stream = self._stream(stream_id)
        if stream.local_closed:
            raise StreamClosedError(stream_id)
        return stream

    def _close_local(self, stream: StreamState) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self._forget(stream.id, self._closed_by_end)

    def _close_remote(self, stream: StreamState) -> None:
        stream.remote_closed = True
        if stream.local_closed:
            self._forget(stream.id, self._closed_by_end)

    def _forget(self, stream_id: int, cause: set[int]) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.local_closed = stream.remote_closed = True
        cause.add(stream_id)
        self._closed_order.append(stream_id)
        if len(self._closed_order) > CLOSED_REMEMBERED:
            oldest = self._closed_order.popleft()
            self._closed_by_us.discard(oldest)
            self._closed_by_reset.discard(oldest)
            self._closed_by_end.discard(oldest)

    def _reset(self, stream_id: int, error_code: ErrorCodes | int) -> None:
        self._output.append(frame(RST_STREAM, 0, stream_id, int(error_code).to_bytes(4, "big")))
        self._forget(stream_id, self._closed_by_us)

    def _fail(self, error: ProtocolError, code: ErrorCodes | None = None) -> NoReturn:
        """A connection error: say so to the peer, then to the caller."""
        self.close_connection(error.error_code if code is None else code)
        self.state_machine.state = ConnectionState.CLOSED
        raise error
