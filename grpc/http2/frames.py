"""HTTP/2 frames as bytes (RFC 9113, section 4): their numbers, their limits, how one is written.

All that HTTP/2 says travels in frames of nine bytes and a payload:
three bytes of length, one of type, one of flags, four that name the stream; 0 names the connection.
"""

import struct

from h2.exceptions import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""Bytes that a client begins a connection with."""
HEAD_BYTES = 9
"""Bytes before a frame's payload."""
FRAME_BYTES = 16_384
"""SETTINGS_MAX_FRAME_SIZE: the least the protocol allows, and what gateways send."""
WINDOW_DEFAULT = 65_535
"""Bytes that either side may send before it is told more, in a stream and in all (section 6.9.2)."""
WINDOW_MAX = 2**31 - 1
"""Bytes of the largest window that can be (section 6.9.1)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Types of frames (section 6)."""
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 1, 1, 4, 8, 32
"""Flags; which of them a frame may have depends on its type."""

_HEAD = struct.Struct(">IBI")
"""Head of a frame: length and type together, flags, stream."""
write_head, read_head = _HEAD.pack, _HEAD.unpack_from


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return write_head(len(payload) << 8 | kind, flags, stream_id) + payload


def unpadded(payload: bytes) -> bytes:
    """The payload of a padded frame without its padding (section 6.1)."""
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("padding is as long as the frame, or longer")
    return payload[1 : len(payload) - payload[0]]
