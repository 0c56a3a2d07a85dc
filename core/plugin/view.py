"""What a plugin may read: one array per attribute, over the candidates that remain.

What is read of the traffic state is recorded for all candidates, and all that is read goes into the
decision's digest, so that replay notices any value that is another one.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pointsman.core.events import RequestFacts
from pointsman.core.state.membership import Endpoint, Slots
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column, Traffic
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import Ints

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
NumberColumn = TypeVar("NumberColumn", Ints, Floats, Mask, npt.NDArray[np.int8])


def rows_of(slots: Slots) -> Slots | slice:
    """The index that takes `slots` out of a column: a slice, which copies nothing, where they follow each other."""
    if len(slots):
        first, last = int(slots[0]), int(slots[-1])
        if last - first + 1 == len(slots):
            return slice(first, last + 1)
    return slots


UNKNOWN_AFTER = 2.0
"""Seconds from which a sample says nothing more, unless samples are further apart: several scrapes were lost by then."""


class Cycle:
    """One decision under way: what it may read, and what it has read."""

    __slots__ = ("candidates", "cluster", "drawn", "draws", "reads", "request", "seen", "traffic")

    def __init__(
        self, cluster: ClusterState, traffic: Traffic, request: RequestFacts, draws: Draws, candidates: Slots
    ) -> None:
        self.cluster, self.traffic, self.request, self.draws = cluster, traffic, request, draws
        self.candidates = candidates
        self.drawn = 0
        self.reads: dict[Column, Ints] = {}
        """Traffic columns over all candidates, in the order of reading."""
        self.seen: list[npt.NDArray[np.generic]] = []
        """Cluster columns as they were read, in that order."""

    def traffic_column(self, column: Column) -> Ints:
        """The column over all candidates; that it was read is recorded."""
        values = self.reads.get(column)
        if values is None:
            values = self.reads[column] = self.traffic.column(column, self.request, self.candidates)
        return values


class View:
    """The candidates that remain, in slot order."""

    __slots__ = ("_columns", "_cycle", "_rows", "_start", "_unknown", "positions", "size", "slots")

    def __init__(self, cycle: Cycle, slots: Slots, positions: Slots | None) -> None:
        self._cycle = cycle
        self.slots = slots
        self.positions = positions
        """Indexes of the remaining candidates among all candidates; None while all remain."""
        self.size = len(slots)
        self._columns: dict[str, npt.NDArray[np.generic]] = {}
        self._rows: Slots | slice | None = None
        self._start = cycle.drawn
        self._unknown: tuple[Mask | None] | None = None

    def narrowed(self, keep: Mask) -> "View":
        """The view of those that `keep` marks."""
        at = keep.nonzero()[0]
        return View(self._cycle, self.slots[at], at if self.positions is None else self.positions[at])

    def again(self) -> "View":
        """The same view for the next plugin; `rewound` of it goes back to the draw that comes next now."""
        view = View(self._cycle, self.slots, self.positions)
        view._columns, view._unknown = self._columns, self._unknown
        return view

    def rewound(self) -> "View":
        """A view to run the same plugin again: it draws the same numbers, and its reads are not added to the decision's."""
        old = self._cycle
        cycle = Cycle(old.cluster, old.traffic, old.request, old.draws, old.candidates)
        cycle.drawn, cycle.reads = self._start, dict(old.reads)
        return View(cycle, self.slots, self.positions)

    # --- what is known ----------------------------------------------------------------------------

    @property
    def unknown(self) -> Mask | None:
        """Marks of those whose load nobody knows: never sampled, or too long ago; None where that is nobody.

        What is read of their load is that of the worst of the others, so that they have an advantage over none;
        where nothing is known of anybody, they are all alike.  While the feed is lost, all samples count as they are.
        """
        if self._unknown is None:
            cluster = self._cycle.cluster
            found = None
            if not self.degraded:
                old: Mask = cluster.age[self._at()] > max(UNKNOWN_AFTER, cluster.threshold)
                found = old if old.any() else None
            self._unknown = (found,)
        return self._unknown[0]

    def only_known(self) -> "View":
        """The view of those whose load is known."""
        return self if self.unknown is None else self.narrowed(~self.unknown)

    @property
    def unreadable(self) -> Mask:
        """Marks of those that answered the last scrape that failed, only not with a page that can be read."""
        return self._cycle.cluster.unreadable[self._at()]

    @property
    def asleep(self) -> Mask:
        """Marks of those whose engine sleeps, as their page says."""
        sleeping = self._cycle.cluster.sleeping
        return np.array([slot in sleeping for slot in self.slots.tolist()], dtype=np.bool_)

    # --- cluster state --------------------------------------------------------------------------

    @property
    def waiting(self) -> Ints:
        """Requests in the server's queue."""
        return self._ints("waiting", self._cycle.cluster.waiting)

    @property
    def running(self) -> Ints:
        """Requests the server works on."""
        return self._ints("running", self._cycle.cluster.running)

    @property
    def kv_cache(self) -> Floats:
        """Used share of the KV cache, 0 to 1."""
        return self._floats("kv_cache", self._cycle.cluster.kv_cache)

    @property
    def age(self) -> Floats:
        """Seconds from last success to last attempt of the scrape; infinite when never sampled."""
        values = self._cycle.cluster.age[self._at()]
        self._cycle.seen.append(values)
        return values

    @property
    def staleness_threshold(self) -> float:
        """Seconds after which a sample is stale at the present pace of scraping; no rule may ask for less."""
        return self._cycle.cluster.threshold

    def adapter_fit(self, model: str) -> npt.NDArray[np.int8]:
        """A code for each candidate: 3 the LoRA adapter runs, 2 there is room for it, 1 it waits, 0 none of these."""
        values = self._as_the_worst(self._cycle.cluster.adapters.fit(model)[self._at()], np.min)
        self._cycle.seen.append(values)
        return values

    def adapter_held(self, model: str) -> Mask:
        """Whether the LoRA adapter runs or waits there."""
        values = self._as_the_worst(self._cycle.cluster.adapters.held(model)[self._at()], np.min)
        self._cycle.seen.append(values)
        return values

    def endpoint(self, index: int) -> Endpoint:
        """The endpoint at `index` of this view."""
        found = self._cycle.cluster.by_slot[int(self.slots[index])]
        assert found is not None, "candidates are members"
        return found

    # --- traffic state --------------------------------------------------------------------------

    @property
    def degraded(self) -> bool:
        """Whether the feed is lost, so that what the cluster state says of load is old."""
        return self._cycle.traffic.degraded

    @property
    def in_flight(self) -> Ints:
        """Requests routed to the endpoint that have no end yet."""
        return self._traffic(Column.IN_FLIGHT)

    @property
    def failing(self) -> Ints | None:
        """1 for those that fail all they are given and are not to be tried yet; None where nobody does."""
        cycle = self._cycle
        return self._traffic(Column.FAILING) if cycle.traffic.failing_among(cycle.candidates) else None

    @property
    def prefix_blocks(self) -> Ints:
        """Length of what the endpoint was given of the prompt before, in blocks of the size that the facts name."""
        return self._traffic(Column.PREFIX_BLOCKS)

    @property
    def keeps_response(self) -> Ints:
        """1 for the endpoint that keeps what the request goes on from."""
        return self._traffic(Column.KEEPS_RESPONSE)

    def draw(self) -> float:
        """The decision's next draw, in [0, 1)."""
        i = self._cycle.drawn
        self._cycle.drawn = i + 1
        return self._cycle.draws(i)

    # --- columns --------------------------------------------------------------------------------

    def _at(self) -> Slots | slice:
        rows = self._rows
        if rows is None:
            rows = self._rows = rows_of(self.slots)
        return rows

    def _traffic(self, column: Column) -> Ints:
        values = self._cycle.traffic_column(column)
        return values if self.positions is None else values[self.positions]

    def _ints(self, name: str, column: Ints) -> Ints:
        values = self._columns.get(name)
        if values is None:
            values = self._columns[name] = self._load(column[self._at()])
            self._cycle.seen.append(values)
        return values  # type: ignore[return-value]  # the dictionary holds columns of both types

    def _floats(self, name: str, column: Floats) -> Floats:
        values = self._columns.get(name)
        if values is None:
            values = self._columns[name] = self._load(column[self._at()])
            self._cycle.seen.append(values)
        return values  # type: ignore[return-value]  # the dictionary holds columns of both types

    def _as_the_worst(self, values: NumberColumn, worst: Callable[[NumberColumn], np.generic]) -> NumberColumn:
        """`values` with those of unknown load made equal to the worst of the others; as they are where all are."""
        unknown = self.unknown
        if unknown is None or unknown.all():
            return values
        told = values.copy()
        told[unknown] = worst(values[~unknown])
        return told

    def _load(self, values: NumberColumn) -> NumberColumn:
        """Numbers of load; where nothing is known of anybody, nothing for each."""
        unknown = self.unknown
        return np.zeros_like(values) if unknown is not None and unknown.all() else self._as_the_worst(values, np.max)
