"""The traffic state against its independent model, and its rules one by one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from worlds import traffic_model
from worlds.event_strategies import entries, facts
from worlds.strategies import folded, ints

from pointsman.core.events import (
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EntriesLost,
    Event,
    LabelsChanged,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    PoolApplied,
    PoolDeleted,
    Read,
    RequestFinished,
    RequestRouted,
)
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import decode_snapshot, encode_snapshot
from pointsman.core.state.traffic import Column, NotRecordedError, PrefixRoom, RecordedTraffic, TrafficState
from pointsman.core.values.packing import pack

POOL = "default/a"
CAPACITY, BLOCKS_MAX = 6, 20


def joined(number: int, pool: str = POOL) -> EndpointJoined:
    return EndpointJoined(number, pool, f"uid-{number}", "default", f"pod-{number}", f"10.0.0.{number}", 8000)


def chain(family: int, length: int) -> bytes:
    """The hashes of a prompt; prompts of one family begin alike."""
    return np.array([1000 * family + i + 1 for i in range(length)], dtype="<u8").tobytes()


def routed(n: int, endpoint: int, prefix: bytes = b"", picker: str = "picker-1", applied: int = 0) -> RequestRouted:
    return RequestRouted(Origin(picker, 1, n, applied), 0.0, facts(POOL, prefix), (endpoint,))


class Picker:
    """A picker process, as far as its states go."""

    def __init__(self, name: str, epoch: int, log: list[Event]) -> None:
        self.name, self.epoch = name, epoch
        requests = OpenRequests()
        for event in log:
            requests.apply_event(event)
        self.cluster = decode_snapshot(encode_snapshot(folded(log)))
        self.traffic = TrafficState(BLOCKS_MAX)
        self.traffic.rooms[POOL] = PrefixRoom(CAPACITY)
        self.traffic.follow(self.cluster)
        self.traffic.replace_foreign(requests.by_epoch, self.cluster)
        self.applied = len(log)
        self.n = 0
        self.unsent: list[Event] = []
        self.open: dict[int, int] = {}
        self.say(PickerStarted(self.origin(), "build", 1, {}))

    def origin(self) -> Origin:
        self.n += 1
        return Origin(self.name, self.epoch, self.n, self.applied)

    def say(self, event: Event) -> None:
        self.unsent.append(event)

    def apply(self, event: Event) -> None:
        self.applied += 1
        self.cluster.apply_event(self.applied, event)
        self.traffic.follow(self.cluster)
        origin: Any = getattr(event, "origin", None)
        if origin is None or (origin.picker, origin.epoch) != (self.name, self.epoch):
            self.traffic.observe(event, self.cluster)


class TrafficMachine(RuleBasedStateMachine):
    """Two picker processes and a log: whatever happens, every decision read what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Event] = [PoolApplied(POOL, {}, (8000,)), joined(1), joined(2), LabelsChanged(2, cache_blocks=3)]
        self.next = 3
        self.epoch = 0
        self.members = {1, 2}
        self.pickers = [self.start("picker-1"), self.start("picker-2")]

    def start(self, name: str) -> Picker:
        self.epoch += 1
        return Picker(name, self.epoch, self.log)

    @rule()
    def join(self) -> None:
        self.log.append(joined(self.next))
        self.members.add(self.next)
        self.next += 1

    @precondition(lambda self: self.members)
    @rule(data=st.data(), what=st.sampled_from(("leave", "change", "label")))
    def alter(self, data: st.DataObject, what: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.members)))
        if what == "leave":
            self.members.discard(number)
            self.log.append(EndpointLeft(number))
        elif what == "change":
            self.log.append(EndpointChanged(number, data.draw(st.booleans())))
        else:
            self.log.append(LabelsChanged(number, cache_blocks=data.draw(st.sampled_from((0, 2, 4)))))

    @rule()
    def delete_pool(self) -> None:
        if self.next % 5 == 0:
            self.members.clear()
            self.log.append(PoolDeleted(POOL))

    @rule(which=st.integers(0, 1), count=st.sampled_from((1, 2, 1000)))
    def deliver(self, which: int, count: int) -> None:
        picker = self.pickers[which]
        for event in self.log[picker.applied : picker.applied + count]:
            picker.apply(event)

    @rule(which=st.integers(0, 1), count=st.integers(1, 4))
    def commit(self, which: int, count: int) -> None:
        picker = self.pickers[which]
        self.log += picker.unsent[:count]
        del picker.unsent[:count]

    @rule(which=st.integers(0, 1), data=st.data())
    def decide_often(self, which: int, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, 6))):
            self.decide(self.pickers[which], data)

    def decide(self, picker: Picker, data: st.DataObject) -> None:
        family, length = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 8))
        cluster, traffic = picker.cluster, picker.traffic
        ready = cluster.ready(POOL)
        candidates = ready[~np.isin(ready, traffic.avoided())]
        if not len(candidates):
            return
        request = facts(POOL, chain(family, length))
        reads = tuple(Read(c, pack(traffic.column(c, request, candidates))) for c in Column)
        member = cluster.by_slot[data.draw(st.sampled_from(candidates.tolist()))]
        assert member is not None
        out = ready[np.isin(ready, traffic.avoided())]
        event = RequestRouted(picker.origin(), 0.0, request, (member.number,), (), (), reads, pack(out))
        traffic.routed(picker.n, event, cluster)
        picker.open[picker.n] = member.number
        picker.say(event)

    @rule(which=st.integers(0, 1), data=st.data())
    def finish(self, which: int, data: st.DataObject) -> None:
        picker = self.pickers[which]
        if picker.open:
            n = data.draw(st.sampled_from(sorted(picker.open)))
            del picker.open[n]
            picker.traffic.finished(n)
            picker.say(RequestFinished(picker.origin(), n, "complete", 200, 0.1))

    @rule(which=st.integers(0, 1), number=st.integers(1, 6), back=st.booleans())
    def advise(self, which: int, number: int, back: bool) -> None:
        traffic = self.pickers[which].traffic
        if back:
            traffic.withdraw((number,))
        elif number in self.pickers[which].cluster.endpoints:
            traffic.advise((number,))

    @rule(which=st.integers(0, 1), seldom=st.integers(0, 3))
    def restart(self, which: int, seldom: int) -> None:
        if seldom:
            return
        old = self.pickers[which]
        if old.unsent:
            first = old.n - len(old.unsent) + 1
            self.log.append(EntriesLost(old.name, old.epoch, first, old.n))
        self.log.append(PickerEnded(old.name, old.epoch, "killed", old.n))
        self.pickers[which] = self.start(old.name)

    @invariant()
    def open_requests_are_those_of_the_model(self) -> None:
        for picker in self.pickers:
            assert picker.traffic.open_numbers().tolist() == sorted(picker.open)
            held = picker.traffic.column(Column.IN_FLIGHT, facts(), np.arange(picker.cluster.slots))
            for slot, member in enumerate(picker.cluster.by_slot):
                if member is None:
                    assert held[slot] == 0

    def teardown(self) -> None:
        for picker in self.pickers:
            self.log += picker.unsent
        check = traffic_model.compare(entries(self.log), capacity=CAPACITY, blocks_max=BLOCKS_MAX)

        assert check.differences == []
        assert check.skipped == 0


TestTrafficAgainstItsModel = TrafficMachine.TestCase
TestTrafficAgainstItsModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def followed(*events: Event) -> tuple[TrafficState, ClusterState]:
    cluster = folded([PoolApplied(POOL, {}, (8000,)), *events])
    traffic = TrafficState()
    traffic.follow(cluster)
    return traffic, cluster


def step(traffic: TrafficState, cluster: ClusterState, *events: Event) -> None:
    for event in events:
        cluster.apply_event(cluster.position + 1, event)
        traffic.follow(cluster)
        traffic.observe(event, cluster)


def in_flight(traffic: TrafficState, *slots: int) -> list[int]:
    values: list[int] = traffic.column(Column.IN_FLIGHT, facts(), ints(*slots)).tolist()
    return values


def test_a_recorded_value_that_is_wrong_is_told_by_the_model() -> None:
    wrong = RequestRouted(
        Origin("picker-1", 1, 2, 3), 0.0, facts(POOL), (1,), reads=(Read(Column.IN_FLIGHT, pack(ints(0, 7))),)
    )
    started = PickerStarted(Origin("picker-1", 1, 1, 3), "", 1, {})
    log: list[Event] = [PoolApplied(POOL, {}, (8000,)), joined(1), joined(2), started, wrong]

    differences = traffic_model.check_log(entries(log))

    assert differences == ["decision 2 of picker-1 on 3: column 1 of endpoint 2 is 7, wanted 0"]


def test_a_late_end_touches_nobody_who_took_the_slot() -> None:
    traffic, cluster = followed(joined(1))
    traffic.routed(1, routed(1, 1), cluster)

    step(traffic, cluster, EndpointLeft(1), joined(2))
    traffic.routed(2, routed(2, 2), cluster)
    traffic.finished(1)

    assert in_flight(traffic, 0) == [1]
    assert traffic.statistics().late == 1


def test_a_slot_freed_and_taken_between_two_calls_of_follow_is_cleared() -> None:
    traffic, cluster = followed(joined(1))
    traffic.routed(1, routed(1, 1, chain(1, 3)), cluster)

    cluster.apply_event(cluster.position + 1, EndpointLeft(1))
    cluster.apply_event(cluster.position + 1, joined(2))
    traffic.follow(cluster)

    assert in_flight(traffic, 0) == [0]
    assert traffic.column(Column.PREFIX_BLOCKS, facts(POOL, chain(1, 3)), ints(0)).tolist() == [0]


def test_the_chosen_endpoint_alone_is_given_the_prefix() -> None:
    traffic, cluster = followed(joined(1), joined(2))
    event = RequestRouted(Origin("picker-1", 1, 1, 3), 0.0, facts(POOL, chain(1, 3)), (2, 1))

    traffic.routed(1, event, cluster)

    assert traffic.column(Column.PREFIX_BLOCKS, facts(POOL, chain(1, 5)), ints(0, 1)).tolist() == [0, 3]
    assert in_flight(traffic, 0, 1) == [0, 1]


def test_advice_ends_with_the_next_entry_about_its_endpoint() -> None:
    traffic, cluster = followed(joined(1), joined(2))

    traffic.advise((1, 2))
    assert traffic.avoided().tolist() == [0, 1]
    step(traffic, cluster, LabelsChanged(1))
    assert traffic.avoided().tolist() == [0, 1]
    step(traffic, cluster, EndpointChanged(1, False))
    assert traffic.avoided().tolist() == [1]
    step(traffic, cluster, EndpointLeft(2))
    assert traffic.avoided().tolist() == []


def test_advice_ends_with_a_withdrawal_and_with_a_reconnect() -> None:
    traffic, _ = followed(joined(1), joined(2))

    traffic.advise((1, 2))
    traffic.withdraw((1,))
    assert traffic.avoided().tolist() == [1]
    traffic.clear_advice()
    assert traffic.avoided().tolist() == []


def test_requests_of_other_epochs_are_replaced_and_end_with_their_process() -> None:
    traffic, cluster = followed(joined(1), joined(2))
    step(traffic, cluster, routed(1, 1, picker="picker-2"))

    traffic.replace_foreign({("picker-2", 1): {5: 2, 6: 2, 7: 99}, ("picker-3", 9): {1: 1}}, cluster)
    assert in_flight(traffic, 0, 1) == [1, 2]
    step(traffic, cluster, OpenRequestsListed(Origin("picker-2", 1, 8, 0), pack(ints(6, 7))))
    assert in_flight(traffic, 0, 1) == [1, 1]
    step(traffic, cluster, PickerEnded("picker-2", 1, "killed", 8), PickerEnded("picker-3", 9, "killed", 1))
    assert in_flight(traffic, 0, 1) == [0, 0]


def test_a_state_of_another_log_keeps_nothing_of_endpoints_that_are_others() -> None:
    traffic, cluster = followed(joined(1), joined(2))
    traffic.routed(1, routed(1, 1, chain(1, 2)), cluster)
    traffic.routed(2, routed(2, 2, chain(1, 2)), cluster)
    other = folded([PoolApplied(POOL, {}, (8000,)), joined(7), joined(2)])

    traffic.follow(other)
    assert in_flight(traffic, 0, 1) == [0, 1]
    assert traffic.column(Column.PREFIX_BLOCKS, facts(POOL, chain(1, 2)), ints(0, 1)).tolist() == [0, 2]
    traffic.finished(1)
    traffic.finished(2)
    assert in_flight(traffic, 0, 1) == [0, 0]


def test_a_restored_snapshot_of_the_same_log_keeps_the_rows() -> None:
    traffic, cluster = followed(joined(1), joined(2))
    traffic.routed(1, routed(1, 2), cluster)

    restored = decode_snapshot(encode_snapshot(cluster))
    traffic.follow(restored)

    assert in_flight(traffic, 0, 1) == [0, 1]


def test_recorded_traffic_answers_what_was_recorded_and_nothing_else() -> None:
    recorded = RecordedTraffic([Read(Column.IN_FLIGHT, pack(ints(3, 4)))], ints(9), True)

    assert recorded.column(Column.IN_FLIGHT, facts(), ints(0, 5)).tolist() == [3, 4]
    assert (recorded.degraded, recorded.avoided().tolist()) == (True, [9])
    with pytest.raises(NotRecordedError, match="prefix_blocks is asked for, recorded are: 1"):
        recorded.column(Column.PREFIX_BLOCKS, facts(), ints(0, 5))
    with pytest.raises(NotRecordedError, match="holds 2 values, asked for are 3 slots"):
        recorded.column(Column.IN_FLIGHT, facts(), ints(0, 5, 6))
    with pytest.raises(NotRecordedError, match="other slots"):
        recorded.column(Column.IN_FLIGHT, facts(), ints(0, 6))
