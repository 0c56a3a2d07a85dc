"""The decisions of a log, each with the cluster state it was made on.

The position `applied` that a decision was made on lies before its own by any amount: a picker that lost its feed stays
behind.  So decisions are taken a window at a time and sorted by `applied` within it.  The state is folded forwards
through a window, and starts from a snapshot again only where a window reaches back before it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from pointsman.core.deciding.verdict import Verdict, VerdictKind
from pointsman.core.events import Class, Entry, Origin, RequestRefused, RequestRouted
from pointsman.core.state.membership import Epoch
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.errors import NotKeptError
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.verifying.epochs import EpochRegister

WINDOW_DECISIONS = 100_000
WINDOW_BYTES = 64 << 20
"""Limits of a window: it costs at most one fold from a snapshot, a second, and takes some twenty to verify."""

DecisionEvent: TypeAlias = RequestRouted | RequestRefused


class _TrafficBeginning(msgspec.Struct, frozen=True, array_like=True):
    """The first fields of any traffic entry."""

    tag: str
    origin: Origin


FOLD_MAX = 20_000
"""Entries over which the state is folded without a look for a later snapshot: a fifth of a second."""

Undecoded: TypeAlias = tuple[Origin, Entry]
"""A decision's entry, of which only the origin was decoded."""

_beginning = msgspec.msgpack.Decoder(_TrafficBeginning)
_decision: msgspec.msgpack.Decoder[DecisionEvent] = msgspec.msgpack.Decoder(DecisionEvent)
_TAGS = {"request-routed", "request-refused"}


class Decided(msgspec.Struct, frozen=True):
    """One decision with what it was made on."""

    entry: Entry
    event: DecisionEvent
    state: ClusterState | Verdict
    """Cluster state at its `applied`, or the verdict where there is none.  The walk folds the state on: use it at once."""
    epoch: Epoch | None
    """Epoch of the picker that decided; None where the log does not tell."""


class DecisionWalk:
    """Walks decisions of one log; what it learned of epochs, and the state it came to, serve its next walk."""

    def __init__(self, reader: LogReader) -> None:
        self.done_to = 0
        """Position up to which every decision of the walk was handed out."""
        self._reader = reader
        self._fold = Fold(reader)
        self._epochs = EpochRegister(reader)

    def decisions(self, first: int, last: int | None = None) -> Iterator[Decided]:
        """Every decision recorded from `first` to `last` or the head; in windows, in order of `applied` in each."""
        end = self._end(last)
        for window, until in _windows(self._undecoded(first, end), end):
            yield from self._with_states(window, until)
            self.done_to = until

    def newest(self, count: int, first: int, last: int | None = None) -> Iterator[Decided]:
        """The newest `count` of them, which must fit into memory; in order of `applied`."""
        end = self._end(last)
        yield from self._with_states(list(deque(self._undecoded(first, end), maxlen=count)), end)
        self.done_to = end

    def some(self, positions: Iterable[int]) -> Iterator[Decided]:
        """The decisions at these positions, which must fit into memory; in order of `applied`."""
        wanted = [one for position in positions for one in self._undecoded(position, position)]
        if wanted:
            yield from self._with_states(wanted, max(entry.position for _, entry in wanted))

    def _end(self, last: int | None) -> int:
        head = self._reader.head().position
        return head if last is None else min(last, head)

    def _undecoded(self, first: int, last: int) -> Iterator[Undecoded]:
        for entry in self._reader.entries(first, last, (Class.TRAFFIC,)):
            beginning = _beginning.decode(entry.body)
            if beginning.tag in _TAGS:
                yield beginning.origin, entry

    def _with_states(self, window: list[Undecoded], until: int) -> Iterator[Decided]:
        self._epochs.read_to(until)
        window.sort(key=lambda one: (one[0].applied, one[1].position))
        for origin, entry in window:
            event = _decision.decode(entry.body)
            yield Decided(entry, event, self._state(origin, entry.position), self._epochs.epoch(origin))

    def _state(self, origin: Origin, position: int) -> ClusterState | Verdict:
        if self._epochs.adopted(origin):
            return Verdict(VerdictKind.OTHER_LOG)
        if origin.applied >= position:
            wanted = f"a position before its own, {position}"
            return Verdict(VerdictKind.DIFFERS, "applied", str(origin.applied), wanted)
        state = self._fold.to(origin.applied)
        return Verdict(VerdictKind.NOT_KEPT) if state is None else state


def _windows(decisions: Iterable[Undecoded], end: int) -> Iterator[tuple[list[Undecoded], int]]:
    """Decisions in lists that memory holds, each with the position up to which it has them all."""
    window: list[Undecoded] = []
    size = 0
    for origin, entry in decisions:
        window.append((origin, entry))
        size += len(entry.body)
        if len(window) >= WINDOW_DECISIONS or size >= WINDOW_BYTES:
            yield window, entry.position
            window, size = [], 0
    yield window, end


class Fold:
    """The cluster state, moved forwards over the log."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._state: ClusterState | None = None
        self._entries: Iterator[Entry] = iter(())

    def to(self, position: int) -> ClusterState | None:
        """The state at `position`, which is committed; None where the log no longer says."""
        state = self._start(position)
        if state is None:
            return None
        while state.position < position:
            entry = next(self._entries, None)
            if entry is None:  # the iterator ended at what was the head when it was made
                self._entries = self._reader.entries(state.position + 1)
                entry = next(self._entries)
            state.apply(entry)
        return state

    def _start(self, position: int) -> ClusterState | None:
        """The nearest state at or before `position`: the one at hand, or a snapshot."""
        state = self._state
        if state is not None and state.position <= position <= state.position + FOLD_MAX:
            return state
        at_hand = state if state is not None and state.position <= position else None
        try:
            kept = self._reader.projection_before(position).cluster
        except NotKeptError:
            return at_hand
        if at_hand is not None and kept.position <= at_hand.position:
            return at_hand
        self._state = kept
        self._entries = self._reader.entries(kept.position + 1)
        return kept
