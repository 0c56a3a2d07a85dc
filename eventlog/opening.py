"""Opening a log: the one place that knows which store a data directory is of.

The store is SQLite files in the directory (`eventlog/sqlite/`).
Another store is another folder beside that one, and another answer here; nothing else imports either.
"""

from pathlib import Path

from pointsman.eventlog.sqlite.opening import open_segments
from pointsman.eventlog.sqlite.reader import SegmentLogReader
from pointsman.eventlog.sqlite.segments import delete_segment, segment_path, segment_paths
from pointsman.eventlog.stores.chain_walk import ChainReport, walk_chain
from pointsman.eventlog.stores.log import Log
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.stores.writing import StoreLimits

DEFAULT_LIMITS = StoreLimits()


def holds_log(directory: Path) -> bool:
    """Whether there is a log in `directory`."""
    return bool(segment_paths(directory))


def open_reader(directory: Path) -> LogReader:
    """Read the log in `directory`; what is wrong with it is told by the first question."""
    return SegmentLogReader(directory)


def open_log(directory: Path, build: str, limits: StoreLimits = DEFAULT_LIMITS) -> Log:
    """Open the log in `directory` for writing, creating it where there is none.

    `LogLockedError` where another process has it open, `LogCorruptError` where it is not as it was written, and
    `StoreRefusedError` or `OSError` where it cannot be created.
    """
    return open_segments(directory, build, limits)


def drop_segment(directory: Path, first: int) -> None:
    """Delete the complete segment that begins with `first`; the log says so already."""
    delete_segment(segment_path(directory, first))


def verify_chain(directory: Path, heads: dict[int, bytes] | None = None) -> ChainReport:
    """Walk the log in `directory`, which may be in use; `heads` are digests by position that were published earlier."""
    with open_reader(directory) as reader:
        return walk_chain(reader, heads)
