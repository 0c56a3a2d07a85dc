"""Puts new content in the place of a file, whole: what reads it finds the old content or the new.

Rules.  A symbolic link stays: the file at its end is replaced.
Owner, group, mode and extended attributes stay, or nothing is written.
A file with hard links is not replaced, because its other names would keep the old content.
"""

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


class NotReplaceableError(Exception):
    """The file cannot be replaced: what was found, and what was wanted."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"{found}, wanted {wanted}")
        self.found, self.wanted = found, wanted


def check_replaceable(path: Path) -> Path:
    """Return the file at the end of the links of `path`; `NotReplaceableError` where it could not be replaced."""
    try:
        real = Path(os.path.realpath(path, strict=True))
        found = real.stat()
    except OSError as error:
        raise NotReplaceableError(f"cannot read {path}: {error.strerror}", "a file that can be read") from error
    if not stat.S_ISREG(found.st_mode):
        raise NotReplaceableError(f"{path.name} is no regular file", "one")
    if found.st_nlink > 1:
        names = f"{path.name} has {found.st_nlink} names (hard links), of which one alone would change"
        raise NotReplaceableError(names, "a file with one name")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise NotReplaceableError(f"{real.parent} cannot be written", "a directory that can be written")
    if os.geteuid() != 0 and (found.st_uid != os.geteuid() or found.st_gid not in {os.getegid(), *os.getgroups()}):
        owner = f"{path.name} belongs to user {found.st_uid} and group {found.st_gid}, which a new file would not"
        raise NotReplaceableError(owner, f"a file of user {os.geteuid()} and of one of its groups")
    return real


def replace_file(path: Path, before: bytes, after: bytes) -> bool:
    """Put `after` in the place of `before`; False where something else stands there.

    Raises `NotReplaceableError`, and `OSError` where the file system does not take it; the file is then as it was.
    """
    real = check_replaceable(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            _take_on(file.fileno(), real)
            os.fsync(file.fileno())
        if real.read_bytes() != before:  # the last moment at which somebody else's edit can be kept
            os.unlink(name)
            return False
        os.replace(name, real)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    with suppress(OSError):  # where directories cannot be synced
        _sync(real.parent)
    return True


def _take_on(descriptor: int, real: Path) -> None:
    """Give a new file what the old one has beside its content."""
    found = real.stat()
    mine = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (mine.st_uid, mine.st_gid):
        try:
            os.fchown(descriptor, found.st_uid, found.st_gid)
        except OSError as error:
            owner = f"{real.name} belongs to user {found.st_uid} and group {found.st_gid}"
            raise NotReplaceableError(owner, "an owner that a new file may be given") from error
    for attribute in _attributes(real):
        value = os.getxattr(real, attribute)
        if value != _attribute(descriptor, attribute):
            os.setxattr(descriptor, attribute, value)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))  # last: a new owner takes special bits away


def _attributes(real: Path) -> list[str]:
    """Names of the extended attributes; none where the file system has none."""
    try:
        return os.listxattr(real)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return []
        raise


def _attribute(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError:
        return None


def _sync(directory: Path) -> None:
    """Have the names in `directory` on disk: a change that is recorded as written survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
