"""Writes weights into the manifest file that an HTTPRoute came from, and reads them from there.

Rules.  The file is written only while it still has the digest that the change rests on.
The new content replaces the old one whole (a file beside it, synced, then renamed over it, and the name synced).
What fails leaves the file as it was.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import trio

from pointsman.cluster.manifests.route_file import RouteFileError, change_weights
from pointsman.cluster.objects.manifest import file_version, read_manifest
from pointsman.cluster.objects.yaml_document import DocumentError
from pointsman.core.events import RouteObserved, WeightsIntended
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal
from pointsman.core.rollout.weight_change import (
    ReadBack,
    ReadBackFailed,
    ReadBackResult,
    WriteDone,
    WriteFailed,
    WriteResult,
)
from pointsman.core.rollout.weights import touched


class ManifestActuator:
    """The files of one directory; without a directory there is nothing to write."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    async def write(self, source: str, intent: WeightsIntended) -> WriteResult:
        """Give the backends that the change touches their weights in the file `source`."""
        if self._directory is None:
            return _failed("routes do not come from a directory of manifests", "a file to write")
        return await trio.to_thread.run_sync(_write, self._directory / source, intent)

    async def read_back(self, source: str, intent: WeightsIntended) -> ReadBackResult:
        """Read the rule of the change from the file `source`."""
        if self._directory is None:
            return ReadBackFailed("routes do not come from a directory of manifests")
        return await trio.to_thread.run_sync(_read_back, self._directory / source, intent)


def _failed(found: str, wanted: str, code: ChangeCode = ChangeCode.NOT_WRITTEN) -> WriteFailed:
    return WriteFailed(ChangeRefusal(code, found, wanted))


def _write(path: Path, intent: WeightsIntended) -> WriteResult:
    try:
        before = path.read_bytes()
    except OSError as error:
        return _failed(f"cannot read {path}: {error.strerror}", "a file that can be read")
    same = "the file that the change rests on"
    if file_version(before) != intent.version:
        return _failed(f"{path.name} was changed since the route was read", same, ChangeCode.STALE)
    weights = {(ref.group, ref.kind, ref.pool): ref.weight for ref in touched(intent.before, intent.after)}
    try:
        after = change_weights(before, intent.route, intent.rule, weights)
    except RouteFileError as error:
        where = f"{path.name}, line {error.line}" if error.line else path.name
        return _failed(f"{where}: {error.found}", error.wanted)
    try:
        replaced = _replace(path, before, after)
    except OSError as error:
        return _failed(f"cannot write {path}: {error.strerror}", "a directory with room that can be written")
    if not replaced:
        return _failed(f"{path.name} was changed while it was being written", same, ChangeCode.STALE)
    return WriteDone()


def _replace(path: Path, before: bytes, after: bytes) -> bool:
    """Put `after` in the place of `before`, with the same mode; False where something else stands there."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o7777)
        if path.read_bytes() != before:  # the last moment at which somebody else's edit can be kept
            os.unlink(name)
            return False
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    with suppress(OSError):  # where directories cannot be synced
        _sync(path.parent)
    return True


def _sync(directory: Path) -> None:
    """Have the names in `directory` on disk: a change that is recorded as written survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_back(path: Path, intent: WeightsIntended) -> ReadBackResult:
    try:
        data = path.read_bytes()
        found = {one.name: one.value for one in read_manifest(path.name, data).objects if one.kind == "HTTPRoute"}
    except OSError as error:
        return ReadBackFailed(f"{path.name}: {error.strerror}")
    except DocumentError as error:
        return ReadBackFailed(f"{path.name}: {error}")
    route = found.get(intent.route)
    rules = route.rules if isinstance(route, RouteObserved) else ()
    backends = rules[intent.rule].backends if intent.rule < len(rules) else ()
    return ReadBack(file_version(data), backends)
