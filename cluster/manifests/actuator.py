"""Writes weights into the manifest file that an HTTPRoute came from, and reads them from there.

Rules.  The file is written only while it still has the digest that the change rests on.
The new content replaces the old one whole (`file_replacing.py`).
What fails leaves the file as it was.
"""

from pathlib import Path

import msgspec
import trio

from pointsman.cluster.manifests.file_replacing import NotReplaceableError, check_replaceable, replace_file
from pointsman.cluster.manifests.regular_files import NO_REGULAR_FILE, regular_bytes
from pointsman.cluster.manifests.route_file import RouteFileError, change_weights, unwritable_rules
from pointsman.cluster.objects.manifest import FoundObject, Manifest, file_version, read_manifest
from pointsman.cluster.objects.yaml_document import BYTES_MAX, DocumentError
from pointsman.core.events import RouteObserved, WeightsIntended
from pointsman.core.rollout.outcome import ChangeCode
from pointsman.core.rollout.weight_change import (
    ReadBack,
    ReadBackFailed,
    ReadBackResult,
    WriteDone,
    WriteResult,
    not_written,
)
from pointsman.core.rollout.weights import new_weights


class ManifestActuator:
    """The files of one directory; without a directory there is nothing to write."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    async def write(self, source: str, intent: WeightsIntended) -> WriteResult:
        """Give the backends that the change touches their weights in the file `source`."""
        if self._directory is None:
            return not_written("routes do not come from a directory of manifests", "a file to write")
        return await trio.to_thread.run_sync(_write, self._directory / source, intent)

    async def read_back(self, source: str, intent: WeightsIntended) -> ReadBackResult:
        """Read the rule of the change from the file `source`."""
        if self._directory is None:
            return ReadBackFailed("routes do not come from a directory of manifests")
        return await trio.to_thread.run_sync(_read_back, self._directory / source, intent)


def read_with_obstacles(directory: Path, source: str, data: bytes) -> Manifest:
    """Return the objects of a file, with what keeps the weights of its routes from being written, if anything does."""
    manifest = read_manifest(source, data)
    if not any(isinstance(found.value, RouteObserved) for found in manifest.objects):
        return manifest
    try:
        check_replaceable(directory / source)
        obstacle = ""
    except NotReplaceableError as error:
        obstacle = str(error)
    objects = [_with_obstacle(found, source, data, obstacle) for found in manifest.objects]
    return msgspec.structs.replace(manifest, objects=tuple(objects))


def _with_obstacle(found: FoundObject, source: str, data: bytes, obstacle: str) -> FoundObject:
    route = found.value
    if not isinstance(route, RouteObserved):
        return found
    reasons = [obstacle] * len(route.rules) if obstacle else unwritable_rules(source, data, found.name)
    rules = [
        msgspec.structs.replace(rule, unwritable=reason) for rule, reason in zip(route.rules, reasons, strict=True)
    ]
    return msgspec.structs.replace(found, value=msgspec.structs.replace(route, rules=tuple(rules)))


def _write(path: Path, intent: WeightsIntended) -> WriteResult:
    try:
        before = regular_bytes(path, BYTES_MAX + 1)
    except OSError as error:
        return not_written(f"cannot read {path}: {error.strerror}", "a file that can be read")
    if before is None:
        return not_written(f"{path.name} is no regular file", "one")
    same = "the file that the change rests on"
    if file_version(before) != intent.version:
        return not_written(f"{path.name} was changed since the route was read", same, ChangeCode.STALE)
    weights = new_weights(intent.before, intent.after)
    try:
        after = change_weights(path.name, before, intent.route, intent.rule, weights)
        replaced = replace_file(path, before, after)
    except RouteFileError as error:
        where = f"{path.name}, line {error.line}" if error.line else path.name
        return not_written(f"{where}: {error.found}", error.wanted)
    except NotReplaceableError as error:
        return not_written(error.found, error.wanted)
    except OSError as error:
        return not_written(f"cannot write {path}: {error.strerror}", "a directory with room that can be written")
    if not replaced:
        return not_written(f"{path.name} was changed while it was being written", same, ChangeCode.STALE)
    return WriteDone()


def _read_back(path: Path, intent: WeightsIntended) -> ReadBackResult:
    try:
        data = regular_bytes(path, BYTES_MAX + 1)
        if data is None:
            return ReadBackFailed(f"{path.name} {NO_REGULAR_FILE}")
        found = {one.name: one.value for one in read_manifest(path.name, data).objects if one.kind == "HTTPRoute"}
    except OSError as error:
        return ReadBackFailed(f"{path.name}: {error.strerror}")
    except DocumentError as error:
        return ReadBackFailed(f"{path.name}: {error}")
    route = found.get(intent.route)
    rules = route.rules if isinstance(route, RouteObserved) else ()
    backends = rules[intent.rule].backends if intent.rule < len(rules) else ()
    return ReadBack(file_version(data), backends)
