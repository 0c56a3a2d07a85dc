"""What SQLite's recovery leaves out of a segment's WAL without a word: commits behind a frame that is not whole.

Recovery ends at the first frame whose checksum does not fit.  After a power cut that is right: of the transaction
whose sync had not returned any frame may be there or not, its last one too.  The next transaction is only written when
that sync has returned.  So two commits behind a bad frame, the second one joined to the first by its checksums, say
that the first was on disk, and that something has changed the file since.  A frame that a transaction before a power
cut left there joins nothing that was written over its beginning.

Rules.  The WAL is only read.  No locks go with its descriptor: SQLite's are on the files beside it.
"""

import struct
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = 32
_FRAME = 24
_PAGE = 4096
"""The size of a page where the WAL's header cannot be believed."""
_MAGIC = 0x377F0682
"""First number of a WAL; with its lowest bit set, checksums read words with the most significant byte first."""

Sums = tuple[int, int]


def lost_commits(wal: Path) -> str | None:
    """What is wrong with a WAL that holds commits which recovery does not reach; None where it reaches all."""
    while True:
        try:
            with wal.open("rb") as file:
                held = file.read()
                file.seek(0)
                if (problem := _lost(held)) is None or file.read(_HEADER) == held[:_HEADER]:
                    return problem  # otherwise whoever writes it began it anew meanwhile
        except FileNotFoundError:
            return None


def _lost(held: bytes) -> str | None:
    if len(held) < _HEADER + _FRAME:
        return None
    magic, _, page, _, *_ = struct.unpack(">8I", held[:_HEADER])
    big = magic != _MAGIC
    sums: Sums = struct.unpack(">2I", held[24:_HEADER])
    whole = magic in (_MAGIC, _MAGIC | 1) and _checksum(held[:24], (0, 0), big=big) == sums
    salts = held[16:24]
    if not whole:
        page, big, salts = _PAGE, sys.byteorder == "big", held[_HEADER + 8 : _HEADER + 16]
    bad = None if whole else 0
    first_commit = None
    behind = 0
    size = _FRAME + page
    for number in range(1, (len(held) - _HEADER) // size + 1):
        at = _HEADER + (number - 1) * size
        frame = held[at : at + size]
        commits, stored = frame[4:8] != bytes(4), struct.unpack(">2I", frame[16:_FRAME])
        ours = frame[8:16] == salts
        fits = ours and _checksum(frame[:8] + frame[_FRAME:], sums, big=big) == stored
        sums = stored
        if bad is None and not fits:
            bad = number
        if bad is None:
            continue
        if not fits:
            first_commit = None  # what follows is not joined to it
        if commits and ours:
            behind += first_commit is not None
            first_commit = number
    if not behind:
        return None
    where = f"frame {bad} of its WAL" if bad else "the header of its WAL"
    return (
        f"{where} was changed after it was written: SQLite ends there, and at least {behind + 1} commits behind it, "
        "which were on disk, are not read. Restore the file ending in -wal from a copy, if there is one"
    )


def _checksum(content: bytes, sums: Sums, *, big: bool) -> Sums:
    """SQLite's checksum over words by pairs: `low += one + high`, then `high += two + low`, modulo 2**32.

    That is linear, so each word counts by a weight that its place alone decides: a frame is one product, and not a
    thousand steps, which a start after a kill would wait for.
    """
    words = np.frombuffer(content, ">u4" if big else "<u4").astype(np.uint32)
    weights, (low_low, low_high), (high_low, high_high) = _weights(len(words) // 2)
    low, high = (int(one) for one in words @ weights)
    return (
        low + low_low * sums[0] + low_high * sums[1] & 0xFFFFFFFF,
        high + high_low * sums[0] + high_high * sums[1] & 0xFFFFFFFF,
    )


@cache
def _weights(pairs: int) -> tuple[NDArray[np.uint32], Sums, Sums]:
    """How much each word adds to both sums, one row to a word, and how much both sums add to `low`, and to `high`."""
    rows: list[Sums] = []
    one, two = (1, 1), (0, 1)  # what the words of the last pair add
    for _ in range(pairs):
        rows += [two, one]
        one, two = _step(one), _step(two)
    weights = np.array(rows[::-1], np.uint32).reshape(-1, 2)
    return weights, (one[0] - two[0], two[0]), (one[1] - two[1], two[1])


def _step(sums: Sums) -> Sums:
    """What becomes of both sums where a pair of zeros follows."""
    low = sums[0] + sums[1] & 0xFFFFFFFF
    return low, sums[1] + low & 0xFFFFFFFF
