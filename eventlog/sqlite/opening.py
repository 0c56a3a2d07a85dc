"""Opening a log: the lock, a new log's first segment, recovery of one that exists.

Rules.  Recovery reads through read-only connections; nothing on disk changes before everything has been checked.
What the state rests on is checked on the way: the chain from the snapshot to the head, and that each segment
follows the one before it.  Whatever is wrong is reported, never repaired.
"""

import fcntl
import os
import secrets
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec

from pointsman.core.events import Class, Entry, LogCreated, encode
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.chain import Batch, check_batch, genesis
from pointsman.eventlog.errors import LogLockedError, NotKeptError, corrupt
from pointsman.eventlog.sqlite.reader import LogHead, LogReader
from pointsman.eventlog.sqlite.segments import (
    Meta,
    create_segment,
    discard_unfinished,
    first_position,
    segment_paths,
    settle,
    sync,
)
from pointsman.eventlog.sqlite.snapshots import Projection, encode_row
from pointsman.eventlog.sqlite.store import Store, StoreLimits

DEFAULT_LIMITS = StoreLimits()


class Log:
    """An open log: locked, recovered, and folded up to its head.

    The appender moves `head` and the projection on; everything here belongs to the Trio thread.
    """

    def __init__(self, directory: Path, lock: int, recovered: "Recovered", limits: StoreLimits) -> None:
        self.directory = directory
        self.limits = limits
        self.log_id = recovered.meta.log_id
        self.head = recovered.head
        self.projection = recovered.projection
        self.created = False
        """Whether this opening created it."""
        self.store = Store(directory, recovered.meta, recovered.head, limits)
        self._lock = lock

    @property
    def state(self) -> ClusterState:
        """The cluster state at `head`."""
        return self.projection.cluster

    @property
    def open_requests(self) -> OpenRequests:
        """The routed requests without an end at `head`."""
        return self.projection.open_requests

    def close(self) -> None:
        """Close the files and release the directory; an appender must have ended before."""
        self.store.disconnect()
        os.close(self._lock)


class Recovered(msgspec.Struct):
    """What the files say."""

    meta: Meta
    head: LogHead
    projection: Projection


def open_log(directory: Path, build: str, limits: StoreLimits = DEFAULT_LIMITS) -> Log:
    """Open the log in `directory`, creating it where there is none.

    `LogLockedError` where another process has it open, `LogCorruptError` where its files are not as written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = _lock(directory)
    try:
        if not segment_paths(directory):
            _create(directory, build)
        log = Log(directory, lock, recover(directory), limits)
        settle(log.store.segment)
        discard_unfinished(directory)
        if log.head.position == 0:
            _append_first(log, build)
        return log
    except BaseException:
        os.close(lock)
        raise


def _lock(directory: Path) -> int:
    """Take the directory; the lock goes with the process, however it ends."""
    path = directory / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # In this order a full disk has the room: what a process before this one wrote there.
        os.ftruncate(descriptor, os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0))
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise LogLockedError(
            f"the log in {directory} is open in process {holder}: stop it, or choose another --data-dir"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create(directory: Path, build: str) -> None:
    _sync_above(directory)
    log_id = secrets.token_hex(8)
    start = genesis(log_id)
    meta = Meta(
        log_id=log_id, first=1, previous_digest=start, previous_recorded_at=0.0, created_at=time.time(), build=build
    )
    create_segment(directory, meta, encode_row(Projection().snapshot(), start))


def _sync_above(directory: Path) -> None:
    """Have the directory's name on disk, and those above it: whoever made them did not wait for that."""
    for inner, above in pairwise((directory.resolve(), *directory.resolve().parents)):
        if inner.is_mount():
            return
        with suppress(PermissionError):  # nor could we have made anything there
            sync(above)


def _append_first(log: Log, build: str) -> None:
    event = LogCreated(log.log_id, build)
    prepared = log.store.prepare([int(Class.CONTROL)], [encode(event)])
    log.store.write(prepared)
    batch = prepared.batch
    log.head = LogHead(batch.last, batch.digest, batch.recorded_at)
    log.projection.apply_batch(batch.first, prepared.kinds, [event])
    log.projection.totals.count(Class.CONTROL, batch.recorded_at, 1, prepared.body_bytes)
    log.created = True


def recover(directory: Path) -> Recovered:
    """Read what the log adds up to, checking what that rests on; changes nothing."""
    with LogReader(directory) as reader:
        _check_links(reader)
        head = reader.head()
        try:
            projection = reader.projection_before(head.position)
        except NotKeptError as error:
            raise corrupt(directory, "the log", f"its state cannot be folded: {error}") from error
        _fold(reader, projection, head)
        last = reader.segments()[-1]
        if (problem := reader.stray_entry(last)) is not None:
            raise corrupt(directory, f"segment {last}", problem)
        return Recovered(reader.meta(reader.segments()[-1]), head, projection)


def _check_links(reader: LogReader) -> None:
    """Each segment begins where the one before it ends, in position and digest."""
    paths = reader.segments()
    for before, path in pairwise(paths):
        meta = reader.meta(path)
        mine, theirs = reader.meta(before), reader.last_batch(before)
        last, digest = (theirs.last, theirs.digest) if theirs else (mine.first - 1, mine.previous_digest)
        where = f"segment {path}"
        if meta.log_id != mine.log_id:
            raise corrupt(reader.directory, where, f"is of log {meta.log_id}, and {before.name} of log {mine.log_id}")
        if last != meta.first - 1 or digest != meta.previous_digest:
            problem = (
                f"follows position {meta.first - 1} with digest {meta.previous_digest.hex()[:16]}, "
                f"and {before.name} ends at {last} with {digest.hex()[:16]}: a segment is missing or an older copy"
            )
            raise corrupt(reader.directory, where, problem)
    meta = reader.meta(paths[0])
    if meta.first == 1 and meta.previous_digest != genesis(meta.log_id):
        raise corrupt(reader.directory, f"segment {paths[0]}", "its chain does not begin at its log id")


def _fold(reader: LogReader, projection: Projection, head: LogHead) -> None:
    """Fold the batches after the projection, checking each; at least the last one is checked."""
    position = projection.position
    previous = _digest_at(reader, position)
    if position == head.position and position > 0 and head.position >= first_position(reader.segments()[-1]):
        _check_last(reader, head)
    while position < head.position:
        for batch in reader.batches(position):
            entries = _check(reader, batch, previous, position)
            for entry in entries:
                _apply(reader, projection, entry)
            for record in batch.records:
                projection.totals.count(record.kind, batch.recorded_at, record.entries, record.body_bytes)
            position, previous = batch.last, batch.digest


def _digest_at(reader: LogReader, position: int) -> bytes:
    digest = reader.digest_at(position)
    if digest is None:
        raise corrupt(reader.directory, f"snapshot at position {position}", "no batch ends there")
    return digest


def _check_last(reader: LogReader, head: LogHead) -> None:
    batch = reader.batch_at(head.position)
    _check(reader, batch, _digest_at(reader, batch.first - 1), batch.first - 1)


def _check(reader: LogReader, batch: Batch, previous: bytes, position: int) -> list[Entry]:
    """The entries of the batch that should follow `position`."""
    path = reader.holding(batch.last)
    entries = list(reader.entries(batch.first, batch.last))
    problem = check_batch(batch, previous, entries, reader.meta(path).dropped)
    if batch.first != position + 1:
        problem = f"follows position {position}"
    if problem is not None:
        where = f"segment {path}, batch of positions {batch.first} to {batch.last}"
        raise corrupt(reader.directory, where, problem)
    return entries


def _apply(reader: LogReader, projection: Projection, entry: Entry) -> None:
    try:
        projection.apply(entry)
    except (msgspec.DecodeError, AssertionError, LookupError, ValueError) as error:
        where = f"segment {reader.holding(entry.position)}, entry {entry.position}"
        problem = f"this version cannot fold it ({type(error).__name__}: {error}); another version may have written it"
        raise corrupt(reader.directory, where, problem) from error
