"""Changing what a log holds, as somebody would who wants another past: with the chain as it was, or computed again."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from pointsman.core.events import Event, encode
from pointsman.eventlog.chain import seal
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.sqlite.segments import segment_paths


def copy_log(log: Path, to: Path) -> Path:
    """A copy of a log that nobody writes; the data directory it is in."""
    shutil.copytree(log, to / "log", ignore=shutil.ignore_patterns("*-shm", "*-wal"))
    return to


def rewrite(data: Path, changed: dict[int, Event], *, chain: bool) -> None:
    """Put other events at these positions; `chain` computes all digests from there on again.

    The snapshots behind them go: a forger would make others, and readers fold from the beginning without.
    """
    [path] = segment_paths(data / "log")
    with closing(sqlite3.connect(path)) as connection:
        for position, event in changed.items():
            connection.execute("UPDATE entries SET body = ? WHERE position = ?", (encode(event), position))
        if chain:
            connection.execute("DELETE FROM snapshots WHERE position > 0")
        connection.commit()
    if chain:
        chain_again(data / "log", path)


def chain_again(log: Path, path: Path) -> None:
    """New digests for all batches of a segment, from what its entries are now."""
    with open_reader(log) as reader:
        [segment] = [one for one in reader.segments() if one.name == path.name]
        previous, batches = segment.meta().previous_digest, []
        for batch in segment.batches(0, 1_000_000):
            entries = segment.entries(batch.first, batch.last)
            sealed = seal(
                previous, batch.first, batch.recorded_at, [e.kind for e in entries], [e.body for e in entries]
            )
            batches.append((sealed.digest, sealed.classes, sealed.last))
            previous = sealed.digest
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany("UPDATE batches SET digest = ?, classes = ? WHERE last = ?", batches)
        connection.commit()
