"""A disk that refuses: the queue holds, statistics say why, nothing acknowledged is lost."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from worlds.logs import SMALL, some, with_appender, write
from worlds.waiting import HUNG

from pointsman.core.events import ClockStepped, PoolApplied
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogCorruptError, LogFullError
from pointsman.eventlog.opening import open_log, verify_chain
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.eventlog.stores.writing import StoreLimits

HEAVY = PoolApplied("test/heavy", {"label": "x" * 4000}, (8000,))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


async def wait_stalled(appender: Appender) -> None:
    with trio.fail_after(HUNG):
        while appender.statistics().stalled_since is None:
            await trio.sleep(0.005)


def test_a_full_disk_stalls_the_log_and_room_lets_it_go_on(small_disk: Path) -> None:
    directory = small_disk / "log"
    write(directory, some(200))
    ballast = small_disk / "ballast"

    async def work(appender: Appender) -> None:
        ballast.write_bytes(b"x" * (1 << 20))
        acknowledged = appender.log.head.position
        for _ in range(600):
            appender.append_nowait(HEAVY)
        await wait_stalled(appender)
        statistics = appender.statistics()
        assert "full" in statistics.stalled_because
        assert statistics.queued_events > 0
        assert statistics.head >= acknowledged
        assert verify_chain(directory).head == statistics.head
        with trio.move_on_after(0.3) as waiting:
            await appender.append(ClockStepped(1.0))
        assert waiting.cancelled_caught
        ballast.unlink()
        assert await appender.append(ClockStepped(2.0)) == 803
        assert appender.statistics().stalled_since is None
        assert appender.statistics().queued_events == 0

    commits = with_appender(directory, work)

    assert [entry.position for commit in commits for entry in commit.entries] == list(range(202, 804))
    assert verify_chain(directory).head == 803


def test_overflow_while_stalled_is_refused_with_the_reason(small_disk: Path) -> None:
    directory = small_disk / "log"
    write(directory, some(20))

    async def work(appender: Appender) -> None:
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        appender.append_nowait(HEAVY)
        await wait_stalled(appender)
        refused = 0
        for _ in range(150):
            try:
                appender.append_nowait(ClockStepped(1.0))
            except LogFullError as error:
                refused += 1
                message = str(error)
        assert refused == 51
        assert "commits have failed since" in message
        assert "full" in message
        assert appender.statistics().refused_events == 51
        ballast.unlink()
        await appender.append_many([])

    with_appender(directory, work, StoreLimits(queue_events=100))

    assert verify_chain(directory).head == 121


def test_a_disk_that_is_full_at_the_step_to_a_new_segment_stalls_and_recovers(small_disk: Path) -> None:
    directory = small_disk / "log"
    ballast = small_disk / "ballast"

    async def work(appender: Appender) -> None:
        events = some(3000)
        ballast.write_bytes(b"x" * (2_200 << 10))
        stalled = 0
        for start in range(0, 3000, 50):
            position = 0
            for event in events[start : start + 50]:
                position = appender.append_nowait(event)
            with trio.move_on_after(0.4) as waiting:
                await appender.wait_committed(position)
            if waiting.cancelled_caught:
                stalled += 1
                assert appender.statistics().stalled_since is not None
                ballast.write_bytes(b"x" * max(ballast.stat().st_size - (300 << 10), 0))
                await appender.wait_committed(position)
        assert stalled > 0

    with_appender(directory, work, SMALL)

    assert len(segment_paths(directory)) > 3
    assert verify_chain(directory).head == 3001
    log = open_log(directory, "test", SMALL)
    log.close()
    assert log.head.position == 3001


def test_closing_while_the_disk_is_full_ends_in_time_and_keeps_what_was_acknowledged(small_disk: Path) -> None:
    directory = small_disk / "log"
    write(directory, some(20))
    told: list[int] = []

    async def main() -> None:
        log = open_log(directory, "test")
        async with trio.open_nursery() as nursery:
            appender = Appender(log, lambda commit: told.append(commit.last))
            await nursery.start(appender.run)
            await appender.append_many([HEAVY] * 100)
            for _ in range(900):
                appender.append_nowait(HEAVY)
            await wait_stalled(appender)
            start = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - start < 10
        log.close()

    trio.run(main)

    assert verify_chain(directory).head >= max(told)


def test_a_file_size_limit_stalls_the_log_like_a_full_disk(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
import trio
from worlds.logs import some
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import open_log

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = open_log(Path(sys.argv[1]), "test")
    acknowledged = []
    async with trio.open_nursery() as nursery:
        appender = Appender(log, lambda commit: acknowledged.append(commit.last))
        await nursery.start(appender.run)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        for event in some(3000):
            appender.append_nowait(event)
        while appender.statistics().stalled_since is None:
            await trio.sleep(0.01)
        head = appender.statistics().head
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert await appender.append_many([]) == 3001
        print(head, appender.statistics().head)
        appender.close()
    log.close()

trio.run(main)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    stalled, head = map(int, done.stdout.split())
    assert stalled < head == 3001
    assert verify_chain(tmp_path).head == 3001
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_segment_deleted_under_the_writer_is_reported(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        await appender.append(ClockStepped(1.0))
        path = segment_paths(tmp_path)[0]
        path.rename(tmp_path / "moved")
        appender.append_nowait(ClockStepped(2.0))
        await wait_stalled(appender)
        (tmp_path / "moved").rename(path)
        await appender.append(ClockStepped(3.0))

    with_appender(tmp_path, work)

    assert verify_chain(tmp_path).head == 4


def test_a_directory_that_may_not_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("not a directory")

    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        open_log(target, "test")
    broken = tmp_path / "log"
    write(broken, some(5))
    segment_paths(broken)[0].write_bytes(b"")
    with pytest.raises(LogCorruptError):
        open_log(broken, "test")
