"""Columns of whole numbers in as few bytes as they need.

A packed column is one mode byte and its data, little-endian:
`C` one value for all (length, value), `A` an arithmetic run (length, start, step),
`1 2 4 8` one unsigned value of that many bytes each,
`S` sparse: (length, pairs, then index and value of what is not zero).
Values are unsigned and below 2**63.  The same column always packs to the same bytes,
because packed columns take part in digests.
"""

import struct

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_FEW = 48
"""Length up to which plain numbers are packed; beyond it an array is quicker."""
_SHORT = 9
"""Length up to which only the form `C` is shorter than a byte for each value."""
_TYPES = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
_NEGATIVE = "packed columns hold unsigned values"


def pack(values: Ints) -> bytes:
    """Return the shortest of the forms for `values`, none of which may be negative."""
    n = len(values)
    if n == 0:
        return b""
    if n <= _FEW:  # plain numbers are sooner done than arrays
        listed = values.tolist()
        if n <= _SHORT and 0 <= min(listed) < max(listed) < 1 << 8:
            return b"1" + bytes(listed)
        first, lowest, highest, filled = listed[0], min(listed), max(listed), n - listed.count(0)
    else:
        listed = []
        filled = int(np.count_nonzero(values))
        if 0 < filled <= _FEW // 3:  # no other form is as short
            return _sparse(values)
        # sooner than `min` and `max`
        first, lowest, highest = values.item(0), values.item(values.argmin()), values.item(values.argmax())
    assert lowest >= 0, _NEGATIVE
    if highest == lowest:
        return b"C" + struct.pack("<IQ", n, first)
    width = _width(highest)
    if n > 2 and n * width > 21:
        step = int(values[1]) - first
        if step > 0 and highest - first == step * (n - 1) and bool((np.diff(values) == step).all()):
            return b"A" + struct.pack("<IQQ", n, first, step)
    if n <= 1 << 32 and 9 + filled * (_index_width(n) + width) < n * width:
        return _sparse(values)
    if width == 1 and listed:
        return b"1" + bytes(listed)
    return bytes((48 + width,)) + values.astype(_TYPES[width]).tobytes()


def _sparse(values: Ints) -> bytes:
    index = values.nonzero()[0]
    filled = values.take(index)
    listed = filled.tolist()
    assert min(listed) >= 0, _NEGATIVE
    n, width = len(values), _width(max(listed))
    head = b"S" + struct.pack("<IIB", n, len(listed), width)
    return head + index.astype(_TYPES[_index_width(n)]).tobytes() + filled.astype(_TYPES[width]).tobytes()


def _width(highest: int) -> int:
    return 1 if highest < 1 << 8 else 2 if highest < 1 << 16 else 4 if highest < 1 << 32 else 8


def _index_width(n: int) -> int:
    return 1 if n <= 1 << 8 else 2 if n <= 1 << 16 else 4


def unpack(data: bytes) -> Ints:
    """Return the column that `pack` was given; `ValueError` says what is wrong with other bytes."""
    if not data:
        return np.zeros(0, dtype=np.int64)
    mode, body = data[:1], data[1:]
    try:
        if mode == b"C":
            n, value = struct.unpack("<IQ", body)
            return np.full(n, value, dtype=np.int64)
        if mode == b"A":
            n, start, step = struct.unpack("<IQQ", body)
            run: Ints = np.arange(n, dtype=np.int64) * step + start
            return run
        if mode == b"S":
            n, pairs, width = struct.unpack_from("<IIB", body)
            index_width = _index_width(n)
            split = 9 + pairs * index_width
            if len(body) != split + pairs * width:
                raise ValueError("length")
            column = np.zeros(n, dtype=np.int64)
            column[np.frombuffer(body[9:split], _TYPES[index_width]).astype(np.int64)] = np.frombuffer(
                body[split:], _TYPES[width]
            )
            return column
        return np.frombuffer(body, _TYPES[mode[0] - 48]).astype(np.int64)
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"packed column starts with {data[:9]!r}, wanted a mode byte of C A S 1 2 4 8 and its data"
        ) from error


def pack_floats(values: npt.NDArray[np.float64]) -> bytes:
    """Return `values` as 4-byte floats; the log's value is the rounded one, for the projection too."""
    return values.astype("<f4").tobytes()


def unpack_floats(data: bytes) -> npt.NDArray[np.float64]:
    """Return what `pack_floats` kept."""
    return np.frombuffer(data, "<f4").astype(np.float64)
