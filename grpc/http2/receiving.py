"""What comes in on one HTTP/2 connection of a server: from bytes to events, or to the takers of streams (RFC 9113).

Rules.  What ends the connection raises one of h2's `ProtocolError`s, after the GOAWAY was put into the output.
What ends one stream resets it, and is reported as `StreamReset(remote_reset=False)`.  Each bound is a constant.
"""

from collections.abc import Callable
from typing import TypeAlias

from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RequestReceived,
    SettingsAcknowledged,
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
from h2.settings import ChangedSetting, SettingCodes

from pointsman.grpc.http2.control_frames import error_code, read_goaway, read_ping, read_priority, read_settings
from pointsman.grpc.http2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HAS_PRIORITY,
    HEAD_BYTES,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    frame,
    read_head,
    unpadded,
)
from pointsman.grpc.http2.header_blocks import CONTINUATIONS_MAX, LIST_BYTES_MAX, Block, HeaderReader, Headers
from pointsman.grpc.http2.nuisances import DATA_BYTES_MIN, STREAMS_A_NUISANCE, Nuisances
from pointsman.grpc.http2.sending import Sender
from pointsman.grpc.http2.streams import ResetBy, Streams, StreamState, Taker
from pointsman.grpc.http2.windows import ReceiveWindows

Accept: TypeAlias = Callable[[int, Headers], Taker | None]
"""Asked for each stream that begins, by its number and headers: who takes what comes on it; None for events."""


class StateMachine:
    """What grpclib asks of the connection's state."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = ConnectionState.IDLE


class Receiver:
    """Reads what the peer sends."""

    def __init__(self, streams: Streams, windows: ReceiveWindows, sender: Sender, streams_max: int) -> None:
        self._streams = streams
        self._windows = windows
        self._sender = sender
        self._streams_max = streams_max
        """Streams that may be open at a time."""
        self.state_machine = StateMachine()
        self.accept: Accept | None = None
        self._reader = HeaderReader()
        self._input = b""
        """Bytes of a frame that has not come whole."""
        self._whole = 0
        """Bytes of all frames that have."""
        self._preface_seen = False
        self._settings_seen = False
        self._block: tuple[int, int, bytearray] | None = None
        """Header block that has not come whole: its stream, the flags of its first frame, its bytes so far."""
        self._continuations = 0  # frames of that block behind its first
        self.nuisances = Nuisances()
        self._nuisance = self.nuisances.count
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
        """Readers of frames, each at the number of its type."""

    def receive_data(self, data: bytes) -> list[Event]:
        """Read what came; raises a `ProtocolError` when the connection is over."""
        events: list[Event] = []
        try:
            if self._input:
                data = self._input + data
            position, size = 0, len(data)
            if not self._preface_seen:
                position = self._read_preface(data)
                if not position:
                    self._input = data
                    return events
            while size - position >= HEAD_BYTES:
                length, flags, stream_id = read_head(data, position)
                length, kind, stream_id = length >> 8, length & 255, stream_id & 0x7FFFFFFF
                if length > FRAME_BYTES:
                    raise FrameTooLargeError(f"frame of {length} bytes, wanted at most {FRAME_BYTES}")
                end = position + HEAD_BYTES + length
                if end > size:
                    break
                if not self._settings_seen and kind != SETTINGS:
                    raise ProtocolError(f"first frame is of type {kind}, wanted SETTINGS")
                if self._block is not None and kind != CONTINUATION:
                    raise ProtocolError(f"frame of type {kind} inside a header block, wanted CONTINUATION")
                if kind <= CONTINUATION:
                    self._readers[kind](flags, stream_id, data[position + HEAD_BYTES : end], events)
                else:
                    self._nuisance()  # RFC 9113, section 5.5: unknown types are ignored
                position = end
            self._input = data[position:] if position < size else b""
            self._whole += position
        except ProtocolError as error:
            self._sender.go_away(error.error_code)
            self.state_machine.state = ConnectionState.CLOSED
            raise
        return events

    @property
    def unfinished(self) -> int | None:
        """What has begun and not come whole, a block of headers or a frame: a number for each; None for nothing."""
        if self._block is not None:
            return -self._block[0]
        return self._whole if self._input else None

    def _read_preface(self, data: bytes) -> int:
        """Where frames begin; 0 while the preface has not come whole."""
        if data.startswith(PREFACE):
            self._preface_seen = True
            self.state_machine.state = ConnectionState.SERVER_OPEN
            return len(PREFACE)
        if PREFACE.startswith(data):
            return 0
        raise ProtocolError("connection starts with something else than HTTP/2's preface")

    def _read_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        length = len(payload)
        if flags & PADDED:
            payload = unpadded(payload)
        stream = self._streams.open.get(stream_id)
        if stream is None and not self._streams.begun(stream_id):
            raise ProtocolError(f"DATA on stream {stream_id}, which is not open")
        windows = self._windows
        if length > windows.left:
            raise FlowControlError(f"{length} bytes of data, connection window is {windows.left}")
        windows.left -= length
        if stream is None or stream.remote_closed:
            self._data_on_closed(stream_id, length, stream)
            return
        if length > stream.receivable:
            raise FlowControlError(f"{length} bytes of data, window of stream {stream_id} is {stream.receivable}")
        stream.receivable -= length
        if stream.content_left is not None:
            stream.content_left -= len(payload)
            if stream.content_left < 0 or (flags & END_STREAM and stream.content_left):
                windows.acknowledge(length, None)
                self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR, events)
                return
        if len(payload) < DATA_BYTES_MIN and not flags & END_STREAM:
            self._nuisance()
        if stream.taker is not None:
            if stream.taker.take(payload, length):
                windows.consumed += length
                stream.consumed += length
                if windows.consumed * 2 >= windows.size or stream.consumed * 2 >= windows.stream_size:
                    windows.reopen(stream)
        else:
            events.append(DataReceived(stream_id=stream_id, data=payload, flow_controlled_length=length))
        if flags & END_STREAM:
            self._end_remote(stream, events)

    def _end_remote(self, stream: StreamState, events: list[Event]) -> None:
        """The peer ends its side."""
        self._streams.close_remote(stream)
        if stream.taker is not None:
            stream.taker.half_closed()
        else:
            events.append(StreamEnded(stream_id=stream.id))

    def _data_on_closed(self, stream_id: int, length: int, stream: StreamState | None) -> None:
        """The bytes still count for the connection; whoever closed decides what the peer hears (section 5.1)."""
        self._nuisance()
        if length:
            self._windows.acknowledge(length, None)
        if stream is not None:  # half closed by the peer
            self._sender.reset(stream_id, ErrorCodes.STREAM_CLOSED)
        elif self._streams.reset_by(stream_id) is not ResetBy.US:
            code = int(ErrorCodes.STREAM_CLOSED).to_bytes(4, "big")
            self._sender.output.append(frame(RST_STREAM, 0, stream_id, code))

    def _read_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not stream_id & 1:
            raise ProtocolError(f"HEADERS on stream {stream_id}, wanted an odd one")
        if flags & PADDED:
            payload = unpadded(payload)
        priority: PriorityUpdated | None = None
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise FrameDataMissingError("HEADERS with priority of less than five bytes")
            priority = read_priority(stream_id, payload)
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
            raise ProtocolError(f"CONTINUATION on stream {stream_id} without a header block")
        _, first_flags, block = self._block
        block += payload
        self._continuations += 1
        if self._continuations > CONTINUATIONS_MAX or len(block) > LIST_BYTES_MAX:
            raise DenialOfServiceError(f"header block of {len(block)} bytes in {self._continuations} continuations")
        if flags & END_HEADERS:
            self._block = None
            self._header_block(stream_id, first_flags, bytes(block), events)

    def _header_block(self, stream_id: int, flags: int, data: bytes, events: list[Event]) -> None:
        block = self._reader.read(data)
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._trailers(stream, flags, block, events)
        elif stream_id > self._streams.highest:
            self._request(stream_id, flags, block, events)
        else:
            by = self._streams.reset_by(stream_id)
            if by is None:
                raise StreamClosedError(stream_id)
            self._nuisance()
            if by is ResetBy.PEER:
                self._sender.reset(stream_id, ErrorCodes.STREAM_CLOSED)

    def _request(self, stream_id: int, flags: int, block: Block, events: list[Event]) -> None:
        streams, sender = self._streams, self._sender
        streams.highest = stream_id
        if len(streams.open) >= self._streams_max:
            self._nuisance()
            if len(streams.open) >= 2 * self._streams_max:
                raise TooManyStreamsError(f"{len(streams.open)} streams are open")
            sender.reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        if block.as_request or (flags & END_STREAM and block.content_length):
            self._nuisance()
            sender.reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        if sender.going_away:
            sender.reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = streams.open[stream_id] = StreamState(stream_id, self._windows.stream_size, sender.stream_window)
        stream.content_left = block.content_length
        if self.accept is not None:
            stream.taker = self.accept(stream_id, block.headers)
        if stream.taker is None:
            events.append(RequestReceived(stream_id=stream_id, headers=block.headers))  # type: ignore[arg-type]
        if flags & END_STREAM:
            self._end_remote(stream, events)

    def _trailers(self, stream: StreamState, flags: int, block: Block, events: list[Event]) -> None:
        if stream.remote_closed:
            raise StreamClosedError(stream.id)
        if not flags & END_STREAM or block.as_trailers or stream.content_left:
            self._stream_error(stream.id, ErrorCodes.PROTOCOL_ERROR, events)
            return
        if stream.taker is None:
            events.append(TrailersReceived(stream_id=stream.id, headers=block.headers))  # type: ignore[arg-type]
        self._end_remote(stream, events)

    def _stream_error(self, stream_id: int, code: ErrorCodes, events: list[Event]) -> None:
        self._nuisance()
        taker = self._streams.at(stream_id).taker
        self._sender.reset(stream_id, code)
        if taker is not None:
            taker.reset()
        else:
            events.append(StreamReset(stream_id=stream_id, error_code=code, remote_reset=False))

    def _read_reset(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise FrameDataMissingError(f"RST_STREAM of {len(payload)} bytes, wanted 4")
        stream = self._streams.open.get(stream_id)
        if stream is None and not self._streams.begun(stream_id):
            raise ProtocolError(f"RST_STREAM on stream {stream_id}, which was never open")
        self._nuisance()
        if stream is not None:
            self._streams.reset(stream_id, ResetBy.PEER)
            if stream.taker is not None:
                stream.taker.reset()
            else:
                code = int.from_bytes(payload, "big")
                events.append(StreamReset(stream_id=stream_id, error_code=error_code(code)))

    def _read_window_update(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise FrameDataMissingError(f"WINDOW_UPDATE of {len(payload)} bytes, wanted 4")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream_id == 0:
            self._nuisance()
            if not increment:
                raise ProtocolError("WINDOW_UPDATE by 0")
            self._sender.window += increment
            if self._sender.window > WINDOW_MAX:
                raise FlowControlError(f"connection window is {self._sender.window}")
        else:
            if not self._streams.begun(stream_id):
                raise ProtocolError(f"WINDOW_UPDATE on stream {stream_id}, which was never open")
            self._nuisance()
            stream = self._streams.open.get(stream_id)
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

    def _read_priority(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._nuisance()
        if stream_id == 0:
            raise ProtocolError("PRIORITY on stream 0")
        if len(payload) != 5:
            raise FrameDataMissingError(f"PRIORITY of {len(payload)} bytes, wanted 5")
        events.append(read_priority(stream_id, payload))

    def _read_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._nuisance()
        if stream_id:
            raise ProtocolError(f"SETTINGS on stream {stream_id}, wanted 0")
        if flags & ACK:
            if payload:
                raise FrameDataMissingError("SETTINGS acknowledgement with a payload")
            self._settings_seen = True
            acknowledged = SettingsAcknowledged()
            if self._sender.unacknowledged_settings:
                for code, value in self._sender.unacknowledged_settings.popleft().items():
                    acknowledged.changed_settings[code] = ChangedSetting(code, None, value)
            events.append(acknowledged)
            return
        self._settings_seen = True
        changed = read_settings(payload)
        if SettingCodes.INITIAL_WINDOW_SIZE in changed.changed_settings:
            self._nuisance(len(self._streams.open) // STREAMS_A_NUISANCE)
        for setting in changed.changed_settings.values():
            self._sender.obey(setting.setting, setting.new_value)
        self._sender.output.append(frame(SETTINGS, ACK, 0))
        events.append(changed)

    def _read_push_promise(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        raise ProtocolError("PUSH_PROMISE from a client")

    def _read_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._nuisance()
        data = read_ping(stream_id, payload)
        if flags & ACK:
            events.append(PingAckReceived(ping_data=data))
        else:
            self._sender.output.append(frame(PING, ACK, 0, data))
            events.append(PingReceived(ping_data=data))

    def _read_goaway(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        events.append(read_goaway(stream_id, payload))
        self.state_machine.state = ConnectionState.CLOSED
