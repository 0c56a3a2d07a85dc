"""The size of prompt blocks in each pool: one, and held.

Another size makes strangers of all prompts that were hashed before.  So the size is chosen once, from what the pool's
servers tell, and stays as long as one of the servers is there that were members then.  A server whose process began
anew, or that tells another size than it told before, lost its cache: it counts as gone, too.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

BLOCK_TOKENS_MIN: Final = 16
"""Tokens of the smallest block that follows the servers' own: the least that vLLM uses. SGLang tells 1."""


class PrefixBlock(msgspec.Struct, frozen=True, array_like=True):
    """What is held for a pool."""

    pool: str
    tokens: int
    servers: tuple[int, ...]
    """Numbers of the endpoints that were members when the size was chosen and are there still, ascending."""


class PrefixBlocks:
    """What is held, by pool; `PrefixBlockSized` sets it."""

    def __init__(self, held: Iterable[PrefixBlock] = ()) -> None:
        self._held = {one.pool: one for one in held}

    def tokens(self, pool: str) -> int:
        """Tokens of a block in the pool; 0 before a server told any."""
        held = self._held.get(pool)
        return 0 if held is None else max(held.tokens, BLOCK_TOKENS_MIN)

    def of(self, pool: str) -> PrefixBlock | None:
        """What is held for the pool; None before a size was chosen."""
        return self._held.get(pool)

    def hold(self, pool: str, tokens: int, servers: Iterable[int]) -> None:
        """Take a size that was chosen, and the pool's members of that moment."""
        self._held[pool] = PrefixBlock(pool, tokens, tuple(sorted(servers)))

    def gone(self, pool: str, server: int) -> None:
        """A server left, or began anew."""
        held = self._held.get(pool)
        if held is not None and server in held.servers:
            left = tuple(number for number in held.servers if number != server)
            self._held[pool] = PrefixBlock(pool, held.tokens, left)

    def drop(self, pool: str) -> None:
        """The pool is gone."""
        self._held.pop(pool, None)

    def all(self) -> list[PrefixBlock]:
        """What is held, in the order of names."""
        return [self._held[pool] for pool in sorted(self._held)]
