"""A directory's files as one wanted state: which file holds which object, and what stays where one is wrong.

Rules.  An object belongs to the file that had it first; a second file that defines it is wrong.
A file that is wrong keeps what it said when it last was right.
What a file said before this process first read it is known from the log alone: it stays until the file is right or gone.
A file that is wrong holds back nothing else: what another file said and does not say any more goes.
"""

from collections.abc import Iterable, Mapping

import msgspec

from pointsman.cluster.objects.difference import Roster
from pointsman.cluster.objects.manifest import FoundObject, Manifest
from pointsman.cluster.objects.wanted import Member, Pod, Wanted, members_of
from pointsman.core.events import PoolApplied
from pointsman.core.state.objects import Objects


class FileFault(msgspec.Struct, frozen=True):
    """What is wrong with a file."""

    line: int
    message: str


class SourceFile(msgspec.Struct):
    """A file, as it was read last."""

    name: str
    manifest: Manifest | None = None
    """Content of the file; None while it cannot be understood."""
    fault: FileFault | None = None
    """Reason why it cannot be understood."""
    changed: bool = True
    """Whether it changed since the last `settle`."""
    good: Manifest | None = None
    """Content when it last was right."""
    good_since: int = 0
    """Number that orders files by when `good` was taken: of two wrong ones the later was in force."""
    rejected: bool = False
    """Whether the last `settle` found it wrong, or the log says so."""


class Settled(msgspec.Struct, frozen=True):
    """What the files say together."""

    objects: tuple[FoundObject, ...]
    faults: Mapping[str, FileFault]
    """Fault of every file that is wrong, by its name."""
    unread: frozenset[str]
    """Files that were never right since this process began."""


def settle(files: Iterable[SourceFile]) -> Settled:
    """Return what the files say together, and note in each whether it is right."""
    # Who held an object keeps it: files that did not change, then files that were right before, then by name.
    order = sorted(files, key=lambda f: (f.changed or f.rejected, f.rejected, f.name))
    holders: dict[tuple[str, str], tuple[str, int]] = {}
    objects: list[FoundObject] = []
    faults: dict[str, FileFault] = {}
    for file in order:
        fault = file.fault or _conflict(file.manifest, holders)
        if fault is not None:
            faults[file.name] = fault
        elif file.manifest is not None:
            if file.good is not file.manifest:
                file.good, file.good_since = file.manifest, 1 + max(f.good_since for f in order)
            objects.extend(_claim(file.name, file.manifest, holders))
        file.rejected, file.changed = fault is not None, False
    for file in sorted(order, key=lambda f: -f.good_since):
        if file.rejected and file.good is not None:
            objects.extend(_claim(file.name, file.good, holders))
    objects.sort(key=lambda found: (found.kind, found.name))
    unread = frozenset(f.name for f in order if f.rejected and f.good is None)
    return Settled(tuple(objects), faults, unread)


def _conflict(manifest: Manifest | None, holders: Mapping[tuple[str, str], tuple[str, int]]) -> FileFault | None:
    for found in manifest.objects if manifest else ():
        for key in found.keys:
            if key in holders:
                file, line = holders[key]
                return FileFault(found.line, f"{key[0]} {key[1]} stands in {file}, line {line}, already")
    return None


def _claim(file: str, manifest: Manifest, holders: dict[tuple[str, str], tuple[str, int]]) -> Iterable[FoundObject]:
    """The objects that no other file holds."""
    for found in manifest.objects:
        if all(key not in holders for key in found.keys):
            holders.update((key, (file, found.line)) for key in found.keys)
            yield found


def wanted_of(settled: Settled, roster: Roster) -> Wanted:
    """Return what the files want, with what stays of those that were never right."""
    pods = [found.value for found in settled.objects if isinstance(found.value, Pod)]
    objects = Objects(found.value for found in settled.objects if not isinstance(found.value, Pod))
    for known in roster.objects if settled.unread else ():
        if objects.get(known) is None and _of_one_of(settled.unread, getattr(known, "source", "")):
            objects.put(known)
    pools = objects.view(PoolApplied, str)
    members = [*_members(pools.values(), pods), *_kept_members(settled.unread, pods, pools, roster)]
    return Wanted(tuple(objects), tuple(members))


def _of_one_of(files: frozenset[str], source: str) -> bool:
    """Whether what has this source may come from one of the files: an empty one does not tell."""
    return not source or source in files


def _kept_members(
    unread: frozenset[str], pods: Iterable[Pod], pools: Mapping[str, PoolApplied], roster: Roster
) -> Iterable[Member]:
    """Members of pods that may stand in an unread file and stand in no other, while their pool takes them."""
    if not unread:
        return
    held = {name for pod in pods for name in (f"{pod.namespace}/{pod.name}", pod.uid)}
    for known in roster.members.values():
        if not _of_one_of(unread, known.source) or known.uid in held or f"{known.namespace}/{known.name}" in held:
            continue
        pool = pools.get(known.pool)
        if pool is not None and known.port in pool.target_ports and pool.selector.items() <= known.labels.items():
            yield msgspec.structs.replace(known, rank=pool.target_ports.index(known.port))


def _members(pools: Iterable[PoolApplied], pods: Iterable[Pod]) -> Iterable[Member]:
    by_namespace: dict[str, list[Pod]] = {}
    for pod in pods:
        by_namespace.setdefault(pod.namespace, []).append(pod)
    for pool in pools:
        yield from members_of(pool, by_namespace.get(pool.pool.partition("/")[0], ()))
