"""The decisions of a log with their verdicts: the one place where what is recorded meets what is computed.

It serves the commands that verify and explain, and the console's replay process.
A caller bounds a run by positions, so that several processes may share a log out, and goes on after `done_to`.
"""

from collections.abc import Iterable, Iterator

import msgspec

from pointsman.core.deciding.explanation import Explanation
from pointsman.core.deciding.telling.flips import Flip
from pointsman.core.deciding.telling.in_force import InForce, in_force
from pointsman.core.deciding.verdict import Verdict, brief_reason, explain_decision, flips_of, verify_decision
from pointsman.core.events import Entry
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.verifying.walk import Decided, DecisionEvent, DecisionWalk


class Verified(msgspec.Struct, frozen=True):
    """One decision with its verdict."""

    entry: Entry
    event: DecisionEvent
    verdict: Verdict
    state: ClusterState | None
    """Cluster state at its `applied`; None where that cannot be had.  It is folded on: use it at once."""

    @property
    def position(self) -> int:
        """Position of the decision's entry."""
        return self.entry.position

    def explanation(self) -> Explanation | None:
        """How it came about by this build's formulas; None where the verdict says that this cannot be told."""
        if self.state is None or not self.verdict.kind.computed:
            return None
        return explain_decision(self.state, self.event)

    def flips(self) -> tuple[Flip, ...]:
        """What would have changed it, where it can be computed."""
        if self.state is None or not self.verdict.kind.computed:
            return ()
        return flips_of(self.state, self.event)

    def in_force(self) -> InForce | None:
        """What was in force for it; None where its cluster state cannot be had."""
        return None if self.state is None else in_force(self.state, self.event)


class Verifier:
    """Verifies decisions of one log; what it learned of the log serves its next run."""

    def __init__(self, reader: LogReader) -> None:
        self._walk = DecisionWalk(reader)

    @property
    def done_to(self) -> int:
        """Position up to which every decision was handed out: where a later run goes on."""
        return self._walk.done_to

    def run(self, first: int, last: int | None = None) -> Iterator[Verified]:
        """Every decision recorded from `first` to `last` or the head, nearly in order of position."""
        return _verified(self._walk.decisions(first, last))

    def newest(self, count: int, first: int, last: int | None = None) -> Iterator[Verified]:
        """The newest `count` of them."""
        return _verified(self._walk.newest(count, first, last))

    def reasons(self, positions: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Why in three words, of the decisions at these positions, in order of their cluster states."""
        for decided in self._walk.some(positions):
            found = "" if isinstance(decided.state, Verdict) else brief_reason(decided.state, decided.event)
            yield decided.entry.position, found

    def at(self, position: int) -> Verified | None:
        """The decision at `position`; None where the entry there is none."""
        return next(self.run(position, position), None)


def _verified(decisions: Iterable[Decided]) -> Iterator[Verified]:
    for decided in decisions:
        state = decided.state
        if isinstance(state, Verdict):
            yield Verified(decided.entry, decided.event, state, None)
        else:
            verdict = verify_decision(state, decided.event, decided.epoch)
            yield Verified(decided.entry, decided.event, verdict, state)
