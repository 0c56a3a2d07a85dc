"""HTTP/2 frames that are about the connection, or about a stream's importance: from payload to h2's event (RFC 9113).

Each function raises the `ProtocolError` that the connection ends with where the frame cannot be.
"""

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PriorityUpdated, RemoteSettingsChanged
from h2.exceptions import DenialOfServiceError, FlowControlError, FrameDataMissingError, ProtocolError
from h2.settings import ChangedSetting, SettingCodes

from pointsman.grpc.http2.frames import FRAME_BYTES, WINDOW_MAX

SETTINGS_MAX = 32
"""Settings in one frame, as in nghttp2: the protocol knows seven, and extensions a few more."""


def read_priority(stream_id: int, payload: bytes) -> PriorityUpdated:
    """Five bytes: the stream it depends on, whether alone, and its weight (section 6.3); nobody heeds them."""
    depends_on = int.from_bytes(payload[:4], "big")
    if depends_on & 0x7FFFFFFF == stream_id:
        raise ProtocolError(f"stream {stream_id} depends on itself")
    event = PriorityUpdated()
    event.stream_id = stream_id
    event.depends_on = depends_on & 0x7FFFFFFF
    event.exclusive = bool(depends_on >> 31)
    event.weight = payload[4] + 1
    return event


def read_settings(payload: bytes) -> RemoteSettingsChanged:
    """What the peer sets, in its order; six bytes each, a code and a value (section 6.5)."""
    if len(payload) % 6:
        raise FrameDataMissingError(f"SETTINGS of {len(payload)} bytes, wanted a multiple of 6")
    if len(payload) > 6 * SETTINGS_MAX:
        raise DenialOfServiceError(f"{len(payload) // 6} settings in one frame, wanted at most {SETTINGS_MAX}")
    event = RemoteSettingsChanged()
    for start in range(0, len(payload), 6):
        code = int.from_bytes(payload[start : start + 2], "big")
        value = int.from_bytes(payload[start + 2 : start + 6], "big")
        if code == SettingCodes.INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise FlowControlError(f"initial window of {value} bytes")
        if code == SettingCodes.MAX_FRAME_SIZE and not FRAME_BYTES <= value < 1 << 24:
            raise ProtocolError(f"maximum frame size of {value} bytes")
        if code == SettingCodes.ENABLE_PUSH and value > 1:
            raise ProtocolError(f"ENABLE_PUSH is {value}, wanted 0 or 1")
        event.changed_settings[code] = ChangedSetting(code, None, value)
    return event


def read_ping(stream_id: int, payload: bytes) -> bytes:
    """The eight bytes that the answer repeats (section 6.7)."""
    if stream_id:
        raise ProtocolError(f"PING on stream {stream_id}, wanted 0")
    if len(payload) != 8:
        raise FrameDataMissingError(f"PING of {len(payload)} bytes, wanted 8")
    return payload


def read_goaway(stream_id: int, payload: bytes) -> ConnectionTerminated:
    """The peer goes: the last stream that it took, and why (section 6.8)."""
    if stream_id:
        raise ProtocolError(f"GOAWAY on stream {stream_id}, wanted 0")
    if len(payload) < 8:
        raise FrameDataMissingError(f"GOAWAY of {len(payload)} bytes, wanted at least 8")
    event = ConnectionTerminated()
    event.error_code = error_code(int.from_bytes(payload[4:8], "big"))
    event.last_stream_id = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
    event.additional_data = payload[8:] or None
    return event


def error_code(code: int) -> ErrorCodes | int:
    """The code by its name where it has one (section 7)."""
    try:
        return ErrorCodes(code)
    except ValueError:
        return code
