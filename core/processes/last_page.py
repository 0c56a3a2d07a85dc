"""The page that a picker process shares with the supervisor: what is to be known of it after it died, or while it hangs.

A file of PAGE_BYTES that both map.  The picker writes an `n` before anybody is answered with what it stands for,
so that after its death the log can say how many entries died with it.
The epoch is written once, before the first `n`; each number is one aligned store of eight bytes.
The number of turns goes up as long as its loop turns.  What it has in hand is a request that it has begun to read.
"""

import struct
from typing import NamedTuple

_MAGIC = b"PTSLAST1"
_PAGE = struct.Struct("<8sQQQ")
_NUMBER = struct.Struct("<Q")
_LAST_N_AT, _TURNS_AT, _HAND_AT = 16, 24, 33

PAGE_BYTES = 256
_HAND_MAX = PAGE_BYTES - _HAND_AT
"""Bytes of words for what is in hand; the byte before them is their number."""


class LastPage(NamedTuple):
    """What a page says of an epoch."""

    epoch: int
    last_n: int


class LoopMark(NamedTuple):
    """What a page says of a loop."""

    turns: int
    """Times that the loop has come round; 0 before it began."""
    in_hand: str
    """Words for the request that it reads; empty where it reads none."""


def begin_page(page: bytearray | memoryview, epoch: int) -> None:
    """Write that `epoch` has begun and has given out nothing yet."""
    _PAGE.pack_into(page, 0, _MAGIC, epoch, 0, 0)
    page[_HAND_AT - 1] = 0


def write_last_n(page: bytearray | memoryview, n: int) -> None:
    """Write that `n` was given out."""
    _NUMBER.pack_into(page, _LAST_N_AT, n)


def write_turns(page: bytearray | memoryview, turns: int) -> None:
    """Write that the loop has come round."""
    _NUMBER.pack_into(page, _TURNS_AT, turns)


def take_in_hand(page: bytearray | memoryview, words: str) -> None:
    """Write which request is read."""
    written = words.encode("utf-8", "replace")[:_HAND_MAX]
    page[_HAND_AT : _HAND_AT + len(written)] = written
    page[_HAND_AT - 1] = len(written)


def put_down(page: bytearray | memoryview) -> None:
    """Write that none is."""
    page[_HAND_AT - 1] = 0


def read_page(page: bytes | bytearray | memoryview) -> LastPage | None:
    """What the page says; None where no epoch has begun in it."""
    if len(page) < PAGE_BYTES:
        return None
    magic, epoch, last_n, _ = _PAGE.unpack_from(page)
    return LastPage(epoch, last_n) if magic == _MAGIC else None


def read_mark(page: bytes) -> LoopMark:
    """What the page says of the loop."""
    (turns,) = _NUMBER.unpack_from(page, _TURNS_AT)
    return LoopMark(turns, page[_HAND_AT : _HAND_AT + page[_HAND_AT - 1]].decode("utf-8", "replace"))
