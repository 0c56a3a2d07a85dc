"""The newest commits as pickers get them: one bounded tail, in which each picker is a cursor.

A cursor is the position up to which a picker was sent everything; it always stands between two commits.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from pointsman.core.events import PICKER_EVENTS, Class, Event
from pointsman.core.feed.frames import OWN, BatchFrame, FeedError, encode_frame
from pointsman.core.state.marks import MARKS, Mark, skim
from pointsman.core.state.membership import EpochKey

TAIL_BYTES_MAX = 32 << 20
"""Ten seconds of other pickers' traffic at 10,000 entries/s; a snapshot costs less than more of it."""
TAIL_COMMITS_MAX = 8192
"""Commits kept: over a minute at a hundred commits a second."""

_TRAFFIC = (*MARKS, *PICKER_EVENTS)

"""Picker and epoch."""


class TailBatch(Protocol):
    """A batch that is on disk."""

    @property
    def first(self) -> int:
        """The position of its first entry."""
        ...

    @property
    def last(self) -> int:
        """The position of its last entry."""
        ...

    @property
    def recorded_at(self) -> float:
        """When it was written; the time of each of its entries."""
        ...

    @property
    def digest(self) -> bytes:
        """The chain's value after it."""
        ...

    @property
    def kinds(self) -> Sequence[int]:
        """The class of each entry, in order."""
        ...

    @property
    def bodies(self) -> Sequence[bytes]:
        """Their bytes."""
        ...

    @property
    def events(self) -> Sequence[Event | Mark]:
        """What was skimmed of them; empty where nobody has kept it."""
        ...


class TailFellOutError(FeedError):
    """A picker did not read for so long that what comes next for it is no longer in the tail."""


class TailCommit:
    """A commit, and who wrote what in it."""

    def __init__(self, commit: TailBatch, previous_digest: bytes) -> None:
        self.first = commit.first
        self.last = commit.last
        self.digest = commit.digest
        self.previous_digest = previous_digest
        self.highest: dict[EpochKey, int] = {}
        """The highest `n` of each epoch that has entries in it."""
        self.body_bytes = sum(map(len, commit.bodies))
        self._recorded_at = commit.recorded_at
        self._kinds, self._bodies = commit.kinds, commit.bodies
        self._owner: EpochKey | None = None
        """Epoch that wrote all of it, where it is traffic of one epoch, as it nearly always is with one picker."""
        self._owners: list[EpochKey | None] = []
        self._own: dict[EpochKey, int] = {}
        self._whole: bytes | None = None
        events = commit.events or list(map(skim, commit.kinds, commit.bodies))
        if not self._note_one_owner(events):
            for kind, body, event in zip(commit.kinds, commit.bodies, events, strict=True):
                self._owners.append(self._note_owner(kind, body, event))

    def _note_one_owner(self, events: Sequence[Event | Mark]) -> bool:
        if self._kinds.count(Class.TRAFFIC) != len(events):
            return False
        marks: Sequence[Mark] = events  # type: ignore[assignment]  # the class of an entry says what it holds
        last = marks[-1].origin
        picker, epoch = last.picker, last.epoch
        for mark in marks:
            if mark.origin.epoch != epoch or mark.origin.picker != picker:
                return False
        self._owner = (picker, epoch)
        self.highest[self._owner] = last.n
        self._own[self._owner] = self.body_bytes
        return True

    def _note_owner(self, kind: int, body: bytes, event: Event | Mark) -> EpochKey | None:
        if kind == Class.TRAFFIC:
            assert isinstance(event, _TRAFFIC), "the class of an entry says what it holds"
            key = (event.origin.picker, event.origin.epoch)
            self.highest[key] = event.origin.n
            self._own[key] = self._own.get(key, 0) + len(body)
            return key
        if isinstance(event, PICKER_EVENTS):
            self.highest[event.origin.picker, event.origin.epoch] = event.origin.n
        return None

    def bytes_for(self, key: EpochKey) -> int:
        """About how long the frame for this epoch is."""
        return self.body_bytes - self._own.get(key, 0) + 5 * len(self._kinds) + 64

    def frame_for(self, key: EpochKey) -> bytes:
        """The Batch for this epoch, its own traffic left out."""
        if key not in self.highest:
            if self._whole is None:
                self._whole = self._frame(bytes(self._kinds), tuple(self._bodies), 0)
            return self._whole
        if key == self._owner:
            return self._frame(bytes([OWN]) * len(self._kinds), (), self.highest[key])
        pairs = list(zip(self._kinds, self._owners, strict=True))
        kinds = bytes([OWN if owner == key else kind for kind, owner in pairs])
        bodies = tuple([body for body, owner in zip(self._bodies, self._owners, strict=True) if owner != key])
        return self._frame(kinds, bodies, self.highest[key])

    def _frame(self, kinds: bytes, bodies: tuple[bytes, ...], acknowledged: int) -> bytes:
        return encode_frame(BatchFrame(self.first, self._recorded_at, self.digest, acknowledged, kinds, bodies))


class Tail:
    """The last commits, bounded in bytes and in number; the newest one is always there."""

    def __init__(
        self, head: int, digest: bytes, *, bytes_max: int = TAIL_BYTES_MAX, commits_max: int = TAIL_COMMITS_MAX
    ) -> None:
        self.head = head
        self.digest = digest
        self._bytes_max = bytes_max
        self._commits_max = commits_max
        self._bytes = 0
        self._commits: OrderedDict[int, TailCommit] = OrderedDict()
        """Commits kept, oldest first, each under the position that it follows."""

    def add(self, commit: TailBatch) -> TailCommit:
        """Keep the next commit and let go of what the bounds leave no room for."""
        assert commit.first == self.head + 1, f"commit from {commit.first} after {self.head}: commits come in order"
        kept = TailCommit(commit, self.digest)
        self._commits[self.head] = kept
        self._bytes += kept.body_bytes
        self.head, self.digest = commit.last, commit.digest
        while len(self._commits) > 1 and (self._bytes > self._bytes_max or len(self._commits) > self._commits_max):
            self._bytes -= self._commits.popitem(last=False)[1].body_bytes
        return kept

    def after(self, position: int) -> TailCommit | None:
        """The commit that follows `position`; None at the head, `TailFellOutError` where it is not kept."""
        if position == self.head:
            return None
        found = self._commits.get(position)
        if found is None:
            raise TailFellOutError(f"position {position} fell out of the tail, which ends at {self.head}")
        return found

    def holds(self, position: int) -> bool:
        """Whether a cursor may stand at `position`."""
        return position == self.head or position in self._commits

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the batch that ended at `position`; None where the tail does not know."""
        if position == self.head:
            return self.digest
        found = self._commits.get(position)
        return None if found is None else found.previous_digest

    def shorter_than(self, limit: int, position: int, key: EpochKey) -> bool:
        """Whether the frames after `position` for this epoch have at most `limit` bytes together."""
        total = 0
        while total <= limit and (commit := self.after(position)) is not None:
            total += commit.bytes_for(key)
            position = commit.last
        return total <= limit
