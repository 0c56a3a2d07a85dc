"""A log that is kept within limits: what goes, what stays of it, and that nothing goes untold."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
from hypothesis import given, strategies as st
from worlds.logs import SMALL, some, with_appender, write
from worlds.system import pointsman

from pointsman.cli.control.retaining import Retention
from pointsman.core.events import BackendRef, Class, Entry, Event, SegmentDropped, WeightsIntended, WeightsWritten
from pointsman.core.processes.settings import KeepLimits
from pointsman.core.state import snapshot
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import drop_segment, open_log, open_reader, verify_chain
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.readmodel.sqlite.answering import SqliteReadModel
from pointsman.eventlog.sqlite.segments import connect_writer, segment_paths
from pointsman.eventlog.stores.archive import FOLDER, dropped_before, drops
from pointsman.eventlog.stores.retention import LogSpace, SegmentSpan, due, look, store_limits
from pointsman.eventlog.stores.writing import StoreLimits

INTENT = WeightsIntended("c1", "default/r", 0, "v", (), (BackendRef("default/p", 3),), "anna", "a reason", 1.0)
TWO_SEGMENTS = KeepLimits(0.0, 400_000)


def long_log(directory: Path, first: list[Event] | None = None) -> list[Entry]:
    """A log of many segments; its entries."""
    write(directory, [*(first or []), *some(4000)], SMALL)
    assert len(segment_paths(directory)) >= 4
    with open_reader(directory) as reader:
        return list(reader.entries(1))


def retain(directory: Path, keep: KeepLimits) -> Retention:
    """Keep the log within limits, once."""
    found: list[Retention] = []

    async def work(appender: Appender) -> None:
        found.append(Retention(keep, appender, directory / "readmodel.db", print))
        await found[0].once()

    with_appender(directory, work, SMALL)
    return found[0]


def dropped(directory: Path) -> list[SegmentDropped]:
    with open_reader(directory) as reader:
        return drops(reader.entries(1, None, (Class.CONTROL,)))


def test_what_is_beyond_the_size_goes_oldest_first_and_the_log_says_so(tmp_path: Path) -> None:
    entries = long_log(tmp_path)
    paths = segment_paths(tmp_path)

    retain(tmp_path, TWO_SEGMENTS)
    report = verify_chain(tmp_path)
    told = dropped(tmp_path)

    assert [path for path in paths if not path.exists()] == paths[: len(told)] != []
    assert sum(path.stat().st_size for path in segment_paths(tmp_path)) <= TWO_SEGMENTS.size
    assert report.sound
    assert report.dropped == tuple(told)
    assert [drop.cause for drop in told] == ["size"] * len(told)
    assert (told[0].first, told[-1].last) == (1, report.first - 1)
    for kind in Class:
        count = sum(1 for entry in entries[: report.first - 1] if entry.kind == kind)
        assert sum(drop.entries.get(kind, 0) for drop in told) == count


def test_what_is_older_than_the_age_goes(tmp_path: Path) -> None:
    long_log(tmp_path)

    retain(tmp_path, KeepLimits(1e-6, 0))

    assert [drop.cause for drop in dropped(tmp_path)] == ["age"] * len(dropped(tmp_path)) != []
    assert len(segment_paths(tmp_path)) == 1
    assert verify_chain(tmp_path).sound


def test_a_log_without_limits_keeps_all(tmp_path: Path) -> None:
    long_log(tmp_path)
    paths = segment_paths(tmp_path)

    retain(tmp_path, KeepLimits(0.0, 0))

    assert segment_paths(tmp_path) == paths


def test_what_people_did_is_in_the_archive_bytes_unchanged(tmp_path: Path) -> None:
    entries = long_log(tmp_path, [INTENT, WeightsWritten("c1", "v2")])

    retain(tmp_path, TWO_SEGMENTS)
    retain(tmp_path, KeepLimits(1e-6, 0))  # the drops before are dropped themselves, and archived
    first = verify_chain(tmp_path).first
    kept = [entry for _, found in dropped_before(tmp_path, dropped(tmp_path)) for entry in found]

    assert sorted((entry for entry in kept if entry.position <= len(entries)), key=lambda entry: entry.position) == [
        entry for entry in entries if entry.kind < Class.LOAD and entry.position < first
    ]
    lines = (tmp_path / FOLDER / "00000000000000000001.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["first"] == 1
    assert json.loads(lines[1])["position"] == 1


def test_the_state_and_the_changes_of_weights_outlive_the_segments_that_told_of_them(tmp_path: Path) -> None:
    long_log(tmp_path / "log", [INTENT, WeightsWritten("c1", "v2")])
    with open_reader(tmp_path / "log") as reader:
        before = reader.state_at(reader.head().position)
    retain(tmp_path / "log", TWO_SEGMENTS)

    model = ReadModelWriter(tmp_path / "readmodel.db", tmp_path / "log")
    while model.fold():
        pass
    model.close()
    with SqliteReadModel(tmp_path / "readmodel.db") as answers:
        [change] = answers.changes("default/r", 10)
        names = {one.number for one in answers.endpoints()}
    with open_reader(tmp_path / "log") as reader:
        after = reader.state_at(reader.head().position)

    assert (change.actor, change.state, change.after) == ("anna", "written", INTENT.after)
    assert after.endpoints == before.endpoints
    assert names >= set(after.endpoints)


def test_a_segment_that_is_gone_without_an_entry_is_a_fault(tmp_path: Path) -> None:
    long_log(tmp_path)
    segment_paths(tmp_path)[0].unlink()

    report = verify_chain(tmp_path)

    assert report.fault is not None
    assert "no entry says" in report.fault.problem


def _other_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, _other_bytes])
@pytest.mark.parametrize("which", [0, -1])
def test_an_archive_that_is_missing_or_changed_is_a_fault(
    tmp_path: Path, harm: Callable[[Path], None], which: int
) -> None:
    long_log(tmp_path)
    retain(tmp_path, TWO_SEGMENTS)
    retain(tmp_path, KeepLimits(1e-6, 0))
    harm(sorted((tmp_path / FOLDER).iterdir())[which])

    report = verify_chain(tmp_path)

    assert report.fault is not None
    assert "archive" in report.fault.problem


def test_deleted_rows_are_a_fault_whatever_the_segment_says_of_itself(tmp_path: Path) -> None:
    write(tmp_path, some(500), SMALL)
    with connect_writer(segment_paths(tmp_path)[0]) as connection:
        connection.exec_driver_sql("DELETE FROM entries WHERE kind = 3")
        connection.exec_driver_sql("INSERT OR REPLACE INTO meta VALUES ('dropped', ?)", (msgspec.msgpack.encode([3]),))

    assert not verify_chain(tmp_path).sound


def test_heads_that_were_published_are_compared_where_a_drop_tells_them_and_else_said_to_be_unchecked(
    tmp_path: Path,
) -> None:
    long_log(tmp_path)
    with open_reader(tmp_path) as reader:
        end = reader.segments()[1].first - 1
        inside = reader.batches(0, 1)[0]
        digest = reader.digest_at(end)
    assert digest is not None
    retain(tmp_path, TWO_SEGMENTS)

    assert verify_chain(tmp_path, {end: digest}).unchecked == ()
    assert verify_chain(tmp_path, {end: digest}).sound
    assert not verify_chain(tmp_path, {end: b"x" * 32}).sound
    assert verify_chain(tmp_path, {inside.last: inside.digest}).unchecked == (inside.last,)


def test_a_crash_between_the_entry_and_the_deletion_is_made_good_at_the_next_look(tmp_path: Path) -> None:
    long_log(tmp_path)
    before = {path: path.read_bytes() for path in segment_paths(tmp_path)}
    retain(tmp_path, TWO_SEGMENTS)
    remaining, told = segment_paths(tmp_path), dropped(tmp_path)
    last = [path for path in before if not path.exists()][-1]
    last.write_bytes(before[last])  # as though it had not come to deleting
    assert verify_chain(tmp_path).sound

    retain(tmp_path, KeepLimits(0.0, 0))

    assert segment_paths(tmp_path) == remaining
    assert dropped(tmp_path) == told


def test_a_walk_goes_on_where_a_segment_is_dropped_under_it(tmp_path: Path) -> None:
    long_log(tmp_path)
    reader = open_reader(tmp_path)
    kept = reader.segments()[0]
    assert kept.entries(1, 5)  # its connection is open
    retain(tmp_path, TWO_SEGMENTS)

    with pytest.raises(NotKeptError):
        reader.segments() and kept.entries(1, 5)
    with pytest.raises(NotKeptError):
        _ = kept.size
    assert reader.first() == verify_chain(tmp_path).first
    reader.close()


def test_a_snapshot_of_an_older_version_is_used_where_the_log_does_not_go_back_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "VERSION", snapshot.VERSION - 1)
    long_log(tmp_path)
    monkeypatch.undo()
    retain(tmp_path, TWO_SEGMENTS)
    with open_reader(tmp_path) as reader:
        assert next(reader.entries(1)).position > 1

    log = open_log(tmp_path, "test", SMALL)
    log.close()

    assert log.head.position > 4000
    assert len(log.state.endpoints) > 2
    assert verify_chain(tmp_path).sound


def test_a_snapshot_of_a_later_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "VERSION", 99)
    long_log(tmp_path)
    monkeypatch.undo()
    segment_paths(tmp_path)[0].unlink()

    with pytest.raises(LogCorruptError, match="version 99"):
        open_log(tmp_path, "test", SMALL)


spans = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), max_size=8).map(
    lambda pairs: tuple(
        SegmentSpan(n * 10 + 1, n * 10 + 10, float(age), size)
        for n, (age, size) in enumerate(sorted(pairs, key=lambda pair: pair[0]))
    )
)


@given(spans, st.integers(0, 3000), st.integers(0, 1000), st.integers(0, 5000))
def test_what_is_due_is_the_least_that_brings_the_log_within_its_limits(
    complete: tuple[SegmentSpan, ...], others: int, age: int, size: int
) -> None:
    now = 1000.0
    total = others + sum(span.size for span in complete)
    going = due(LogSpace(total, 1, 0.0, 0.0, complete), KeepLimits(float(age), size), now)
    stays = complete[len(going) :]
    rest = total - sum(one.span.size for one in going)

    assert [one.span for one in going] == list(complete[: len(going)])
    assert not size or rest <= size or not stays
    assert not age or all(span.ended_at >= now - age for span in stays)
    if going:
        before = rest + going[-1].span.size
        assert (size and before > size) or (age and going[-1].span.ended_at < now - age)


@given(st.integers(0, 1 << 40), st.floats(0, 1e9))
def test_segments_are_small_against_what_is_kept(size: int, age: float) -> None:
    limits = store_limits(KeepLimits(age, size))

    assert limits.segment_bytes <= StoreLimits().segment_bytes
    assert not size or limits.segment_bytes <= max(size // 16, 1 << 20)
    assert not age or limits.segment_age <= age / 16


def test_a_log_says_what_it_takes_and_how_fast_it_grows(tmp_path: Path) -> None:
    long_log(tmp_path)
    with open_reader(tmp_path) as reader:
        space = look(reader, 1000)

    assert space.size == 1000 + sum(
        path.stat().st_size for path in tmp_path.iterdir() if not path.name.endswith(("-shm", "lock"))
    )
    assert space.first == 1
    assert len(space.complete) == len(segment_paths(tmp_path)) - 1
    assert space.growth == 0  # it is a moment old


def test_retention_goes_on_while_the_log_is_written(tmp_path: Path) -> None:
    async def work(appender: Appender) -> None:
        retention = Retention(TWO_SEGMENTS, appender, tmp_path / "readmodel.db", print)
        events = some(6000)
        for start in range(0, len(events), 200):
            await appender.append_many(events[start : start + 200])
            await retention.once()
            await trio.lowlevel.checkpoint()

    with_appender(tmp_path, work, SMALL)
    report = verify_chain(tmp_path)

    assert report.sound
    assert len(report.dropped) > 2
    assert sum(path.stat().st_size for path in segment_paths(tmp_path)) <= TWO_SEGMENTS.size + SMALL.segment_bytes


def test_the_commands_say_what_would_go_and_do_it_and_tell_of_heads_that_cannot_be_checked(tmp_path: Path) -> None:
    long_log(tmp_path)
    with open_reader(tmp_path) as reader:
        early = reader.batches(0, 1)[0]
    paths = segment_paths(tmp_path)
    limits = (str(tmp_path), "--keep-size", "400k", "--output", "json")

    dry = json.loads(pointsman("log", "retain", "--dry-run", *limits).stdout)
    assert segment_paths(tmp_path) == paths
    done = json.loads(pointsman("log", "retain", *limits).stdout)
    head = f"{early.last}:{early.digest.hex()}"
    verified = pointsman("log", "verify", tmp_path, "--head", head)

    assert dry["dropped"] == done["dropped"] != []
    assert [path for path in paths if not path.exists()] == paths[: len(done["dropped"])]
    assert verified.returncode == 3, verified.stderr
    assert "NOT CHECKED" in verified.stdout
    assert "dropped for its size" in verified.stdout
    assert pointsman("log", "verify", tmp_path).returncode == 0


def test_dropping_what_is_gone_changes_nothing(tmp_path: Path) -> None:
    long_log(tmp_path)
    retain(tmp_path, TWO_SEGMENTS)

    drop_segment(tmp_path, 1)

    assert verify_chain(tmp_path).sound


def test_the_archive_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    long_log(tmp_path)
    before = os.umask(0)
    try:
        retain(tmp_path, TWO_SEGMENTS)
    finally:
        os.umask(before)
    files = list((tmp_path / FOLDER).iterdir())

    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
