"""The cluster state is what its entries add up to, wherever one starts."""

import math
from typing import Any

from hypothesis import given, strategies as st
from worlds.event_strategies import entries, histories

from pointsman.core.events import (
    BackendRef,
    EndpointJoined,
    EndpointLeft,
    Entry,
    Event,
    LogCreated,
    ObjectiveApplied,
    ObjectiveDeleted,
    PoolApplied,
    PoolDeleted,
    RouteDeleted,
    RouteMatch,
    RouteObserved,
    RouteRule,
)
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import decode_snapshot, encode_snapshot

GOLDEN = (
    b"\xde\x00\x11\xa7version\x02\xa8position\n\xa6log_id\xa3log"
    b"\xadnext_endpoint\x01"
    b"\xa5pools\x92\x99\xacpool-applied\xa9default/a\x82\xa3app\xa1a\xa4tier\xa1x\x92\xcd\x1f@\xcd\x1fA\xa3epp\xcd#*\xa8FailOpen\xa4http\xa6a.yaml"
    b"\x99\xacpool-applied\xa9default/b\x81\xa3app\xa1b\x91\xcd\x1f@\xa0\x00\xa9FailClose\xa4http\xa0"
    b"\xa7configs\x90"
    b"\xaaobjectives\x92\x95\xb1objective-applied\xa9default/a\xa5batch\xfe\xa0\x95\xb1objective-applied\xa9default/a\xa4chat\x01\xa0"
    b"\xa6routes\x91\x96\xaeroute-observed\xa9default/r\x91\x99\x91\x96\xa1/\xaaPathPrefix\x90\xa0\x90\xa0\x91\x96\xa9default/aZ\xadInferencePool\xbbinference.networking.k8s.io\x90\xa0\xa0\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x90\xc0\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x90\xa6r.yaml\xa2v1"
    b"\xb0rejected_sources\x90\xafpending_changes\x90"
    b"\xa6epochs\x90\xa8interval\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa9threshold\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa4rows\x90\xb0free_generations\x90"
    b"\xa9processes\x90\xadprefix_blocks\x90"
)

WITHOUT_SOURCES = (
    GOLDEN.replace(b"\x95\xb1objective", b"\x94\xb1objective")
    .replace(b"\xfe\xa0", b"\xfe")
    .replace(b"chat\x01\xa0", b"chat\x01")
    .replace(b"\x91\x99\x91\x96\xa1/", b"\x91\x94\x91\x94\xa1/")
    .replace(b"\x90\xa0\x90\xa0\x91\x96\xa9default", b"\x90\xa0\x91\x94\xa9default")
    .replace(b"k8s.io\x90\xa0\xa0\xcb", b"k8s.io\xa0\xcb")
    .replace(b"\xa0\x90\xc0\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x90\xa6r.yaml", b"\x90\xa6r.yaml")
)
"""The same from before objectives had a source, rules a reason why they cannot be written, and filters."""


OF_VERSION_1 = GOLDEN.replace(b"\xde\x00\x11\xa7version\x02", b"\x8f\xa7version\x01").replace(
    b"\xa9processes\x90\xadprefix_blocks\x90", b""
)


def replay(log: list[Entry], state: ClusterState) -> ClusterState:
    """Fold a log onto a state."""
    for entry in log:
        state.apply(entry)
    return state


@given(histories(), st.data())
def test_snapshot_and_tail_equal_the_whole(history: list[Event], data: st.DataObject) -> None:
    log = entries(history)
    split = data.draw(st.integers(0, len(log)))
    whole = replay(log, ClusterState())

    head = encode_snapshot(replay(log[:split], ClusterState()))
    rebuilt = replay(log[split:], decode_snapshot(head))

    assert encode_snapshot(rebuilt) == encode_snapshot(whole)
    assert encode_snapshot(decode_snapshot(head)) == head


def test_a_snapshot_has_the_bytes_that_are_on_disks() -> None:
    rule = RouteRule((RouteMatch(),), (BackendRef("default/a", 90),))
    log: list[Event] = [
        LogCreated("log", "build"),
        PoolApplied("default/b", {"app": "b"}, (8000,)),
        PoolApplied("default/a", {"app": "a", "tier": "x"}, (8000, 8001), "epp", 9002, "FailOpen", source="a.yaml"),
        ObjectiveApplied("default/a", "chat", 1),
        ObjectiveApplied("default/a", "batch", -2),
        ObjectiveApplied("default/b", "batch", 3),
        ObjectiveDeleted("default/b", "batch"),
        RouteObserved("default/r", (rule,), (), "r.yaml", "v1"),
        RouteObserved("default/q", ()),
        RouteDeleted("default/q"),
    ]

    assert encode_snapshot(replay(entries(log), ClusterState())) == GOLDEN
    assert encode_snapshot(decode_snapshot(GOLDEN)) == GOLDEN
    assert encode_snapshot(decode_snapshot(OF_VERSION_1)) == GOLDEN
    assert WITHOUT_SOURCES != GOLDEN
    assert encode_snapshot(decode_snapshot(WITHOUT_SOURCES)) == GOLDEN


@given(histories())
def test_the_same_log_gives_the_same_slots_and_bytes(history: list[Event]) -> None:
    log = entries(history)

    one, other = replay(log, ClusterState()), replay(log, ClusterState())

    assert [e and e.number for e in one.by_slot] == [e and e.number for e in other.by_slot]
    assert encode_snapshot(one) == encode_snapshot(other)


@given(histories())
def test_slots_are_assigned_lowest_free_first_and_generations_count_their_freeing(history: list[Event]) -> None:
    occupied: dict[int, int] = {}
    freed: dict[int, int] = {}
    pools: dict[int, str] = {}
    state = ClusterState()
    for entry in entries(history):
        gone: list[int] = []
        match event := entry.event:
            case EndpointJoined():
                slot = next(slot for slot in range(len(occupied) + 1) if slot not in occupied)
                occupied[slot], pools[event.endpoint] = event.endpoint, event.pool
            case EndpointLeft():
                gone = [event.endpoint]
            case PoolDeleted():
                gone = [number for number in occupied.values() if pools[number] == event.pool]
            case _:
                pass
        for slot in [slot for slot, number in occupied.items() if number in gone]:
            del occupied[slot]
            freed[slot] = freed.get(slot, 0) + 1
        state.apply(entry)

        assert {e.slot: e.number for e in state.by_slot if e is not None} == occupied
        assert {slot: count for slot, count in enumerate(state.generation) if count} == freed


@given(histories())
def test_the_row_of_a_free_slot_is_clear(history: list[Event]) -> None:
    state = replay(entries(history), ClusterState())

    for slot, member in enumerate(state.by_slot):
        if member is None:
            row: list[Any] = [
                state.waiting[slot],
                state.running[slot],
                state.kv_cache[slot],
                state.cache_blocks[slot],
                state.cache_block_tokens[slot],
                state.sampled_at[slot],
            ]
            assert row == [0] * len(row)
            assert math.isinf(state.age[slot])
            assert state.adapters[slot].running == frozenset()


@given(histories())
def test_candidates_are_the_ready_members_of_the_pool(history: list[Event]) -> None:
    state = replay(entries(history), ClusterState())

    for pool in ("default/a", "default/b"):
        members = state.members(pool)
        assert state.ready(pool).tolist() == sorted(member.slot for member in members if member.ready)


@given(histories())
def test_open_requests_are_those_routed_and_not_finished(history: list[Event]) -> None:
    requests = OpenRequests()
    for event in history:
        requests.apply_event(event)

    assert all(number > 0 for number in requests.in_flight())
    assert sum(requests.in_flight().values()) == sum(len(epoch) for epoch in requests.by_epoch.values())
