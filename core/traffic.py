"""The traffic state: what a picker process knows ahead of the log."""

from enum import IntEnum
from typing import Protocol

from pointsman.core.events import RequestFacts
from pointsman.core.packing import Ints
from pointsman.core.projection import Slots


class Column(IntEnum):
    """A column of the traffic state; written to disk in `Read`, never reused."""

    IN_FLIGHT = 1
    """Requests routed to the endpoint that have no end yet."""
    PREFIX_BLOCKS = 2
    """Leading blocks of the prompt that the endpoint was given before."""


class Traffic(Protocol):
    """What a decision may read of the traffic state, live or as a decision recorded it."""

    degraded: bool
    """The feed is lost: load filters pass all, load scorers are neutral."""

    def avoided(self) -> Slots:
        """Slots left out because of advice, ascending."""
        ...

    def column(self, column: Column, request: RequestFacts, slots: Slots) -> Ints:
        """The column's value for each of `slots`."""
        ...
