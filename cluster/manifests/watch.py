"""Files on disk as facts: a directory of manifests, or one endpoints file, looked at twice a second.

A change is taken when two looks in a row see the same, so that a file half written is not read.
What is wrong with a file becomes an event; what the file said before stays.
Reading and parsing happen in a thread: a slow disk or a large file holds up nothing.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
import trio

from pointsman.cluster.manifests.actuator import read_with_obstacles
from pointsman.cluster.manifests.endpoints_file import EndpointsFile, read_endpoints, wanted_of_endpoints
from pointsman.cluster.manifests.regular_files import NO_REGULAR_FILE, regular_bytes, why_unread
from pointsman.cluster.manifests.source_files import FileFault, SourceFile, settle, wanted_of
from pointsman.cluster.objects.difference import Emit, Roster
from pointsman.cluster.objects.manifest import Manifest
from pointsman.cluster.objects.yaml_document import BYTES_MAX, DocumentError
from pointsman.cluster.starting import Start
from pointsman.core.events import Event, SourceAccepted, SourceRejected
from pointsman.core.state.projection import ClusterState

State: TypeAlias = Callable[[], ClusterState]
ReadManifest: TypeAlias = Callable[[str, bytes], Manifest]
TellLate: TypeAlias = Callable[[SourceRejected], Awaitable[None]]
Found = TypeVar("Found")

LOOK_EVERY = 0.5
"""Seconds between looks."""

SETTLE = 0.1
"""Seconds between a look that saw a change and the one that takes it."""

LOOK_MAX = 5.0
"""Seconds that a look may take: it takes milliseconds, so that a disk, or a server of files, has stopped answering."""

FIRST_LOOKS = 20
"""Looks at the start after which a file that changes all the time is taken for wrong."""

FILES_MAX = 1000
"""Manifests in one directory: a look at them stays below 10 ms."""

ENDINGS = (".yaml", ".yml", ".json")
"""Endings of the files that are manifests, as kubectl takes them from a directory."""

Stamp: TypeAlias = tuple[int, ...]
"""Times, size and inode of a file, and whether it may be replaced: what tells apart without reading."""


class Look(msgspec.Struct, frozen=True):
    """What a directory held at one moment."""

    stamps: Mapping[str, Stamp]
    fault: FileFault | None = None
    """Reason why it could not be looked at."""


class Contents(msgspec.Struct, frozen=True):
    """A file that was read, with the stamp it had."""

    name: str
    stamp: Stamp
    result: Manifest | FileFault


async def watch_manifests(
    directory: Path, state: State, emit: Emit, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Turn the manifests of `directory` into events, for ever.

    Started when the first load is recorded, or that it takes too long: what the log says is in force until then.
    """
    read = partial(read_with_obstacles, directory)
    sources = _Sources(str(directory), partial(look_at, directory), directory, read, state())
    roster = Roster(state())
    start = Start(task_status)
    while True:
        if await sources.changed(partial(_tell_late, emit, start)):
            if sources.fault is not None:
                if events := sources.report_fault():
                    await emit(events, ())
            else:
                settled = settle(sources.files.values())
                changes = roster.change_to(wanted_of(settled, roster))
                events = [*sources.report(settled.faults, bool(changes.events)), *changes.events]
                if events:
                    await emit(events, changes.removals)
        start.done()
        await trio.sleep(sources.pause)


async def watch_endpoints(
    path: Path,
    pool: str,
    state: State,
    emit: Emit,
    *,
    follow: bool = True,
    ready: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Turn an endpoints file into events, for ever, or without `follow` until it was right once.

    Started when what the first look found is recorded; `ready` is called once there are endpoints to pick from:
    those of a file that is right, or of one that the log has.
    """
    read = partial(read_endpoints, pool=pool)
    sources = _Sources(path.name, partial(look_at_file, path), path.parent, read, state())
    roster = Roster(state())
    start = Start(task_status)
    good = False
    while True:
        if await sources.changed(partial(_tell_late, emit, start)):
            file = sources.files[path.name]
            if file.fault is None and isinstance(file.manifest, EndpointsFile):
                good, file.good = True, file.manifest
                changes = roster.change_to(wanted_of_endpoints(file.manifest, pool))
                await emit([*sources.report({}, bool(changes.events)), *changes.events], changes.removals)
            elif file.fault is not None and (events := sources.report({path.name: file.fault}, False)):
                await emit(events, ())
        start.done()
        if good or pool in state().pools:
            ready()
        if good and not follow:
            return
        await trio.sleep(sources.pause)


async def _tell_late(emit: Emit, start: Start, event: SourceRejected) -> None:
    """Record that a look takes too long, and wait for the first one no longer."""
    await emit([event], ())
    start.done()


# --- looking ----------------------------------------------------------------------------------------


def look_at(directory: Path) -> Look:
    """Return the stamps of a directory's manifests; links are followed, names that begin with a dot are not."""
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(ENDINGS) and not n.startswith("."))
        if len(names) > FILES_MAX:
            return Look({}, FileFault(0, f"found {len(names):,} manifests, wanted {FILES_MAX:,} at most"))
        return Look({name: _stamp(directory / name) for name in names})
    except OSError as error:
        return Look({}, FileFault(0, why_unread(error)))


def look_at_file(path: Path) -> Look:
    """Return the stamp of one file."""
    return Look({path.name: _stamp(path)})


def _stamp(path: Path) -> Stamp:
    """Return the stamp of a file; empty where it cannot be looked at."""
    try:
        found = path.stat()
        real = path if not path.is_symlink() else path.resolve()
        writable = os.access(real.parent, os.W_OK)  # what is said of its routes depends on it
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, writable


def read_file(path: Path, stamp: Stamp, read: ReadManifest) -> Contents | None:
    """Read and parse a file; None where it is being written."""
    try:
        data = regular_bytes(path, BYTES_MAX + 1)
    except OSError as error:
        return Contents(path.name, stamp, FileFault(0, why_unread(error)))
    if data is None:
        return Contents(path.name, stamp, FileFault(0, NO_REGULAR_FILE))
    if _stamp(path) != stamp:
        return None
    try:
        return Contents(path.name, stamp, read(path.name, data))
    except DocumentError as error:
        return Contents(path.name, stamp, FileFault(error.line, error.message))


class _Sources:
    """What the files said, and what was told of them."""

    def __init__(
        self, name: str, look: Callable[[], Look], directory: Path, read: ReadManifest, state: ClusterState
    ) -> None:
        self.files: dict[str, SourceFile] = {}
        self.pause = LOOK_EVERY
        self._name, self._look, self._directory, self._read = name, look, directory, read
        self._stamps: dict[str, Stamp] = {}
        """Stamps of the contents in `files`."""
        self._seen: Look | None = None
        self.fault: FileFault | None = None
        """Fault of the directory: while there is one, nothing can be said of its files."""
        self._late: FileFault | None = None
        """Fault that the last look took too long; what it found holds all the same."""
        self._first = True
        self._told = {source: FileFault(r.line, r.message) for source, r in state.rejected_sources.items()}
        """Faults that the log knows, by file."""
        self._touched: set[str] = set()

    async def changed(self, tell_late: TellLate) -> bool:
        """Look, and read what changed; False where everything is as it was.

        The first time it waits for every file, because one that is not read yet would seem to be gone.
        A look that takes too long is told while it lasts.
        """
        late, self._late = self._late, None
        news = await self._changed(tell_late)
        for attempt in range(FIRST_LOOKS):
            unread = [] if self._seen is None else sorted(self._seen.stamps.keys() - self._stamps.keys())
            if not self._first or self.fault is not None or not unread:
                break
            if attempt == FIRST_LOOKS - 1:
                for name in unread:
                    self._take(Contents(name, (), FileFault(0, "changes all the time, wanted a file that is whole")))
            await trio.sleep(SETTLE)
            news |= await self._changed(tell_late)
        return news or self._late != late

    async def _in_time(self, work: Callable[[], Found], tell_late: TellLate) -> Found:
        """What `work` returns in a thread; where that takes too long, told before it is there."""
        found: list[Found] = []
        there = trio.Event()

        async def run() -> None:
            found.append(await trio.to_thread.run_sync(work))
            there.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            with trio.move_on_after(LOOK_MAX):
                await there.wait()
            if not there.is_set():
                words = f"a look at it takes over {LOOK_MAX:g} s, wanted less: what changes there is seen late"
                self._late = FileFault(0, words)
                if self._told.get(self._name) != self._late:
                    self._told[self._name] = self._late
                    await tell_late(SourceRejected(self._name, 0, words))
        return found[0]

    async def _changed(self, tell_late: TellLate) -> bool:
        look = await self._in_time(self._look, tell_late)
        before, self._seen = self._seen, look
        fault_changed = look.fault != self.fault
        self.fault = look.fault
        self.pause = LOOK_EVERY
        if look.fault is not None:
            return fault_changed
        different = {n for n in self._stamps.keys() | look.stamps.keys() if self._stamps.get(n) != look.stamps.get(n)}
        ripe = [n for n in sorted(different) if before is None or before.stamps.get(n) == look.stamps.get(n)]
        if len(ripe) < len(different):
            self.pause = SETTLE
        for name in ripe:
            if name not in look.stamps:
                del self.files[name], self._stamps[name]
                self._touched.add(name)
        names = [(name, look.stamps[name]) for name in ripe if name in look.stamps]
        for contents in await self._in_time(partial(self._read_all, names), tell_late):
            self._take(contents)
        if len(self._touched) < len(ripe):
            self.pause = SETTLE
        return bool(self._touched) or fault_changed or self._first

    def _read_all(self, names: Iterable[tuple[str, Stamp]]) -> list[Contents]:
        read = (read_file(self._directory / name, stamp, self._read) for name, stamp in names)
        return [contents for contents in read if contents is not None]

    def _take(self, contents: Contents) -> None:
        file = self.files.get(contents.name)
        if file is None:
            file = self.files[contents.name] = SourceFile(contents.name, rejected=contents.name in self._told)
        self._stamps[contents.name] = contents.stamp
        self._touched.add(contents.name)
        file.changed = True
        if isinstance(contents.result, FileFault):
            file.manifest, file.fault = None, contents.result
        else:
            file.manifest, file.fault = contents.result, None

    def report(self, faults: Mapping[str, FileFault], news: bool) -> list[Event]:
        """The events that say which files are right and which are wrong; `news` says that something else changed.

        A file that is right is told of when it was wrong, and when it changed; at the start, when that is news.
        """
        if self._late is not None:
            faults = {self._name: self._late, **faults}
        events: list[Event] = [
            SourceRejected(source, fault.line, fault.message)
            for source, fault in sorted(faults.items())
            if self._told.get(source) != fault
        ]
        for source in sorted((self._told.keys() | self._touched) - faults.keys()):
            good = file.good if (file := self.files.get(source)) is not None else None
            told = isinstance(good, EndpointsFile) or (good is not None and bool(good.objects or good.warnings))
            if source in self._told or (told and (news or not self._first)):
                events.append(SourceAccepted(source, good.warnings if good is not None else ()))
        self._told = dict(faults)
        self._touched.clear()
        self._first = False
        return events

    def report_fault(self) -> list[Event]:
        """The event that says that the directory cannot be looked at."""
        if self.fault is None or self._told.get(self._name) == self.fault:
            return []
        self._told[self._name] = self.fault
        return [SourceRejected(self._name, self.fault.line, self.fault.message)]
