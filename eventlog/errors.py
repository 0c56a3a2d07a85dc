"""What can be wrong with a log or its read model, by what is done about it.

The errors of a database stay in the store that speaks to it, and leave it as one of these.
"""


class LogCorruptError(Exception):
    """The store does not hold the log that was written: nothing was changed, a person decides.

    The message names the segment, the place in it, what was found and what was wanted, and the way out.
    """


class LogLockedError(Exception):
    """Another process has the log open: stop it, or use another directory."""


class LogFullError(Exception):
    """The queue in front of the disk is full: the entry was not taken, and the caller counts it."""


class StoreRefusedError(Exception):
    """The store did not do what it was asked, because its disk is full, say, or locked: try the same again later."""


class StoreMovedError(Exception):
    """The store holds another head than this process left there: something else writes to the log."""


class ReadModelUnavailableError(Exception):
    """The read model cannot be asked, because it is being built, say: ask again soon."""


class NotKeptError(LookupError):
    """The position is not in the log: its segment is gone, or it has not been written."""


def corrupt(directory: object, where: str, problem: str) -> LogCorruptError:
    """The error for a log in `directory` that is wrong at `where`."""
    return LogCorruptError(
        f"{where}: {problem}. Nothing was changed. `pointsman log verify {directory}` walks the whole chain; "
        f"to start without this log, move {directory} away or choose another --data-dir"
    )
