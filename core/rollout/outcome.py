"""What comes of asking for other weights: done, refused, or not known; one value for all who ask."""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from pointsman.core.events import BackendRef


class ChangeCode(StrEnum):
    """Why a change was not made, in a word that programs may rely on: never rename one."""

    ROUTE_GONE = "route-gone"
    RULE_GONE = "rule-gone"
    BACKEND_UNKNOWN = "backend-unknown"
    BACKEND_TWICE = "backend-twice"
    STALE = "stale"
    """Somebody else changed the route after its version was read."""
    UNDER_WAY = "under-way"
    """Another change of the same rule has no end yet."""
    FORM_USED = "form-used"
    WEIGHT_RANGE = "weight-range"
    NO_WEIGHT_LEFT = "no-weight-left"
    UNCHANGED = "unchanged"
    REASON = "reason"
    """The reason is too short, too long, or cannot be read."""
    NOT_RECORDED = "not-recorded"
    """The log did not take the intent, so nothing was written."""
    NOT_WRITTEN = "not-written"
    """The file could not be changed, and is as it was."""
    READ_BACK_DIFFERS = "read-back-differs"
    """What was read back is not what was written."""
    NOT_READ_BACK = "not-read-back"
    END_NOT_RECORDED = "end-not-recorded"
    """The weights are there, and the log does not say so yet."""


_STALE = frozenset(
    {
        ChangeCode.STALE,
        ChangeCode.RULE_GONE,
        ChangeCode.BACKEND_UNKNOWN,
        ChangeCode.UNDER_WAY,
        ChangeCode.FORM_USED,
        ChangeCode.READ_BACK_DIFFERS,
    }
)
UNKNOWN_CODES = frozenset({ChangeCode.READ_BACK_DIFFERS, ChangeCode.NOT_READ_BACK, ChangeCode.END_NOT_RECORDED})
"""Codes of changes that may have reached the file: whoever asked has to look."""


class ChangeRefusal(Struct, frozen=True):
    """Why the weights are not known to be what was asked for."""

    code: ChangeCode
    found: str
    wanted: str

    @property
    def stale(self) -> bool:
        """Whether the rule is not the one on which the author decided: look again, then ask again."""
        return self.code in _STALE

    @property
    def unknown(self) -> bool:
        """Whether something may have been written all the same."""
        return self.code in UNKNOWN_CODES

    @property
    def sentence(self) -> str:
        """The refusal in words, without a full stop."""
        return f"{self.found}, wanted {self.wanted}"


class ChangeDone(Struct, frozen=True):
    """A change that is recorded, written, read back, and whose end is recorded."""

    change: str
    """Name of the change in the log."""
    version: str
    """Version of the route that was read back."""
    before: tuple[BackendRef, ...]
    after: tuple[BackendRef, ...]


ChangeOutcome: TypeAlias = ChangeDone | ChangeRefusal
