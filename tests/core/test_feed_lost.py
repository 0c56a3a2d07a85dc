"""The feed, row by row of its table, without sockets: lost, restored, and fed garbage."""

import struct

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
    new_picker,
    numbers_in,
    refuse,
    route,
    same_state,
)

from pointsman.core.events import (
    Class,
    ControlStarted,
    EndpointChanged,
    EndpointJoined,
    Event,
    FeedLost,
    FeedRestored,
    LoadSampled,
    Origin,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ScrapeFailed,
    encode,
)
from pointsman.core.feed.control_end import ControlEnd, FeedHealth
from pointsman.core.feed.frames import (
    TO_CONTROL_BYTES_MAX,
    BatchFrame,
    Entries,
    FeedError,
    Heartbeat,
    Hello,
    SnapshotFrame,
    Welcome,
    encode_frame,
)

# --- feed lost -------------------------------------------------------------------------------------


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
    control.feed.health = FeedHealth(stalled_for=0.49)
    line.run(0.2)
    assert not picker.degraded
    control.feed.health = FeedHealth(stalled_for=0.5)
    line.run(0.4)
    assert picker.degraded
    assert picker.cause == "commits have stalled"

    control.feed.health = FeedHealth()
    line.run(0.6)
    assert not picker.degraded


@pytest.mark.parametrize(
    ("age", "interval", "lost"), [(0.5, 0.05, False), (0.51, 0.05, True), (1.5, 0.5, False), (1.51, 0.5, True)]
)
def test_scrapes_without_a_result_are_feed_lost(age: float, interval: float, lost: bool) -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.feed.health = FeedHealth(scrape_age=age, interval=interval)
    line.run(0.2)

    assert picker.degraded == lost


def test_where_nothing_is_scraped_the_feed_is_fine() -> None:
    control = control_with()
    picker, _, line = fed_picker(control)
    control.feed.health = FeedHealth(scrape_age=None, interval=0.05)
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


# --- garbage ---------------------------------------------------------------------------------------


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
        (entry_frame(3, Class.TRAFFIC, GOOD), "entry 3 of picker-0 7 says it is 2 of picker-0 7"),
        (
            entry_frame(2, Class.TRAFFIC, msgspec.structs.replace(GOOD, origin=Origin("p", 7, 2, 0))),
            "says it is 2 of p 7",
        ),
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
        (BatchFrame(99, 1.0, b"", 0, b"\4", (b"",)), "a Batch from 99 after position 6"),
        (BatchFrame(7, 1.0, b"", 0, b"\4\4", (b"",)), "2 classes with 1 bodies"),
        (BatchFrame(7, 1.0, b"", 0, b"\4", (b"\xff",)), "no event of ours"),
        (
            BatchFrame(7, 1.0, b"", 0, b"\3", (encode(ScrapeFailed(b"Z", b"Z")),)),
            "does not fold at 7: ValueError: packed",
        ),
        (BatchFrame(7, 1.0, b"", 5, b"\0", ()), "acknowledges 5 after 2"),
        (Welcome("log-a", 6, b"", True, 1, 1), "a second Welcome"),
        (SnapshotFrame(6, b"", b"\xff", ()), "a second Snapshot"),
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
