"""What is wanted becomes the events that are missing, and no others."""

from collections.abc import Sequence

import msgspec
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pointsman.cluster.manifests.source_files import FileFault, SourceFile, settle, wanted_of
from pointsman.cluster.objects.difference import Roster
from pointsman.cluster.objects.manifest import FoundObject, Manifest
from pointsman.cluster.objects.wanted import Member, Pod, Wanted, members_of
from pointsman.core.events import (
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    ObjectiveApplied,
    PoolApplied,
    PoolDeleted,
    RouteObserved,
)
from pointsman.core.state.projection import ClusterState

POOL = PoolApplied("default/llama", {"app": "llama"}, (8000,))
pods = st.builds(
    Pod,
    st.sampled_from(("default", "lab")),
    st.sampled_from(("a", "b", "c")),
    st.sampled_from(("", "uid")),
    st.sampled_from(("", "10.0.0.1", "10.0.0.2", "::1")),
    st.booleans(),
    st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("llama", "mistral")), max_size=2),
    st.none() | st.frozensets(st.sampled_from((8000, 8001)), max_size=2),
    st.booleans(),
).map(lambda p: msgspec.structs.replace(p, uid=f"{p.namespace}-{p.name}") if p.uid else p)
pools = st.builds(
    PoolApplied,
    st.sampled_from(("default/llama", "default/mistral", "lab/llama")),
    st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("llama", "mistral")), min_size=1, max_size=2),
    st.lists(st.sampled_from((8000, 8001, 8002)), min_size=1, max_size=3, unique=True).map(tuple),
)
worlds = st.builds(
    lambda pools, pods, objectives: Wanted(
        (*pools, *objectives),
        tuple(m for p in {p.pool: p for p in pools}.values() for m in members_of(p, pods)),
    ),
    st.lists(pools, max_size=3),
    st.lists(pods, max_size=4, unique_by=lambda p: (p.namespace, p.name)),
    st.lists(
        st.builds(ObjectiveApplied, st.just("default/llama"), st.sampled_from("xy"), st.integers(-2, 2)), max_size=2
    ),
)


def fold(state: ClusterState, events: Sequence[Event]) -> ClusterState:
    for event in events:
        state.apply_event(state.position + 1, event)
    return state


def members(state: ClusterState) -> set[tuple[object, ...]]:
    return {
        (e.pool, e.uid, e.namespace, e.name, e.address, e.port, e.rank, tuple(sorted(e.labels.items())), e.ready)
        for e in state.endpoints.values()
    }


def wanted_members(wanted: Wanted) -> set[tuple[object, ...]]:
    return {
        (m.pool, m.uid, m.namespace, m.name, m.address, m.port, m.rank, tuple(sorted(m.labels.items())), m.ready)
        for m in wanted.members
    }


@given(st.lists(worlds, min_size=1, max_size=6))
def test_the_fold_of_the_changes_is_what_was_wanted(sequence: list[Wanted]) -> None:
    state = ClusterState()
    roster = Roster(state)
    for wanted in sequence:
        fold(state, roster.change_to(wanted).events)

        assert members(state) == wanted_members(wanted)
        assert state.pools == {o.pool: o for o in wanted.objects if isinstance(o, PoolApplied)}
        assert state.objectives == {(o.pool, o.name): o for o in wanted.objects if isinstance(o, ObjectiveApplied)}


@given(st.lists(worlds, min_size=1, max_size=4))
def test_the_same_world_again_says_nothing_after_a_restart_neither(sequence: list[Wanted]) -> None:
    state = ClusterState()
    roster = Roster(state)
    for wanted in sequence:
        fold(state, roster.change_to(wanted).events)

    assert roster.change_to(sequence[-1]).events == ()
    assert Roster(state).change_to(sequence[-1]).events == ()


@given(st.lists(worlds, min_size=1, max_size=6))
def test_events_on_their_way_are_not_said_twice(sequence: list[Wanted]) -> None:
    late, state = ClusterState(), ClusterState()
    roster = Roster(late)
    for wanted in sequence:
        fold(state, roster.change_to(wanted).events)  # `late` never hears of them

    assert members(state) == wanted_members(sequence[-1])


@given(st.lists(worlds, min_size=1, max_size=6), st.lists(worlds, max_size=3))
def test_numbers_are_used_once(before: list[Wanted], after: list[Wanted]) -> None:
    state = ClusterState()
    joined: list[int] = []
    for sequence in (before, after):  # a restart in between
        roster = Roster(state)
        for wanted in sequence:
            events = roster.change_to(wanted).events
            joined += [e.endpoint for e in events if isinstance(e, EndpointJoined)]
            fold(state, events)

    assert joined == list(range(1, len(joined) + 1))


@given(worlds, worlds)
def test_removals_are_those_who_lose_their_traffic(before: Wanted, after: Wanted) -> None:
    state = ClusterState()
    roster = Roster(state)
    fold(state, roster.change_to(before).events)
    ready = {e.number for e in state.endpoints.values() if e.ready}
    changes = roster.change_to(after)
    left = {e.endpoint for e in changes.events if isinstance(e, EndpointLeft)}
    fold(state, changes.events)
    still = {e.number for e in state.endpoints.values() if e.ready}

    assert set(changes.removals) == (ready - still) | left


@given(worlds, worlds)
def test_a_pool_is_deleted_after_its_endpoints_left(before: Wanted, after: Wanted) -> None:
    state = ClusterState()
    roster = Roster(state)
    fold(state, roster.change_to(before).events)
    for event in roster.change_to(after).events:
        if isinstance(event, PoolDeleted):
            assert state.members(event.pool) == []
        state.apply_event(state.position + 1, event)


def pod(**changes: object) -> Pod:
    return msgspec.structs.replace(Pod("default", "a", "u", "10.0.0.1", True, {"app": "llama"}), **changes)


def after(first: Pod, second: Pod, pool: PoolApplied = POOL) -> tuple[Event, ...]:
    roster = Roster(ClusterState())
    roster.change_to(Wanted((pool,), tuple(members_of(pool, [first]))))
    return roster.change_to(Wanted((pool,), tuple(members_of(pool, [second])))).events


def test_a_changed_address_is_left_plus_joined() -> None:
    left, joined = after(pod(), pod(address="10.0.0.2"))

    assert left == EndpointLeft(1, "moved")
    assert isinstance(joined, EndpointJoined)
    assert (joined.endpoint, joined.address) == (2, "10.0.0.2")


def test_the_same_name_with_another_uid_is_another_endpoint() -> None:
    assert [type(event) for event in after(pod(), pod(uid="v"))] == [EndpointLeft, EndpointJoined]


def test_readiness_and_labels_change_in_place() -> None:
    labels = {"app": "llama", "tier": "a"}

    assert after(pod(), pod(ready=False, labels=labels)) == (EndpointChanged(1, False, labels),)


def test_a_pod_that_is_not_ready_is_a_member_and_one_that_terminates_is_not() -> None:
    assert [m.ready for m in members_of(POOL, [pod(ready=False)])] == [False]
    assert members_of(POOL, [pod(deleted=True), pod(address="")]) == []


def test_each_port_of_a_pod_is_an_endpoint_of_its_rank() -> None:
    pool = msgspec.structs.replace(POOL, target_ports=(8000, 8001, 8002))
    found = members_of(pool, [pod(active_ports=frozenset((8002, 8000, 9)))])

    assert [(m.port, m.rank) for m in found] == [(8000, 0), (8002, 2)]
    assert members_of(pool, [pod(active_ports=frozenset())]) == []


def test_a_pod_without_uid_is_known_by_its_name() -> None:
    assert [m.uid for m in members_of(POOL, [pod(uid="")])] == ["default/a"]


# --- files ----------------------------------------------------------------------------------------


def found(value: PoolApplied | Pod | RouteObserved, line: int = 1) -> FoundObject:
    match value:
        case PoolApplied():
            return FoundObject("InferencePool", value.pool, line, value)
        case RouteObserved():
            return FoundObject("HTTPRoute", value.route, line, value)
    return FoundObject("Pod", f"{value.namespace}/{value.name}", line, value)


def file(name: str, *values: PoolApplied | Pod | RouteObserved) -> SourceFile:
    return SourceFile(name, Manifest(name, tuple(found(value, at + 1) for at, value in enumerate(values))))


def change(file: SourceFile, *values: PoolApplied | Pod | RouteObserved, fault: FileFault | None = None) -> None:
    file.changed, file.fault = True, fault
    file.manifest = None if fault else Manifest(file.name, tuple(found(value) for value in values))


def test_the_second_file_that_defines_an_object_is_wrong_and_the_first_one_counts() -> None:
    other = msgspec.structs.replace(POOL, source="b")
    files = [file("b", other), file("a", pod(), POOL)]
    settled = settle(files)

    assert settled.faults == {"b": FileFault(1, "InferencePool default/llama stands in a, line 2, already")}
    assert [f.value for f in settled.objects] == [POOL, pod()]


def test_who_held_an_object_first_keeps_it_from_a_newcomer_of_an_earlier_name() -> None:
    holder = file("z", POOL)
    settle([holder])
    settled = settle([file("a", msgspec.structs.replace(POOL, source="a")), holder])

    assert set(settled.faults) == {"a"}


def test_a_wrong_file_keeps_what_it_said_and_an_object_that_moved_is_not_lost() -> None:
    one, two = file("a", POOL, pod()), file("b")
    settle([one, two])
    change(one, fault=FileFault(3, "wrong"))

    assert len(settle([one, two]).objects) == 2
    change(two, POOL)
    settled = settle([one, two])

    assert settled.faults == {"a": FileFault(3, "wrong")}
    assert [f.value for f in settled.objects] == [POOL, pod()]


def test_two_files_can_exchange_their_objects() -> None:
    mistral = msgspec.structs.replace(POOL, pool="default/mistral")
    one, two = file("a", POOL), file("b", mistral)
    settle([one, two])
    change(one, mistral)
    change(two, POOL)
    settled = settle([one, two])

    assert (settled.faults, len(settled.objects)) == ({}, 2)


def test_what_a_file_said_before_a_restart_stays_while_it_is_wrong() -> None:
    pool, route = msgspec.structs.replace(POOL, source="a"), RouteObserved("default/r", (), source="a")
    gone = msgspec.structs.replace(POOL, pool="default/gone", source="deleted")
    state = ClusterState()
    before = Wanted((pool, gone, route), tuple(members_of(pool, [pod()])))
    fold(state, Roster(state).change_to(before).events)
    roster = Roster(state)
    wrong = SourceFile("a", fault=FileFault(1, "wrong"))

    assert roster.change_to(wanted_of(settle([wrong]), roster)).events == (PoolDeleted("default/gone"),)
    change(wrong, pool)
    types = [type(e).__name__ for e in roster.change_to(wanted_of(settle([wrong]), roster)).events]

    assert types == ["EndpointLeft", "RouteDeleted"]


class Directory(RuleBasedStateMachine):
    """Files that change in any order, against a plain model of who may hold a name."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, SourceFile] = {}

    @rule(name=st.sampled_from("abc"), names=st.frozensets(st.sampled_from(("p", "q", "r")), max_size=3))
    def write(self, name: str, names: frozenset[str]) -> None:
        values = [PoolApplied(f"default/{n}", {"a": "b"}, (1,), source=name) for n in sorted(names)]
        if name in self.files:
            change(self.files[name], *values)
        else:
            self.files[name] = file(name, *values)

    @rule(name=st.sampled_from("abc"))
    def spoil(self, name: str) -> None:
        if name in self.files:
            change(self.files[name], fault=FileFault(1, "wrong"))

    @rule(name=st.sampled_from("abc"))
    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    @invariant()
    def every_name_has_one_holder_and_right_files_are_in_force(self) -> None:
        settled = settle(self.files.values())
        names = [f.name for f in settled.objects]
        assert len(names) == len(set(names))
        for file in self.files.values():
            held = {f.name for f in settled.objects if isinstance(f.value, PoolApplied) and f.value.source == file.name}
            if file.name not in settled.faults:
                assert file.manifest is not None
                assert held == {f.name for f in file.manifest.objects}
            elif file.fault is None:
                assert "already" in settled.faults[file.name].message
        again = settle(self.files.values())
        assert (again.objects, set(again.faults)) == (settled.objects, set(settled.faults))


TestDirectory = Directory.TestCase
TestDirectory.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


def test_members_are_of_the_namespace_of_the_pool() -> None:
    assert members_of(POOL, [pod(namespace="lab")]) == []
    assert [type(m) for m in members_of(POOL, [pod()])] == [Member]
