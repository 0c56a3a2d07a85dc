"""The draws of a decision: computed from its number, so that replay needs none of them stored."""

from collections.abc import Callable

from xxhash import xxh3_64_intdigest

Draw = Callable[[], float]
"""The next draw of a decision, in [0, 1)."""


class Draws:
    """Draw i of decision `n` of a picker's epoch."""

    __slots__ = ("_key", "epoch", "n", "picker")

    def __init__(self, picker: str, epoch: int, n: int) -> None:
        self.picker, self.epoch, self.n = picker, epoch, n
        self._key: bytes | None = None

    def __call__(self, i: int) -> float:
        """Draw `i`, in [0, 1): the upper 53 bits of the hash, which a float holds exactly."""
        if self._key is None:  # most decisions draw nothing
            self._key = b"%b\0%b%b" % (
                self.picker.encode(),
                self.epoch.to_bytes(8, "little"),
                self.n.to_bytes(8, "little"),
            )
        return (xxh3_64_intdigest(self._key + i.to_bytes(4, "little")) >> 11) * 2.0**-53


def drawn(indices: list[int], count: int, draw: Draw) -> list[int]:
    """Draw `count` of `indices` without replacement, each order equally likely; all where there are fewer."""
    rest, chosen = list(indices), []
    for _ in range(min(count, len(rest))):
        at = int(draw() * len(rest))
        chosen.append(rest[at])
        rest[at] = rest[-1]
        rest.pop()
    return chosen
