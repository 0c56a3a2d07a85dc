"""What would have changed a decision: found by deciding again with one value changed, by the scheduler's own code.

Rules.  One value at a time is changed, everything else stays as it was, the draws included.
What is told was decided so: the value that is shown is the one that was tried.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.core.config.effective import Placed
from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.profile import Profile
from pointsman.core.deciding.scheduler import Trace, trace
from pointsman.core.deciding.telling.why import short
from pointsman.core.events import Read, RequestFacts, RequestRefused, RequestRouted
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column, NotRecordedError, RecordedTraffic
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack, unpack
from pointsman.core.values.plural import plural

WEIGHT_MAX = 1_000.0
"""Highest weight that is tried: beyond it one scorer decides alone whatever the others say."""
WAITING_MAX = 1 << 12
"""Most requests that are tried as waiting or in flight: no server holds that many."""


LoadColumn: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]


class Flip(msgspec.Struct, frozen=True):
    """One change that would have brought another outcome."""

    what: str
    """Name of the value, such as `weight of queue-scorer` or `requests waiting at it`."""
    was: float
    needed: float
    """Value that is nearest to what it was, as far as values are told in this many digits."""
    outcome: str
    """Endpoint that would have been picked, or what else would have come of it."""
    unit: str = ""
    """Unit of both values: `%` or `blocks`, `or above` where all higher values have the same outcome; empty for none."""

    @property
    def was_words(self) -> str:
        """What it was, with its unit."""
        return _words(self.was, "" if self.unit == "or above" else self.unit)

    @property
    def needed_words(self) -> str:
        """What would have been needed, with its unit."""
        return _words(self.needed, self.unit)


def _words(value: float, unit: str) -> str:
    if unit == "blocks":
        return plural(int(value), "block")
    return f"{round(value, 2):,.10g} {unit}".rstrip()


class Again:
    """A decision that can be made again with something changed."""

    def __init__(self, cluster: ClusterState, profile: Profile, event: RequestRouted | RequestRefused) -> None:
        self.cluster, self.profile, self.event = cluster, profile, event

    def decide(
        self, profile: Profile | None = None, reads: tuple[Read, ...] | None = None, request: RequestFacts | None = None
    ) -> tuple[Decision, Trace]:
        """Decide as it was decided, but for what is given."""
        event, origin = self.event, self.event.origin
        traffic = RecordedTraffic(event.reads if reads is None else reads, unpack(event.avoided), event.degraded)
        draws = Draws(origin.picker, origin.epoch, origin.n)
        return trace(self.cluster, traffic, profile or self.profile, request or event.request, draws)

    def winner(self, profile: Profile | None = None, reads: tuple[Read, ...] | None = None) -> int:
        """The number of the endpoint that is picked; 0 where none is."""
        decision, _ = self.decide(profile, reads)
        return decision.endpoints[0] if decision.endpoints else 0

    def with_load(self, column: LoadColumn, slot: int, value: float) -> int:
        """Who is picked where a column of the cluster state says `value` of a slot."""
        before = column[slot]
        column[slot] = value
        try:
            return self.winner()
        finally:
            column[slot] = before

    def with_read(self, column: int, at: int, value: int) -> int:
        """Who is picked where the decision had read `value` of the candidate at an index."""
        reads = []
        for read in self.event.reads:
            if read.column == column:
                values = unpack(read.values).copy()
                values[at] = value
                read = Read(column, pack(values))
            reads.append(read)
        return self.winner(reads=tuple(reads))

    def name(self, number: int) -> str:
        """What the candidate of this number is called."""
        return self.cluster.endpoints[number].name if number else "nobody"


def flips(cluster: ClusterState, profile: Profile, event: RequestRouted | RequestRefused) -> tuple[Flip, ...]:
    """Each single change that would have brought another outcome, weights first.

    `cluster` is the state that it was made on; its columns are changed and set back.
    """
    again = Again(cluster, profile, event)
    try:
        decision, run = again.decide()
        if decision.reason is not None:
            return tuple(_priority(again, decision))
        if run.view.size == 1 or decision.degraded or not profile.picker.scored:
            return ()
        return (*_weights(again, decision, run), *_readings(again, decision, run))
    except NotRecordedError:  # changed, it reads what the decision did not
        return ()


def _priority(again: Again, decision: Decision) -> Iterator[Flip]:
    request = again.event.request
    if decision.reason != "saturated" or request.priority >= 0:
        return
    try:
        other, run = again.decide(request=msgspec.structs.replace(request, priority=0))
    except NotRecordedError:  # a refused request read nothing of what choosing needs
        yield Flip("priority", request.priority, 0, "it would have been routed", "or above")
        return
    if other.endpoints:
        yield Flip("priority", request.priority, 0, short(run.view.rewound(), run.picks[0]), "or above")


def _weights(again: Again, decision: Decision, run: Trace) -> Iterator[Flip]:
    """For each scorer the nearest weight on either side with which another one is picked."""
    choice, sums = run.picks[0], run.sums.tolist()
    for (name, _, weight), row in zip(again.profile.scorers, run.scores, strict=True):
        crossings = []
        for rival in range(run.view.size):
            gap = float(row[choice] - row[rival])
            if rival != choice and gap:
                crossings.append(weight - (sums[choice] - sums[rival]) / gap)
        lower = sorted({_down(at) for at in crossings if 0.0 < at <= weight}, reverse=True)
        higher = sorted({_up(at) for at in crossings if weight <= at <= WEIGHT_MAX})
        for side in (lower, higher):
            for needed in side:
                found = again.winner(_reweighed(again.profile, name, needed))
                if found != decision.endpoints[0]:
                    yield Flip(f"weight of {name}", weight, needed, again.name(found))
                    break


def _down(at: float) -> float:
    return max(0.0, math.ceil(at * 100 - 1) / 100)


def _up(at: float) -> float:
    return math.floor(at * 100 + 1) / 100


def _reweighed(profile: Profile, scorer: str, weight: float) -> Profile:
    config = profile.config
    first = config.profiles[0]
    placed = tuple(Placed(p.plugin, weight) if p.plugin == scorer else p for p in first.plugins)
    changed = msgspec.structs.replace(first, plugins=placed)
    return Profile(msgspec.structs.replace(config, profiles=(changed, *config.profiles[1:])))


def _readings(again: Again, decision: Decision, run: Trace) -> Iterator[Flip]:
    """For each value of the choice that may be read: the nearest one with which another one is picked."""
    chosen, cluster = decision.endpoints[0], again.cluster
    slot = cluster.endpoints[chosen].slot
    at = int(run.candidates.searchsorted(slot))
    read = {column: int(values[at]) for column, values in run.cycle.reads.items()}
    waiting, kv_cache = int(cluster.waiting[slot]), float(cluster.kv_cache[slot])

    def try_waiting(more: int) -> int:
        return again.with_load(cluster.waiting, slot, waiting + more)

    def try_kv_cache(percent: int) -> int:
        return again.with_load(cluster.kv_cache, slot, percent / 100)

    def try_prefix(less: int) -> int:
        return again.with_read(Column.PREFIX_BLOCKS, at, read[Column.PREFIX_BLOCKS] - less)

    def try_in_flight(more: int) -> int:
        return again.with_read(Column.IN_FLIGHT, at, read[Column.IN_FLIGHT] + more)

    if (found := _nearest(try_waiting, chosen, 0, WAITING_MAX)) is not None:
        yield Flip("requests waiting at it", waiting, waiting + found[0], again.name(found[1]))
    percent = math.ceil(kv_cache * 100)
    if (found := _nearest(try_kv_cache, chosen, percent, 100)) is not None:
        yield Flip("KV cache used at it", round(100 * kv_cache, 1), found[0], again.name(found[1]), "%")
    blocks, flying = read.get(Column.PREFIX_BLOCKS, 0), read.get(Column.IN_FLIGHT)
    if blocks and (found := _nearest(try_prefix, chosen, 0, blocks)) is not None:
        yield Flip("prompt's beginning that it held", blocks, blocks - found[0], again.name(found[1]), "blocks")
    if flying is not None and (found := _nearest(try_in_flight, chosen, 0, WAITING_MAX)) is not None:
        yield Flip("requests in flight to it", flying, flying + found[0], again.name(found[1]))


def _nearest(winner: Callable[[int], int], chosen: int, low: int, high: int) -> tuple[int, int] | None:
    """The value nearest to `low`, up to `high`, with which another than `chosen` is picked, and who; None without one.

    Steps double until it flips, and are halved from there.
    """
    step, good, bad = 1, low, low
    while winner(bad) == chosen:
        if bad >= high:
            return None  # where the value is not read, or never decides
        good, bad, step = bad, min(high, bad + step), step * 2
    while bad - good > 1:
        middle = (good + bad) // 2
        if winner(middle) == chosen:
            good = middle
        else:
            bad = middle
    return bad, winner(bad)
