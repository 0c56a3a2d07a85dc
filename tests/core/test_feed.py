"""The feed, row by row of its table, without sockets."""

import struct

import msgspec
import pytest
from feed_world import (
    POOL,
    Control,
    Line,
    MemoryLog,
    fed_picker,
    finish,
    members,
    new_picker,
    numbers_in,
    record,
    refuse,
    route,
)

from pointsman.core.events import (
    Class,
    ControlStarted,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EntriesAdopted,
    EntriesLost,
    Event,
    FeedLost,
    FeedRestored,
    LoadSampled,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    PoolDeleted,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ScrapeFailed,
    encode,
)
from pointsman.core.feed import (
    ENTRY_BYTES_MAX,
    SEND_BYTES,
    TO_CONTROL_BYTES_MAX,
    Batch,
    Entries,
    EpochRefusedError,
    FeedError,
    Framer,
    Heartbeat,
    Hello,
    Snapshot,
    Welcome,
    decode_to_picker,
    encode_frame,
)
from pointsman.core.feed_control import ControlEnd, Health
from pointsman.core.feed_picker import PickerEnd
from pointsman.core.feed_tail import TailFellOutError
from pointsman.core.packing import unpack
from pointsman.core.snapshot import encode_snapshot
from pointsman.core.traffic import TrafficState

KEY = ("picker-0", 7)


def control_with(count: int = 3, **tail_limits: int) -> Control:
    control = Control(MemoryLog(), **tail_limits)
    control.commit(*members(count))
    return control


def same_state(picker: PickerEnd, control: Control) -> bool:
    assert picker.cluster is not None
    return encode_snapshot(picker.cluster) == encode_snapshot(control.log.state)


def events_of(control: Control, *kinds: type) -> list[Event]:
    return [event for event in control.log.events() if isinstance(event, kinds)]


def frames_down(line: Line) -> list[object]:
    return [decode_to_picker(body) for body in Framer(1 << 30).receive(bytes(line.down))]


# --- connect --------------------------------------------------------------------------------------


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
    assert isinstance(snapshot, Snapshot)


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


# --- commits go down ------------------------------------------------------------------------------


def test_commits_go_down_in_order_and_none_is_left_out() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    for ready in (False, True, False):
        control.commit(EndpointChanged(1, ready))
    line.send_down()
    batches = [frame for frame in frames_down(line) if isinstance(frame, Batch)]
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
    batch = next(frame for frame in frames_down(line) if isinstance(frame, Batch) and frame.acknowledged)
    other_line.send_down()
    theirs = [frame for frame in frames_down(other_line) if isinstance(frame, Batch)][-1]

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


def test_the_state_is_the_same_inside_a_batch_too() -> None:
    control = control_with()
    picker, _traffic, line = fed_picker(control)
    before = picker.cluster
    assert before is not None
    for _ in range(5):
        refuse(picker)
    line.run()
    control.commit(EndpointChanged(2, False))
    line.send_down()
    seen: list[bytes] = []
    applied = before.apply_event

    def watch(position: int, event: object) -> None:
        applied(position, event)  # type: ignore[arg-type]
        seen.append(encode_snapshot(before))

    before.apply_event = watch  # type: ignore[method-assign]
    line.read_down()

    twin = MemoryLog("log-a", control.log.commits[:-1])
    for entry, state in zip(control.log.commits[-1].entries, seen, strict=True):
        twin.state.apply(entry)
        assert encode_snapshot(twin.state) == state


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


# --- advice ---------------------------------------------------------------------------------------


def avoided(picker: PickerEnd, traffic: TrafficState) -> list[int]:
    assert picker.cluster is not None
    return [picker.cluster.by_slot[slot].number for slot in traffic.avoided()]


def test_advice_goes_ahead_of_the_commit_and_ends_with_it() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    control.feed.advise([2])
    line.run()
    assert avoided(picker, traffic) == [2]

    control.commit(EndpointLeft(2))
    line.run()
    assert avoided(picker, traffic) == []
    assert picker.cluster is not None
    assert 2 not in picker.cluster.endpoints
    assert control.feed.advised == {}


def test_an_entry_that_was_committed_before_does_not_end_advice() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    control.commit(EndpointChanged(2, True, {"note": "before"}))
    control.feed.advise([2])
    line.run()

    assert avoided(picker, traffic) == [2]
    control.commit(EndpointChanged(2, False))
    line.run()
    assert avoided(picker, traffic) == []


def test_the_end_of_advice_never_comes_before_its_entry() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    control.feed.advise([2])
    line.run()
    for _ in range(30):
        control.commit(EndpointChanged(1, True, {"note": "x" * 20_000}))
    control.commit(EndpointLeft(2))

    while data := line.end.data_to_send(0.0):
        for at in range(0, len(data), 1000):
            picker.receive(data[at : at + 1000], 0.0, 1000.0)
            gone = picker.cluster is not None and 2 not in picker.cluster.endpoints
            assert gone or avoided(picker, traffic) == [2]


def test_advice_ends_with_a_withdrawal() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    control.feed.advise([2, 3])
    line.run()
    control.feed.withdraw([2])
    line.run()

    assert avoided(picker, traffic) == [3]


def test_advice_ends_with_a_reconnect_and_is_given_again_where_it_holds() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    control.feed.advise([2, 3])
    line.run()
    line.cut()
    assert avoided(picker, traffic) == [2, 3]

    control.feed.withdraw([3])
    line = Line(control, picker)
    line.send_up()
    line.read_up()
    line.send_down()
    line.run(0.1)
    assert avoided(picker, traffic) == [2]


def test_advice_about_a_deleted_pool_ends() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    control.feed.advise([1])
    line.run()
    control.commit(PoolDeleted(POOL))
    line.run()

    assert avoided(picker, traffic) == []
    assert control.feed.advised == {}


# --- entries go up --------------------------------------------------------------------------------


def test_the_first_entry_of_an_epoch_introduces_the_picker() -> None:
    control = control_with()
    fed_picker(control)

    assert events_of(control, PickerStarted) == [PickerStarted(Origin(*KEY, 1, 0), "test", 1, {"queue-scorer": 1})]
    assert control.log.state.epochs[KEY].highest_n == 1


def test_the_bytes_of_an_entry_are_the_bytes_in_the_log() -> None:
    control = control_with()
    picker, _traffic, line = fed_picker(control)
    event = RequestRefused(picker.origin(), 1.5, RequestFacts("r-1", POOL), "saturated", 429)
    record(picker, event)
    line.run()
    control.commit()

    assert control.log.commits[-1].entries[0].body == encode(event)


def test_everything_of_a_turn_goes_in_one_frame() -> None:
    picker, _traffic, _line = fed_picker(control_with())
    for _ in range(3):
        refuse(picker)
    (body,) = Framer(1 << 20).receive(picker.data_to_send())
    entries = msgspec.msgpack.decode(body, type=Entries)

    assert entries.first_n == 2
    assert len(entries.bodies) == 3
    assert picker.data_to_send() == b""


def test_entries_are_kept_until_they_are_acknowledged_and_sent_again() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    numbers = [refuse(picker) for _ in range(3)]
    line.send_up()
    line.cut()  # before the control process read them
    assert len(picker.buffer) == 4  # and that the feed was lost

    line = Line(control, picker)
    line.run(0.1)
    control.commit()
    line.run(0.2)
    assert numbers_in(control.log, KEY) == [1, *numbers, 5, 6]
    control.commit()
    line.run(0.2)
    assert len(picker.buffer) == 0


def test_entries_that_come_twice_are_in_the_log_once() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    refuse(picker)
    line.run()  # in the control process's queue, not committed
    line.cut()
    line = Line(control, picker)
    line.run(0.1)
    control.commit()
    line.run(0.1)

    assert numbers_in(control.log, KEY) == [1, 2, 3, 4]


def test_entries_that_come_twice_over_a_restart_are_in_the_log_once() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    refuse(picker)
    line.run()
    control.commit()  # committed, and the acknowledgement never arrives
    line.cut()
    control = Control(control.log.reopened())
    line = Line(control, picker)
    line.run(0.1)
    control.commit()
    line.run(0.1)

    assert numbers_in(control.log, KEY) == [1, 2, 3, 4]
    control.commit()
    line.run(0.1)
    assert len(picker.buffer) == 0


def test_a_duplicate_on_an_open_connection_is_acknowledged() -> None:
    control = control_with()
    _picker, _, line = fed_picker(control)
    body = encode(RequestRefused(Origin(*KEY, 1, 0), 1.0, RequestFacts("r", POOL), "saturated", 429))
    line.end.receive(encode_frame(Entries(1, bytes((Class.TRAFFIC,)), (body,))))
    line.send_down()

    assert "Acknowledged(n=1)" in str(frames_down(line))
    control.commit()
    assert numbers_in(control.log, KEY) == [1]


def test_what_died_in_the_queue_of_a_killed_control_process_is_sent_again() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    for _ in range(3):
        refuse(picker)
    line.run()
    line.cut()
    control = Control(control.log.reopened())  # its queue is gone
    line = Line(control, picker)
    line.run(0.1)
    control.commit()

    assert numbers_in(control.log, KEY) == [1, 2, 3, 4, 5, 6]


def test_nothing_is_taken_from_the_socket_that_the_log_has_no_room_for() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.log.room = 2
    for _ in range(5):
        refuse(picker)
    line.run()
    ledger = control.feed.ledgers[KEY]
    assert len(ledger.backlog) == 3
    assert ledger.committed == 1

    for _ in range(3):
        control.commit()
        line.run()
    assert numbers_in(control.log, KEY) == [1, 2, 3, 4, 5, 6]
    assert len(picker.buffer) == 0


def test_a_full_buffer_drops_the_newest_and_the_log_says_which() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control, buffer_bytes_max=2000)
    line.cut()
    first = route(picker, traffic, 1)
    while picker.buffer.dropped == 0:
        route(picker, traffic, 2)
    lost_from = picker.buffer.last_n
    finish(picker, traffic, first)
    kept_open = route(picker, traffic, 3)
    line = Line(control, picker)
    line.run(0.1)
    control.commit()
    line.run(0.1)
    after = route(picker, traffic, 3)
    line.run(0.1)
    control.commit()
    line.run(0.1)

    lost = events_of(control, EntriesLost)
    assert lost == [EntriesLost(*KEY, lost_from, kept_open + 1)]  # and that the feed is restored was lost too
    (listed,) = events_of(control, OpenRequestsListed)
    assert isinstance(listed, OpenRequestsListed)
    assert listed.origin.n == kept_open + 2 == after - 1
    assert first not in unpack(listed.open)
    assert kept_open in unpack(listed.open)
    assert numbers_in(control.log, KEY) == list(range(1, after + 1))
    assert sorted(control.log.open_requests.by_epoch[KEY]) == [*range(first + 1, lost_from), after]
    assert picker.statistics().dropped == kept_open + 1 - lost_from + 1


def test_an_entry_of_unusual_size_is_dropped_and_blocks_nothing() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    huge = RequestRefused(picker.origin(), 1.0, RequestFacts("r" * ENTRY_BYTES_MAX, POOL), "saturated", 429)
    record(picker, huge)
    picker.tick(0.0, 1000.0)
    refuse(picker)
    line.run()
    control.commit()

    assert events_of(control, EntriesLost) == [EntriesLost(*KEY, 2, 2)]
    assert numbers_in(control.log, KEY) == [1, 2, 3, 4]


def test_a_gap_is_told_before_what_came_after_it() -> None:
    control = control_with()
    _, _, line = fed_picker(control)
    body = encode(RequestRefused(Origin(*KEY, 9, 0), 1.0, RequestFacts("r", POOL), "saturated", 429))
    line.end.receive(encode_frame(Entries(9, bytes((Class.TRAFFIC,)), (body,))))
    control.commit()

    assert control.log.events()[-2] == EntriesLost(*KEY, 2, 8)
    assert numbers_in(control.log, KEY) == list(range(1, 10))


# --- feed lost ------------------------------------------------------------------------------------


def lost_and_restored(control: Control) -> list[tuple[str, str]]:
    return [
        (type(event).__name__, event.cause if isinstance(event, FeedLost) else f"{event.lost_for:.1f}")
        for event in control.log.events()
        if isinstance(event, FeedLost | FeedRestored)
    ]


def settle(line: Line, now: float) -> None:
    line.run(now)
    line.control.commit()
    line.run(now)


def test_silence_for_half_a_second_is_feed_lost() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    picker.tick(0.49, 1000.49)
    assert not picker.degraded
    picker.tick(0.5, 1000.5)
    assert picker.degraded
    assert traffic.degraded

    settle(line, 0.7)
    assert not picker.degraded
    assert not traffic.degraded
    settle(line, 0.8)
    assert lost_and_restored(control) == [("FeedLost", "nothing came"), ("FeedRestored", "0.2")]


def test_a_closed_socket_is_feed_lost_at_once() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    line.cut(1.0)
    assert picker.degraded

    settle(Line(control, picker, 3.0), 3.0)
    assert not picker.degraded
    assert lost_and_restored(control) == [("FeedLost", "the socket is closed"), ("FeedRestored", "2.0")]


def test_stalled_commits_are_feed_lost() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.feed.health = Health(stalled_for=0.49)
    line.run(0.2)
    assert not picker.degraded
    control.feed.health = Health(stalled_for=0.5)
    line.run(0.4)
    assert picker.degraded
    assert picker.cause == "commits have stalled"

    control.feed.health = Health()
    line.run(0.6)
    assert not picker.degraded


@pytest.mark.parametrize(
    ("age", "interval", "lost"), [(0.5, 0.05, False), (0.51, 0.05, True), (1.5, 0.5, False), (1.51, 0.5, True)]
)
def test_scrapes_without_a_result_are_feed_lost(age: float, interval: float, lost: bool) -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.feed.health = Health(scrape_age=age, interval=interval)
    line.run(0.2)

    assert picker.degraded == lost


def test_where_nothing_is_scraped_the_feed_is_fine() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.feed.health = Health(scrape_age=None, interval=0.05)
    line.run(0.2)

    assert not picker.degraded


def test_a_picker_that_was_never_fed_says_nothing_of_a_lost_feed() -> None:
    picker, _ = new_picker()
    picker.tick(10.0, 1010.0)
    picker.connected(11.0)
    picker.disconnected(12.0, 1012.0)

    assert picker.degraded
    assert picker.buffer.last_n == 1


def test_the_feed_is_restored_only_when_the_state_has_caught_up() -> None:
    control = control_with(50)
    picker, _, line = fed_picker(control)
    line.cut()
    for _ in range(3):
        control.commit(EndpointChanged(1, False))
    line = Line(control, picker)
    line.send_up()
    line.read_up()
    line.send_down(0.1)
    while line.down:
        assert picker.degraded
        line.read_down(0.1, limit=1)

    assert not picker.degraded
    assert same_state(picker, control)


def test_heartbeats_come_whatever_else_is_sent() -> None:
    control = control_with()
    _, _, line = fed_picker(control)
    for tenth in range(1, 6):
        control.commit(EndpointChanged(1, True))
        line.send_down(tenth * 0.11)

    assert len([frame for frame in frames_down(line) if isinstance(frame, Heartbeat)]) == 5


# --- ends -----------------------------------------------------------------------------------------


def test_the_end_of_a_picker_tells_what_died_with_it_and_ends_its_requests() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control)
    other, other_traffic, other_line = fed_picker(control, "picker-1", 8)
    route(picker, traffic, 1)
    line.run()
    route(picker, traffic, 2)  # dies with the process
    refuse(picker)
    control.commit()
    other_line.run()
    assert other_traffic.statistics().foreign == 1
    control.feed.end_epoch(KEY, "killed by SIGKILL", picker.buffer.last_n)
    control.commit()
    other_line.run()

    assert control.log.events()[-2:] == [EntriesLost(*KEY, 3, 4), PickerEnded(*KEY, "killed by SIGKILL", 4)]
    assert control.log.open_requests.by_epoch == {}
    assert other_traffic.statistics().foreign == 0
    assert same_state(other, control)


def test_the_end_of_a_picker_comes_after_all_that_its_socket_brought() -> None:
    control = control_with()
    picker, _traffic, line = fed_picker(control)
    control.log.room = 1
    for _ in range(4):
        refuse(picker)
    line.run()
    control.feed.end_epoch(KEY, "exit status 0", picker.buffer.last_n)
    for _ in range(6):
        control.commit()

    assert numbers_in(control.log, KEY) == [1, 2, 3, 4, 5]
    assert control.log.events()[-1] == PickerEnded(*KEY, "exit status 0", 5)


def test_an_epoch_ends_once() -> None:
    control = control_with()
    fed_picker(control)
    control.feed.end_epoch(KEY, "killed", 1)
    control.feed.end_epoch(KEY, "killed again", 1)
    control.commit()

    assert events_of(control, PickerEnded) == [PickerEnded(*KEY, "killed", 1)]


def test_a_picker_that_never_connected_leaves_what_it_gave_out() -> None:
    control = control_with()
    control.feed.end_epoch(KEY, "killed", 3)
    control.feed.end_epoch(("picker-2", 9), "never started", 0)
    control.commit()

    assert control.log.events()[-2:] == [EntriesLost(*KEY, 1, 3), PickerEnded(*KEY, "killed", 3)]


def test_an_epoch_that_ended_is_refused() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.feed.end_epoch(KEY, "killed", 1)
    control.commit()
    line.cut()
    line = Line(control, picker)

    with pytest.raises(EpochRefusedError, match="epoch 7 of picker-0 has ended"):
        line.run(0.1)


def test_a_picker_that_reads_of_its_own_end_is_refused() -> None:
    control = control_with()
    _picker, _, line = fed_picker(control)
    control.feed.end_epoch(KEY, "killed", 1)
    control.commit()

    with pytest.raises(EpochRefusedError, match="has ended: killed"):
        line.run()


def test_a_control_process_that_starts_knows_the_open_epochs() -> None:
    control = control_with()
    fed_picker(control)
    fed_picker(control, "picker-1", 8)
    control.feed.end_epoch(("picker-1", 8), "killed", 0)
    control.commit()
    again = Control(control.log.reopened())

    assert again.feed.open_epochs() == [KEY]


def test_another_protocol_is_refused() -> None:
    control = control_with()
    end = ControlEnd(control.feed)
    hello = end.receive(encode_frame(Hello(99, "picker-0", 7, "other", "", 0, b"", 1, 1)))
    assert hello is not None
    end.welcome(hello, None)

    assert end.refused == "feed protocol 99, wanted 1: restart the picker process"
    assert b"feed protocol 99" in end.data_to_send(0.0)


# --- garbage --------------------------------------------------------------------------------------


def frame_of(value: object) -> bytes:
    data = msgspec.msgpack.encode(value)
    return struct.pack(">I", len(data)) + data


def entry_frame(n: int, kind: int, event: Event) -> bytes:
    return encode_frame(Entries(n, bytes((kind,)), (encode(event),)))


GOOD = RequestRefused(Origin(*KEY, 2, 0), 1.0, RequestFacts("r", POOL), "saturated", 429)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", f"a frame of 1195725856 bytes, wanted at most {TO_CONTROL_BYTES_MAX}"),
        (frame_of(["no-such-tag", 1]), "none of a picker's"),
        (frame_of({"a": 1}), "none of a picker's"),
        (b"\0\0\0\2\xff\xff", "none of a picker's"),
        (b"\0\0\0\0", "a frame of 0 bytes"),
        (b"\0\0\0\x04\x92\xa1\xff\x01", "none of a picker's"),
        (encode_frame(Hello(1, "picker-0", 7, "b", "", 0, b"", 1, 1)), "a second Hello"),
        (encode_frame(Entries(2, b"\4\4", (b"",))), "2 classes for 1 bodies"),
        (encode_frame(Entries(2, b"\4", (b"\xff",))), "entry 2 of 1 bytes is none of a picker's"),
        (entry_frame(2, Class.LOAD, LoadSampled(b"", 0, b"", b"", b"", b"")), "entry 2 has class 3"),
        (entry_frame(2, Class.CONTROL, ControlStarted("b", 1, 1, b"")), "ControlStarted, which pickers do not write"),
        (entry_frame(3, Class.TRAFFIC, GOOD), "says it is entry 2"),
        (entry_frame(2, Class.TRAFFIC, msgspec.structs.replace(GOOD, origin=Origin("p", 7, 2, 0))), "says it is entry"),
    ],
)
def test_garbage_from_a_picker_is_an_error_that_says_what_came(data: bytes, message: str) -> None:
    control = control_with()
    _, _, line = fed_picker(control)

    with pytest.raises(FeedError, match=message):
        line.end.receive(data)
    assert numbers_in(control.log, KEY) == [1]


def test_a_picker_that_does_not_say_hello_first_is_an_error() -> None:
    with pytest.raises(FeedError, match="Entries before the Welcome, wanted Hello"):
        ControlEnd(control_with().feed).receive(entry_frame(2, Class.TRAFFIC, GOOD))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Batch(99, 1.0, b"", 0, b"\4", (b"",)), "a Batch from 99 after position 6"),
        (Batch(7, 1.0, b"", 0, b"\4\4", (b"",)), "2 classes with 1 bodies"),
        (Batch(7, 1.0, b"", 0, b"\4", (b"\xff",)), "no event of ours"),
        (Batch(7, 1.0, b"", 0, b"\3", (encode(ScrapeFailed(b"Z", b"Z")),)), "does not fold at 7: ValueError: packed"),
        (Batch(7, 1.0, b"", 5, b"\0", ()), "acknowledges 5 after 2"),
        (Welcome("log-a", 6, b"", True, 1, 1), "a second Welcome"),
        (Snapshot(6, b"", b"\xff", ()), "a second Snapshot"),
    ],
)
def test_garbage_from_a_control_process_is_an_error_and_heals(frame: object, message: str) -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    with pytest.raises(FeedError, match=message):
        picker.receive(encode_frame(frame), 0.0, 1000.0)  # type: ignore[arg-type]
    line.cut()
    refuse(picker)
    control.commit(EndpointJoined(4, POOL, "uid-4", "default", "pod-4", "10.0.0.4", 8000))
    for now in (0.1, 0.2):
        line = Line(control, picker) if now == 0.1 else line
        settle(line, now)

    assert same_state(picker, control)
    assert not picker.degraded
    assert numbers_in(control.log, KEY) == list(range(1, picker.buffer.last_n + 1))


def test_frames_arrive_in_any_pieces() -> None:
    control = control_with()
    picker, traffic = new_picker()
    line = Line(control, picker)
    for _ in range(50):
        line.send_up()
        while line.up:
            line.read_up(limit=3)
        line.send_down()
        while line.down:
            line.read_down(limit=7)
        if picker.cluster is not None and picker.cluster.endpoints:
            finish(picker, traffic, route(picker, traffic))
        control.commit()

    line.run()
    assert same_state(picker, control)
    assert len(events_of(control, RequestRouted)) == len(events_of(control, RequestFinished)) == 49
