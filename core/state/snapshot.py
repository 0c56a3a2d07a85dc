"""Snapshots: a cluster state written down, and taken up again.

Equal states give equal bytes.  Objects of a kind are written as the events that applied them.
"""

import msgspec

from pointsman.core.events import (
    AppliedEvent,
    ConfigAccepted,
    ObjectiveApplied,
    PoolApplied,
    SourceRejected,
    WeightsIntended,
)
from pointsman.core.state.membership import Adapters, Endpoint, Epoch, ServerProcess
from pointsman.core.state.prefix_blocks import PrefixBlock, PrefixBlocks
from pointsman.core.state.projection import ClusterState

VERSION = 2
"""Version of the fold: a snapshot that another version made is used only where the log does not go back further.

So each version restores what earlier ones wrote: new fields come last and have a default.
"""


class SlotRow(msgspec.Struct, frozen=True, array_like=True):
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
    unreadable: bool = False
    process_since: int = 0
    asleep: bool = False


class ClusterSnapshot(msgspec.Struct, frozen=True):
    """A cluster state written down."""

    version: int
    position: int
    log_id: str
    next_endpoint: int
    pools: list[PoolApplied]
    configs: list[ConfigAccepted]
    objectives: list[ObjectiveApplied]
    objects: list[AppliedEvent] = msgspec.field(name="routes")
    """Routes, and the objects of every kind without a field of its own; the tag of each tells its kind."""
    rejected_sources: list[SourceRejected]
    pending_changes: list[WeightsIntended]
    epochs: list[Epoch]
    interval: float
    threshold: float
    rows: list[SlotRow]
    free_generations: list[tuple[int, int]]
    """Slot and generation of each free row."""
    processes: list[ServerProcess] = []
    prefix_blocks: list[PrefixBlock] = []


def snapshot_of(state: ClusterState) -> ClusterSnapshot:
    """Write the state down."""
    return ClusterSnapshot(
        version=VERSION,
        position=state.position,
        log_id=state.log_id,
        next_endpoint=state.next_endpoint,
        pools=[state.pools[k] for k in sorted(state.pools)],
        configs=[state.configs[k] for k in sorted(state.configs)],
        objectives=[state.objectives[k] for k in sorted(state.objectives)],
        objects=[one for one in state.objects if not isinstance(one, PoolApplied | ObjectiveApplied)],
        rejected_sources=[state.rejected_sources[k] for k in sorted(state.rejected_sources)],
        pending_changes=[state.pending_changes[k] for k in sorted(state.pending_changes)],
        epochs=[msgspec.structs.replace(state.epochs[k]) for k in sorted(state.epochs)],
        interval=state.interval,
        threshold=state.threshold,
        rows=[_row(state, e) for e in state.by_slot if e is not None],
        free_generations=[(slot, state.generation[slot]) for slot in sorted(state.free)],
        processes=[state.processes[number] for number in sorted(state.processes)],
        prefix_blocks=state.prefix_blocks.all(),
    )


def _row(state: ClusterState, member: Endpoint) -> SlotRow:
    slot = member.slot
    return SlotRow(
        endpoint=member,
        generation=state.generation[slot],
        waiting=int(state.waiting[slot]),
        running=int(state.running[slot]),
        kv_cache=float(state.kv_cache[slot]),
        age=float(state.age[slot]),
        sampled_at=float(state.sampled_at[slot]),
        adapters=state.adapters[slot],
        cache_block_tokens=int(state.cache_block_tokens[slot]),
        cache_blocks=int(state.cache_blocks[slot]),
        unreadable=bool(state.unreadable[slot]),
        process_since=state.process_since[slot],
        asleep=slot in state.sleeping,
    )


def restore(snapshot: ClusterSnapshot) -> ClusterState:
    """The state that `snapshot` wrote down; `ValueError` where a later version made it."""
    if snapshot.version > VERSION:
        raise ValueError(f"snapshot of projection version {snapshot.version}, wanted {VERSION} or before")
    state = ClusterState()
    state.position = snapshot.position
    state.log_id = snapshot.log_id
    state.next_endpoint = snapshot.next_endpoint
    for applied in (*snapshot.pools, *snapshot.objectives, *snapshot.objects):
        state.objects.put(applied)
    state.configs = {c.pool: c for c in snapshot.configs}
    state.rejected_sources = {r.source: r for r in snapshot.rejected_sources}
    state.pending_changes = {c.change: c for c in snapshot.pending_changes}
    state.processes = {one.endpoint: one for one in snapshot.processes}
    state.epochs = {(e.picker, e.epoch): msgspec.structs.replace(e) for e in snapshot.epochs}
    state.interval, state.threshold = snapshot.interval, snapshot.threshold
    state.prefix_blocks = PrefixBlocks(snapshot.prefix_blocks)
    count = len(snapshot.rows) + len(snapshot.free_generations)
    capacity = len(state.waiting)
    while capacity < count:
        capacity *= 2
    state.widen(capacity)
    state.by_slot = [None] * count
    state.generation = [0] * count
    state.adapters.widen(count)
    state.process_since = [0] * count
    for slot, generation in snapshot.free_generations:
        state.generation[slot] = generation
    state.free = [slot for slot, _ in snapshot.free_generations]
    for row in snapshot.rows:
        slot = row.endpoint.slot
        state.by_slot[slot] = state.endpoints[row.endpoint.number] = row.endpoint
        state.generation[slot] = row.generation
        state.number[slot] = row.endpoint.number
        state.adapters[slot] = row.adapters
        state.waiting[slot], state.running[slot] = row.waiting, row.running
        state.kv_cache[slot], state.age[slot], state.sampled_at[slot] = row.kv_cache, row.age, row.sampled_at
        state.cache_block_tokens[slot], state.cache_blocks[slot] = row.cache_block_tokens, row.cache_blocks
        state.unreadable[slot] = row.unreadable
        state.process_since[slot] = row.process_since
        (state.sleeping.add if row.asleep else state.sleeping.discard)(slot)
    return state


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(ClusterSnapshot)


def encode_snapshot(state: ClusterState) -> bytes:
    """The state's bytes: equal states, equal bytes."""
    return _encoder.encode(snapshot_of(state))


def decode_snapshot(data: bytes) -> ClusterState:
    """The state that `encode_snapshot` wrote; `msgspec.DecodeError` or `ValueError` for other bytes."""
    return restore(_decoder.decode(data))
