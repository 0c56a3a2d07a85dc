"""Snapshots steer whoever starts from them: what is forged, missing or not the log's is found and not followed."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from worlds.logs import POOL, SMALL, same, some, write

from pointsman.core.events import EndpointJoined
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.errors import LogCorruptError
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import connect_writer, segment_paths
from pointsman.eventlog.stores.snapshots import Projection, StoredSnapshot, restore, stored
from pointsman.eventlog.stores.writing import StoreLimits


def newest(directory: Path) -> tuple[Path, StoredSnapshot, bytes]:
    """The newest snapshot that a start would use: its segment, itself, and the chain's digest at its position."""
    with open_reader(directory) as reader:
        found = reader.snapshot_before(reader.head().position)
        assert found is not None
        assert 0 < found.position < reader.head().position
        digest = reader.digest_at(found.position)
        assert digest is not None
        return directory / reader.holding(found.position + 1).name, found, digest


def elsewhere(state: ClusterState) -> None:
    """Have an endpoint answer at another address."""
    number, endpoint = next(iter(state.endpoints.items()))
    slot = state.by_slot.index(endpoint)
    state.endpoints[number] = state.by_slot[slot] = msgspec.structs.replace(endpoint, address="192.0.2.66")


def one_more(state: ClusterState) -> None:
    """Have a server that nobody named."""
    state.apply_event(state.position, EndpointJoined(10**6, POOL, "uid-x", "test", "pod-x", "192.0.2.66", 8000))


def paused(state: ClusterState) -> None:
    """Have other times between scrapes in force."""
    state.interval, state.threshold = 100.0, 1000.0


def forge(path: Path, snapshot: StoredSnapshot, chain: bytes, change: Callable[[ClusterState], None]) -> None:
    """Put another snapshot in the place of one, with the digest that it has to have."""
    projection = restore(snapshot)
    change(projection.cluster)
    forged = stored(projection.snapshot(), chain)
    assert forged.state != snapshot.state
    with connect_writer(path) as connection:
        connection.exec_driver_sql(
            "UPDATE snapshots SET state = ?, digest = ? WHERE position = ?",
            (forged.state, forged.digest, snapshot.position),
        )


@pytest.mark.parametrize("change", [elsewhere, one_more, paused])
def test_a_forged_snapshot_is_not_followed_and_is_reported(
    tmp_path: Path, change: Callable[[ClusterState], None]
) -> None:
    write(tmp_path, some(3000), SMALL)
    path, snapshot, chain = newest(tmp_path)
    forge(path, snapshot, chain, change)

    report = verify_chain(tmp_path)

    assert report.fault is not None
    assert f"snapshot at position {snapshot.position} is not what the entries add up to" in report.fault.problem
    with pytest.raises(LogCorruptError, match="not the one that the chain has"):
        open_log(tmp_path, "test", SMALL)
    with open_reader(tmp_path) as reader, pytest.raises(LogCorruptError):
        reader.state_at(reader.head().position)


def test_a_snapshot_that_no_batch_covers_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    with open_reader(tmp_path) as reader:
        [last] = reader.segments()[-1:]
        batch = last.batches(last.first + 20, 1)[0]
        honest = reader.projection_at(batch.last)
        true_state = reader.projection_at(reader.head().position)
    elsewhere(honest.cluster)
    planted = stored(honest.snapshot(), batch.digest)
    with connect_writer(segment_paths(tmp_path)[-1]) as connection:
        connection.exec_driver_sql(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
            (planted.position, planted.version, planted.state, planted.digest),
        )
        connection.exec_driver_sql("DELETE FROM snapshots WHERE position > ?", (planted.position,))

    log = open_log(tmp_path, "test", SMALL)
    log.close()

    assert same(log.projection, true_state)
    assert not verify_chain(tmp_path).sound


def test_a_snapshot_at_the_beginning_is_the_empty_one(tmp_path: Path) -> None:
    write(tmp_path, some(10))
    with open_reader(tmp_path) as reader:
        [segment] = reader.segments()
        chain = segment.meta().previous_digest
        empty = segment.snapshot(0)
    assert empty is not None
    forge(segment_paths(tmp_path)[0], empty, chain, paused)

    assert not verify_chain(tmp_path).sound
    log = open_log(tmp_path, "test")
    log.close()
    assert log.state.interval != 100.0


def test_a_snapshot_that_is_missing_is_reported(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    path, snapshot, _ = newest(tmp_path)
    with connect_writer(path) as connection:
        connection.exec_driver_sql("DELETE FROM snapshots WHERE position = ?", (snapshot.position,))

    report = verify_chain(tmp_path)

    assert report.fault is not None
    assert "is missing, and the chain has it" in report.fault.problem


def test_the_first_snapshot_of_a_segment_that_got_no_batch_is_covered_by_the_next(tmp_path: Path) -> None:
    write(tmp_path, some(100))
    log = open_log(tmp_path, "test", StoreLimits(segment_bytes=1))
    log.store.begin_segment(log.projection.snapshot())
    log.close()

    write(tmp_path, some(300)[100:])
    first = segment_paths(tmp_path)[0]
    first.unlink()

    log = open_log(tmp_path, "test")
    log.close()
    assert log.head.position == 301
    with open_reader(tmp_path) as reader:
        covered = reader.batches(101, 1)[0].snapshots
    assert list(covered) == [101]


def test_a_log_whose_snapshots_are_of_another_version_gets_one_of_its_own_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pointsman.core.state import snapshot

    monkeypatch.setattr(snapshot, "VERSION", snapshot.VERSION - 1)
    write(tmp_path, some(3000), SMALL)
    monkeypatch.undo()
    write(tmp_path, some(3200)[3000:], SMALL)

    log = open_log(tmp_path, "test", SMALL)
    log.close()

    assert log.folded < 300
    whole = Projection()
    with open_reader(tmp_path) as reader:
        for entry in reader.entries(1):
            whole.apply(entry)
    assert same(log.projection, whole)
    assert verify_chain(tmp_path).sound
