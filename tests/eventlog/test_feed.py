"""The control process's end of the feed over a real log and real sockets, with pickers that misbehave."""

import socket
import struct
from pathlib import Path

import pytest
import trio
from worlds.feed_world import refuse
from worlds.hub_world import KEY, Picker, control, run, settled

from pointsman.core.events import (
    ControlStopped,
    EndpointChanged,
    EndpointLeft,
    EntriesLost,
    PickerEnded,
    RequestRefused,
)
from pointsman.core.feed.frames import EpochRefusedError
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.eventlog.stores.writing import StoreLimits


def test_a_picker_is_fed_and_what_it_says_is_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            refuse(picker.end)
            await picker.read_until(settled)
            await world.appender.append(EndpointChanged(1, False))
            await picker.read_until(lambda end: end.cluster is not None and not end.cluster.endpoints[1].ready)

            assert len(world.events(RequestRefused)) == 1
            assert picker.end.cluster is not None
            assert encode_snapshot(picker.end.cluster) == encode_snapshot(world.log.state)
            assert not picker.end.degraded
            assert world.hub.statistics().connected == 1
            picker.close()

    run(main)


def test_advice_is_there_before_the_commit(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path, StoreLimits(batch_interval=0.5)) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            world.appender.append_nowait(EndpointLeft(2))
            world.hub.advise([2])
            began = trio.current_time()
            await picker.read_until(lambda _: len(picker.traffic.avoided()) == 1)
            assert trio.current_time() - began < 0.4
            assert picker.end.cluster is not None
            assert 2 in picker.end.cluster.endpoints
            world.hub.withdraw([2])
            await picker.read_until(lambda _: len(picker.traffic.avoided()) == 0)
            picker.close()

    run(main)


def test_garbage_closes_its_connection_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            good = Picker(tmp_path)
            await good.connect()
            await good.read_until(settled)
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 2) + b"\xff\xff"):
                with trio.socket.socket(socket.AF_UNIX) as bad:
                    await bad.connect(str(tmp_path / "feed.sock"))
                    await bad.send(garbage)
                    assert await bad.recv(100) == b""
            late = Picker(tmp_path, 8)
            await late.connect()
            await late.read_until(settled)
            assert late.socket is not None
            await late.socket.send(b"\xff" * 8)
            await late.read_to_the_end()
            late.close()
            refuse(good.end)
            await good.read_until(settled)
            good.close()

            assert world.hub.statistics().disconnected == 3

    run(main)
    assert "a frame of 1195725856 bytes, wanted at most 8388608" in caplog.text
    assert "none of a picker's" in caplog.text
    assert "a frame of 4294967295 bytes" in caplog.text


def test_what_connects_and_says_nothing_is_let_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.eventlog.feed.hub.HELLO_DEADLINE", 0.1)

    async def main() -> None:
        async with control(tmp_path):
            with trio.socket.socket(socket.AF_UNIX) as silent:
                await silent.connect(str(tmp_path / "feed.sock"))
                assert await silent.recv(100) == b""

    run(main)
    assert "no Hello came" in caplog.text


def test_a_picker_that_does_not_read_is_disconnected_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with control(tmp_path, tail_commits=4) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            while world.hub.statistics().connected:
                await world.appender.append(EndpointChanged(1, True, {"note": "x" * 60_000}))
            picker.close()
            await picker.connect()
            await picker.read_until(settled)

            assert picker.end.cluster is not None
            assert encode_snapshot(picker.end.cluster) == encode_snapshot(world.log.state)
            picker.close()

    run(main)
    assert "it has read up to position" in caplog.text


def test_a_picker_that_hangs_is_disconnected_without_any_commit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.eventlog.feed.picker_connection.WRITE_DEADLINE", 0.2)

    async def main() -> None:
        async with control(tmp_path) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            for _ in range(8):
                await world.appender.append(EndpointChanged(1, True, {"note": "x" * 60_000}))
            while world.hub.statistics().connected:
                await trio.sleep(0.05)
            picker.close()

    run(main)
    assert "it has read nothing for" in caplog.text


def test_a_log_without_room_stops_the_reading_and_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        limits = StoreLimits(queue_events=20, batch_interval=0.02)
        async with control(tmp_path, limits) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            for _ in range(1000):
                refuse(picker.end)
            await picker.read_until(settled)

            numbers = [e.origin.n for e in world.events(RequestRefused) if isinstance(e, RequestRefused)]
            assert numbers == list(range(2, 1002))
            assert world.appender.statistics().refused_events > 0
            picker.close()

    run(main)


def test_a_second_connection_of_an_epoch_replaces_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            first = picker.socket
            assert first is not None
            refuse(picker.end)
            await picker.connect()
            await picker.read_until(settled)
            while await first.recv(1 << 16):
                pass
            first.close()
            assert world.hub.statistics().connected == 1
            assert len(world.events(RequestRefused)) == 1
            picker.close()

    run(main)
    assert "it was connected anew" in caplog.text


def test_a_picker_that_died_is_read_to_the_end_and_then_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            for _ in range(500):
                refuse(picker.end)
            await picker.send()
            refuse(picker.end)  # dies with it
            picker.close()
            assert await world.hub.drained(*KEY)
            world.hub.picker_ended(*KEY, "killed by SIGKILL", picker.end.buffer.last_n - 1)
            await world.appender.append_many([])

            assert len(world.events(RequestRefused)) == 500
            assert world.events(EntriesLost, PickerEnded) == [
                EntriesLost(*KEY, 502, 502),
                PickerEnded(*KEY, "killed by SIGKILL", 502),
            ]

    run(main)


async def read_or_connect(picker: Picker) -> None:
    await picker.read_to_the_end()
    picker.close()
    await picker.connect()
    await picker.read_until(settled)


def test_draining_has_an_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            assert not await world.hub.drained(*KEY, within=0.05)
            world.hub.picker_ended(*KEY, "ended by the supervisor", 0)
            with pytest.raises(EpochRefusedError):
                await read_or_connect(picker)
            picker.close()

    run(main)


def test_a_control_process_that_starts_ends_the_epochs_that_are_gone(tmp_path: Path) -> None:
    async def main() -> None:
        pickers = [Picker(tmp_path, epoch) for epoch in (7, 8)]
        async with control(tmp_path):
            for picker in pickers:
                await picker.connect()
                await picker.read_until(settled)
        for picker in pickers:
            picker.close()
        async with control(tmp_path) as world:
            gone = world.hub.end_unreported([("picker-0", 8)], {KEY: 4})
            await pickers[1].connect()
            await pickers[1].read_until(settled)

            assert gone == [KEY]
            assert world.events(EntriesLost, PickerEnded) == [
                EntriesLost(*KEY, 2, 4),
                PickerEnded(*KEY, "gone when the control process started", 4),
            ]
            assert list(world.log.state.epochs) == [("picker-0", 8)]
            pickers[1].close()

    run(main)


def test_an_epoch_that_came_and_went_without_a_commit_is_told_as_lost_once(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(2):  # the second control process was not told that the first one knew
            async with control(tmp_path) as world:
                world.hub.end_unreported([], {("picker-0", 9): 664, ("picker-0", 10): 0})
                await world.appender.append(ControlStopped(1, ""))  # behind them

                assert world.events(EntriesLost, PickerEnded) == [
                    EntriesLost("picker-0", 9, 1, 664),
                    PickerEnded("picker-0", 9, "gone when the control process started", 664),
                ]

    run(main)


def test_heartbeats_tell_of_hanging_scrapes(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            began = trio.current_time()
            await picker.read_until(lambda end: end.degraded)
            assert picker.end.cause == "no scrape has a result"
            assert trio.current_time() - began > 0.3
            world.hub.scraped(trio.current_time())
            await picker.read_until(lambda end: not end.degraded)
            picker.close()

    run(main)


def test_heartbeats_tell_of_stalled_commits(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path, StoreLimits(batch_interval=1.0)) as world:
            world.hub.scraped(trio.current_time() + 60)
            picker = Picker(tmp_path)
            await picker.connect()
            await picker.read_until(settled)
            await picker.read_until(lambda end: not end.degraded)
            world.appender.append_nowait(EndpointChanged(1, True))
            await picker.read_until(lambda end: end.degraded)
            assert picker.end.cause == "commits have stalled"
            picker.close()

    run(main)
