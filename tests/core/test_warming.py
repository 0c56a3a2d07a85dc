"""What a picker that starts is given from the log: its index is what it would be had the process never ended."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from worlds.configured import HEAD, parsed
from worlds.feed_world import (
    KEY,
    POOL,
    Control,
    Line,
    MemoryLog,
    control_with,
    fed_picker,
    frames_down,
    members,
    new_picker,
    route,
)
from worlds.strategies import ints

from pointsman.core.events import (
    ConfigAccepted,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    LabelsChanged,
    RequestFacts,
)
from pointsman.core.feed import frames as feed, prefix_warming as warming
from pointsman.core.feed.frames import (
    BatchFrame,
    Cold,
    FeedError,
    GivenBlocks,
    Heartbeat,
    Warming,
    Welcome,
    encode_frame,
)
from pointsman.core.feed.picker_end import PickerEnd
from pointsman.core.state.traffic import Column, TrafficState

SERVERS = 3
FAMILIES = 4
LONGEST = 12


def chain(family: int, length: int) -> bytes:
    """Blocks of equal lengths; families have nothing in common."""
    numbers = np.arange(1, length + 1, dtype="<u8") + np.uint64(family << 20)
    return (numbers * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(8)).tobytes()


def warming_control(count: int = SERVERS, *events: Event) -> Control:
    control = Control(MemoryLog(), True)
    control.commit(*members(count), *events)
    return control


def decide(control: Control, end: PickerEnd, traffic: TrafficState, line: Line, *asked: tuple[int, bytes]) -> None:
    """Decisions that are committed, each before the next one."""
    for endpoint, prefix in asked:
        route(end, traffic, endpoint, prefix)
        line.run()
        control.commit()
        line.run()


def exchange(line: Line) -> None:
    """Each side reads what the other has to say, once."""
    line.send_up()
    line.read_up()
    line.send_down()
    line.read_down()


def again(control: Control, epoch: int = 8) -> tuple[PickerEnd, TrafficState, Line]:
    """The picker after its death, as soon as it is fed."""
    for key in control.feed.open_epochs():
        control.feed.end_epoch(key, "killed", 0)
    control.commit()
    end, traffic = new_picker(epoch=epoch)
    line = Line(control, end)
    exchange(line)
    assert end.cluster is not None
    return end, traffic, line


def known(traffic: TrafficState) -> list[list[int]]:
    """All that there is to know of an index: what each server has of each prompt."""
    slots = ints(*range(SERVERS))
    asked = [chain(family, length) for family in range(FAMILIES) for length in range(1, LONGEST + 1)]
    return [[traffic.prefix.held(slot) for slot in range(SERVERS)]] + [
        traffic.prefix.matches(prefix, slots).tolist() for prefix in asked
    ]


prompts = st.lists(
    st.tuples(st.integers(1, SERVERS), st.integers(0, FAMILIES - 1), st.integers(1, LONGEST)), max_size=12
)


@settings(max_examples=80, deadline=None)
@given(before=prompts, after=prompts, cut_at=st.integers(0, 12), room=st.sampled_from((4, 20, 10**6)))
def test_after_a_restart_the_index_is_that_of_a_process_that_never_ended(
    before: list[tuple[int, int, int]], after: list[tuple[int, int, int]], cut_at: int, room: int
) -> None:
    asked = [[(n, chain(family, length)) for n, family, length in part] for part in (before, after)]
    control = warming_control(SERVERS, *[LabelsChanged(n, cache_blocks=room) for n in range(1, SERVERS + 1)])
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, *asked[0])
    lived, living = traffic, control.log.state
    end, traffic, line = again(control)
    for i, (endpoint, prefix) in enumerate(asked[1]):
        if i == cut_at:
            line.cut()
            line = Line(control, end)
        route(end, traffic, endpoint, prefix)
        lived.prefix.record(living.endpoints[endpoint].slot, prefix, room)
        exchange(line)
    line.run()

    assert not end.warmer.wanting
    assert known(traffic) == known(lived)
    assert traffic.column(Column.IN_FLIGHT, RequestFacts("r", POOL), ints(*range(SERVERS))).sum() == len(after)


def test_decisions_of_all_pickers_warm_and_none_counts_twice() -> None:
    control = warming_control()
    first, second = fed_picker(control), fed_picker(control, "picker-1", 9)
    decide(control, *first, (1, chain(0, 5)))
    decide(control, *second, (2, chain(1, 6)))
    end, traffic, line = again(control)
    line.run()

    assert traffic.prefix.matches(chain(0, 5), ints(0, 1)).tolist() == [5, 0]
    assert traffic.prefix.matches(chain(1, 6), ints(0, 1)).tolist() == [0, 6]
    assert (end.warmer.decisions, end.warmer.blocks, traffic.prefix.statistics().warmed) == (2, 11, 11)


def test_what_was_missed_before_a_snapshot_is_learnt_from_the_log() -> None:
    control = Control(MemoryLog(), True, commits_max=2)
    control.commit(*members(2))
    end, traffic, line = fed_picker(control)
    other = fed_picker(control, "picker-1", 9)
    decide(control, end, traffic, line, (1, chain(0, 4)))
    line.run()
    line.cut()
    decide(control, *other, *[(2, chain(1, length)) for length in range(1, 6)])
    before = end.warmer.decisions
    Line(control, end).run(0.1)

    assert end.statistics().snapshots == 2
    assert traffic.prefix.matches(chain(1, 5), ints(0, 1)).tolist() == [0, 5]
    assert end.warmer.decisions == before + 5  # those since, and none of its own


def test_a_snapshot_while_a_piece_is_on_its_way_makes_it_ask_anew() -> None:
    control = Control(MemoryLog(), True, commits_max=2)
    control.commit(*members(2))
    other = fed_picker(control, "picker-1", 9)
    decide(control, *other, *[(1, chain(n, 1)) for n in range(1, 6)])
    end, traffic = new_picker(epoch=8)
    line = Line(control, end)
    line.piece = 2
    exchange(line)
    exchange(line)
    line.cut()
    assert 0 < traffic.prefix.held(0) < 5
    assert end.warmer.wanting
    decide(control, *other, *[(2, chain(n, 1)) for n in range(1, 6)])
    Line(control, end).run(0.1)

    assert end.statistics().snapshots == 2
    assert [traffic.prefix.held(slot) for slot in (0, 1)] == [5, 5]


def test_another_log_warms_from_its_beginning() -> None:
    control = warming_control()
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, *[(1, chain(0, length)) for length in range(1, 9)])
    line.cut()
    another = Control(MemoryLog("log-b"), True)
    another.commit(*members(1))
    decide(another, *fed_picker(another, "picker-1", 9), (1, chain(2, 6)))
    Line(another, end).run(0.1)

    assert traffic.prefix.held(0) == 14  # its endpoint is the same one
    assert not end.warmer.wanting


def test_endpoints_that_have_left_get_nothing_and_neither_does_who_has_their_slot() -> None:
    control = warming_control(2)
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, (1, chain(0, 4)), (2, chain(1, 4)))
    control.commit(EndpointLeft(1), EndpointJoined(3, POOL, "uid-3", "default", "pod-3", "10.0.0.3", 8000))
    end, traffic, line = again(control)
    line.run()

    assert control.log.state.endpoints[3].slot == 0
    assert (traffic.prefix.held(0), traffic.prefix.held(1)) == (0, 4)
    assert end.warmer.decisions == 2


def test_an_endpoint_that_leaves_meanwhile_gets_nothing_more() -> None:
    control = warming_control(2)
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, *[(1, chain(family, 4)) for family in range(4)])
    end, traffic, line = again(control)
    line.piece = 1
    while not traffic.prefix.held(0):
        exchange(line)
    assert 0 < traffic.prefix.held(0) < 16
    control.commit(EndpointLeft(1))
    line.run()

    assert (traffic.prefix.held(0), traffic.prefix.statistics().servers) == (0, 0)
    assert not end.warmer.wanting


def test_a_pool_has_the_room_that_its_configuration_says_before_its_first_request() -> None:
    text = HEAD + "plugins: [{type: prefix-cache-scorer, parameters: {lruCapacityPerServer: 7, autoTune: false}}]"
    text += "\nschedulingProfiles: [{name: default, plugins: [{pluginRef: prefix-cache-scorer}]}]"
    control = warming_control(1, ConfigAccepted(POOL, parsed(text).encode(), "test"), LabelsChanged(1, cache_blocks=9))
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, (1, chain(0, 5)), (1, chain(1, 5)))
    end, traffic, line = again(control)
    line.run()

    assert traffic.prefix.held(0) == 7
    assert traffic.prefix.matches(chain(1, 5), ints(0)).tolist() == [5]


# --- bounds -----------------------------------------------------------------------------------------


def cold_lines(count: int) -> tuple[PickerEnd, TrafficState, Line]:
    """A picker with so many decisions of 5 blocks before it."""
    control = warming_control(1)
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, *[(1, chain(n, 5)) for n in range(count)])
    return again(control)


def test_it_goes_back_no_further_than_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "DECISIONS_MAX", 4)
    end, _, line = cold_lines(12)
    line.run()
    assert 4 <= end.warmer.decisions <= 4 + line.piece
    assert not end.warmer.wanting
    monkeypatch.setattr(warming, "DECISIONS_MAX", 100)
    monkeypatch.setattr(warming, "BLOCKS_MAX", 20)
    end, _, line = cold_lines(12)
    line.run()
    assert 20 <= end.warmer.blocks <= 20 + 5 * line.piece
    assert not end.warmer.wanting


def test_it_ends_where_no_endpoint_has_room() -> None:
    control = warming_control(1, LabelsChanged(1, cache_blocks=10))
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, *[(1, chain(n, 5)) for n in range(12)])
    end, traffic, line = again(control)
    line.run()

    assert (end.warmer.blocks, traffic.prefix.held(0)) == (10, 10)
    assert end.warmer.decisions <= 2 + line.piece
    assert traffic.prefix.statistics().evicted == 0


def test_a_step_takes_a_bounded_part_of_a_piece_and_the_next_piece_waits_for_the_last() -> None:
    control = warming_control(SERVERS)
    end, traffic, _ = again(control)
    warmer, cluster = warming.Warmer(traffic), end.cluster
    assert cluster is not None
    long = tuple(GivenBlocks(n, POOL, np.arange(1, 3001, dtype="<u8").tobytes()) for n in (1, 2, 3))
    warmer.want(6, 0)
    asked = warmer.ask()
    assert asked == Cold(6, 0)
    warmer.take(Warming(6, 3, False, 10, long))
    taken = 0
    while warmer.pending:
        assert warmer.ask() is None
        before = warmer.blocks
        warmer.step(cluster)
        assert warmer.blocks - before <= warming.STEP_BLOCKS
        taken += 1

    assert taken == -(-9000 // warming.STEP_BLOCKS)
    assert [traffic.prefix.held(slot) for slot in range(3)] == [3000] * 3
    assert warmer.ask() == Cold(2, 0)


# --- the frames -------------------------------------------------------------------------------------


def test_warming_goes_behind_commits_and_never_before_them() -> None:
    control = warming_control()
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, (1, chain(0, 4)))
    _, _, line = again(control)
    line.send_up()
    line.read_up()  # a piece is ready
    for ready in (False, True, False):
        control.commit(EndpointChanged(2, ready, {"note": "x" * feed.SEND_BYTES}))
    while data := line.end.data_to_send(1.0):
        line.down += data

    kinds = [type(frame) for frame in frames_down(line)]
    assert Heartbeat in kinds
    assert kinds.count(BatchFrame) == 3
    assert kinds.index(Warming) == len(kinds) - 1


def test_a_control_process_that_does_not_warm_is_asked_nothing() -> None:
    control = control_with()
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, (1, chain(0, 4)))
    end, traffic, line = again(control)
    line.run()

    assert end.warmer.wanting
    assert traffic.prefix.held(0) == 0
    assert not end.degraded or end.cause == "no heartbeat came"


def test_a_build_without_warming_reads_the_welcome_of_one_with_it_and_the_other_way_round() -> None:
    class FormerWelcome(msgspec.Struct, array_like=True, tag="welcome"):
        log_id: str
        head: int
        digest: bytes
        continues: bool
        acknowledged: int
        taken: int

    former = FormerWelcome("log-a", 6, b"d", True, 1, 2)
    there = msgspec.msgpack.decode(encode_frame(Welcome("log-a", 6, b"d", True, 1, 2, True))[4:], type=FormerWelcome)
    here = feed.decode_to_picker(msgspec.msgpack.encode(former))

    assert there == former
    assert here == Welcome("log-a", 6, b"d", True, 1, 2, False)


@pytest.mark.parametrize("cold", [Cold(7, 0), Cold(2, 2), Cold(2, -1), Cold(0, 0)])
def test_what_cannot_be_lacking_is_an_error(cold: Cold) -> None:
    control = warming_control()
    _, _, line = fed_picker(control)
    assert line.end.position == 6
    with pytest.raises(FeedError, match=f"Cold above {cold.after} up to {cold.until}, and the picker has position 6"):
        line.end.receive(encode_frame(cold))


def test_to_ask_who_does_not_warm_is_an_error() -> None:
    _, _, line = fed_picker(control_with())
    with pytest.raises(FeedError, match="Cold above 0 up to 2"):
        line.end.receive(encode_frame(Cold(2, 0)))


def test_warming_that_was_not_asked_for_is_an_error_and_heals() -> None:
    control = warming_control()
    end, traffic, line = fed_picker(control)
    decide(control, end, traffic, line, (1, chain(0, 4)))
    end, traffic, line = again(control)
    for piece in (Warming(3, 1, True, 0, ()), Warming(99, 1, True, 0, ())):
        with pytest.raises(FeedError, match="asked for was"):
            end.receive(encode_frame(piece), 0.0, 1000.0)
        line.cut()
        line = Line(control, end)
        exchange(line)
    line.run()

    assert traffic.prefix.held(0) == 4
    assert control.log.state.epochs.keys() != {KEY}
