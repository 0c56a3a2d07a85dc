"""Whether a log has all that its picker processes wrote, and each routed request its one end.

Every entry of a picker has a number `n`, from 1 on in each of the picker's lives (epochs).  So a log that is complete
has each number once, in order, or an `entries-lost` that names it, up to the last that the epoch gave out.
What is missing, twice or out of order is found by that, also where somebody computed the hash chain anew.
"""

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from pointsman.core.events import (
    EntriesAdopted,
    EntriesLost,
    Entry,
    Event,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    class_of_type,
)
from pointsman.core.state.marks import FinishedMark, Mark, RefusedMark, RoutedMark, StartedMark, skim
from pointsman.core.state.membership import EpochKey
from pointsman.core.values.packing import unpack
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.stores.snapshots import Projection

PROBLEMS_KEPT = 100
"""Problems that are listed: enough to see what they have in common."""

_Numbered: TypeAlias = RoutedMark | RefusedMark | StartedMark | FinishedMark


class Incomplete(msgspec.Struct, frozen=True):
    """One thing that is missing, twice, or where it should not be."""

    position: int
    """Position of the entry that shows it; 0 where it is shown by the end of the log."""
    picker: str
    epoch: int
    problem: str


class CompletenessReport(msgspec.Struct):
    """What the entries of a log add up to."""

    entries: int = 0
    """Count of entries that were looked at."""
    epochs: int = 0
    """Count of lives of picker processes that wrote some of them."""
    numbered: int = 0
    """Count of entries of picker processes."""
    lost: int = 0
    """Count of entries of picker processes that the log tells as lost."""
    routed: int = 0
    open: int = 0
    """Count of routed requests without an end whose picker process is not known to have ended."""
    problems: int = 0
    listed: list[Incomplete] = []
    """The first PROBLEMS_KEPT of them."""


class _Life(msgspec.Struct):
    """What was seen of one epoch."""

    next: int
    """Number that its next entry has."""
    open: set[int]
    """Numbers of decisions whose requests have no end."""
    lost: list[tuple[int, int]] = []
    """First and last numbers of each run that is told as lost."""
    known_from: int = 1
    """First number that the kept part of the log holds or tells as lost."""
    ended: bool = False


class Completeness:
    """Takes the entries of a log one after the other, from `beginning` on."""

    def __init__(self, beginning: Projection) -> None:
        self.report = CompletenessReport(listed=[])
        self._lives: dict[EpochKey, _Life] = {}
        self._newest: dict[str, EpochKey] = {}
        """Last epoch of each picker that began."""
        opened = beginning.open_requests.by_epoch
        for key, epoch in beginning.cluster.epochs.items():
            following = epoch.highest_n + 1
            self._lives[key] = _Life(following, set(opened.get(key, ())), [], following)
            self._newest[key[0]] = key

    def take(self, entries: Iterable[Entry]) -> None:
        """Take the next entries."""
        for entry in entries:
            self.report.entries += 1
            try:
                event = skim(entry.kind, entry.body)
            except msgspec.DecodeError as error:
                self._problem(entry.position, ("", 0), f"does not decode as an entry of class {entry.kind}: {error}")
                continue
            self._take(entry, event)

    def _take(self, entry: Entry, event: Event | Mark) -> None:
        if not isinstance(event, _Numbered) and class_of_type(type(event)) != entry.kind:
            tag = type(event).__struct_config__.tag
            self._problem(entry.position, ("", 0), f"{tag} stands in class {entry.kind}")
        if isinstance(origin := getattr(event, "origin", None), Origin):
            self._number(entry.position, origin)
        match event:
            case RoutedMark(origin):
                self.report.routed += 1
                self._lives[origin.picker, origin.epoch].open.add(origin.n)
            case StartedMark(origin, n):
                self._check_open(entry.position, origin, n, "the start of a response")
            case FinishedMark(origin, n):
                self._check_open(entry.position, origin, n, "an end")
                self._lives[origin.picker, origin.epoch].open.discard(n)
            case OpenRequestsListed(origin, listed):
                self._lives[origin.picker, origin.epoch].open.intersection_update(unpack(listed).tolist())
            case PickerStarted(origin):
                self._began((origin.picker, origin.epoch))
            case EntriesAdopted(picker, epoch, first):
                self._life((picker, epoch), first)
            case EntriesLost(picker, epoch, first, last):
                self._lost(entry.position, (picker, epoch), first, last)
            case PickerEnded(picker, epoch, _, last_n):
                self._ended(entry.position, (picker, epoch), last_n)
            case _:
                pass

    def finish(self) -> CompletenessReport:
        """Say what came of it; entries may follow, and be taken, later."""
        report = self.report
        report.epochs = len(self._lives)
        report.open = sum(len(life.open) for life in self._lives.values())
        return report

    # --- parts ------------------------------------------------------------------------------------

    def _problem(self, position: int, key: EpochKey, problem: str) -> None:
        self.report.problems += 1
        if len(self.report.listed) < PROBLEMS_KEPT:
            self.report.listed.append(Incomplete(position, *key, problem))

    def _life(self, key: EpochKey, first: int) -> _Life:
        """The epoch, whose entries begin with `first` where it was not seen before."""
        life = self._lives.get(key)
        if life is None:
            life = self._lives[key] = _Life(first, set(), [], first)
        return life

    def _began(self, key: EpochKey) -> None:
        before = self._newest.get(key[0])
        if before is not None and before != key and not (life := self._lives[before]).ended and life.open:
            self._problem(0, before, f"has no end, the picker began anew, and {len(life.open)} requests have none")
        self._newest[key[0]] = key

    def _number(self, position: int, origin: Origin) -> None:
        key = (origin.picker, origin.epoch)
        life = self._life(key, 1)
        self.report.numbered += 1
        if origin.n == life.next:
            life.next += 1
        elif origin.n > life.next:
            self._problem(position, key, f"{_entries(life.next, origin.n - 1)} missing, and nothing tells that")
            life.lost.append((life.next, origin.n - 1))  # so that what follows from it is not told again
            life.next = origin.n + 1
        else:
            self._problem(position, key, f"entry {origin.n} comes again or out of order, wanted {life.next}")

    def _lost(self, position: int, key: EpochKey, first: int, last: int) -> None:
        life = self._life(key, 1)
        if first != life.next or last < first:
            self._problem(position, key, f"{_entries(first, last)} told as lost, wanted them to begin with {life.next}")
        self.report.lost += max(last - first + 1, 0)
        life.lost.append((first, last))
        life.next = max(life.next, last + 1)

    def _ended(self, position: int, key: EpochKey, last_n: int) -> None:
        life = self._life(key, 1)
        if life.ended:
            self._problem(position, key, "ends a second time")
        if last_n >= life.next:
            self._problem(position, key, f"{_entries(life.next, last_n)} missing at its end, and nothing tells that")
        life.ended = True
        life.open.clear()

    def _check_open(self, position: int, origin: Origin, n: int, what: str) -> None:
        """Check that a request that is told about was routed and has no end yet, as far as the log can know."""
        key = (origin.picker, origin.epoch)
        life = self._lives[key]
        if n in life.open or n < life.known_from or any(first <= n <= last for first, last in life.lost):
            return
        self._problem(position, key, f"{what} of request {n}, which was not routed or has ended")


def check_completeness(reader: LogReader) -> CompletenessReport:
    """Take the whole of a log that may be in use."""
    first = reader.first()
    walk = Completeness(reader.projection_before(first - 1))
    for page in reader.pages(first):
        walk.take(page)
    return walk.finish()


def _entries(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"
