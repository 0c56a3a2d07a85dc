"""Files that are not what was written: named, and left alone."""

import hashlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from worlds.logs import SMALL, some, write

from pointsman.core.events import LoadSampled, encode
from pointsman.eventlog.chain import Batch, seal
from pointsman.eventlog.errors import LogCorruptError
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.eventlog.stores.writing import StoreLimits


def fingerprint(directory: Path) -> dict[str, str]:
    """Of everything that holds the log; the lock and SQLite's shared memory do not."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.suffix == ".segment" or (path.name.endswith("-wal") and path.stat().st_size)
    }


def refused(directory: Path) -> str:
    """What opening says; nothing on disk may change."""
    before = fingerprint(directory)
    with pytest.raises(LogCorruptError) as caught:
        open_log(directory, "test", SMALL)
    assert fingerprint(directory) == before
    assert "pointsman log verify" in str(caught.value)
    assert "--data-dir" in str(caught.value)
    return str(caught.value)


def alter(path: Path, statement: str, parameters: tuple[object, ...] = ()) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, parameters).rowcount != 0
    connection.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, some(300))
    return tmp_path


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE entries SET body = cast(substr(body, 1, length(body) - 1) || x'7f' AS BLOB) WHERE position = 250",
            "digest",
        ),
        ("UPDATE entries SET recorded_at = recorded_at + 1 WHERE position = 250", "digest"),
        ("UPDATE entries SET body = 'text' WHERE position = 250", "other types"),
        ("UPDATE entries SET kind = 7 WHERE position = 250", "class"),
        ("DELETE FROM entries WHERE position = 250", "entry 251 stands where entry 250 should"),
        ("DELETE FROM entries WHERE position = 301", "entry 301 is missing"),
        ("UPDATE batches SET digest = zeroblob(32) WHERE last >= 250", "its digest is 0000000000000000, wanted"),
        ("UPDATE batches SET classes = zeroblob(10) WHERE last >= 250", "multiple of 45"),
        ("UPDATE batches SET recorded_at = recorded_at + 1 WHERE last >= 250", "digest"),
        ("UPDATE batches SET first = 'x' WHERE last >= 250", "other values"),
    ],
)
def test_a_changed_row_names_its_batch(directory: Path, statement: str, problem: str) -> None:
    with open_reader(directory) as reader:
        batch = reader.batch_at(301 if "301" in statement else 250)
    path = segment_paths(directory)[0]
    alter(path, statement)

    message = refused(directory)
    report = verify_chain(directory)

    assert problem in message
    assert path.name in message
    assert report.fault is not None
    assert problem in report.fault.problem
    assert report.fault.segment == path.name
    if "other values" not in problem:
        assert f"positions {batch.first} to {batch.last}" in message
        assert (report.fault.first, report.fault.last) == (batch.first, batch.last)


def test_swapped_entries_are_found(directory: Path) -> None:
    alter(
        segment_paths(directory)[0],
        "UPDATE entries SET body = (SELECT body FROM entries AS other WHERE other.position = 281 - entries.position)"
        " WHERE position IN (140, 141)",
    )

    fault = verify_chain(directory).fault

    assert fault is not None
    assert fault.first <= 140 <= fault.last


def test_an_extra_entry_is_found(directory: Path) -> None:
    alter(segment_paths(directory)[0], "INSERT INTO entries VALUES (302, 1.0, 4, x'00')")

    fault = verify_chain(directory).fault

    assert fault is not None
    assert "entry 302 is in no batch" in fault.problem
    assert "entry 302" in refused(directory)


def test_a_removed_batch_is_found(directory: Path) -> None:
    write(directory, some(400)[300:], StoreLimits(batch_events=10))
    path = segment_paths(directory)[0]
    with open_reader(directory) as reader:
        batch = reader.batch_at(330)
    alter(path, "DELETE FROM batches WHERE last = ?", (batch.last,))
    alter(path, "DELETE FROM entries WHERE position BETWEEN ? AND ?", (batch.first, batch.last))

    fault = verify_chain(directory).fault

    assert fault is not None
    assert f"a batch begins with {batch.last + 1}, wanted {batch.first}" in fault.problem


def test_a_changed_snapshot_is_named(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    path = segment_paths(tmp_path)[-1]
    alter(path, "UPDATE snapshots SET state = cast(substr(state, 1, length(state) - 1) || x'7f' AS BLOB)")

    message = refused(tmp_path)
    fault = verify_chain(tmp_path).fault

    assert "snapshot at position" in message
    assert path.name in message
    assert fault is not None
    assert "snapshot at position" in fault.problem


def test_a_broken_header_is_named(directory: Path) -> None:
    path = segment_paths(directory)[0]
    with path.open("r+b") as file:
        file.write(b"not a database at all")

    message = refused(directory)

    assert path.name in message
    assert "file is not a database" in message
    assert "file is not a database" in str(verify_chain(directory).fault)


def test_a_file_of_another_program_is_named(directory: Path) -> None:
    path = segment_paths(directory)[0]
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()

    assert "not a log's" in refused(directory)


def test_a_segment_of_a_later_format_is_refused(directory: Path) -> None:
    with sqlite3.connect(segment_paths(directory)[0]) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()

    assert "format is 2, wanted 1" in refused(directory)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, some(3000))
    path = segment_paths(tmp_path)[0]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    assert path.name in refused(tmp_path)
    assert not verify_chain(tmp_path).sound


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_flipped_byte_anywhere_is_found_by_the_walk(tmp_path: Path, share: float) -> None:
    write(tmp_path, some(3000))
    path = segment_paths(tmp_path)[0]
    report = verify_chain(tmp_path)
    assert report.sound
    data = bytearray(path.read_bytes())
    with open_reader(tmp_path) as reader:
        [entry] = list(reader.entries(int(3000 * share), int(3000 * share)))
    at = bytes(data).index(entry.body) + len(entry.body) // 2
    data[at] ^= 0x10
    path.write_bytes(data)

    fault = verify_chain(tmp_path).fault

    assert fault is not None
    assert fault.first <= entry.position <= fault.last


def test_a_changed_entry_with_the_chain_computed_again_verifies_and_has_another_head(tmp_path: Path) -> None:
    write(tmp_path, some(300))
    before = verify_chain(tmp_path)
    path = segment_paths(tmp_path)[0]
    with open_reader(tmp_path) as reader:
        entry = next(e for e in reader.entries(100) if isinstance(e.event, LoadSampled))
    alter(path, "UPDATE entries SET body = ? WHERE position = ?", (forged(entry.event), entry.position))
    chain_again(tmp_path, path)

    after = verify_chain(tmp_path)

    assert after.sound
    assert after.head == before.head
    assert after.digest != before.digest
    fault = verify_chain(tmp_path, {before.head: before.digest}).fault
    assert fault is not None
    assert before.digest.hex() in fault.problem


def forged(event: object) -> bytes:
    assert isinstance(event, LoadSampled)
    return encode(LoadSampled(event.endpoints, event.sampled_at + 1, *list(_rest(event))))


def _rest(event: LoadSampled) -> tuple[bytes, bytes, bytes, bytes]:
    return event.earlier, event.waiting, event.running, event.kv_cache


def chain_again(directory: Path, path: Path) -> None:
    """What a forger who knows the format does: new digests for all batches, and for the snapshots."""
    with open_reader(directory) as reader:
        [segment] = [one for one in reader.segments() if one.name == path.name]
        meta = segment.meta()
        previous, batches = meta.previous_digest, list[Batch]()
        for batch in segment.batches(0, 10_000):
            entries = segment.entries(batch.first, batch.last)
            kinds, bodies = [e.kind for e in entries], [e.body for e in entries]
            batches.append(seal(previous, batch.first, batch.recorded_at, kinds, bodies))
            previous = batches[-1].digest
    for batch in batches:
        alter(
            path, "UPDATE batches SET digest = ?, classes = ? WHERE last = ?", (batch.digest, batch.classes, batch.last)
        )


def test_an_older_copy_of_a_segment_is_found_where_a_newer_one_follows_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, some(100), SMALL)
    shutil.copy(segment_paths(log)[0], tmp_path / "older")
    write(log, some(3000)[100:], SMALL)
    shutil.copy(tmp_path / "older", segment_paths(log)[0])

    assert "a segment is missing or an older copy" in refused(log)
    assert not verify_chain(log).sound


def test_an_older_copy_of_the_whole_log_is_sound_and_found_by_a_published_head(tmp_path: Path) -> None:
    log, copy = tmp_path / "log", tmp_path / "copy"
    write(log, some(100))
    shutil.copytree(log, copy)
    write(log, some(200)[100:])
    head = verify_chain(log)

    assert verify_chain(copy).sound
    fault = verify_chain(copy, {head.head: head.digest}).fault
    assert fault is not None
    assert "the log ends at 101, and a head at 201 was published" in fault.problem


def test_a_published_head_that_is_the_end_of_no_batch_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, some(300))
    with open_reader(log) as reader:
        batch = next(batch for batch in reader.batches(0) if batch.last > batch.first)

    fault = verify_chain(log, {batch.last - 1: batch.digest}).fault

    assert fault is not None
    assert fault.last == batch.last
    assert f"a head at {batch.last - 1} was published, and no batch ends there" in fault.problem
