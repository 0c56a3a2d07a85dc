"""Which endpoint keeps which response for its client, as far as a picker process saw the answers.

A server of the Responses API keeps what it answered, and goes on from it when a request names its id.
No other server can, so the next turn has to go where the one before was answered.
"""

from typing import Final

KEPT_MAX: Final = 1 << 16
"""Ids that are remembered, the newest: at 18 answers a second those of the last hour, in some 16 MB."""


class KeptResponses:
    """The newest ids, each with the slot of its endpoint."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._places: dict[str, tuple[int, int]] = {}
        """Slot and life of the endpoint that keeps a response, the oldest first."""
        self._lives: dict[int, int] = {}
        """How often a slot was let go of."""

    def __len__(self) -> int:
        return len(self._places)

    def keep(self, response_id: str, slot: int) -> None:
        """Remember where a response is."""
        places = self._places
        places.pop(response_id, None)
        places[response_id] = slot, self._lives.get(slot, 0)
        if len(places) > self._kept_max:
            del places[next(iter(places))]

    def slot(self, response_id: str) -> int:
        """The slot of the endpoint that keeps it; -1 where nobody is known to."""
        slot, life = self._places.get(response_id, (-1, 0))
        return slot if self._lives.get(slot, 0) == life else -1

    def let_go(self, slot: int) -> None:
        """Another server is there, or another process of it."""
        self._lives[slot] = self._lives.get(slot, 0) + 1
