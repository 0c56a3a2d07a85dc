"""Files read without waiting for anybody: only regular ones, opened without blocking."""

import os
import stat
from pathlib import Path

NO_REGULAR_FILE = "is no regular file, wanted one"


def regular_bytes(path: Path, bytes_max: int) -> bytes | None:
    """The first bytes of a regular file; None for a FIFO, a device or a directory, of which none is waited for."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a device may already do something
        return None
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(bytes_max)


def why_unread(error: OSError) -> str:
    """What kept a file from being read, in words."""
    return f"cannot be read: {os.strerror(error.errno).lower() if error.errno else error}"
