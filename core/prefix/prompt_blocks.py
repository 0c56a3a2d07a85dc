"""A prompt's blocks as chained hashes: equal hashes mean equal beginnings.

Blocks grow with depth, so that 256 of them reach far and are still short where prompts begin to differ.  The first 128
have the pool's block size, which is the unit that lengths are counted in here.  Each one behind them is longer by one
unit for every 16 units between itself and those 128: so it is about a sixteenth of what lies before it.
How long a block is depends on nothing but its place: what is hashed of a prompt is hashed alike of every longer one.
"""

import struct
from bisect import bisect_right
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

REQUEST_BLOCKS_MAX: Final = 256
"""Blocks of one request that count; what a decision may store of them."""
_EQUAL: Final = 128
"""Blocks that are one unit long: 8 KiB of prompt at 64 bytes, which most system prompts and many chats do not exceed."""
_PART: Final = 16
"""Units of depth for which a block is one unit longer: 256 blocks reach 350,000 tokens then, at 16 tokens a unit."""
PROMPT_BYTES_MAX: Final = 4 << 20
"""Bytes of a prompt that are looked at, however large its blocks are: a million tokens of 4 bytes."""


def _depths() -> tuple[int, ...]:
    depths = [0]
    for _ in range(REQUEST_BLOCKS_MAX):
        depths.append(depths[-1] + 1 + max(0, depths[-1] - _EQUAL) // _PART)
    return tuple(depths)


BLOCK_DEPTHS: Final = _depths()
"""Units that the first n blocks are long, for n from 0 to 256."""
_LENGTHS: Final = np.array([after - before for before, after in pairwise(BLOCK_DEPTHS)])
_NUMBERS: Final = bytes(range(REQUEST_BLOCKS_MAX))
_NUMBER_AT: Final = 7
"""Index of the byte of a hash that holds the number of the block: the highest one, hashes being little-endian."""


def reach(block_bytes: int) -> int:
    """Bytes of a prompt that its hashes cover at most."""
    return min(BLOCK_DEPTHS[-1] * block_bytes, PROMPT_BYTES_MAX)


def prefix_hashes(
    model: str, prompt: bytes, block_bytes: int, *, bytes_max: int = PROMPT_BYTES_MAX, salt: str = ""
) -> bytes:
    """Hash each whole block of the prompt with all before it, 8 bytes each, of which the last is the block's number."""
    digest = xxhash.xxh3_64_intdigest
    previous = digest(salt.encode("utf-8", "replace"), digest(model.encode("utf-8", "replace")))
    units = min(len(prompt), bytes_max, PROMPT_BYTES_MAX) // block_bytes
    count = bisect_right(BLOCK_DEPTHS, units) - 1
    hashes = []
    start = 0
    for depth in BLOCK_DEPTHS[1 : count + 1]:
        end = depth * block_bytes
        previous = digest(prompt[start:end], previous)
        hashes.append(previous)
        start = end
    packed = bytearray(struct.pack(f"<{count}Q", *hashes))
    packed[_NUMBER_AT::8] = _NUMBERS[:count]
    return bytes(packed)


def depth_of(hashes: bytes) -> int:
    """Units of a prompt that its hashes cover."""
    return BLOCK_DEPTHS[min(len(hashes) // 8, REQUEST_BLOCKS_MAX)]


def lengths_of(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Units that each of these blocks is long, whichever prompts they are of."""
    return _LENGTHS.take((hashes >> 8 * _NUMBER_AT) & 0xFF)
