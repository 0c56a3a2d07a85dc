"""The feed, row by row of its table, without sockets: advice."""

from worlds.feed_world import (
    POOL,
    Line,
    control_with,
    fed_picker,
)

from pointsman.core.events import (
    EndpointChanged,
    EndpointLeft,
    PoolDeleted,
)
from pointsman.core.feed.picker_end import PickerEnd
from pointsman.core.state.traffic import TrafficState

# --- connect ---------------------------------------------------------------------------------------


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
