"""The cluster state: what the committed entries of the log add up to.

Rules.  Only entries change it, through the `apply` methods of `ClusterState`; they come in order, each once.
Every process folds the same entries and so has the same state at the same position, slot for slot.
Traffic moves only the position and the highest `n` of its epoch.
A slot is a row of the columns: the lowest free one is assigned in log order, and freeing it clears the row.
"""

import heapq
import math
from collections.abc import Sequence
from typing import TypeAlias, assert_never

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.core import events
from pointsman.core.state.adapters import AdapterTable
from pointsman.core.state.marks import FinishedMark, Mark, RefusedMark, RoutedMark, StartedMark, skim
from pointsman.core.state.membership import Adapters, Endpoint, Epoch, EpochKey, ServerProcess, Slots
from pointsman.core.state.objects import Objects
from pointsman.core.state.prefix_blocks import PrefixBlocks
from pointsman.core.values.facts import Applied, Deleted
from pointsman.core.values.packing import unpack, unpack_floats

_Rare: TypeAlias = (
    events.AppliedEvent
    | events.DeletedEvent
    | events.SourceAccepted
    | events.SourceRejected
    | events.ConfigAccepted
    | events.PrefixBlockSized
    | events.PickerStarted
    | events.PickerEnded
    | events.FeedLost
    | events.FeedRestored
    | events.OpenRequestsListed
    | events.EntriesLost
    | events.EntriesAdopted
    | events.LogCreated
    | events.WeightsIntended
    | events.WeightsWritten
    | events.WeightsRefused
    | events.NotedEvent
)
"""Events that are too rare for the fold to test for them first."""


class ClusterState:
    """The projection; columns are indexed by slot.

    number: int64, the endpoint's, 0 where the slot is free.
    waiting, running: int64 counts.  kv_cache: float64, 0 to 1.
    age: seconds from last success to last attempt of the scrape, 0 when fresh, infinite when never sampled.
    unreadable: whether the last scrape that failed was answered.  sampled_at: seconds since 1970 of the last success.
    cache_block_tokens, cache_blocks: int64, 0 where unknown.
    """

    def __init__(self) -> None:
        self.position = 0
        self.log_id = ""
        self.next_endpoint = 1
        self.objects = Objects()
        self.pools = self.objects.view(events.PoolApplied, str)
        self.objectives = self.objects.view(events.ObjectiveApplied, tuple[str, str])
        self.routes = self.objects.view(events.RouteObserved, str)
        self.grants = self.objects.view(events.ReferenceGrantApplied, str)
        self.configs: dict[str, events.ConfigAccepted] = {}
        self.rejected_sources: dict[str, events.SourceRejected] = {}
        self.pending_changes: dict[str, events.WeightsIntended] = {}
        """Changes of weights that were recorded before they are written, and have no recorded end yet."""
        self.epochs: dict[EpochKey, Epoch] = {}
        self.prefix_blocks = PrefixBlocks()
        self.interval = self.threshold = 0.0
        self.endpoints: dict[int, Endpoint] = {}
        self.by_slot: list[Endpoint | None] = []
        self.generation: list[int] = []
        self.adapters = AdapterTable()
        self.sleeping: set[int] = set()
        """Slots of servers whose engine sleeps."""
        self.processes: dict[int, ServerProcess] = {}
        """The process of each endpoint whose page tells it."""
        self.process_since: list[int] = []
        """Position by slot at which another process than before was seen; 0 where none was."""
        self.membership_version = 0
        """Number that rises whenever candidates may differ: caches by pool are good for one value of it."""
        self.load_version = 0
        """Number that rises with every entry about load: what was computed from load is good for one value of it."""
        self.free: list[int] = []
        self._ready: dict[str, Slots] = {}
        self._sampled_slots: dict[bytes, tuple[Slots | slice, npt.NDArray[np.bool_] | None]] = {}
        self.widen(16)

    def widen(self, capacity: int) -> None:
        """Make room for `capacity` slots; new rows are clear."""

        def column(name: str, dtype: type, clear: float) -> None:
            wide: npt.NDArray[np.float64] = np.full(capacity, clear, dtype=dtype)
            old = getattr(self, name, None)
            if old is not None:
                wide[: len(old)] = old
            setattr(self, name, wide)

        column("number", np.int64, 0)
        column("waiting", np.int64, 0)
        column("running", np.int64, 0)
        column("kv_cache", np.float64, 0.0)
        column("age", np.float64, math.inf)
        column("unreadable", np.bool_, False)
        column("sampled_at", np.float64, 0.0)
        column("cache_block_tokens", np.int64, 0)
        column("cache_blocks", np.int64, 0)

    number: npt.NDArray[np.int64]
    waiting: npt.NDArray[np.int64]
    running: npt.NDArray[np.int64]
    kv_cache: npt.NDArray[np.float64]
    age: npt.NDArray[np.float64]
    unreadable: npt.NDArray[np.bool_]
    sampled_at: npt.NDArray[np.float64]
    cache_block_tokens: npt.NDArray[np.int64]
    cache_blocks: npt.NDArray[np.int64]

    # --- questions ------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many slots were ever in use: columns hold something up to here."""
        return len(self.by_slot)

    def ready(self, pool: str) -> Slots:
        """The slots of the pool's ready endpoints, ascending: the candidates of a decision."""
        found = self._ready.get(pool)
        if found is None:
            found = np.array(
                [e.slot for e in self.by_slot if e is not None and e.ready and e.pool == pool], dtype=np.int64
            )
            found.flags.writeable = False
            self._ready[pool] = found
        return found

    def members(self, pool: str) -> list[Endpoint]:
        """The pool's endpoints in slot order, ready or not."""
        return [e for e in self.by_slot if e is not None and e.pool == pool]

    def config(self, pool: str) -> events.ConfigAccepted | None:
        """The configuration in force for the pool; None where even the default is missing."""
        return self.configs.get(pool) or self.configs.get("*")

    def priority(self, pool: str, objective: str) -> int:
        """The priority of the named InferenceObjective in the pool, 0 without one."""
        found = self.objectives.get((pool, objective)) if objective else None
        return found.priority if found is not None else 0

    # --- the fold -------------------------------------------------------------------------------

    def apply(self, entry: events.Entry) -> None:
        """Fold `entry`, which must be the next one."""
        assert entry.position == self.position + 1, (
            f"entry {entry.position} after {self.position}: entries apply in order, once"
        )
        self.apply_event(entry.position, skim(entry.kind, entry.body))

    def apply_event(self, position: int, event: events.Event | Mark) -> None:
        """Fold an entry whose body is already decoded."""
        self.position = position
        match event:
            case RoutedMark(origin) | RefusedMark(origin) | StartedMark(origin) | FinishedMark(origin):
                self._advance(origin)
            case (
                events.RequestRouted(origin)
                | events.RequestRefused(origin)
                | events.ResponseStarted(origin)
                | events.RequestFinished(origin)
            ):
                self._advance(origin)
            case events.LoadSampled():
                self._sampled(event)
            case events.ScrapeFailed():
                self._failed(event)
            case events.LabelsChanged():
                self._labelled(event)
            case events.ServerStarted():
                self._started(event)
            case events.ScrapePaced(interval, threshold):
                self.load_version += 1
                self.interval, self.threshold = interval, threshold
            case events.EndpointJoined():
                self._joined(event)
            case events.EndpointChanged(number, ready, labels, source):
                if (member := self.endpoints.get(number)) is not None:
                    source = source or member.source
                    self._place(msgspec.structs.replace(member, ready=ready, labels=labels, source=source))
            case events.EndpointLeft(number):
                self._left(number)
            case events.PoolApplied():
                self.objects.put(event)
                self._moved()
            case events.PoolDeleted(pool):
                self.objects.drop(event)
                for member in self.members(pool):
                    self._left(member.number)
                self.prefix_blocks.drop(pool)
                self._moved()
            case _:
                self._apply_rare(event)

    def _apply_rare(self, event: _Rare) -> None:
        match event:
            case Applied():
                self.objects.put(event)
            case Deleted():
                self.objects.drop(event)
            case events.SourceAccepted(source):
                self.rejected_sources.pop(source, None)
            case events.SourceRejected(source):
                self.rejected_sources[source] = event
            case events.ConfigAccepted(pool):
                self.configs[pool] = event
            case events.PrefixBlockSized(pool, tokens):
                self.prefix_blocks.hold(pool, tokens, [member.number for member in self.members(pool)])
            case events.PickerStarted(origin, build, scheduler, plugins):
                key = (origin.picker, origin.epoch)
                adopted_to = self.epochs[key].adopted_to if key in self.epochs else 0
                self.epochs[key] = Epoch(*key, origin.n, build, scheduler, plugins, adopted_to)
            case events.PickerEnded(picker, epoch):
                self.epochs.pop((picker, epoch), None)
            case events.FeedLost(origin) | events.FeedRestored(origin) | events.OpenRequestsListed(origin):
                self._advance(origin)
            case events.EntriesLost(picker, epoch, _, last):
                if (known := self.epochs.get((picker, epoch))) is not None:
                    known.highest_n = max(known.highest_n, last)
            case events.EntriesAdopted(picker, epoch, first, last):
                if (known := self.epochs.get((picker, epoch))) is None:
                    known = self.epochs[picker, epoch] = Epoch(picker, epoch, first - 1)
                known.adopted_to = last
            case events.LogCreated(log_id):
                self.log_id = log_id
            case events.WeightsIntended(change):
                self.pending_changes[change] = event
            case events.WeightsWritten(change) | events.WeightsRefused(change):
                self.pending_changes.pop(change, None)
            case (
                events.ControlStarted()
                | events.ControlStopped()
                | events.ConfigRejected()
                | events.SegmentDropped()
                | events.ClockStepped()
                | events.ProcessStarted()
                | events.ProcessEnded()
            ):
                pass
            case _:
                assert_never(event)

    def apply_traffic(self, position: int, marks: Sequence[Mark]) -> None:
        """Fold traffic entries that follow each other, the last of them at `position`."""
        self.position = position
        epoch, known = -1, None
        for mark in marks:
            origin = mark.origin
            if origin.epoch != epoch:
                epoch = origin.epoch
                known = self.epochs.get((origin.picker, epoch))
            if known is not None and origin.n > known.highest_n:
                known.highest_n = origin.n

    def _advance(self, origin: events.Origin) -> None:
        known = self.epochs.get((origin.picker, origin.epoch))
        if known is not None and origin.n > known.highest_n:
            known.highest_n = origin.n

    def _moved(self) -> None:
        self.membership_version += 1
        self._ready.clear()
        self._sampled_slots.clear()

    def _place(self, member: Endpoint) -> None:
        self.endpoints[member.number] = member
        self.by_slot[member.slot] = member
        self.number[member.slot] = member.number
        self._moved()

    def _joined(self, event: events.EndpointJoined) -> None:
        if self.free:
            slot = heapq.heappop(self.free)
        else:
            slot = len(self.by_slot)
            if slot == len(self.waiting):
                self.widen(2 * slot)
            self.by_slot.append(None)
            self.generation.append(0)
            self.process_since.append(0)
            self.adapters.widen(len(self.by_slot))
        self.next_endpoint = max(self.next_endpoint, event.endpoint + 1)
        self._place(
            Endpoint(
                event.endpoint,
                slot,
                event.pool,
                event.uid,
                event.namespace,
                event.name,
                event.address,
                event.port,
                event.rank,
                event.labels,
                event.ready,
                event.source,
            )
        )

    def _left(self, number: int) -> None:
        if (member := self.endpoints.pop(number, None)) is None:
            return
        slot = member.slot
        self.prefix_blocks.gone(member.pool, number)
        self.by_slot[slot] = None
        self.generation[slot] += 1
        self.adapters[slot] = Adapters()
        self.process_since[slot] = 0
        self.sleeping.discard(slot)
        self.processes.pop(number, None)
        self.number[slot] = self.waiting[slot] = self.running[slot] = 0
        self.cache_block_tokens[slot] = self.cache_blocks[slot] = 0
        self.kv_cache[slot] = self.sampled_at[slot] = 0.0
        self.age[slot], self.unreadable[slot] = math.inf, False
        heapq.heappush(self.free, slot)
        self._moved()

    def _sampled(self, event: events.LoadSampled) -> None:
        self.load_version += 1
        slots, here = self._sampled_slots.get(event.endpoints) or self._find_sampled(event.endpoints)
        waiting, running = unpack(event.waiting), unpack(event.running)
        kv_cache, earlier = unpack_floats(event.kv_cache), unpack(event.earlier)
        if here is not None:
            waiting, running, kv_cache, earlier = waiting[here], running[here], kv_cache[here], earlier[here]
        self.waiting[slots] = waiting
        self.running[slots] = running
        self.kv_cache[slots] = kv_cache
        self.age[slots] = 0.0
        self.sampled_at[slots] = event.sampled_at - earlier / 1000

    def _find_sampled(self, endpoints: bytes) -> tuple[Slots | slice, npt.NDArray[np.bool_] | None]:
        """The slots of a sample's endpoints; where some of them have left, also which of them are still members.

        Samples name the same endpoints again and again, so the answer is kept until membership changes.
        """
        members = [self.endpoints.get(number) for number in unpack(endpoints).tolist()]
        found = np.array([-1 if m is None else m.slot for m in members], dtype=np.int64)
        here = found >= 0 if None in members else None
        slots: Slots | slice = found if here is None else found[here]
        if here is None and len(found) > 1 and bool((np.diff(found) == 1).all()):
            slots = slice(int(found[0]), int(found[-1]) + 1)
        if len(self._sampled_slots) >= 1024:  # subsets are as many as scrapes happen to coincide
            self._sampled_slots.clear()
        self._sampled_slots[endpoints] = (slots, here)
        return slots, here

    def _failed(self, event: events.ScrapeFailed) -> None:
        self.load_version += 1
        answered = set(unpack(event.unreadable).tolist())
        for number, age in zip(unpack(event.endpoints).tolist(), unpack(event.ages).tolist(), strict=True):
            if (member := self.endpoints.get(number)) is not None:
                self.age[member.slot] = math.inf if age == events.NEVER_SAMPLED else age / 1000
                self.unreadable[member.slot] = number in answered

    def _labelled(self, event: events.LabelsChanged) -> None:
        self.load_version += 1
        if (member := self.endpoints.get(event.endpoint)) is None:
            return
        before = self.adapters[member.slot] if event.lora_told else Adapters()
        self.adapters[member.slot] = before.followed(event.lora_running, event.lora_waiting, event.lora_max)
        if self.cache_block_tokens[member.slot] not in (0, event.cache_block_tokens):
            self.prefix_blocks.gone(member.pool, event.endpoint)
        self.cache_block_tokens[member.slot] = event.cache_block_tokens
        self.cache_blocks[member.slot] = event.cache_blocks
        (self.sleeping.add if event.asleep else self.sleeping.discard)(member.slot)

    def _started(self, event: events.ServerStarted) -> None:
        if (member := self.endpoints.get(event.endpoint)) is None:
            return
        slot, known = member.slot, self.processes.get(event.endpoint)
        self.processes[event.endpoint] = ServerProcess(event.endpoint, event.started_at)
        if known is not None and known.started_at != event.started_at:
            self.process_since[slot] = self.position
            self.adapters[slot] = Adapters()
            self.cache_block_tokens[slot] = self.cache_blocks[slot] = 0
            self.prefix_blocks.gone(member.pool, event.endpoint)
            self.load_version += 1
            self._moved()
