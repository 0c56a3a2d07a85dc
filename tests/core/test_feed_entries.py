"""The feed, row by row of its table, without sockets: a picker's entries, and its end."""

import msgspec
import pytest
from worlds.feed_world import (
    KEY,
    POOL,
    Control,
    Line,
    control_with,
    events_of,
    fed_picker,
    finish,
    frames_down,
    numbers_in,
    record,
    refuse,
    route,
    same_state,
)

from pointsman.core.events import (
    Class,
    EntriesLost,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    RequestFacts,
    RequestRefused,
    encode,
)
from pointsman.core.feed.control_end import ControlEnd
from pointsman.core.feed.frames import (
    ENTRY_BYTES_MAX,
    Entries,
    EpochRefusedError,
    Framer,
    Hello,
    encode_frame,
)
from pointsman.core.values.packing import unpack

# --- entries go up ---------------------------------------------------------------------------------


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


def test_a_duplicate_of_what_is_queued_is_dropped() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    refuse(picker)
    line.send_up()
    twice = bytes(line.up)
    line.run()
    line.end.receive(twice)
    control.commit()

    assert numbers_in(control.log, KEY) == [1, 2]


def test_a_welcome_acknowledges() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    refuse(picker)
    line.run()
    control.commit()  # and no batch with the acknowledgement arrives
    line.cut()
    Line(Control(control.log.reopened()), picker).run(0.1)

    assert picker.buffer.first_unacknowledged == 3


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


def test_what_follows_a_dropped_entry_is_dropped_until_an_eighth_is_free() -> None:
    control = control_with()
    picker, traffic, line = fed_picker(control, buffer_bytes_max=2000)
    line.send_down()
    while picker.buffer.dropped == 0:
        route(picker, traffic, prefix=b"12345678" * 10)
    refuse(picker)  # small enough to find room
    assert picker.buffer.dropped == 2
    picker.tick(0.0, 1000.0)
    refuse(picker)
    assert picker.buffer.dropped == 3

    line.run()
    control.commit()
    line.run()
    last = refuse(picker)
    assert picker.buffer.dropped == 3
    line.run()
    control.commit()
    assert numbers_in(control.log, KEY) == list(range(1, last + 1))
    assert [event.last - event.first for event in control.log.events() if isinstance(event, EntriesLost)] == [2]


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


# --- ends ------------------------------------------------------------------------------------------


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
