"""The KV cache of a simulated server: blocks of tokens, shared by prompts that start alike.

A block is private to a sequence until its prompt has been computed; then it is known by the hash of all
tokens up to its end, and others may share it.  Blocks nobody uses stay until their room is needed, oldest first.
"""

from collections import OrderedDict

import xxhash


class KvBlocks:
    """A fixed number of blocks; `used` is what running sequences hold."""

    def __init__(self, total: int) -> None:
        assert total > 0, f"{total} KV blocks, wanted at least one"
        self.total = total
        self.private = 0
        self._shared: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def used(self) -> int:
        """Blocks that some sequence holds; idle ones count as free."""
        return self.private + len(self._shared) - len(self._idle)

    @property
    def free(self) -> int:
        """Blocks that can be taken at once."""
        return self.total - self.used

    def match(self, hashes: list[int]) -> int:
        """How many of the leading hashes have a block in the cache."""
        for count, block in enumerate(hashes):
            if block not in self._shared:
                return count
        return len(hashes)

    def take_shared(self, hashes: list[int]) -> None:
        """Hold blocks that `match` found."""
        for block in hashes:
            self._shared[block] += 1
            self._idle.pop(block, None)

    def take(self, count: int) -> bool:
        """Hold `count` private blocks, all or none."""
        if count > self.free:
            return False
        for _ in range(count - (self.total - self.private - len(self._shared))):
            block, _ = self._idle.popitem(last=False)
            del self._shared[block]
        self.private += count
        return True

    def share(self, hashes: list[int]) -> list[int]:
        """Turn private blocks into shared ones; return the hashes of these, without those that were shared already."""
        fresh = [block for block in hashes if block not in self._shared]
        for block in fresh:
            self._shared[block] = 1
        self.private -= len(fresh)
        return fresh

    def release(self, shared: list[int], private: int) -> None:
        """Let go of a sequence's blocks; the ends of prompts are the first to be overwritten."""
        self.private -= private
        for block in reversed(shared):
            self._shared[block] -= 1
            if not self._shared[block]:
                self._idle[block] = None


def block_hashes(text: bytes, block_bytes: int, salt: str) -> list[int]:
    """Chained hashes of the full blocks of `text`; `salt` keeps models and adapters apart."""
    previous = xxhash.xxh3_64_intdigest(salt.encode())
    found: list[int] = []
    for start in range(0, len(text) - block_bytes + 1, block_bytes):
        previous = xxhash.xxh3_64_intdigest(text[start : start + block_bytes], seed=previous)
        found.append(previous)
    return found
