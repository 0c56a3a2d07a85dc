"""The feed, row by row of its table, without sockets: connecting and commits."""

from collections.abc import Sequence

import msgspec
import pytest
from worlds.feed_world import (
    KEY,
    Control,
    Line,
    MemoryLog,
    control_with,
    events_of,
    fed_picker,
    finish,
    frames_down,
    members,
    new_picker,
    numbers_in,
    refuse,
    route,
    same_state,
)

from pointsman.core.events import (
    Class,
    EndpointChanged,
    EntriesAdopted,
    EntriesLost,
    Event,
    Origin,
    PickerStarted,
)
from pointsman.core.feed.frames import (
    SEND_BYTES,
    BatchFrame,
    Framer,
    Hello,
    SnapshotFrame,
    Welcome,
)
from pointsman.core.feed.tail import TailFellOutError
from pointsman.core.state.marks import Mark
from pointsman.core.state.snapshot import encode_snapshot

# --- connect ---------------------------------------------------------------------------------------


def test_a_picker_without_cluster_state_has_none_until_the_snapshot() -> None:
    picker, traffic = new_picker()
    line = Line(control_with(), picker)

    line.send_up()
    line.read_up()
    assert picker.cluster is None
    assert picker.degraded
    assert traffic.degraded

    line.run()
    assert picker.cluster is not None
    assert same_state(picker, line.control)
    assert not picker.degraded
    assert not traffic.degraded


def test_hello_tells_position_digest_and_numbers() -> None:
    control = control_with()
    picker, _traffic, line = fed_picker(control)
    refuse(picker)
    line.cut()
    picker.connected(0.0)
    (body,) = Framer(1 << 20).receive(picker.data_to_send())
    hello = msgspec.msgpack.decode(body, type=Hello)

    assert (hello.picker, hello.epoch) == KEY
    assert (hello.log_id, hello.position, hello.digest) == ("log-a", control.log.state.position, control.log.digest)
    assert (hello.last_n, hello.first_unacknowledged) == (3, 2)  # the refusal, and that the feed was lost


def test_welcome_tells_the_head_and_its_digest() -> None:
    control = control_with()
    picker, _ = new_picker()
    line = Line(control, picker)
    line.send_up()
    line.read_up()
    line.send_down()
    welcome, snapshot = frames_down(line)[:2]

    assert isinstance(welcome, Welcome)
    assert (welcome.log_id, welcome.head, welcome.digest) == ("log-a", 5, control.log.digest)
    assert not welcome.continues
    assert isinstance(snapshot, SnapshotFrame)


def test_a_picker_that_was_away_gets_the_entries_since() -> None:
    control = control_with(50)
    picker, _, line = fed_picker(control)
    line.cut()
    for _ in range(3):
        control.commit(EndpointChanged(1, False), EndpointChanged(2, False))
    before = picker.statistics()
    Line(control, picker).run(0.1)

    assert picker.statistics().batches >= before.batches + 3
    assert picker.statistics().snapshots == before.snapshots
    assert same_state(picker, control)


def test_a_picker_that_was_away_gets_a_snapshot_where_that_is_shorter() -> None:
    control = control_with(2)
    picker, _, line = fed_picker(control)
    line.cut()
    for ready in [False, True] * 100:
        control.commit(EndpointChanged(1, ready, {"note": "x" * 50}))
    before = picker.statistics()
    Line(control, picker).run(0.1)

    assert picker.statistics().snapshots == before.snapshots + 1
    assert same_state(picker, control)
    assert not picker.degraded


def test_a_picker_behind_the_tail_gets_a_snapshot() -> None:
    control = control_with(2, commits_max=2)
    picker, _, line = fed_picker(control)
    line.cut()
    for ready in (False, True, False):
        control.commit(EndpointChanged(1, ready))
    before = picker.statistics().snapshots
    Line(control, picker).run(0.1)

    assert picker.statistics().snapshots == before + 1
    assert same_state(picker, control)


def test_another_log_replaces_the_state_and_what_was_decided_is_adopted() -> None:
    picker, _traffic, line = fed_picker(control_with())
    line.cut()
    first = refuse(picker)  # after the entry that says the feed is lost
    other = Control(MemoryLog("log-b"))
    other.commit(*members(1))
    line = Line(other, picker)
    last = refuse(picker)  # decided after the Hello, still on the old state
    line.run(0.1)
    other.commit()
    line.run(0.2)

    (adopted,) = events_of(other, EntriesAdopted)
    assert adopted == EntriesAdopted(*KEY, first - 1, last, "log-a")
    assert numbers_in(other.log, KEY) == list(range(first - 1, last + 3))
    (again,) = events_of(other, PickerStarted)
    assert again == PickerStarted(Origin(*KEY, last + 1, 3), "test", 1, {"queue-scorer": 1})
    assert events_of(other, EntriesLost) == []
    assert other.log.state.epochs[KEY].adopted_to == last
    assert other.log.state.epochs[KEY].plugins == {"queue-scorer": 1}
    assert same_state(picker, other)


def test_an_older_copy_of_the_log_is_noticed_by_its_head() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    refuse(picker)
    line.run()
    control.commit()
    line.run()
    restored = Control(control.log.older_copy(2))
    line.cut()
    line = Line(restored, picker)
    line.run(0.1)
    restored.commit()
    line.run(0.2)

    assert same_state(picker, restored)
    assert restored.log.state.position < control.log.state.position + 3
    assert [e for e in restored.log.events() if isinstance(e, EntriesAdopted)]


def test_what_is_adopted_is_told_once_however_often_the_feed_is_cut() -> None:
    picker, _, line = fed_picker(control_with())
    line.cut()
    refuse(picker)
    other = Control(MemoryLog("log-b"))
    line = Line(other, picker)
    line.send_up()
    line.read_up()
    line.send_down()
    line.read_down()
    foreign = picker.data_to_send()[:40]  # of the frames that follow nothing arrives whole but the first
    assert b"foreign" in foreign
    line.end.receive(foreign)
    line.cut(0.1)
    for now in (0.2, 0.3):
        line = Line(other, picker)
        line.run(now)
        line.cut(now)
    other.commit()
    other = Control(other.log.reopened())
    Line(other, picker).run(0.4)
    other.commit()

    assert len(events_of(other, EntriesAdopted)) == 1


def test_entries_of_two_other_logs_are_adopted_from_each() -> None:
    picker, _, line = fed_picker(control_with())
    line.cut()  # 2
    refuse(picker)
    line = Line(Control(MemoryLog("log-b")), picker)
    line.run(0.1)  # restored and introduced again, and nothing of it committed
    line.cut(0.2)
    last = refuse(picker)
    third = Control(MemoryLog("log-c"))
    Line(third, picker).run(0.3)
    third.commit()

    first_two = [(e.first, e.last, e.log_id) for e in events_of(third, EntriesAdopted) if isinstance(e, EntriesAdopted)]
    assert first_two == [(2, 3, "log-a"), (4, last, "log-b")]


def test_a_restored_log_that_lost_ends_is_told_which_requests_are_open() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    done, still_open = route(picker, traffic), route(picker, traffic)
    line.run()
    control.commit()
    finish(picker, traffic, done)
    line.run()
    control.commit()
    line.run()
    line.cut()
    restored = Control(control.log.older_copy(4))  # without the end
    assert sorted(restored.log.open_requests.by_epoch[KEY]) == [done, still_open]
    line = Line(restored, picker)
    line.run(0.1)
    restored.commit()

    assert sorted(restored.log.open_requests.by_epoch[KEY]) == [still_open]


def test_an_older_copy_that_grew_past_the_picker_is_noticed_by_the_digest() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    refuse(picker)
    line.run()
    control.commit()
    line.run()
    restored = Control(control.log.older_copy(3))  # has the epoch's start, not the refusal
    for ready in [False, True] * 5:
        restored.commit(EndpointChanged(1, ready))
    line.cut()
    line = Line(restored, picker)
    line.run(0.1)
    restored.commit()
    line.run(0.2)

    assert EntriesLost(*KEY, 2, 2) in restored.log.events()
    assert numbers_in(restored.log, KEY) == list(range(1, picker.buffer.last_n + 1))
    assert same_state(picker, restored)


def test_open_requests_of_other_epochs_come_with_the_snapshot_and_replace_what_was_known() -> None:
    control = control_with()
    mine, traffic, line = fed_picker(control)
    other, other_traffic, other_line = fed_picker(control, "picker-1", 8)
    n = route(other, other_traffic, 2)
    other_line.run()
    control.commit()
    line.run()
    assert traffic.statistics().foreign == 1

    line.cut()
    finish(other, other_traffic, n)
    route(other, other_traffic, 3)
    route(other, other_traffic, 3)
    other_line.run()
    control.commit(*[EndpointChanged(1, True, {"note": "x" * 100})] * 20)  # longer than a snapshot
    Line(control, mine).run(0.1)

    assert traffic.statistics().foreign == 2
    assert control.log.open_requests.by_epoch[("picker-1", 8)] == {n + 2: 3, n + 3: 3}


# --- commits go down -------------------------------------------------------------------------------


def test_commits_go_down_in_order_and_none_is_left_out() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    for ready in (False, True, False):
        control.commit(EndpointChanged(1, ready))
    line.send_down()
    batches = [frame for frame in frames_down(line) if isinstance(frame, BatchFrame)]
    line.run()

    assert [batch.first for batch in batches] == [7, 8, 9]
    assert same_state(picker, control)


def test_of_its_own_traffic_a_picker_gets_the_acknowledgement_alone() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    other, _, other_line = fed_picker(control, "picker-1", 8)
    n = route(picker, traffic)
    finish(picker, traffic, n)
    line.run()
    control.commit(EndpointChanged(2, False))
    line.send_down()
    batch = next(frame for frame in frames_down(line) if isinstance(frame, BatchFrame) and frame.acknowledged)
    other_line.send_down()
    theirs = [frame for frame in frames_down(other_line) if isinstance(frame, BatchFrame)][-1]

    assert batch.kinds == bytes((0, 0, Class.MEMBERSHIP))
    assert len(batch.bodies) == 1
    assert batch.acknowledged == n + 1
    assert theirs.kinds == bytes((Class.TRAFFIC, Class.TRAFFIC, Class.MEMBERSHIP))
    assert len(theirs.bodies) == 3
    line.run()
    other_line.run()
    assert len(picker.buffer) == 0
    assert same_state(picker, control)
    assert same_state(other, control)


def test_wherever_the_picker_stands_within_a_batch_the_state_is_the_logs() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    before = picker.cluster
    assert before is not None
    for _ in range(5):
        refuse(picker)
    line.run()
    control.log.append(EndpointChanged(2, False))
    for _ in range(3):
        refuse(picker)
    line.run()
    control.commit()
    line.send_down()
    seen: dict[int, bytes] = {}
    applied, applied_traffic = before.apply_event, before.apply_traffic

    def watch(position: int, event: Event | Mark) -> None:
        applied(position, event)
        seen[position] = encode_snapshot(before)

    def watch_traffic(position: int, marks: Sequence[Mark]) -> None:
        applied_traffic(position, marks)
        seen[position] = encode_snapshot(before)

    before.apply_event = watch  # type: ignore[method-assign]
    before.apply_traffic = watch_traffic  # type: ignore[method-assign]
    line.read_down()

    twin = MemoryLog("log-a", control.log.commits[:-1])
    for entry in control.log.commits[-1].entries:
        twin.state.apply(entry)
        assert seen.pop(entry.position, None) in (None, encode_snapshot(twin.state))
    assert not seen


def test_one_that_falls_out_of_the_tail_is_disconnected() -> None:
    control = control_with(2, commits_max=3)
    _picker, _, line = fed_picker(control)
    for ready in [False, True] * 2:
        control.commit(EndpointChanged(1, ready))

    assert line.end.fell_out
    with pytest.raises(TailFellOutError, match="position 5 fell out of the tail, which ends at 9"):
        line.end.data_to_send(0.0)


def test_the_tail_is_bounded_in_bytes() -> None:
    control = control_with(2, bytes_max=10_000)
    _, _, line = fed_picker(control)
    for _ in range(2):
        control.commit(EndpointChanged(1, True, {"note": "x" * 6000}))

    assert line.end.fell_out


def test_a_picker_that_does_not_read_costs_no_memory() -> None:
    control = control_with()
    _, _, line = fed_picker(control)
    for _ in range(200):
        control.commit(EndpointChanged(1, True, {"note": "x" * 10_000}))

    assert SEND_BYTES <= len(line.end.data_to_send(0.0)) < SEND_BYTES + 12_000
