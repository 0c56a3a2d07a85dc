"""The HTTP/2 state machine under grpclib, for servers (RFC 9113): bytes in, h2's events out; calls in, bytes out.

It stands in the place of `h2.connection.H2Connection` and has the part of it that grpclib's server uses, name for name.
`streams.py` knows which streams are open, `receiving.py` reads frames, `windows.py` says how much may come,
`sending.py` writes frames within what the peer allows.
"""

from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from pointsman.grpc.http2.frames import PING, WINDOW_DEFAULT, frame
from pointsman.grpc.http2.header_blocks import LIST_BYTES_MAX
from pointsman.grpc.http2.receiving import Accept, Receiver
from pointsman.grpc.http2.sending import Sender
from pointsman.grpc.http2.streams import Streams
from pointsman.grpc.http2.windows import ReceiveWindows

STREAMS_MAX = 4_096
"""Streams open at a time: a gateway sends bursts of all its requests over a few connections.

A stream over it is refused alone, and the connection lives; grpclib on h2 would close it at 101.
"""


class LocalSettings:
    """What our server asks of the settings that the peer was sent."""

    __slots__ = ("initial_window_size",)

    def __init__(self) -> None:
        self.initial_window_size = WINDOW_DEFAULT


class ServerConnection:
    """One connection; not thread-safe, no I/O, no clock."""

    def __init__(self, config: object = None, streams_max: int = STREAMS_MAX) -> None:
        """`config` is there for h2's signature: what it says of headers holds here always."""
        self._all = Streams()
        self._sender = Sender(self._all)
        self._windows = ReceiveWindows(self._all, self._sender.output)
        self._receiver = Receiver(self._all, self._windows, self._sender, streams_max)
        self._streams_max = streams_max
        self.local_settings = LocalSettings()
        self.state_machine = self._receiver.state_machine
        self.streams = self._all.open
        # What every request needs is handed out as it is, which saves a call.
        self.receive_data = self._receiver.receive_data
        self.send_whole = self._sender.send_whole
        self.send_headers = self._sender.send_headers
        self.send_data = self._sender.send_data
        self.forgive = self._receiver.nuisances.forgive

    def hand_over(self, accept: Accept) -> None:
        """Let `accept` say who takes what comes on a stream that begins."""
        self._receiver.accept = accept

    @property
    def unfinished(self) -> int | None:
        """What has begun and not come whole: a number for each; None for nothing."""
        return self._receiver.unfinished

    @property
    def max_outbound_frame_size(self) -> int:
        """Bytes of data in one frame."""
        return self._sender.frame_bytes

    @property
    def outbound_flow_control_window(self) -> int:
        """Bytes of data that may go out in all streams together."""
        return self._sender.window

    def local_flow_control_window(self, stream_id: int) -> int:
        """Bytes of data that may go out on the stream."""
        return self._sender.room(self._all.at(stream_id))

    def initiate_connection(self) -> None:
        """Send our SETTINGS, the server's part of the preface."""
        self.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: self._streams_max,
                SettingCodes.MAX_HEADER_LIST_SIZE: LIST_BYTES_MAX,
            }
        )

    def update_settings(self, settings: dict[SettingCodes | int, int]) -> None:
        """Send SETTINGS; a larger stream window counts from here on."""
        self._sender.send_settings({int(code): value for code, value in settings.items()})
        window = settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
        if window is not None:
            self._windows.resize_streams(window)
            self.local_settings.initial_window_size = window

    def increment_flow_control_window(self, increment: int, stream_id: int | None = None) -> None:
        """Let the peer send `increment` bytes more, on the connection or on one stream."""
        self._windows.enlarge(increment, stream_id)

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        """Count bytes as consumed; the peer is told when half a window is."""
        self._windows.acknowledge(acknowledged_size, self.streams.get(stream_id))

    def end_stream(self, stream_id: int) -> None:
        """End our side of the stream."""
        self._sender.send_data(stream_id, b"", end_stream=True)

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        """Send RST_STREAM; frames of it that are under way are ignored."""
        self._sender.reset(self._all.at(stream_id).id, error_code)

    def ping(self, opaque_data: bytes) -> None:
        """Send PING with these eight bytes."""
        self._sender.output.append(frame(PING, 0, 0, opaque_data))

    def close_connection(self, error_code: ErrorCodes | int = 0) -> None:
        """Send GOAWAY: what is open goes on, nothing new is accepted."""
        self._sender.go_away(error_code)

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Return all that is to be written, once; `amount` is there for h2's signature and must be None."""
        assert amount is None, "the whole output is taken at once"
        output = self._sender.output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data
