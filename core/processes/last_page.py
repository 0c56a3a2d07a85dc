"""The page that a picker process shares with the supervisor: its epoch and the last `n` it gave out.

A file of PAGE_BYTES that both map.  The picker writes an `n` before anybody is answered with what it stands for,
so that after its death the log can say how many entries died with it.
The epoch is written once, before the first `n`; each number is one aligned store of eight bytes.
"""

import struct
from typing import NamedTuple

_MAGIC = b"PTSLAST1"
_PAGE = struct.Struct("<8sQQ")
_LAST_N = struct.Struct("<Q")
_LAST_N_AT = 16

PAGE_BYTES = _PAGE.size


class LastPage(NamedTuple):
    """What a page says."""

    epoch: int
    last_n: int


def begin_page(page: bytearray | memoryview, epoch: int) -> None:
    """Write that `epoch` has begun and has given out nothing yet."""
    _PAGE.pack_into(page, 0, _MAGIC, epoch, 0)


def write_last_n(page: bytearray | memoryview, n: int) -> None:
    """Write that `n` was given out."""
    _LAST_N.pack_into(page, _LAST_N_AT, n)


def read_page(page: bytes | bytearray | memoryview) -> LastPage | None:
    """What the page says; None where no epoch has begun in it."""
    if len(page) < PAGE_BYTES:
        return None
    magic, epoch, last_n = _PAGE.unpack_from(page)
    return LastPage(epoch, last_n) if magic == _MAGIC else None
