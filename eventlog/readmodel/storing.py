"""The side of a store that keeps the read model, whichever store that is."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from pointsman.eventlog.readmodel.rollups import Summary


class ReadModelEnd(msgspec.Struct, frozen=True):
    """How far a read model has got, and of what it was made."""

    version: int
    """Version of the tables and the fold."""
    log_id: str
    position: int
    """Position of the last entry folded."""
    digest: bytes
    """Digest of the log's chain there."""


class ReadModelStore(Protocol):
    """Keeps what folds bring; a store that its disk refuses raises `StoreRefusedError`."""

    @property
    def is_open(self) -> bool:
        """Whether the store is open, which it is from `take_up` to `close`."""

    def take_up(self, fits: Callable[[ReadModelEnd], bool]) -> tuple[ReadModelEnd, Summary] | None:
        """Where the store ends and what a summary goes on with; None where that does not fit, and then it is emptied."""

    def write(self, summary: Summary, end: ReadModelEnd, first: int) -> None:
        """Write what a summary gathered, and remove some of what is older than the log's `first` position."""

    def close(self) -> None:
        """Close the store."""
