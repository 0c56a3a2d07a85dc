"""Decisions with the cluster state they were made on, for whoever wants to make them again.

A decision's `applied` lies before it by any amount: a picker that lost its feed stays behind.
So decisions are taken a window at a time and sorted within it; the state is folded forwards through a window,
and starts from a snapshot again only where a window reaches back before it.
"""

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from pointsman.core.events import Class, EntriesAdopted, Entry, Origin, RequestRefused, RequestRouted
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.errors import NotKeptError
from pointsman.eventlog.stores.reading import LogReader

WINDOW_DECISIONS = 100_000
WINDOW_BYTES = 64 << 20
"""A window costs at most one fold from a snapshot, a second, and takes some twenty to verify."""

DecisionEvent: TypeAlias = RequestRouted | RequestRefused


class _Decided(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of any traffic entry."""

    tag: str
    origin: Origin


_beginning = msgspec.msgpack.Decoder(_Decided)
_decision: msgspec.msgpack.Decoder[DecisionEvent] = msgspec.msgpack.Decoder(DecisionEvent)
_TAGS = {"request-routed", "request-refused"}


class Decided(msgspec.Struct, frozen=True):
    """One decision; the state is folded on after it is handed out, so it must be used at once."""

    state: ClusterState | None
    """At the decision's `applied`; None where that cannot be had."""
    entry: Entry
    event: DecisionEvent
    cause: str = ""
    """Why there is no state: `adopted` (made on another log), `not-kept`, `not-before` (applied is no earlier)."""


def decisions(reader: LogReader, first: int, last: int | None = None) -> Iterator[Decided]:
    """Every decision recorded in the range; within windows of WINDOW_DECISIONS, in order of `applied`."""
    end = reader.head().position if last is None else min(last, reader.head().position)
    adopted = _adopted(reader)
    fold = Fold(reader)
    for window in _windows(reader, first, end):
        window.sort(key=lambda one: (one[0].applied, one[1].position))
        for origin, entry in window:
            event = _decision.decode(entry.body)
            cause = _unusable(origin, entry, adopted)
            state = fold.to(origin.applied) if not cause else None
            yield Decided(state, entry, event, cause or ("" if state is not None else "not-kept"))


def _windows(reader: LogReader, first: int, last: int) -> Iterator[list[tuple[Origin, Entry]]]:
    window: list[tuple[Origin, Entry]] = []
    size = 0
    for entry in reader.entries(first, last, (Class.TRAFFIC,)):
        beginning = _beginning.decode(entry.body)
        if beginning.tag not in _TAGS:
            continue
        window.append((beginning.origin, entry))
        size += len(entry.body)
        if len(window) >= WINDOW_DECISIONS or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _adopted(reader: LogReader) -> dict[tuple[str, int], list[EntriesAdopted]]:
    """Entries that were decided on another log's state; they are few, and control entries have an index."""
    found: dict[tuple[str, int], list[EntriesAdopted]] = {}
    for entry in reader.entries(1, None, (Class.CONTROL,)):
        if isinstance(event := entry.event, EntriesAdopted):
            found.setdefault((event.picker, event.epoch), []).append(event)
    return found


def _unusable(origin: Origin, entry: Entry, adopted: dict[tuple[str, int], list[EntriesAdopted]]) -> str:
    if any(one.first <= origin.n <= one.last for one in adopted.get((origin.picker, origin.epoch), ())):
        return "adopted"
    return "not-before" if origin.applied >= entry.position else ""


class Fold:
    """The state, moved forwards."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._state: ClusterState | None = None
        self._entries: Iterator[Entry] = iter(())

    def to(self, position: int) -> ClusterState | None:
        """The state at `position`; None where the log no longer says."""
        state = self._state
        if state is None or state.position > position:
            try:
                state = self._reader.projection_before(position).cluster
            except NotKeptError:
                return None
            self._state = state
            self._entries = self._reader.entries(state.position + 1)
        while state.position < position:
            entry = next(self._entries, None)
            if entry is None:  # the iterator ended at the head of its time
                self._entries = self._reader.entries(state.position + 1)
                entry = next(self._entries)
            state.apply(entry)
        return state
