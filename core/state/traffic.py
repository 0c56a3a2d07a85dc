"""The traffic state: what a picker process knows ahead of the log.

Its own decisions change it at once, those of other pickers when they come down the feed.
Columns are indexed by the slots of the cluster state: whoever applies an entry there calls `follow` next,
which clears the rows of endpoints that are gone, and then `observe` with the event.
An open request holds the slot and the generation it was routed to, so that a late end touches nobody else.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final, Protocol

import msgspec
import numpy as np

from pointsman.core.events import (
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    Read,
    RequestFacts,
    RequestFinished,
    RequestRouted,
    ResponseStarted,
)
from pointsman.core.prefix.index import INDEX_BLOCKS_MAX, SERVER_BLOCKS, PrefixIndex, PrefixStatistics
from pointsman.core.prefix.kept_responses import KeptResponses
from pointsman.core.state.failures import FAST, Failures
from pointsman.core.state.membership import EpochKey, Slots
from pointsman.core.state.open_requests import OpenByEpoch
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import Ints, unpack


class Column(IntEnum):
    """A column of the traffic state; written to disk in `Read`, never reused."""

    IN_FLIGHT = 1
    """Requests routed to the endpoint that have no end yet."""
    FAILING = 3
    """1 for an endpoint that fails all that it is given, and is not to be tried yet; 0 for others."""
    PREFIX_BLOCKS = 2
    """Length of what the endpoint was given of the prompt before, in the units of `PrefixIndex.matches`."""
    KEEPS_RESPONSE = 4
    """1 for the endpoint that keeps what the request goes on from; 0 for others."""


class Traffic(Protocol):
    """What a decision may read of the traffic state, live or as a decision recorded it."""

    degraded: bool
    """Whether the feed is lost: load filters then pass all, and load scorers are neutral."""

    def avoided(self) -> Slots:
        """Slots left out because of advice, ascending."""
        ...

    def column(self, column: Column, request: RequestFacts, slots: Slots) -> Ints:
        """The column's value for each of `slots`, which ascend."""
        ...

    def failing_among(self, slots: Slots) -> bool:
        """Whether the column FAILING has to be asked for these slots; elsewhere it is 0."""
        ...


class NotRecordedError(Exception):
    """A decision's entry does not hold what is asked of it."""


class RecordedTraffic:
    """The traffic state as a decision's entry holds it: the values that the decision read and no others."""

    def __init__(self, reads: Iterable[Read], avoided: Slots, degraded: bool) -> None:
        self.degraded = degraded
        self._avoided = avoided
        self._values = {read.column: unpack(read.values) for read in reads}
        self._slots: Slots | None = None

    def avoided(self) -> Slots:
        """The slots that the decision left out because of advice."""
        return self._avoided

    def failing_among(self, slots: Slots) -> bool:
        """Whether the decision asked for the column."""
        return Column.FAILING in self._values

    def column(self, column: Column, request: RequestFacts, slots: Slots) -> Ints:
        """The values recorded; `NotRecordedError` for another column, or for slots not the same each time."""
        values = self._values.get(column)
        if values is None:
            known = ", ".join(str(number) for number in self._values) or "none"
            raise NotRecordedError(f"column {column.name.lower()} is asked for, recorded are: {known}")
        if len(values) != len(slots):
            raise NotRecordedError(
                f"column {column.name.lower()} holds {len(values)} values, asked for are {len(slots)} slots"
            )
        if self._slots is None:
            self._slots = slots
        elif not np.array_equal(self._slots, slots):
            raise NotRecordedError(f"column {column.name.lower()} is asked for other slots than the column before")
        return values


class PrefixRoom(msgspec.Struct, frozen=True):
    """How much of prompts a server of a pool remembers."""

    capacity: int = SERVER_BLOCKS
    """Length in blocks of the pool's size."""
    auto_tune: bool = True
    """Whether a server has the capacity that its cache gives, where that is known at its first use."""

    def of(self, cluster: ClusterState, pool: str, slot: int) -> int:
        """The capacity of the server in the slot."""
        blocks = int(cluster.cache_blocks[slot]) if self.auto_tune else 0
        own, held = int(cluster.cache_block_tokens[slot]), cluster.prefix_blocks.tokens(pool)
        if blocks and own and held:  # its blocks may be others than the pool's
            blocks = max(1, blocks * own // held)
        return blocks or self.capacity


class TrafficStatistics(msgspec.Struct, frozen=True):
    """What the traffic state holds."""

    open: int
    """Requests of this process without an end."""
    foreign: int
    """Requests of other epochs without an end."""
    late: int
    """Ends that came after their endpoint was gone."""
    avoided: int
    prefix: PrefixStatistics


_Place = tuple[int, int]
"""Slot and generation of the endpoint a request was routed to."""
_NOWHERE: Final = (-1, 0)


class TrafficState:
    """The live traffic state of one picker process."""

    def __init__(self, blocks_max: int = INDEX_BLOCKS_MAX) -> None:
        self.degraded = False
        self.prefix = PrefixIndex(blocks_max)
        self.kept = KeptResponses()
        self.rooms: dict[str, PrefixRoom] = {}
        """Room of each pool, as its configuration says; servers already known keep the capacity they have."""
        self._in_flight: Ints = np.zeros(16, dtype=np.int64)
        self.failures = Failures()
        self.now = 0.0
        """Time of the decision or the answer under way, seconds since 1970; whoever brings one sets it."""
        self._open: dict[int, _Place] = {}
        self._foreign = OpenByEpoch[_Place]()
        """Places of the open requests of other epochs."""
        self._advised: set[int] = set()
        self._avoided: Slots = np.zeros(0, dtype=np.int64)
        self._cluster: ClusterState | None = None
        self._followed = -1
        self._generations: list[int] = []
        self._process_since: list[int] = []
        self._late = 0

    # --- what decisions read --------------------------------------------------------------------

    def avoided(self) -> Slots:
        """Slots left out because of advice, ascending."""
        return self._avoided

    def column(self, column: Column, request: RequestFacts, slots: Slots) -> Ints:
        """The column's value for each of `slots`, which ascend and belong to the cluster state followed."""
        if column is Column.IN_FLIGHT:
            return self._in_flight.take(slots)
        if column is Column.FAILING:
            return self._failing(slots)
        if column is Column.KEEPS_RESPONSE:
            found: Ints = (slots == self.kept.slot(request.continues)).astype(np.int64)
            return found
        return self.prefix.matches(request.prefix, slots)

    def failing_among(self, slots: Slots) -> bool:
        """Whether one of these slots counts as failing; nearly always nobody does."""
        return bool(self.failures) and bool(self.failures.failing(slots.tolist()))

    def _failing(self, slots: Slots) -> Ints:
        """One request at a time is let through, a pause after the one before."""
        found = np.zeros(len(slots), dtype=np.int64)
        listed = slots.tolist()
        for slot in self.failures.failing(listed):
            found[listed.index(slot)] = bool(self._in_flight[slot]) or self.failures.paused(slot, self.now)
        return found

    # --- the cluster state ----------------------------------------------------------------------

    def follow(self, cluster: ClusterState) -> None:
        """Clear the rows of endpoints that are gone; call it after each entry, or restored state, applied."""
        if cluster is self._cluster and cluster.membership_version == self._followed:
            return
        known = self._generations
        if cluster is not self._cluster:
            # Another state may have come by a snapshot, even of another log: the row must have the same endpoint.
            gone = self._replaced(cluster)
            for slot in gone:
                self._clear(slot)
            for requests in (self._open, *self._foreign.by_epoch.values()):
                requests.update({n: _NOWHERE for n, place in requests.items() if place[0] in gone})
        elif known != cluster.generation:
            for slot, (before, after) in enumerate(zip(known, cluster.generation, strict=False)):
                if before != after:
                    self._clear(slot)
        if self._process_since != cluster.process_since:
            for slot, (since, after) in enumerate(zip(self._process_since, cluster.process_since, strict=False)):
                if since != after:
                    self.prefix.let_go(slot)  # another process is there, whose cache is empty
                    self.failures.forget(slot)
                    self.kept.let_go(slot)
        if cluster.slots > len(self._in_flight):
            wide = np.zeros(max(cluster.slots, 2 * len(self._in_flight)), dtype=np.int64)
            wide[: len(self._in_flight)] = self._in_flight
            self._in_flight = wide
        self._cluster, self._followed = cluster, cluster.membership_version
        self._generations = list(cluster.generation)
        self._process_since = list(cluster.process_since)
        self._advised = {number for number in self._advised if number in cluster.endpoints}
        self._avoid()

    def _replaced(self, cluster: ClusterState) -> set[int]:
        old = self._cluster
        gone: set[int] = set()
        if old is None:
            return gone
        for slot in range(len(self._generations)):
            if slot >= cluster.slots or cluster.generation[slot] != self._generations[slot]:
                gone.add(slot)
                continue
            before, after = old.by_slot[slot], cluster.by_slot[slot]
            if before is None or after is None or (before.uid, before.port) != (after.uid, after.port):
                gone.add(slot)
        return gone

    def _clear(self, slot: int) -> None:
        self._in_flight[slot] = 0
        self.prefix.let_go(slot)
        self.failures.forget(slot)
        self.kept.let_go(slot)

    # --- requests -------------------------------------------------------------------------------

    def routed(self, n: int, event: RequestRouted, cluster: ClusterState) -> None:
        """Take on a decision of this process, at once."""
        self._open[n] = self._begin(event, cluster)

    def finished(self, n: int) -> None:
        """Take on the end of the request that this process routed with its decision `n`."""
        place = self._open.pop(n, None)
        if place is not None:
            self._end(place)

    def answered(self, n: int, status: int, after: float, served: str = "") -> None:
        """Take on that an answer to the request that this process routed with its decision `n` began."""
        place = self._open.get(n)
        if place is not None:
            self._answered(place, status, after, served)

    def _answered(self, place: _Place, status: int, after: float, served: str) -> None:
        """The endpoint failed where its answer is a fast error, or where a fallback answered in its place."""
        slot, generation = place
        if slot < 0 or self._generations[slot] != generation:
            return
        member = self._cluster.by_slot[slot] if self._cluster is not None else None
        elsewhere = bool(served) and member is not None and served != member.authority
        failed = elsewhere or (status >= 500 and after < FAST)
        if failed or self.failures:
            self.failures.answered(slot, failed=failed, now=self.now)

    def keep(self, response_id: str, endpoint: int) -> None:
        """Remember which endpoint keeps a response."""
        member = self._cluster.endpoints.get(endpoint) if self._cluster is not None else None
        if member is not None:
            self.kept.keep(response_id, member.slot)

    def open_numbers(self) -> Ints:
        """The numbers of this process's decisions whose requests are open, ascending."""
        return np.array(sorted(self._open), dtype=np.int64)

    def observe(self, event: Event, cluster: ClusterState) -> None:
        """Take on a committed entry that this process did not write; call `follow` before."""
        match event:
            case RequestRouted(origin):
                self._foreign.of((origin.picker, origin.epoch))[origin.n] = self._begin(event, cluster)
            case ResponseStarted(origin, request_n, status, after, served):
                place = self._foreign.of((origin.picker, origin.epoch)).get(request_n)
                if place is not None:
                    self._answered(place, status, after, served)
            case RequestFinished(origin, request_n):
                place = self._foreign.of((origin.picker, origin.epoch)).pop(request_n, None)
                if place is not None:
                    self._end(place)
                if event.response_id:
                    self.keep(event.response_id, event.kept_by)
            case EndpointJoined(number) | EndpointChanged(number) | EndpointLeft(number):
                self.withdraw((number,))
            case _:
                for _, place in self._foreign.take_ended(event):
                    self._end(place)

    def replace_foreign(self, requests: Mapping[EpochKey, Mapping[int, int]], cluster: ClusterState) -> None:
        """Take the open requests of other epochs, as `OpenRequests.by_epoch` has them, in place of what was known."""
        for known in self._foreign.by_epoch.values():
            for place in known.values():
                self._end(place)
        self._foreign.by_epoch = {
            epoch: {n: self._enter(endpoint, cluster) for n, endpoint in open_there.items()}
            for epoch, open_there in requests.items()
        }

    def _begin(self, event: RequestRouted, cluster: ClusterState) -> _Place:
        place = self._enter(event.endpoints[0], cluster)
        slot = place[0]
        if slot >= 0 and event.request.prefix:
            pool = event.request.pool
            # Only with its first blocks a server is given a capacity.
            capacity = 1 if self.prefix.held(slot) else self.rooms.get(pool, _ROOM).of(cluster, pool, slot)
            self.prefix.record(slot, event.request.prefix, capacity)
        return place

    def warm(self, endpoint: int, room: PrefixRoom, hashes: bytes) -> int:
        """Add prompt blocks that are older than all that is known of an endpoint; return how many found room."""
        cluster = self._cluster
        member = cluster.endpoints.get(endpoint) if cluster is not None else None
        if cluster is None or member is None:
            return 0
        return self.prefix.warm(member.slot, hashes, room.of(cluster, member.pool, member.slot))

    def full(self) -> bool:
        """Return whether no endpoint has room for more blocks."""
        members = self._cluster.endpoints.values() if self._cluster is not None else ()
        return self.prefix.full([member.slot for member in members])

    def _enter(self, endpoint: int, cluster: ClusterState) -> _Place:
        assert cluster is self._cluster, "follow the cluster first"
        assert cluster.membership_version == self._followed, "follow the cluster first"
        member = cluster.endpoints.get(endpoint)
        if member is None:
            return _NOWHERE
        self._in_flight[member.slot] += 1
        return member.slot, cluster.generation[member.slot]

    def _end(self, place: _Place) -> None:
        slot, generation = place
        if slot < 0 or self._generations[slot] != generation:
            self._late += 1
            return
        self._in_flight[slot] -= 1

    # --- advice ---------------------------------------------------------------------------------

    def advise(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints until the next committed entry about them."""
        self._advised.update(numbers)
        self._avoid()

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints no longer."""
        before = len(self._advised)
        self._advised.difference_update(numbers)
        if len(self._advised) != before:
            self._avoid()

    def clear_advice(self) -> None:
        """Avoid no endpoint, because the feed was connected anew."""
        self._advised.clear()
        self._avoid()

    def _avoid(self) -> None:
        members = self._cluster.endpoints if self._cluster is not None else {}
        slots = sorted(members[number].slot for number in self._advised if number in members)
        self._avoided = np.array(slots, dtype=np.int64)
        self._avoided.flags.writeable = False

    def statistics(self) -> TrafficStatistics:
        """Return how much it holds."""
        return TrafficStatistics(
            open=len(self._open),
            foreign=sum(len(requests) for requests in self._foreign.by_epoch.values()),
            late=self._late,
            avoided=len(self._avoided),
            prefix=self.prefix.statistics(),
        )


_ROOM: Final = PrefixRoom()
