"""Opening, appending, reading."""

import os
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio
from worlds.logs import POOL, SMALL, same, some, with_appender, write
from worlds.waiting import HUNG

from pointsman.core.events import Class, ClockStepped, LogCreated, PoolApplied, class_of, encode
from pointsman.core.state.marks import skim
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError, LogLockedError, NotKeptError
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import connect_read_only, segment_paths
from pointsman.eventlog.stores.snapshots import Projection
from pointsman.eventlog.stores.writing import Commit, StoreLimits


def test_a_new_log_begins_with_log_created(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log", "build 1")
    log.close()

    with open_reader(tmp_path / "log") as reader:
        [entry] = list(reader.entries(1))
        assert entry.event == LogCreated(log.log_id, "build 1")
        assert (log.head.position, log.head.digest) == (reader.head().position, reader.head().digest)
        assert log.state.log_id == log.log_id == reader.log_id


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    events = some(700)
    commits = write(tmp_path, events)

    with open_reader(tmp_path) as reader:
        entries = list(reader.entries(1))
    assert [entry.event for entry in entries[1:]] == events
    assert [entry.position for entry in entries] == list(range(1, 702))
    assert [entry.body for entry in entries[1:]] == [encode(event) for event in events]
    assert [entry.kind for entry in entries[1:]] == [class_of(event) for event in events]
    assert [entry for commit in commits for entry in commit.entries] == entries[1:]
    assert all(a.last + 1 == b.first and a.recorded_at <= b.recorded_at for a, b in pairwise(commits))
    report = verify_chain(tmp_path)
    assert report.sound
    assert (report.head, report.digest, report.entries) == (701, commits[-1].digest, 701)


def test_reopened_the_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    events = some(300)
    write(tmp_path, events[:150])
    first = open_log(tmp_path, "test")
    first.close()
    write(tmp_path, events[150:])

    whole = Projection()
    with open_reader(tmp_path) as reader:
        for entry in reader.entries(1):
            whole.apply(entry)
    log = open_log(tmp_path, "test")
    log.close()
    assert first.head.position == 151
    assert log.head.position == 301
    assert same(log.projection, whole)
    assert verify_chain(tmp_path).sound


def test_appending_nothing_changes_nothing(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        assert await appender.append_many([]) == 1
        assert await appender.append(ClockStepped(1.0)) == 2
        assert await appender.append_many([]) == 2
        assert await appender.append_many([ClockStepped(2.0), ClockStepped(3.0)]) == 4

    commits = with_appender(tmp_path, work)

    assert commits[-1].last == 4
    assert all(commit.entries for commit in commits)
    assert verify_chain(tmp_path).head == 4


def test_a_log_reopened_without_an_append_is_the_same_log(tmp_path: Path) -> None:
    write(tmp_path, some(50))
    digests = set()
    for _ in range(3):
        log = open_log(tmp_path, "test")
        digests.add((log.head.position, log.head.digest))
        log.close()

    assert len(digests) == 1
    assert verify_chain(tmp_path).sound


def test_append_returns_after_the_commit_and_knows_the_position(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        for expected in range(2, 12):
            position = await appender.append(ClockStepped(0.5))
            assert position == expected == appender.log.head.position
            with open_reader(tmp_path) as reader:
                assert reader.head().position == position

    with_appender(tmp_path, work)


def test_an_idle_log_commits_within_a_few_milliseconds(tmp_path: Path) -> None:
    waits: list[float] = []

    async def work(appender: Appender) -> None:
        for _ in range(10):
            await trio.sleep(0.03)
            start = trio.current_time()
            await appender.append(ClockStepped(1.0))
            waits.append(trio.current_time() - start)

    with_appender(tmp_path, work)

    assert sorted(waits)[5] < 0.1  # a commit takes about 1 ms; the rest is for a busy machine


def test_the_projection_and_on_commit_follow_the_disk_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, "test", SMALL)
        told: list[Commit] = []

        def on_commit(commit: Commit) -> None:
            assert log.head.position == commit.last == log.state.position
            assert log.head.digest == commit.digest
            with open_reader(tmp_path) as reader:
                assert reader.digest_at(commit.last) == commit.digest
            told.append(commit)

        async with trio.open_nursery() as nursery:
            appender = Appender(log, on_commit)
            await nursery.start(appender.run)
            await appender.append_many(some(500))
            appender.close()
        log.close()
        assert [entry.position for commit in told for entry in commit.entries] == list(range(2, 502))

    trio.run(main)


def test_what_on_commit_raises_ends_the_appender_and_what_is_queued_is_written(tmp_path: Path) -> None:
    log = open_log(tmp_path, "test")

    def on_commit(commit: Commit) -> None:
        if commit.last >= 2:
            raise ZeroDivisionError

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            appender = Appender(log, on_commit)
            await nursery.start(appender.run)
            for _ in range(300):
                appender.append_nowait(ClockStepped(1.0))
            with trio.fail_after(HUNG):
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        trio.run(main)
    assert raised.value.subgroup(ZeroDivisionError) is not None
    log.close()
    with open_reader(tmp_path) as reader:
        assert reader.head().position == 301


def test_a_run_is_queued_whole_or_not_at_all(tmp_path: Path) -> None:
    limits = StoreLimits(queue_events=80)
    bodies = [encode(ClockStepped(float(n))) for n in range(50)]
    run = ([int(Class.CONTROL)] * 50, bodies, [ClockStepped(float(n)) for n in range(50)])

    async def work(appender: Appender) -> None:
        assert appender.append_run_nowait(*run)
        assert not appender.append_run_nowait(*run)
        assert appender.queued == 50

    with_appender(tmp_path, work, limits)

    with open_reader(tmp_path) as reader:
        assert [entry.body for entry in reader.entries(2)] == bodies


def test_cancelled_the_appender_writes_what_is_queued(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, "test")
        async with trio.open_nursery() as nursery:
            appender = Appender(log, lambda commit: None)
            await nursery.start(appender.run)
            for event in some(3000):
                appender.append_nowait(event)
            nursery.cancel_scope.cancel()
        log.close()

    trio.run(main)

    assert verify_chain(tmp_path).head == 3001


def test_an_error_in_on_commit_reaches_the_nursery_and_the_entries_are_on_disk(tmp_path: Path) -> None:
    def on_commit(commit: Commit) -> None:
        raise RuntimeError(f"at {commit.last}")

    async def main() -> None:
        log = open_log(tmp_path, "test")
        try:
            async with trio.open_nursery() as nursery:
                appender = Appender(log, on_commit)
                await nursery.start(appender.run)
                await appender.append(ClockStepped(1.0))
                await trio.sleep_forever()
        finally:
            log.close()

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main)

    assert caught.group_contains(RuntimeError)
    assert verify_chain(tmp_path).head == 2


def test_a_full_queue_says_so_and_takes_no_more(tmp_path: Path) -> None:
    limits = StoreLimits(queue_events=80, queue_bytes=1 << 20)

    async def work(appender: Appender) -> None:
        traffic = [event for event in some(400) if class_of(event) == Class.TRAFFIC]
        bodies = [encode(event) for event in traffic]
        for body in bodies[:70]:
            appender.append_skimmed_nowait(Class.TRAFFIC, body, skim(Class.TRAFFIC, body))
        with pytest.raises(LogFullError, match="seven eighths"):
            appender.append_nowait(traffic[70])
        for _ in range(10):
            appender.append_nowait(ClockStepped(1.0))
        with pytest.raises(LogFullError, match="full: 80 entries"):
            appender.append_nowait(ClockStepped(1.0))
        statistics = appender.statistics()
        assert (statistics.queued_events, statistics.refused_events) == (80, 2)
        assert await appender.append_many([]) == 81
        assert await appender.append(ClockStepped(2.0)) == 82
        assert appender.statistics().queued_bytes == 0

    with_appender(tmp_path, work, limits)


def test_the_bytes_of_the_queue_are_bounded_too(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        big = PoolApplied(POOL, {"app": "x" * 9000}, (8000,))
        for _ in range(11):
            appender.append_nowait(big)
        with pytest.raises(LogFullError, match="full"):
            appender.append_nowait(big)
        assert 90_000 <= appender.statistics().queued_bytes <= 100_000

    with_appender(tmp_path, work, StoreLimits(queue_bytes=100_000))


def test_bytes_that_are_no_event_are_not_taken() -> None:
    for kind in (Class.TRAFFIC, Class.CONTROL):
        for body in (b"", b"\x91\xa4nope", encode(ClockStepped(1.0))[:-1]):
            with pytest.raises(msgspec.DecodeError):
                skim(kind, body)


def test_a_second_opener_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    log = open_log(tmp_path, "test")
    code = (
        "import sys; from pathlib import Path; from pointsman.eventlog.opening import open_log\n"
        "open_log(Path(sys.argv[1]), 'other')"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    log.close()

    assert done.returncode == 1
    assert f"LogLockedError: the log in {tmp_path} is open in process {os.getpid()}" in done.stderr
    open_log(tmp_path, "test").close()
    with pytest.raises(LogLockedError):
        _twice(tmp_path)


def _twice(directory: Path) -> None:
    log = open_log(directory, "test")
    try:
        open_log(directory, "test")
    finally:
        log.close()


def test_reading_by_class_and_range(tmp_path: Path) -> None:
    write(tmp_path, some(1500), SMALL)

    with open_reader(tmp_path) as reader:
        everything = list(reader.entries(1))
        for classes in ([Class.MEMBERSHIP], [Class.CONTROL, Class.MEMBERSHIP], [Class.LOAD], [Class.TRAFFIC], []):
            assert list(reader.entries(100, 1200, classes)) == [
                entry for entry in everything if entry.kind in classes and 100 <= entry.position <= 1200
            ]
        batch = reader.batch_at(777)
        assert batch.first <= 777 <= batch.last
        with pytest.raises(NotKeptError):
            reader.batch_at(1502)
        with pytest.raises(NotKeptError):
            reader.state_at(1502)


def test_a_log_is_followed_while_it_is_written(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        seen: list[int] = []

        async def follow() -> None:
            with open_reader(tmp_path) as reader:
                async with aclosing(reader.follow(0, interval=0.002)) as pages:
                    async for page in pages:
                        seen.extend(entry.position for entry in page)
                        if seen[-1] == 801:
                            return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for start in range(0, 800, 40):
                await appender.append_many(some(800)[start : start + 40])
        assert seen == list(range(1, 802))

    with_appender(tmp_path, work, SMALL)


def test_a_long_read_transaction_does_not_hold_up_appends(tmp_path: Path) -> None:
    write(tmp_path, some(2000))

    async def work(appender: Appender) -> None:
        with connect_read_only(segment_paths(tmp_path)[0]) as connection:
            cursor = connection.exec_driver_sql("SELECT position FROM entries")
            assert cursor.fetchone() is not None  # and stays open: the read transaction goes on
            start = trio.current_time()
            for n in range(100):
                await appender.append(ClockStepped(float(n)))
            assert trio.current_time() - start < 5
            await trio.sleep(0.6)  # a checkpoint falls into this
            assert appender.statistics().stalled_since is None
            assert len(cursor.fetchall()) == 2000
        assert await appender.append(ClockStepped(0.0)) == 2102

    with_appender(tmp_path, work)
    assert verify_chain(tmp_path).sound


def test_readers_in_threads_see_whole_batches_while_it_is_written(tmp_path: Path) -> None:
    write(tmp_path, some(10), SMALL)
    stop = threading.Event()
    problems: list[str] = []
    reads = [0]

    def read() -> None:
        while not stop.is_set():
            report = verify_chain(tmp_path)
            if not report.sound:
                problems.append(str(report.fault))
            with open_reader(tmp_path) as reader:
                head = reader.head().position
                if reader.state_at(head).position != head:
                    problems.append(f"state at {head}")
            reads[0] += 1
            time.sleep(0.005)

    async def work(appender: Appender) -> None:
        events = some(4000)[10:]
        for start in range(0, len(events), 100):
            await appender.append_many(events[start : start + 100])
            await trio.sleep(0.002)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with_appender(tmp_path, work, SMALL)
    finally:
        stop.set()
        thread.join()
    assert problems == []
    assert reads[0] > 3
