"""The cluster state: what the committed entries of the log add up to.

Rules.  `ClusterState.apply` is the only door through which it changes, and entries come in order, once.
Every process folds the same entries and so has the same state at the same position, slot for slot.
Traffic moves only the position and the highest `n` of its epoch.
A slot is a row of the columns: the lowest free one is assigned in log order, and freeing it clears the row.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias, assert_never

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.core.events import (
    NEVER_SAMPLED,
    Class,
    ClockStepped,
    ConfigAccepted,
    ConfigRejected,
    ControlStarted,
    ControlStopped,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EntriesAdopted,
    EntriesLost,
    Entry,
    Event,
    FeedLost,
    FeedRestored,
    LabelsChanged,
    LoadSampled,
    LogCreated,
    ObjectiveApplied,
    ObjectiveDeleted,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    PoolApplied,
    PoolDeleted,
    ProcessEnded,
    ProcessStarted,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ResponseStarted,
    RouteDeleted,
    RouteObserved,
    ScrapeFailed,
    ScrapePaced,
    SourceAccepted,
    SourceRejected,
    WeightsIntended,
    WeightsRefused,
    WeightsWritten,
    decode,
)
from pointsman.core.packing import unpack, unpack_floats

Slots = npt.NDArray[np.int64]


class RoutedMark(msgspec.Struct, frozen=True, array_like=True, tag="request-routed"):
    """What the fold reads of a RequestRouted."""

    origin: Origin
    decided_at: float
    request: msgspec.Raw
    endpoints: tuple[int, ...]


class RefusedMark(msgspec.Struct, frozen=True, array_like=True, tag="request-refused"):
    """What the fold reads of a RequestRefused."""

    origin: Origin


class StartedMark(msgspec.Struct, frozen=True, array_like=True, tag="response-started"):
    """What the fold reads of a ResponseStarted."""

    origin: Origin


class FinishedMark(msgspec.Struct, frozen=True, array_like=True, tag="request-finished"):
    """What the fold reads of a RequestFinished."""

    origin: Origin
    request_n: int


Mark: TypeAlias = RoutedMark | RefusedMark | StartedMark | FinishedMark
MARKS = (RoutedMark, RefusedMark, StartedMark, FinishedMark)
_marks: msgspec.msgpack.Decoder[Mark] = msgspec.msgpack.Decoder(Mark)


def skim(kind: int, body: bytes) -> Event | Mark:
    """Decode as much of an entry's body as the fold reads; of traffic that is a third of the work.

    `msgspec.DecodeError` for a tag or a shape that this version does not know.
    """
    return _marks.decode(body) if kind == Class.TRAFFIC else decode(body)


VERSION = 1
"""Of the fold itself: a snapshot made by another version is not used."""


class Endpoint(msgspec.Struct, frozen=True):
    """A member of a pool."""

    number: int
    slot: int
    pool: str
    uid: str
    namespace: str
    name: str
    address: str
    port: int
    rank: int
    labels: dict[str, str]
    ready: bool

    @property
    def authority(self) -> str:
        """`address:port`, IPv6 in brackets: what the gateway is told."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Adapters(msgspec.Struct, frozen=True):
    """The LoRA adapters of one endpoint."""

    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    max: int = 0


class Epoch(msgspec.Struct):
    """An open life of a picker process."""

    picker: str
    epoch: int
    highest_n: int
    build: str = ""
    scheduler: int = 0
    plugins: dict[str, int] = {}
    adopted_to: int = 0
    """Entries up to this `n` rest on another log's cluster state."""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A slot's columns, as a snapshot holds them."""

    endpoint: Endpoint
    generation: int
    waiting: int
    running: int
    kv_cache: float
    age: float
    sampled_at: float
    adapters: Adapters
    cache_block_tokens: int
    cache_blocks: int


class ClusterSnapshot(msgspec.Struct, frozen=True):
    """A cluster state written down; equal states give equal bytes."""

    version: int
    position: int
    log_id: str
    next_endpoint: int
    pools: list[PoolApplied]
    configs: list[ConfigAccepted]
    objectives: list[ObjectiveApplied]
    routes: list[RouteObserved]
    rejected_sources: list[SourceRejected]
    pending_changes: list[WeightsIntended]
    epochs: list[Epoch]
    interval: float
    threshold: float
    rows: list[Row]
    free_generations: list[tuple[int, int]]
    """(slot, generation) of rows that are free."""


class ClusterState:
    """The projection; columns are indexed by slot.

    number: int64, the endpoint's, 0 where the slot is free.
    waiting, running: int64 counts.  kv_cache: float64, 0 to 1.
    age: seconds from last success to last attempt of the scrape, 0 when fresh, infinite when never sampled.
    sampled_at: seconds since 1970 of the last success, for people.
    cache_block_tokens, cache_blocks: int64, 0 where unknown.
    """

    def __init__(self) -> None:
        self.position = 0
        self.log_id = ""
        self.next_endpoint = 1
        self.pools: dict[str, PoolApplied] = {}
        self.configs: dict[str, ConfigAccepted] = {}
        self.objectives: dict[tuple[str, str], int] = {}
        self.routes: dict[str, RouteObserved] = {}
        self.rejected_sources: dict[str, SourceRejected] = {}
        self.pending_changes: dict[str, WeightsIntended] = {}
        """Weight changes that are recorded as wanted and not yet as written or refused."""
        self.epochs: dict[tuple[str, int], Epoch] = {}
        self.interval = 0.0
        self.threshold = 0.0
        self.endpoints: dict[int, Endpoint] = {}
        self.by_slot: list[Endpoint | None] = []
        self.generation: list[int] = []
        self.adapters: list[Adapters] = []
        self.membership_version = 0
        """Rises whenever candidates may differ: caches by pool are good for one value of it."""
        self.adapters_version = 0
        self.load_version = 0
        """Rises with every entry about load, so that what is computed from it may be kept until then."""
        self._free: list[int] = []
        self._ready: dict[str, Slots] = {}
        self._sampled_slots: dict[bytes, tuple[Slots | slice, npt.NDArray[np.bool_] | None]] = {}
        self._affinity: dict[str, tuple[int, npt.NDArray[np.int8]]] = {}
        self._held: dict[str, tuple[int, npt.NDArray[np.bool_]]] = {}
        self._widen(16)

    def _widen(self, capacity: int) -> None:
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
        column("sampled_at", np.float64, 0.0)
        column("cache_block_tokens", np.int64, 0)
        column("cache_blocks", np.int64, 0)

    number: npt.NDArray[np.int64]
    waiting: npt.NDArray[np.int64]
    running: npt.NDArray[np.int64]
    kv_cache: npt.NDArray[np.float64]
    age: npt.NDArray[np.float64]
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

    def config(self, pool: str) -> ConfigAccepted | None:
        """The configuration in force for the pool; None where even the default is missing."""
        return self.configs.get(pool) or self.configs.get("*")

    def priority(self, pool: str, objective: str) -> int:
        """The priority of the named InferenceObjective in the pool, 0 without one."""
        return self.objectives.get((pool, objective), 0) if objective else 0

    def lora_affinity(self, model: str) -> npt.NDArray[np.int8]:
        """By slot: 3 the adapter runs, 2 there is room for it, 1 it waits, 0 none of these.

        The order of the tests is lora-affinity-scorer's: a waiting adapter on a server with room is 2.
        """
        known = self._affinity.get(model)
        if known is None or known[0] != self.adapters_version:
            codes = [
                3
                if model in a.running
                else 2
                if len(a.running) + len(a.waiting) < a.max
                else 1
                if model in a.waiting
                else 0
                for a in self.adapters
            ]
            if len(self._affinity) >= 1024:  # model names come from clients
                self._affinity.clear()
            known = (self.adapters_version, np.array(codes, dtype=np.int8))
            self._affinity[model] = known
        return known[1]

    def lora_held(self, model: str) -> npt.NDArray[np.bool_]:
        """By slot: the adapter runs or waits."""
        known = self._held.get(model)
        if known is None or known[0] != self.adapters_version:
            held = np.array([model in a.running or model in a.waiting for a in self.adapters], dtype=np.bool_)
            if len(self._held) >= 1024:  # model names come from clients
                self._held.clear()
            known = self._held[model] = (self.adapters_version, held)
        return known[1]

    # --- the fold -------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Fold `entry`, which must be the next one."""
        assert entry.position == self.position + 1, (
            f"entry {entry.position} after {self.position}: entries apply in order, once"
        )
        self.apply_event(entry.position, skim(entry.kind, entry.body))

    def apply_event(self, position: int, event: Event | Mark) -> None:
        """Fold an entry whose body is already decoded."""
        self.position = position
        match event:
            case RoutedMark(origin) | RefusedMark(origin) | StartedMark(origin) | FinishedMark(origin):
                self._advance(origin)
            case RequestRouted(origin) | RequestRefused(origin) | ResponseStarted(origin) | RequestFinished(origin):
                self._advance(origin)
            case LoadSampled():
                self._sampled(event)
            case ScrapeFailed():
                self._failed(event)
            case LabelsChanged():
                self._labelled(event)
            case ScrapePaced(interval, threshold):
                self.load_version += 1
                self.interval, self.threshold = interval, threshold
            case EndpointJoined():
                self._joined(event)
            case EndpointChanged(number, ready, labels):
                member = self.endpoints[number]
                self._place(msgspec.structs.replace(member, ready=ready, labels=labels))
            case EndpointLeft(number):
                self._left(number)
            case PoolApplied(pool):
                self.pools[pool] = event
                self._moved()
            case PoolDeleted(pool):
                self.pools.pop(pool, None)
                for member in self.members(pool):
                    self._left(member.number)
                self._moved()
            case ObjectiveApplied(pool, name, priority):
                self.objectives[pool, name] = priority
            case ObjectiveDeleted(pool, name):
                self.objectives.pop((pool, name), None)
            case RouteObserved(route):
                self.routes[route] = event
            case RouteDeleted(route):
                self.routes.pop(route, None)
            case SourceAccepted(source):
                self.rejected_sources.pop(source, None)
            case SourceRejected(source):
                self.rejected_sources[source] = event
            case ConfigAccepted(pool):
                self.configs[pool] = event
            case PickerStarted(origin, build, scheduler, plugins):
                key = (origin.picker, origin.epoch)
                adopted_to = self.epochs[key].adopted_to if key in self.epochs else 0
                self.epochs[key] = Epoch(*key, origin.n, build, scheduler, plugins, adopted_to)
            case PickerEnded(picker, epoch):
                self.epochs.pop((picker, epoch), None)
            case FeedLost(origin) | FeedRestored(origin) | OpenRequestsListed(origin):
                self._advance(origin)
            case EntriesLost(picker, epoch, _, last):
                if (known := self.epochs.get((picker, epoch))) is not None:
                    known.highest_n = max(known.highest_n, last)
            case EntriesAdopted(picker, epoch, first, last):
                if (known := self.epochs.get((picker, epoch))) is None:
                    known = self.epochs[picker, epoch] = Epoch(picker, epoch, first - 1)
                known.adopted_to = last
            case LogCreated(log_id):
                self.log_id = log_id
            case WeightsIntended(change):
                self.pending_changes[change] = event
            case WeightsWritten(change) | WeightsRefused(change):
                self.pending_changes.pop(change, None)
            case (
                ControlStarted()
                | ControlStopped()
                | ConfigRejected()
                | ClockStepped()
                | ProcessStarted()
                | ProcessEnded()
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

    def _advance(self, origin: Origin) -> None:
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

    def _joined(self, event: EndpointJoined) -> None:
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot = len(self.by_slot)
            if slot == len(self.waiting):
                self._widen(2 * slot)
            self.by_slot.append(None)
            self.generation.append(0)
            self.adapters.append(Adapters())
            self.adapters_version += 1
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
            )
        )

    def _left(self, number: int) -> None:
        member = self.endpoints.pop(number)
        slot = member.slot
        self.by_slot[slot] = None
        self.generation[slot] += 1
        self.adapters[slot] = Adapters()
        self.adapters_version += 1
        self.number[slot] = self.waiting[slot] = self.running[slot] = 0
        self.cache_block_tokens[slot] = self.cache_blocks[slot] = 0
        self.kv_cache[slot] = self.sampled_at[slot] = 0.0
        self.age[slot] = math.inf
        heapq.heappush(self._free, slot)
        self._moved()

    def _sampled(self, event: LoadSampled) -> None:
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
        """The slots of the endpoints of a sample, and which of these are still members where some have left.

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

    def _failed(self, event: ScrapeFailed) -> None:
        self.load_version += 1
        for number, age in zip(unpack(event.endpoints).tolist(), unpack(event.ages).tolist(), strict=True):
            if (member := self.endpoints.get(number)) is not None:
                self.age[member.slot] = math.inf if age == NEVER_SAMPLED else age / 1000

    def _labelled(self, event: LabelsChanged) -> None:
        self.load_version += 1
        member = self.endpoints.get(event.endpoint)
        if member is None:
            return
        self.adapters[member.slot] = Adapters(
            frozenset(event.lora_running), frozenset(event.lora_waiting), event.lora_max
        )
        self.cache_block_tokens[member.slot] = event.cache_block_tokens
        self.cache_blocks[member.slot] = event.cache_blocks
        self.adapters_version += 1

    # --- snapshots ------------------------------------------------------------------------------

    def snapshot(self) -> ClusterSnapshot:
        """Write the state down."""
        return ClusterSnapshot(
            version=VERSION,
            position=self.position,
            log_id=self.log_id,
            next_endpoint=self.next_endpoint,
            pools=[self.pools[k] for k in sorted(self.pools)],
            configs=[self.configs[k] for k in sorted(self.configs)],
            objectives=[
                ObjectiveApplied(pool, name, self.objectives[pool, name]) for pool, name in sorted(self.objectives)
            ],
            routes=[self.routes[k] for k in sorted(self.routes)],
            rejected_sources=[self.rejected_sources[k] for k in sorted(self.rejected_sources)],
            pending_changes=[self.pending_changes[k] for k in sorted(self.pending_changes)],
            epochs=[msgspec.structs.replace(self.epochs[k]) for k in sorted(self.epochs)],
            interval=self.interval,
            threshold=self.threshold,
            rows=[self._row(e) for e in self.by_slot if e is not None],
            free_generations=[(slot, self.generation[slot]) for slot in sorted(self._free)],
        )

    def _row(self, member: Endpoint) -> Row:
        slot = member.slot
        return Row(
            endpoint=member,
            generation=self.generation[slot],
            waiting=int(self.waiting[slot]),
            running=int(self.running[slot]),
            kv_cache=float(self.kv_cache[slot]),
            age=float(self.age[slot]),
            sampled_at=float(self.sampled_at[slot]),
            adapters=self.adapters[slot],
            cache_block_tokens=int(self.cache_block_tokens[slot]),
            cache_blocks=int(self.cache_blocks[slot]),
        )

    @classmethod
    def restore(cls, snapshot: ClusterSnapshot) -> "ClusterState":
        """The state that `snapshot` wrote down; `ValueError` where another version made it."""
        if snapshot.version != VERSION:
            raise ValueError(f"snapshot of projection version {snapshot.version}, wanted {VERSION}")
        state = cls()
        state.position = snapshot.position
        state.log_id = snapshot.log_id
        state.next_endpoint = snapshot.next_endpoint
        state.pools = {p.pool: p for p in snapshot.pools}
        state.configs = {c.pool: c for c in snapshot.configs}
        state.objectives = {(o.pool, o.name): o.priority for o in snapshot.objectives}
        state.routes = {r.route: r for r in snapshot.routes}
        state.rejected_sources = {r.source: r for r in snapshot.rejected_sources}
        state.pending_changes = {c.change: c for c in snapshot.pending_changes}
        state.epochs = {(e.picker, e.epoch): msgspec.structs.replace(e) for e in snapshot.epochs}
        state.interval, state.threshold = snapshot.interval, snapshot.threshold
        count = len(snapshot.rows) + len(snapshot.free_generations)
        capacity = len(state.waiting)
        while capacity < count:
            capacity *= 2
        state._widen(capacity)
        state.by_slot = [None] * count
        state.generation = [0] * count
        state.adapters = [Adapters()] * count
        for slot, generation in snapshot.free_generations:
            state.generation[slot] = generation
        state._free = [slot for slot, _ in snapshot.free_generations]
        for row in snapshot.rows:
            slot = row.endpoint.slot
            state.by_slot[slot] = state.endpoints[row.endpoint.number] = row.endpoint
            state.generation[slot] = row.generation
            state.number[slot] = row.endpoint.number
            state.adapters[slot] = row.adapters
            state.waiting[slot], state.running[slot] = row.waiting, row.running
            state.kv_cache[slot], state.age[slot], state.sampled_at[slot] = row.kv_cache, row.age, row.sampled_at
            state.cache_block_tokens[slot], state.cache_blocks[slot] = row.cache_block_tokens, row.cache_blocks
        return state


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(ClusterSnapshot)


def encode_snapshot(state: ClusterState) -> bytes:
    """The state's bytes: equal states, equal bytes."""
    return _encoder.encode(state.snapshot())


def decode_snapshot(data: bytes) -> ClusterState:
    """The state of `encode_snapshot`'s bytes; `msgspec.DecodeError` or `ValueError` where they are none."""
    return ClusterState.restore(_decoder.decode(data))


def replay(entries: Iterable[Entry], state: ClusterState) -> ClusterState:
    """Fold `entries` onto `state`, a restored snapshot or a new one, and return it."""
    for entry in entries:
        state.apply(entry)
    return state


class OpenRequests:
    """The routed requests that have no end yet, of every epoch, folded from committed entries.

    Beside the cluster state, because decisions do not depend on it: in-flight counts are traffic state.
    The control process closes requests with it, and tells a picker those of other epochs.
    """

    def __init__(self) -> None:
        self.by_epoch: dict[tuple[str, int], dict[int, int]] = {}
        """(picker, epoch) to {n of the decision: number of its chosen endpoint}."""

    def apply_event(self, event: Event | Mark) -> None:
        """Fold one event."""
        match event:
            case RequestRouted(origin) | RoutedMark(origin):
                self.by_epoch.setdefault((origin.picker, origin.epoch), {})[origin.n] = event.endpoints[0]
            case RequestFinished(origin, request_n) | FinishedMark(origin, request_n):
                self.by_epoch.get((origin.picker, origin.epoch), {}).pop(request_n, None)
            case OpenRequestsListed(origin, listed):
                mine = self.by_epoch.get((origin.picker, origin.epoch), {})
                keep = set(unpack(listed).tolist())
                self.by_epoch[origin.picker, origin.epoch] = {n: e for n, e in mine.items() if n in keep}
            case PickerEnded(picker, epoch):
                self.by_epoch.pop((picker, epoch), None)
            case _:
                pass

    def apply_traffic(self, marks: Sequence[Mark]) -> None:
        """Fold traffic entries that follow each other."""
        epoch, mine = -1, dict[int, int]()
        for mark in marks:
            kind = type(mark)
            if kind is not RoutedMark and kind is not FinishedMark:
                continue
            origin = mark.origin
            if origin.epoch != epoch:
                epoch = origin.epoch
                mine = self.by_epoch.setdefault((origin.picker, epoch), {})
            if isinstance(mark, RoutedMark):
                mine[origin.n] = mark.endpoints[0]
            elif isinstance(mark, FinishedMark):
                mine.pop(mark.request_n, None)

    def in_flight(self) -> dict[int, int]:
        """Open requests by endpoint number."""
        counts: dict[int, int] = {}
        for requests in self.by_epoch.values():
            for endpoint in requests.values():
                counts[endpoint] = counts.get(endpoint, 0) + 1
        return counts
