"""The feed between two real processes that are killed, stopped and flooded."""

import asyncio
import signal
import socket
import struct
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from worlds.feed_processes import Answer, Child
from worlds.feed_world import POOL, Control, MemoryLog, fed_picker, identity, members, route
from worlds.waiting import wait_for

from pointsman.core.events import (
    EntriesLost,
    Event,
    FeedLost,
    FeedRestored,
    OpenRequestsListed,
    PickerEnded,
    PickerStarted,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
)
from pointsman.core.feed.control_end import ControlEnd
from pointsman.core.feed.frames import EpochRefused, EpochRefusedError, Framer, encode_frame
from pointsman.core.feed.prefix_warming import STEP_BLOCKS
from pointsman.core.processes.last_page import read_page
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.core.state.traffic import TrafficState
from pointsman.eventlog.opening import open_reader
from pointsman.grpc.picker_feed import PickerFeed

BUFFER = 64 << 20
EPOCH = 7


def start_control(directory: Path) -> Child:
    return Child("control", str(directory))


def start_picker(directory: Path, rate: int, buffer_bytes: int = BUFFER) -> Child:
    return Child("picker", str(directory), str(EPOCH), str(rate), str(buffer_bytes))


def events(directory: Path) -> list[Event]:
    with open_reader(directory / "log") as reader:
        return [entry.event for entry in reader.entries(1)]


def numbers(found: list[Event]) -> list[int]:
    """Every `n` that the log accounts for, in its order."""
    accounted: list[int] = []
    for event in found:
        if isinstance(event, EntriesLost):
            accounted.extend(range(event.first, event.last + 1))
        elif isinstance(
            event,
            PickerStarted
            | RequestRouted
            | RequestFinished
            | RequestRefused
            | FeedLost
            | FeedRestored
            | OpenRequestsListed,
        ):
            accounted.append(event.origin.n)
    return accounted


def state_at(directory: Path, position: int) -> str:
    with open_reader(directory / "log") as reader:
        return sha256(encode_snapshot(reader.state_at(position))).hexdigest()


def settled(picker: Child) -> Answer:
    """Stop deciding and wait until the log has everything, which a moving head may take a few tries to show."""
    answer = picker.status("settle")
    assert answer.settled, answer
    return answer


def when(picker: Child, *, degraded: bool) -> Answer:
    """The first answer of a picker that says so."""
    answers: list[Answer] = []

    def told() -> bool:
        answers.append(picker.status())
        return answers[-1].statistics.degraded == degraded

    wait_for(told, 5, lambda: f"degraded={degraded} after {answers[-1].statistics}")
    return answers[-1]


def test_under_load_everything_is_in_the_log_once_and_the_states_are_the_same(tmp_path: Path) -> None:
    with start_control(tmp_path), start_picker(tmp_path, 1000) as picker:
        time.sleep(0.5)
        answer = settled(picker)

        assert numbers(events(tmp_path)) == list(range(1, answer.statistics.last_n + 1))
        assert answer.statistics.last_n > 400
        assert answer.state == state_at(tmp_path, answer.statistics.position)


def test_a_control_process_killed_under_load_loses_nothing(tmp_path: Path) -> None:
    with start_control(tmp_path) as control, start_picker(tmp_path, 1000) as picker:
        for _ in range(3):
            time.sleep(0.2)
            control.kill()
            lost = when(picker, degraded=True)
            assert lost.statistics.cause == "the socket is closed"
            time.sleep(0.1)
            control = start_control(tmp_path)
            try:
                restored = when(picker, degraded=False)
            except BaseException:
                control.kill()
                raise
        with control:
            answer = settled(picker)
            found = events(tmp_path)

            assert numbers(found) == list(range(1, answer.statistics.last_n + 1))
            assert len([event for event in found if isinstance(event, FeedLost)]) == 3
            assert len([event for event in found if isinstance(event, FeedRestored)]) == 3
            assert answer.state == state_at(tmp_path, answer.statistics.position)
            assert restored.statistics.dropped == 0


def test_what_dies_with_a_picker_killed_under_load_is_counted(tmp_path: Path) -> None:
    with start_control(tmp_path) as control, start_picker(tmp_path, 2000) as picker:
        time.sleep(0.4)
        picker.kill()
        page = read_page((tmp_path / "page").read_bytes())
        assert page is not None
        assert page.epoch == EPOCH
        assert page.last_n > 500
        assert control.ask(f"end picker-0 {EPOCH} {page.last_n}") == "drained"
        found = events(tmp_path)

        assert numbers(found) == list(range(1, page.last_n + 1))
        assert found[-1] == PickerEnded("picker-0", EPOCH, "killed by SIGKILL", page.last_n)


def test_a_picker_killed_while_the_control_process_is_stopped_has_its_socket_read_to_the_end(tmp_path: Path) -> None:
    with start_control(tmp_path) as control, start_picker(tmp_path, 0) as picker:
        control.send(signal.SIGSTOP)
        picker.status("burst 100")  # handed to the kernel, read by nobody
        picker.kill()
        page = read_page((tmp_path / "page").read_bytes())
        assert page is not None
        control.send(signal.SIGCONT)
        assert control.ask(f"end picker-0 {EPOCH} {page.last_n}") == "drained"
        found = events(tmp_path)

        assert [event for event in found if isinstance(event, EntriesLost)] == []
        assert numbers(found) == list(range(1, page.last_n + 1))


def test_decisions_go_on_while_the_control_process_is_stopped(tmp_path: Path) -> None:
    with start_control(tmp_path) as control, start_picker(tmp_path, 1000) as picker:
        time.sleep(0.2)
        control.send(signal.SIGSTOP)
        before = picker.status()
        lost = when(picker, degraded=True)
        assert lost.statistics.cause == "nothing came"
        during = picker.status()
        control.send(signal.SIGCONT)
        when(picker, degraded=False)
        answer = settled(picker)

        assert during.statistics.last_n > before.statistics.last_n + 300
        assert numbers(events(tmp_path)) == list(range(1, answer.statistics.last_n + 1))


def test_a_full_buffer_bounds_memory_and_the_log_says_what_was_lost(tmp_path: Path) -> None:
    with start_control(tmp_path) as control, start_picker(tmp_path, 0, 1 << 20) as picker:
        control.send(signal.SIGSTOP)
        small = picker.status("burst 1000")
        large = picker.status("burst 50000")
        control.send(signal.SIGCONT)
        when(picker, degraded=False)
        answer = settled(picker)
        picker.status("burst 1")
        answer = settled(picker)
        found = events(tmp_path)

        assert large.statistics.unacknowledged_bytes <= 1 << 20
        assert large.resident_bytes < small.resident_bytes + (4 << 20)
        assert large.statistics.dropped > 10_000
        assert numbers(found) == list(range(1, answer.statistics.last_n + 1))
        lost = [event for event in found if isinstance(event, EntriesLost)]
        assert sum(event.last - event.first + 1 for event in lost) == answer.statistics.dropped
        after = found[found.index(lost[-1]) + 1]
        assert isinstance(after, OpenRequestsListed)


def test_a_picker_waits_for_the_control_process_and_finds_it_within_a_quarter_second(tmp_path: Path) -> None:
    async def main() -> float:
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState())
        running = asyncio.create_task(feed.run())
        await asyncio.sleep(0.5)
        assert feed.cluster is None
        loop = asyncio.get_running_loop()
        control = await loop.run_in_executor(None, start_control, tmp_path)
        began = time.monotonic()
        await asyncio.wait_for(feed.wait_fed(), 5)
        waited = time.monotonic() - began
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await loop.run_in_executor(None, control.kill)
        control.__exit__()
        return waited

    assert asyncio.run(main()) < 0.35


# --- against a listener that is no control process ------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "feed.sock"))
        listening.listen()
        listening.setblocking(False)
        yield listening


def test_garbage_closes_the_connection_and_the_picker_comes_back(
    tmp_path: Path, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState())
        running = asyncio.create_task(feed.run())
        for garbage in (b"HTTP/1.1 400 Bad Request\r\n\r\n", struct.pack(">I", 3) + b"\xff\xff\xff"):
            connected, _ = await loop.sock_accept(listener)
            assert await loop.sock_recv(connected, 1000)
            await loop.sock_sendall(connected, garbage)
            assert await loop.sock_recv(connected, 1000) == b""
            connected.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return feed.statistics().connections

    assert asyncio.run(main()) >= 2
    assert "a frame of 1213486160 bytes, wanted at most 67108864" in caplog.text
    assert "none of a control process's" in caplog.text


def test_a_refused_epoch_ends_the_picker_process(tmp_path: Path, listener: socket.socket) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState())
        running = asyncio.create_task(feed.run())
        connected, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(connected, encode_frame(EpochRefused("epoch 7 of picker-0 has ended")))
        try:
            await asyncio.wait_for(running, 5)
        finally:
            connected.close()

    with pytest.raises(EpochRefusedError, match="epoch 7 of picker-0 has ended"):
        asyncio.run(main())


def test_the_number_is_in_the_page_before_anything_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState(), page=tmp_path / "page")
        assert read_page((tmp_path / "page").read_bytes()) == (EPOCH, 1)
        for n in (2, 3):
            feed.record(RequestRefused(feed.origin(), 1.0, RequestFacts("r", POOL), "saturated", 429))
            assert read_page((tmp_path / "page").read_bytes()) == (EPOCH, n)

    asyncio.run(main())


def test_the_decisions_of_a_turn_are_one_frame_and_recorded_waits_for_it(
    tmp_path: Path, listener: socket.socket
) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState())
        running = asyncio.create_task(feed.run())
        connected, _ = await loop.sock_accept(listener)
        try:
            await welcome(connected)
            await asyncio.wait_for(feed.wait_fed(), 5)
            await loop.sock_recv(connected, 1 << 16)

            async def decide() -> int:
                for _ in range(3):
                    feed.record(RequestRefused(feed.origin(), 1.0, RequestFacts("r", POOL), "saturated", 429))
                loop.call_soon(feed.flush)
                await asyncio.sleep(0)
                return len(list(Framer(1 << 20).receive(connected.recv(1 << 20, socket.MSG_PEEK))))

            return list(await asyncio.gather(decide(), decide()))  # two requests in one turn of the loop
        finally:
            connected.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    assert asyncio.run(main()) == [1, 1]


def test_an_outcome_goes_within_five_milliseconds_by_itself(tmp_path: Path, listener: socket.socket) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState())
        running = asyncio.create_task(feed.run())
        connected, _ = await loop.sock_accept(listener)
        try:
            await welcome(connected)
            await asyncio.wait_for(feed.wait_fed(), 5)
            await loop.sock_recv(connected, 1 << 16)
            began = time.monotonic()
            feed.record(RequestFinished(feed.origin(), 1, "complete", 200, 0.1))
            assert await loop.sock_recv(connected, 1 << 16)
            return time.monotonic() - began
        finally:
            connected.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    assert 0.003 < asyncio.run(main()) < 0.1  # the upper bound is the machine's, not the feed's


def test_warming_goes_on_beside_the_work_a_step_in_a_turn(tmp_path: Path, listener: socket.socket) -> None:
    control = Control(MemoryLog(), True)
    control.commit(*members(3))
    end, traffic, line = fed_picker(control, epoch=6)
    for n in range(1, 121):
        route(end, traffic, 1 + n % 3, np.arange(n << 8, (n << 8) + 100, dtype="<u8").tobytes())
    line.run()
    control.commit()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        feed = PickerFeed(tmp_path / "feed.sock", identity(), TrafficState())
        running = asyncio.create_task(feed.run())
        connected, _ = await loop.sock_accept(listener)
        serving = asyncio.create_task(answer(connected, control))
        try:
            await asyncio.wait_for(feed.wait_fed(), 5)
            prefix, cluster = feed.traffic.prefix, feed.cluster
            assert cluster is not None
            event = RequestRouted(feed.origin(), 1000.0, RequestFacts("r", POOL, prefix=b"\1" * 8), (1,))
            feed.record(event)
            feed.traffic.routed(event.origin.n, event, cluster)  # it decides before anything has come
            assert prefix.statistics().warmed == 0
            seen = [0]
            async with asyncio.timeout(10):
                while seen[-1] < 12_000:
                    await asyncio.sleep(0)
                    seen.append(prefix.statistics().warmed)
            assert max(after - before for before, after in pairwise(seen)) <= STEP_BLOCKS
            assert [prefix.held(slot) for slot in range(3)] == [4001, 4000, 4000]
            assert prefix.matches(event.request.prefix, np.array([0])) == [1]
        finally:
            serving.cancel()
            running.cancel()
            await asyncio.gather(serving, running, return_exceptions=True)
            connected.close()

    asyncio.run(main())


async def answer(connected: socket.socket, control: Control) -> None:
    """Be the control process on a connection."""
    loop, end = asyncio.get_running_loop(), ControlEnd(control.feed)
    while data := await loop.sock_recv(connected, 1 << 16):
        if (hello := end.receive(data)) is not None:
            end.welcome(hello, None)
        cold, end.cold = end.cold, None
        if cold is not None:
            end.warm(encode_frame(control.log.warming(cold, (identity().picker, EPOCH), 100)))
        await loop.sock_sendall(connected, end.data_to_send(0.0))


async def welcome(connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    end = ControlEnd(Control(MemoryLog()).feed)
    hello = end.receive(await loop.sock_recv(connected, 1 << 16))
    assert hello is not None
    end.welcome(hello, None)
    await loop.sock_sendall(connected, end.data_to_send(0.0))
