"""The read model: indexes and roll-ups in a store of their own, folded behind the log.

Rules.  Everything in it follows from the log: delete it and it comes back.
A fold takes a bounded number of entries and one transaction; the writer of the log never waits for it.
Commits that are told are folded as they are; whatever was not told, or found no room, is read from the log.
It belongs to one log: another log id, or another digest where it stopped, and it begins again.
"""

import logging
from collections import deque
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import trio

from pointsman.core.events import Class, Entry
from pointsman.core.state.marks import skim
from pointsman.eventlog.errors import LogCorruptError, NotKeptError, StoreRefusedError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.readmodel.opening import open_read_model_store
from pointsman.eventlog.readmodel.rollups import Summary
from pointsman.eventlog.readmodel.rows import EndpointRow
from pointsman.eventlog.readmodel.storing import ReadModelEnd
from pointsman.eventlog.stores.archive import dropped_before, drops
from pointsman.eventlog.stores.writing import Commit

VERSION = 9
"""Version of the tables and the fold; where the store has another one, it is built again."""

BATCHES = 64
"""Commit batches that are read for one fold: under load two thirds of a second."""

ENTRIES = 20_000
"""Entries of told commits to one fold: a second at most, and as many rows to a transaction as a disk takes at once."""

INTERVAL, INTERVAL_LOADED = 0.25, 1.0
"""Seconds between folds while the log is followed: larger folds cost less, and a page is a second behind at most."""

LOADED = 250
"""Rows of one fold from which on it is a load."""

TOLD_BYTES_MAX = 16 << 20
"""Bytes of bodies that wait for the next fold: a second at 20,000 entries/s."""

RETRY = 2.0
"""Seconds before a fold that the disk refused is tried again."""

_logger = logging.getLogger("pointsman.readmodel")


class ReadModelWriter:
    """Folds the log into the read model at `path`; one for a path, used by one thread at a time."""

    def __init__(self, path: Path, log_directory: Path) -> None:
        self.path = path
        self.position = 0
        self._log = open_reader(log_directory)
        self._summary = Summary()
        self._digest = b""
        self._store = open_read_model_store(path)
        self._told: deque[Commit] = deque()
        self._told_up_to: int | None = None
        self._bytes_told = self._bytes_taken = 0
        """Bytes of bodies that were told, counted by whoever tells, and taken, counted by the thread that folds."""
        self.rows_written = 0
        """Requests that the last fold wrote."""

    def tell(self, commit: Commit) -> None:
        """Take the next commit, for the next fold; from any one thread."""
        self._told_up_to = commit.last
        if self._bytes_told - self._bytes_taken < TOLD_BYTES_MAX:
            self._bytes_told += commit.body_bytes
            self._told.append(commit)

    @property
    def behind(self) -> bool:
        """Whether a fold has something to do, as far as can be said without looking into the log."""
        return self._told_up_to is None or self.position < self._told_up_to

    def close(self) -> None:
        """Close the log and the store."""
        self._log.close()
        self._store.close()

    def _take_up(self) -> None:
        """Go on where the store ends, or begin again where it is not of this log and version."""
        found = self._store.take_up(self._fits)
        self.position, self._digest, self._summary = 0, b"", Summary()
        if found is not None:
            end, self._summary = found
            self.position, self._digest = end.position, end.digest

    def _fits(self, end: ReadModelEnd) -> bool:
        if (end.version, end.log_id) != (VERSION, self._log.log_id):
            return False
        return end.position < self._log.first() - 1 or self._log.digest_at(end.position) == end.digest

    def fold(self) -> bool:
        """Fold the next batches and write what came of them; whether there may be more."""
        if not self._store.is_open:
            self._take_up()
        if self.position < self._log.first() - 1:
            self._skip_to(self._log.first() - 1)
        if not self._fold_told() and not self._fold_log():
            return False
        end = ReadModelEnd(VERSION, self._log.log_id, self.position, self._digest)
        try:
            self._store.write(self._summary, end, self._log.first())
        except BaseException:
            self.close()  # opened again, it takes up where the store ends
            raise
        self.rows_written = len(self._summary.rows)
        self._summary.written()
        return True

    def _fold_told(self) -> bool:
        """Fold what was told and comes next; whether that was anything."""
        folded, told = 0, self._told
        while told and folded < ENTRIES:
            commit = told[0]
            if commit.first > self.position + 1:
                break  # what comes before has to be read
            if commit.first == self.position + 1:
                self._summary.fold(commit.recorded_at, enumerate(commit.events, commit.first))
                self.position, self._digest = commit.last, commit.digest
                folded += len(commit.events)
            self._bytes_taken += commit.body_bytes
            told.popleft()
        return folded > 0

    def _fold_log(self) -> bool:
        """Fold the next batches of the log; whether there are any."""
        if not self.behind:
            return False
        try:
            batches = self._log.batches(self.position, BATCHES)
        except NotKeptError:
            return False
        if not batches:
            return False
        entries = self._log.entries(batches[0].first, batches[-1].last)
        for recorded_at, together in groupby(entries, _recorded_at):
            skimmed = ((entry.position, skim(entry.kind, entry.body)) for entry in together)
            self._summary.fold(recorded_at, skimmed)
        self.position, self._digest = batches[-1].last, batches[-1].digest
        return True

    def _skip_to(self, position: int) -> None:
        """Segments went away before they were folded: the archive has what people did, the snapshot who is there."""
        projection = self._log.projection_at(position)
        self.position = position
        self._summary = summary = Summary()
        for entry in self._archived():
            summary.fold(entry.recorded_at, [(entry.position, skim(entry.kind, entry.body))])
        for one in projection.cluster.endpoints.values():
            if one.number not in summary.pool_of:
                row = EndpointRow(one.number, one.pool, one.namespace, one.name, one.address, one.port, position)
                summary.pool_of[one.number] = summary.endpoints[one.number] = row

    def _archived(self) -> list[Entry]:
        """The entries of dropped segments that are kept, oldest first; what cannot be read is left out, and told."""
        found = list[Entry]()
        try:
            for _, entries in dropped_before(self._log.directory, drops(self._log.entries(1, None, (Class.CONTROL,)))):
                found = entries + found
        except LogCorruptError as error:
            _logger.warning("changes of weights before %d are not shown: %s", self._log.first(), error)
        return found


def _recorded_at(entry: Entry) -> float:
    return entry.recorded_at


async def follow_log(model: ReadModelWriter, folded: Callable[[], None] = lambda: None) -> None:
    """Fold for ever, in a thread, at the pace of the log; `folded` is called when something was."""
    try:
        while True:
            try:
                while model.behind and await trio.to_thread.run_sync(model.fold):
                    folded()
            except (StoreRefusedError, OSError) as error:
                # A disk that is full or read-only stops the pages' indexes, and nothing else.
                _logger.warning("the read model waits for the disk: %s", error)
                model.close()
                await trio.sleep(RETRY)
            await trio.sleep(INTERVAL if model.rows_written < LOADED else INTERVAL_LOADED)
    finally:
        model.close()
