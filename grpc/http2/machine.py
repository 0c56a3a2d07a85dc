"""The HTTP/2 state machine under grpclib, for servers: the half that reads (RFC 9113).

It stands in the place of `h2.connection.H2Connection`: bytes in, h2's events out.
Rules.  A connection error raises one of h2's `ProtocolError`s, after the GOAWAY was put into the output.
A stream error resets the stream and is reported as `StreamReset(remote_reset=False)`.  Each bound is a constant.
"""

from collections.abc import Callable

from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PriorityUpdated,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import (
    DenialOfServiceError,
    FlowControlError,
    FrameDataMissingError,
    FrameTooLargeError,
    ProtocolError,
    StreamClosedError,
    TooManyStreamsError,
)

from pointsman.grpc.http2.control_frames import Controller, error_code
from pointsman.grpc.http2.header_blocks import LIST_BYTES_MAX, Block, HeaderReader, Headers, TooLarge, Undecodable
from pointsman.grpc.http2.sending import (
    CONTINUATION,
    CONTINUATIONS_MAX,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HAS_PRIORITY,
    PADDED,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    STREAMS_MAX,
    WINDOW_MAX,
    StreamState,
    Taker,
    frame,
    read_head,
)


class ServerConnection(Controller):
    """One connection; not thread-safe, no I/O, no clock."""

    def __init__(self, config: object = None, streams_max: int = STREAMS_MAX) -> None:
        super().__init__(streams_max)
        self.accept: Callable[[int, Headers], Taker | None] | None = None
        """Asked for each stream that begins, by its number and headers: who takes what comes on it; None for events."""
        self._reader = HeaderReader()
        self._input = b""
        self._preface_seen = False
        self._block: tuple[int, int, bytearray] | None = None
        self._continuations = 0
        self._readers = (
            self._read_data,
            self._read_headers,
            self._read_priority,
            self._read_reset,
            self._read_settings,
            self._read_push_promise,
            self._read_ping,
            self._read_goaway,
            self._read_window_update,
            self._read_continuation,
        )

    def receive_data(self, data: bytes) -> list[Event]:
        """Read what came; raises a `ProtocolError` when the connection is over."""
        if self._input:
            data = self._input + data
        position = 0
        if not self._preface_seen:
            if not data.startswith(PREFACE):
                if PREFACE.startswith(data):
                    self._input = data
                    return []
                self._fail(ProtocolError("connection starts with something else than HTTP/2's preface"))
            self._preface_seen = True
            self.state_machine.state = ConnectionState.SERVER_OPEN
            position = len(PREFACE)
        events: list[Event] = []
        size = len(data)
        while size - position >= 9:
            length, flags, stream_id = read_head(data, position)
            length, kind, stream_id = length >> 8, length & 255, stream_id & 0x7FFFFFFF
            if length > FRAME_BYTES:
                self._fail(FrameTooLargeError(f"frame of {length} bytes, wanted at most {FRAME_BYTES}"))
            end = position + 9 + length
            if end > size:
                break
            if not self._settings_seen and kind != SETTINGS:
                self._fail(ProtocolError(f"first frame is of type {kind}, wanted SETTINGS"))
            if self._block is not None and kind != CONTINUATION:
                self._fail(ProtocolError(f"frame of type {kind} inside a header block, wanted CONTINUATION"))
            if kind < 10:
                self._readers[kind](flags, stream_id, data[position + 9 : end], events)
            else:
                self._nuisance()  # RFC 9113, section 5.5: unknown types are ignored
            position = end
        self._input = data[position:] if position < size else b""
        return events

    def _read_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        length = len(payload)
        if flags & PADDED:
            payload = self._unpadded(payload)
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id == 0 or stream_id > self._highest or not stream_id & 1):
            self._fail(ProtocolError(f"DATA on stream {stream_id}, which is not open"))
        if length > self._inbound_window:
            self._fail(FlowControlError(f"{length} bytes of data, connection window is {self._inbound_window}"))
        self._inbound_window -= length
        if stream is None or stream.remote_closed:
            self._data_on_closed(stream_id, length, stream)
            return
        if length > stream.receivable:
            self._fail(FlowControlError(f"{length} bytes of data, window of stream {stream_id} is {stream.receivable}"))
        stream.receivable -= length
        if stream.content_left is not None:
            stream.content_left -= len(payload)
            if stream.content_left < 0 or (flags & END_STREAM and stream.content_left):
                self.acknowledge_received_data(length, 0)
                self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR, events)
                return
        if not payload and not flags & END_STREAM:
            self._nuisance()
        if stream.taker is not None:
            if stream.taker.take(payload, length):
                self._unacknowledged += length
                stream.unacknowledged += length
                if self._unacknowledged * 2 >= self._inbound_limit or (
                    stream.unacknowledged * 2 >= self._stream_window_in
                ):
                    self._open_windows(stream)
        else:
            events.append(DataReceived(stream_id=stream_id, data=payload, flow_controlled_length=length))
        if flags & END_STREAM:
            self._end_remote(stream, events)

    def _end_remote(self, stream: StreamState, events: list[Event]) -> None:
        """The peer ends its side."""
        self._close_remote(stream)
        if stream.taker is not None:
            stream.taker.half_closed()
        else:
            events.append(StreamEnded(stream_id=stream.id))

    def _data_on_closed(self, stream_id: int, length: int, stream: StreamState | None) -> None:
        """The bytes still count for the connection; whoever closed decides what the peer hears (section 5.1)."""
        self._nuisance()
        if length:
            self.acknowledge_received_data(length, 0)
        if stream is not None:  # half closed by the peer
            self._reset(stream_id, ErrorCodes.STREAM_CLOSED)
        elif stream_id not in self._closed_by_us:
            self._output.append(frame(RST_STREAM, 0, stream_id, int(ErrorCodes.STREAM_CLOSED).to_bytes(4, "big")))

    def _unpadded(self, payload: bytes) -> bytes:
        if not payload or payload[0] >= len(payload):
            self._fail(ProtocolError("padding is as long as the frame, or longer"))
        return payload[1 : len(payload) - payload[0]]

    def _read_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not stream_id & 1:
            self._fail(ProtocolError(f"HEADERS on stream {stream_id}, wanted an odd one"))
        if flags & PADDED:
            payload = self._unpadded(payload)
        priority: PriorityUpdated | None = None
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                self._fail(FrameDataMissingError("HEADERS with priority of less than five bytes"))
            priority = self._priority(stream_id, payload)
            payload = payload[5:]
        if flags & END_HEADERS:
            self._header_block(stream_id, flags, payload, events)
        else:
            self._block = (stream_id, flags, bytearray(payload))
            self._continuations = 0
        if priority is not None:
            events.append(priority)

    def _read_continuation(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if self._block is None or self._block[0] != stream_id:
            self._fail(ProtocolError(f"CONTINUATION on stream {stream_id} without a header block"))
        _, first_flags, block = self._block
        block += payload
        self._continuations += 1
        if self._continuations > CONTINUATIONS_MAX or len(block) > LIST_BYTES_MAX:
            self._fail(
                DenialOfServiceError(f"header block of {len(block)} bytes in {self._continuations} continuations")
            )
        if flags & END_HEADERS:
            self._block = None
            self._header_block(stream_id, first_flags, bytes(block), events)

    def _header_block(self, stream_id: int, flags: int, data: bytes, events: list[Event]) -> None:
        try:
            block = self._reader.read(data)
        except TooLarge as error:
            self._fail(DenialOfServiceError(str(error)))
        except Undecodable as error:
            self._fail(ProtocolError(str(error)), ErrorCodes.COMPRESSION_ERROR)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._trailers(stream, flags, block, events)
        elif stream_id > self._highest:
            self._request(stream_id, flags, block, events)
        elif stream_id in self._closed_by_us:
            self._nuisance()
        elif stream_id in self._closed_by_reset:
            self._nuisance()
            self._reset(stream_id, ErrorCodes.STREAM_CLOSED)
        else:
            self._fail(StreamClosedError(stream_id), ErrorCodes.STREAM_CLOSED)

    def _request(self, stream_id: int, flags: int, block: Block, events: list[Event]) -> None:
        self._highest = stream_id
        if len(self.streams) >= self.local_settings.max_concurrent_streams:
            self._nuisance()
            if len(self.streams) >= 2 * self.local_settings.max_concurrent_streams:
                self._fail(TooManyStreamsError(f"{len(self.streams)} streams are open"))
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        if block.as_request or (flags & END_STREAM and block.content_length):
            self._nuisance()
            self._reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        if self._going_away:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = self.streams[stream_id] = StreamState(stream_id, self._stream_window_in, self._stream_window_out)
        stream.content_left = block.content_length
        if self.accept is not None:
            stream.taker = self.accept(stream_id, block.headers)
        if stream.taker is None:
            events.append(RequestReceived(stream_id=stream_id, headers=block.headers))  # type: ignore[arg-type]
        if flags & END_STREAM:
            self._end_remote(stream, events)

    def _trailers(self, stream: StreamState, flags: int, block: Block, events: list[Event]) -> None:
        if stream.remote_closed:
            self._fail(StreamClosedError(stream.id), ErrorCodes.STREAM_CLOSED)
        if not flags & END_STREAM or block.as_trailers or stream.content_left:
            self._stream_error(stream.id, ErrorCodes.PROTOCOL_ERROR, events)
            return
        if stream.taker is None:
            events.append(TrailersReceived(stream_id=stream.id, headers=block.headers))  # type: ignore[arg-type]
        self._end_remote(stream, events)

    def _stream_error(self, stream_id: int, code: ErrorCodes, events: list[Event]) -> None:
        self._nuisance()
        taker = self.streams[stream_id].taker
        self._reset(stream_id, code)
        if taker is not None:
            taker.reset()
        else:
            events.append(StreamReset(stream_id=stream_id, error_code=code, remote_reset=False))

    def _read_reset(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            self._fail(FrameDataMissingError(f"RST_STREAM of {len(payload)} bytes, wanted 4"))
        if stream_id == 0 or stream_id > self._highest or not stream_id & 1:
            self._fail(ProtocolError(f"RST_STREAM on stream {stream_id}, which was never open"))
        self._nuisance()
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._forget(stream_id, self._closed_by_reset)
            if stream.taker is not None:
                stream.taker.reset()
            else:
                code = int.from_bytes(payload, "big")
                events.append(StreamReset(stream_id=stream_id, error_code=error_code(code)))

    def _read_window_update(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            self._fail(FrameDataMissingError(f"WINDOW_UPDATE of {len(payload)} bytes, wanted 4"))
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream_id == 0:
            self._nuisance()
            if not increment:
                self._fail(ProtocolError("WINDOW_UPDATE by 0"))
            self.outbound_flow_control_window += increment
            if self.outbound_flow_control_window > WINDOW_MAX:
                self._fail(FlowControlError(f"connection window is {self.outbound_flow_control_window}"))
        else:
            if stream_id > self._highest or not stream_id & 1:
                self._fail(ProtocolError(f"WINDOW_UPDATE on stream {stream_id}, which was never open"))
            self._nuisance()
            stream = self.streams.get(stream_id)
            if stream is None:
                return
            if not increment:
                self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR, events)
                return
            stream.sendable += increment
            if stream.sendable > WINDOW_MAX:
                self._stream_error(stream_id, ErrorCodes.FLOW_CONTROL_ERROR, events)
                return
        events.append(WindowUpdated(stream_id=stream_id, delta=increment))
