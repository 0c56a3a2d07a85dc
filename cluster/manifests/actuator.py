"""Writes weights into the manifest file that an HTTPRoute came from, and reads them back.

Rules.  The file is written only while it still has the digest that the change rests on.
The new content replaces the old one whole (a file beside it, synced, then renamed over it, and the name synced).
What was written counts when it was read back.
"""

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import trio

from pointsman.cluster.manifests.route_file import RouteFileError, change_weights
from pointsman.cluster.objects.manifest import file_version, read_manifest
from pointsman.cluster.objects.yaml_document import DocumentError
from pointsman.core.events import BackendRef, RouteObserved, WeightsIntended, WeightsRefused, WeightsWritten


class WriteRefused(Exception):
    """Nothing was written; `stale` says that the file is not the one that the change rests on."""

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


async def write_weights(directory: Path, route: RouteObserved, rule: int, touched: Iterable[BackendRef]) -> str:
    """Give these backends of rule number `rule` their weights; return the digest that was read back.

    Raises `WriteRefused`.
    """
    path = directory / route.source
    return await trio.to_thread.run_sync(_write, path, route, rule, tuple(touched))


def _write(path: Path, route: RouteObserved, rule: int, touched: tuple[BackendRef, ...]) -> str:
    try:
        before = path.read_bytes()
    except OSError as error:
        raise WriteRefused(f"cannot read {path}: {error.strerror}") from error
    if file_version(before) != route.version:
        raise WriteRefused(f"{path.name} was changed since the route was read", stale=True)
    wanted = {(ref.group, ref.kind, ref.pool): ref.weight for ref in touched}
    try:
        after = change_weights(before, route.route, rule, wanted)
    except RouteFileError as error:
        where = f"{path.name}, line {error.line}" if error.line else path.name
        raise WriteRefused(f"{where}: {error}") from error
    try:
        _replace(path, before, after)
        found = path.read_bytes()
    except OSError as error:
        raise WriteRefused(f"cannot write {path}: {error.strerror}") from error
    if found != after:
        raise WriteRefused(f"{path.name} holds something else than was written", stale=True)
    return file_version(found)


def _replace(path: Path, before: bytes, after: bytes) -> None:
    """Put `after` in the place of `before`, whole or not at all, with the same mode."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o7777)
        if path.read_bytes() != before:  # the last moment at which somebody else's edit can be kept
            raise WriteRefused(f"{path.name} was changed while it was being written", stale=True)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    with suppress(OSError):  # where directories cannot be synced
        _sync(path.parent)


def _sync(directory: Path) -> None:
    """Have the names in `directory` on disk: a change that is recorded as written survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def end_of(directory: Path, route: RouteObserved | None, intent: WeightsIntended) -> WeightsWritten | WeightsRefused:
    """What became of a change whose end was never recorded, because its control process died: the file tells."""
    if route is None:
        return WeightsRefused(intent.change, "its control process ended before it was done, and the route is gone")
    path = directory / route.source
    try:
        data = path.read_bytes()
        found = {one.name: one.value for one in read_manifest(route.source, data).objects if one.kind == "HTTPRoute"}
    except (OSError, DocumentError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return WeightsRefused(intent.change, f"its control process ended before it was done; {path.name}: {why}")
    present = found.get(intent.route)
    rules = present.rules if isinstance(present, RouteObserved) else ()
    if intent.rule < len(rules) and rules[intent.rule].backends == intent.after:
        return WeightsWritten(intent.change, file_version(data))
    return WeightsRefused(intent.change, f"its control process ended before it was written; {path.name} is as it was")
