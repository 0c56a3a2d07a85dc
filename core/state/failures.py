"""Servers that fail all that they are given: what a picker process knows of that, from the answers it sees.

A server that answers every request with an error within milliseconds has the shortest queue of all.
After FAILURES answers of that kind with none between them that is not, it counts as failing: it gets one request at a
time, and the next only a pause after that one failed, until one succeeds.  The pause doubles up to PAUSE_MAX.
"""

from collections.abc import Iterable

import msgspec

FAILURES = 3
"""Fast errors that follow each other: one or two may be the request's fault."""
FAST = 1.0
"""Seconds within which an error is a fast one: a server that takes its time draws no traffic by failing."""
PAUSE, PAUSE_MAX = 1.0, 8.0
"""Seconds after the last failure before a failing server is tried again, at first and at most."""


class _Failing(msgspec.Struct):
    count: int = 0
    """Count of fast errors since the last other answer."""
    last: float = 0.0
    """Time of the last of them."""

    @property
    def pause(self) -> float:
        return min(PAUSE * 2.0 ** max(self.count - FAILURES, 0), PAUSE_MAX)


class Failures:
    """The servers whose last answer was a fast error, by slot."""

    def __init__(self) -> None:
        self._by_slot: dict[int, _Failing] = {}

    def __bool__(self) -> bool:
        return bool(self._by_slot)

    def answered(self, slot: int, *, failed: bool, now: float) -> None:
        """Take on an answer; `failed` for a fast error."""
        if not failed:
            self._by_slot.pop(slot, None)
            return
        known = self._by_slot.setdefault(slot, _Failing())
        known.count += 1
        known.last = now

    def forget(self, slot: int) -> None:
        """Another server is there."""
        self._by_slot.pop(slot, None)

    def failing(self, slots: Iterable[int]) -> list[int]:
        """Those of `slots` that count as failing."""
        known = self._by_slot
        return [slot for slot in slots if (one := known.get(slot)) is not None and one.count >= FAILURES]

    def paused(self, slot: int, now: float) -> bool:
        """Whether a failing server is not to be tried yet; never where the clock went back."""
        known = self._by_slot[slot]
        return 0 <= now - known.last < known.pause
