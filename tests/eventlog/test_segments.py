"""Segments, snapshots, and the fold across them."""

import contextlib
import os
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings, strategies as st
from sqlalchemy import text
from sqlalchemy.dialects import sqlite
from worlds.logs import SMALL, same, some, with_appender, write

from pointsman.core.events import ClockStepped, encode
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import (
    SQL_ERRORS,
    connect_read_only,
    connect_writer,
    first_position,
    segment_paths,
)
from pointsman.eventlog.sqlite.tables import RARE_ENTRIES, rows
from pointsman.eventlog.stores.snapshots import Projection, restore
from pointsman.eventlog.stores.writing import StoreLimits


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("long") / "log"
    write(directory, some(4000), SMALL)
    return directory


def test_a_log_goes_on_in_new_segments_and_the_chain_with_it(long_log: Path) -> None:
    paths = segment_paths(long_log)
    report = verify_chain(long_log)

    assert len(paths) >= 4
    assert report.sound
    assert (report.entries, report.head, report.segments) == (4001, 4001, len(paths))
    with open_reader(long_log) as reader:
        assert [entry.event for entry in reader.entries(2)] == some(4000)
        for before, segment in pairwise(reader.segments()):
            assert segment.meta().previous_digest == reader.digest_at(segment.first - 1)
            batch = before.last_batch()
            assert batch is not None
            assert batch.last == segment.first - 1


def test_each_segment_has_a_snapshot_at_its_head_and_more_follow(long_log: Path) -> None:
    with open_reader(long_log) as reader:
        segments = reader.segments()
        for segment in segments:
            assert segment.snapshot(segment.first - 1) is not None
    assert verify_chain(long_log).snapshots > len(segments)


def test_control_entries_are_found_by_their_index(long_log: Path) -> None:
    statement = str(RARE_ENTRIES.compile(dialect=sqlite.dialect())).replace("__[POSTCOMPILE_classes]", "0, 1")
    with contextlib.closing(connect_read_only(segment_paths(long_log)[0])) as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (1, 4000, 10, 0)).all()

    assert "USING INDEX rare" in str(plan)


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 4001))
def test_snapshot_and_tail_equal_the_whole(long_log: Path, position: int) -> None:
    with open_reader(long_log) as reader:
        whole = Projection()
        for entry in reader.entries(1, position):
            whole.apply(entry)
        before = reader.snapshot_before(position)

        assert before is not None
        assert before.position <= position
        assert restore(before).cluster.position == before.position
        assert same(reader.projection_at(position), whole)
        assert encode_snapshot(reader.state_at(position)) == encode_snapshot(whole.cluster)


def test_totals_are_the_same_from_a_snapshot_and_from_the_beginning(long_log: Path) -> None:
    counts: dict[int, int] = {}
    with open_reader(long_log) as reader:
        for entry in reader.entries(1):
            counts[entry.kind] = counts.get(entry.kind, 0) + 1
    log = open_log(long_log, "test", SMALL)
    log.close()

    assert log.projection.totals.entries == counts


def test_a_segment_ends_with_its_age(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        for _ in range(3):
            await appender.append(ClockStepped(1.0))
            await trio.sleep(0.06)

    with_appender(tmp_path, work, StoreLimits(segment_age=0.05))

    assert len(segment_paths(tmp_path)) >= 2
    assert verify_chain(tmp_path).head == 4


def test_a_segment_without_a_batch_is_a_log_that_goes_on(tmp_path: Path) -> None:
    write(tmp_path, some(100))
    log = open_log(tmp_path, "test", StoreLimits(segment_bytes=1))
    assert log.store.segment_full
    log.store.begin_segment(log.projection.snapshot())
    log.close()
    assert len(segment_paths(tmp_path)) == 2
    with open_reader(tmp_path) as reader:
        assert (reader.head().position, reader.head().digest) == (101, log.head.digest)

    write(tmp_path, some(110)[100:])

    assert verify_chain(tmp_path).head == 111


def test_what_a_crash_left_of_an_unfinished_segment_is_no_segment(tmp_path: Path) -> None:
    write(tmp_path, some(100))
    (tmp_path / "00000000000000000102.segment.unfinished").write_bytes(b"half of it")
    write(tmp_path, some(200)[100:], StoreLimits(segment_bytes=1))

    assert verify_chain(tmp_path).head == 201
    assert len(segment_paths(tmp_path)) >= 2
    assert not list(tmp_path.glob("*.unfinished*"))


def test_a_log_whose_oldest_segments_somebody_removed_opens_and_is_not_sound(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    paths = segment_paths(tmp_path)
    for path in paths[:2]:
        path.unlink()

    log = open_log(tmp_path, "test", SMALL)
    log.close()
    report = verify_chain(tmp_path)

    assert log.head.position == 3001
    assert not report.sound
    assert report.first == first_position(paths[2])
    with open_reader(tmp_path) as reader:
        assert next(reader.entries(1)).position == report.first
        assert reader.state_at(report.first).position == report.first
        with pytest.raises(NotKeptError):
            reader.state_at(report.first - 2)


def test_a_segment_missing_in_the_middle_is_found_on_opening(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    missing = segment_paths(tmp_path)[1]
    missing.unlink()

    with pytest.raises(LogCorruptError, match="a segment is missing or an older copy"):
        open_log(tmp_path, "test", SMALL)
    assert not verify_chain(tmp_path).sound


def test_a_snapshot_of_another_projection_version_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    for path in segment_paths(tmp_path):
        with connect_writer(path) as connection:
            connection.exec_driver_sql("UPDATE snapshots SET version = 999 WHERE position > 0")

    log = open_log(tmp_path, "test", SMALL)
    log.close()

    whole = Projection()
    with open_reader(tmp_path) as reader:
        for entry in reader.entries(1):
            whole.apply(entry)
        row = reader.snapshot_before(3001)
    assert same(log.projection, whole)
    assert row is not None
    assert restore(row).position == row.position == 0


@pytest.mark.parametrize(
    "statement", ["DELETE FROM entries", "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode=DELETE", "VACUUM"]
)
def test_readers_cannot_write_or_checkpoint(tmp_path: Path, statement: str) -> None:
    write(tmp_path, some(10))
    log = open_log(tmp_path, "test")
    log.store.write(log.store.prepare([1], [encode(ClockStepped(1.0))]))
    path = segment_paths(tmp_path)[0]
    wal = path.with_name(path.name + "-wal")
    before = (path.stat().st_mtime_ns, path.stat().st_size, wal.stat().st_size)
    with contextlib.closing(connect_read_only(path)) as connection, contextlib.suppress(*SQL_ERRORS):
        rows(connection, text(statement))

    assert before[2] > 0
    assert (path.stat().st_mtime_ns, path.stat().st_size, wal.stat().st_size) == before
    log.close()
    assert verify_chain(tmp_path).head == 12


def test_a_log_on_a_read_only_file_system_can_be_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    from subprocess import run

    write(tmp_path / "log", some(500))
    mount = tmp_path / "mount"
    mount.mkdir()
    if run(["mount", "--bind", str(tmp_path / "log"), str(mount)], check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        assert verify_chain(mount).head == 501
        with pytest.raises(OSError, match="Read-only"):
            open_log(mount, "test")
    finally:
        run(["umount", str(mount)], check=True)


def test_the_pragmas_are_those_that_the_durability_rests_on(tmp_path: Path) -> None:
    write(tmp_path, some(10))
    with connect_writer(segment_paths(tmp_path)[0]) as connection:
        found = {
            name: rows(connection, text(f"PRAGMA {name}"))[0][0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint")
        }

    assert found == {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 0}
