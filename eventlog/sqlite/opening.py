"""Opening a log of SQLite files: the lock, a new log's first segment, recovery of one that exists.

Rules.  Recovery reads through read-only connections; nothing on disk changes before everything has been checked.
"""

import fcntl
import os
import secrets
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from pointsman.eventlog.chain import genesis
from pointsman.eventlog.errors import LogLockedError
from pointsman.eventlog.sqlite.reader import SegmentLogReader
from pointsman.eventlog.sqlite.segments import (
    create_segment,
    discard_unfinished,
    refusals,
    segment_paths,
    settle,
    sync,
)
from pointsman.eventlog.sqlite.store import SegmentStore
from pointsman.eventlog.stores.log import Log, append_first
from pointsman.eventlog.stores.reading import SegmentMeta
from pointsman.eventlog.stores.recovery import recover
from pointsman.eventlog.stores.snapshots import Projection, stored
from pointsman.eventlog.stores.writing import StoreLimits


def open_segments(directory: Path, build: str, limits: StoreLimits) -> Log:
    """Open the log in `directory`, creating it where there is none."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = _lock(directory)
    try:
        if not segment_paths(directory):
            _create(directory, build)
        with SegmentLogReader(directory) as reader:
            recovered = recover(reader)
        store = SegmentStore(directory, recovered.meta, recovered.head, limits)
        if recovered.unfollowed is not None:
            store.cover(recovered.unfollowed)
        log = Log(directory, store, recovered, limits, partial(os.close, lock))
        settle(store.segment)
        discard_unfinished(directory)
        if log.head.position == 0:
            append_first(log, build)
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
    meta = SegmentMeta(
        log_id=log_id, first=1, previous_digest=start, previous_recorded_at=0.0, created_at=time.time(), build=build
    )
    with refusals():
        create_segment(directory, meta, stored(Projection().snapshot(), start))


def _sync_above(directory: Path) -> None:
    """Have the directory's name on disk, and those above it: whoever made them did not wait for that."""
    for inner, above in pairwise((directory.resolve(), *directory.resolve().parents)):
        if inner.is_mount():
            return
        with suppress(PermissionError):  # nor could we have made anything there
            sync(above)
