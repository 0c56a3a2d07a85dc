"""A prompt's blocks as chained hashes: equal hashes mean equal beginnings."""

import struct
from typing import Final

import xxhash

REQUEST_BLOCKS_MAX: Final = 256
"""Blocks of one request that count; what a decision may store of them."""


def prefix_hashes(
    model: str,
    prompt: bytes,
    block_bytes: int,
    *,
    limit: int = REQUEST_BLOCKS_MAX,
    salt: str = "",
    partial: bool = False,
) -> bytes:
    """Hash each block of the prompt with all before it, 8 bytes each; `partial` counts an incomplete last one."""
    digest = xxhash.xxh3_64_intdigest
    previous = digest(salt.encode("utf-8", "replace"), digest(model.encode("utf-8", "replace")))
    end = min(len(prompt), limit * block_bytes)
    if not partial:
        end -= end % block_bytes
    hashes = []
    for start in range(0, end, block_bytes):
        previous = digest(prompt[start : start + block_bytes], previous)
        hashes.append(previous)
    return struct.pack(f"<{len(hashes)}Q", *hashes)
