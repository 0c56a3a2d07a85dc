"""Bodies that clients send compressed: unfolded for reading, piece by piece as they come, and within bounds.

A few bytes can unfold to gigabytes.  So what a body may unfold to grows with its own length, and the work that a piece
brings is bounded by that.  The bytes that go on to the server are the client's.
"""

import sys
import zlib
from collections.abc import Callable
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]
import msgspec

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from pointsman.core.deciding.refusals import REFUSALS, RefusalReason

FREE_BYTES: Final = 4 << 20
"""Bytes that any body may unfold to: a million tokens of text, and some milliseconds of work."""
RATIO_MAX: Final = 16
"""Bytes to which each byte of a body may unfold beyond that: JSON that is not made for it has a ratio of 2 to 10."""
LAYERS_MAX: Final = 3
"""Encodings one upon the other; clients use one."""
FRAMES_MAX: Final = 16
"""Compressed streams one after another in one layer: both gzip and zstd allow that, and each costs an object."""
SUPPORTED: Final = "gzip, deflate, br, zstd"
_WINDOW: Final[dict[int, int]] = {DecompressionParameter.window_log_max: 23}
"""8 MiB, the most that zstd may want of a reader by RFC 9659."""


class Unread(msgspec.Struct, frozen=True):
    """Why a body cannot be read: what a request is refused with that some parser has to read."""

    reason: RefusalReason
    message: str


class _BrokenError(Exception):
    """What is wrong with a layer."""


class _TooLongError(Exception):
    """A layer unfolds to more than it may."""


class _Layer(Protocol):
    """One content encoding, taken off."""

    @property
    def complete(self) -> bool:
        """Whether the compressed data has reached its end."""
        ...

    def read(self, data: bytes, most: int) -> bytes:
        """What the next piece unfolds to; `_TooLongError` beyond `most` bytes, `_BrokenError` where it is none."""
        ...


class _Stream(Protocol):
    """What zlib and zstd read with."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Frames:
    """Compressed streams, one or several one after another."""

    def __init__(self, new: Callable[[], _Stream], frames_max: int = FRAMES_MAX) -> None:
        self._new = new
        self._frames_left = frames_max
        self._stream: _Stream | None = None

    @property
    def complete(self) -> bool:
        """Whether the last stream has ended."""
        return self._stream is not None and self._stream.eof

    def read(self, data: bytes, most: int) -> bytes:
        """Read on, in the next stream where one ends."""
        found: list[bytes] = []
        while data:
            if self._stream is None or self._stream.eof:
                if not self._frames_left:
                    raise _BrokenError("more follows its end")
                self._frames_left -= 1
                self._stream = self._new()
            piece = self._stream.decompress(data, most + 1)
            most -= len(piece)
            if most < 0:
                raise _TooLongError
            found.append(piece)
            data = self._stream.unused_data if self._stream.eof else b""
        return b"".join(found)


class _Deflated:
    """Deflated data, in zlib's format as RFC 9110 has it, or bare as some clients send it."""

    complete = False

    def __init__(self) -> None:
        self._begin = b""
        self._frames: _Frames | None = None

    def read(self, data: bytes, most: int) -> bytes:
        """Read on; the first two bytes tell the format."""
        if self._frames is None:
            self._begin += data
            if len(self._begin) < 2:
                return b""
            wrapped = self._begin[0] & 15 == zlib.DEFLATED and int.from_bytes(self._begin[:2]) % 31 == 0
            self._frames = _Frames(lambda: zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS), 1)
            data = self._begin
        found = self._frames.read(data, most)
        self.complete = self._frames.complete
        return found


class _Brotli:
    """Brotli's one stream."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def complete(self) -> bool:
        """Whether the stream has ended."""
        return bool(self._stream.is_finished())

    def read(self, data: bytes, most: int) -> bytes:
        """Read on, and take all there is."""
        found: list[bytes] = []
        while True:
            piece: bytes = self._stream.process(data, output_buffer_limit=most + 1)
            most -= len(piece)
            if most < 0:
                raise _TooLongError
            found.append(piece)
            if self._stream.can_accept_more_data():
                return b"".join(found)
            data = b""


def _gzip() -> _Layer:
    return _Frames(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS))


def _zstd() -> _Layer:
    return _Frames(lambda: ZstdDecompressor(options=_WINDOW))


_LAYERS: Final[dict[str, Callable[[], _Layer]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _Deflated,
    "br": _Brotli,
    "zstd": _zstd,
}


class Unfolding:
    """A body without its encodings, as far as it came."""

    def __init__(self, encodings: list[str]) -> None:
        """Names in the order in which they were put on, as in the header."""
        self.unread: Unread | None = None
        self.bytes = 0
        """Bytes that the body has unfolded to so far."""
        self._pieces: list[bytes] = []
        self._received = 0
        self._names = encodings[::-1]
        self._layers: list[_Layer] = []
        self._lengths = [0] * len(encodings)
        unknown = [name for name in encodings if name not in _LAYERS]
        if unknown:
            self._give_up("unsupported-encoding", unknown[0], SUPPORTED)
        elif len(encodings) > LAYERS_MAX:
            self._give_up("unsupported-encoding", ", ".join(encodings), f"{LAYERS_MAX} at most")
        else:
            self._layers = [_LAYERS[name]() for name in self._names]

    def feed(self, chunk: bytes) -> int:
        """Take the next piece of the body; returns by how many bytes more is held."""
        if self.unread is not None:
            return 0
        before, self._received = self.bytes, self._received + len(chunk)
        limit = FREE_BYTES + RATIO_MAX * self._received
        name = self._names[0]
        try:
            for at, layer in enumerate(self._layers):
                name = self._names[at]
                chunk = layer.read(chunk, limit - self._lengths[at]) if chunk else chunk
                self._lengths[at] += len(chunk)
        except _TooLongError:
            self._give_up("body-too-large", f"{limit + 1} bytes without its encoding ({name}), or more", f"{limit}")
            return -before
        except (_BrokenError, zlib.error, brotli.error, ZstdError, EOFError) as error:
            self._give_up("bad-request", f"request body is no {name}: {error}")
            return -before
        self._pieces.append(chunk)
        self.bytes += len(chunk)
        return len(chunk)

    def body(self) -> bytes:
        """What came, which is all; `unread` says if anything is missing."""
        if self.unread is None and self._received and not all(layer.complete for layer in self._layers):
            self._give_up("bad-request", f"request body is no whole {self._names[0]}: it ends too early")
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def _give_up(self, reason: RefusalReason, *found: object) -> None:
        self.unread = Unread(reason, REFUSALS[reason].tell(*found))
        self._pieces, self.bytes = [], 0


def unfolding(encoding: str) -> Unfolding | None:
    """What takes off the encodings of a `content-encoding` header; None where there are none."""
    names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    return Unfolding(names) if names else None
