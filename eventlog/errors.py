"""What can be wrong with a log, by what the operator does about it."""


class LogCorruptError(Exception):
    """The files are not the log that was written: nothing was changed, a person decides.

    The message names the segment, the place in it, what was found and what was wanted, and the way out.
    """


class LogLockedError(Exception):
    """Another process has the log open: stop it, or use another directory."""


class LogFullError(Exception):
    """The queue in front of the disk is full: the entry was not taken, and the caller counts it."""


class NotKeptError(LookupError):
    """The position is not in the log: its segment is gone, or it has not been written."""


def corrupt(directory: object, where: str, problem: str) -> LogCorruptError:
    """The error for a log in `directory` that is wrong at `where`."""
    return LogCorruptError(
        f"{where}: {problem}. Nothing was changed. `pointsman log verify {directory}` walks the whole chain; "
        f"to start without this log, move {directory} away or choose another --data-dir"
    )
