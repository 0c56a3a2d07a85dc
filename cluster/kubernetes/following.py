"""One kind in one part of the cluster: a list, then watches from its version on, for ever.

Rules.  A version of a resource is opaque: it is given back, never compared.
A watch that ends goes on from the last version seen; a version that the server has forgotten (410) means a new list,
whose difference to what was held is what was missed.
Nothing is asked for more often than the back-off allows, and no wait is without an end: a connection that says nothing
for `SILENT_MAX` is taken for dead.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias

import msgspec
import trio

from pointsman.cluster.kubernetes.access import AccessError, AnswerStream, ApiServer, ApiStatus, decoded
from pointsman.cluster.kubernetes.ownership import with_obstacle
from pointsman.cluster.kubernetes.resources import Scope
from pointsman.cluster.objects.manifest import ReadObject, read_object

WATCH_SECONDS = (240, 300)
"""Seconds after which the server is asked to end a watch, drawn: many clients do not come back at once."""

SILENT_MAX = 120.0
"""Seconds without a byte after which a watch is taken for dead: a server tells its version every minute."""

PAGE = 500
"""Objects in one page of a list, as the field's clients ask for."""

FIRST_PAUSE, PAUSE_MAX = 0.25, 30.0
"""Seconds before a second attempt, doubled for each that follows, and the most."""

MISSING_LOOK = 10.0
"""Seconds between two looks for a kind that the server does not have."""

LINE_BYTES_MAX = 32 << 20
"""Bytes of one event: etcd takes objects of 1.5 MiB."""

STREAMING_SINCE = (1, 32)
"""Version of the API server from which lists come as streams by default."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Listed(msgspec.Struct, frozen=True):
    """All objects of the scope."""

    objects: tuple[ReadObject, ...]


class Watched(msgspec.Struct, frozen=True):
    """What changed, in order: objects as they are now, and names of those that are gone."""

    changes: tuple[ReadObject | str, ...]


class Absent(msgspec.Struct, frozen=True):
    """The server does not have the kind; one that is starting says so for a moment of kinds that it has."""


class Unreadable(msgspec.Struct, frozen=True):
    """Why the scope cannot be read at present; what it said before stays."""

    message: str
    of_server: bool
    """Whether the server was not reached at all, so that no kind can be read."""


News: TypeAlias = Listed | Watched | Absent | Unreadable
TellNews: TypeAlias = Callable[[Scope, News], Awaitable[None]]


def pause(failures: int, draw: float) -> float:
    """Seconds to wait after so many failures in a row; `draw`, from 0 to 1, keeps clients apart."""
    return min(PAUSE_MAX, FIRST_PAUSE * 2.0 ** min(failures - 1, 20)) * (0.5 + draw / 2)


async def follow(
    api: ApiServer, scope: Scope, tell: TellNews, *, streaming: bool, limiter: trio.CapacityLimiter
) -> None:
    """Tell all that is known of the scope and all that changes, for ever."""
    following = _ScopeWatch(api, scope, tell, streaming, limiter)
    failures = 0
    while True:
        try:
            await following.once()
            failures = 0
        except AccessError as error:
            failures = 1 if following.progress else failures + 1
            await trio.sleep(await _after(following, error, failures))


async def _after(following: "_ScopeWatch", error: AccessError, failures: int) -> float:
    """See to an attempt that failed; return the seconds to wait before the next one."""
    match error.code:
        case 410:  # the version was forgotten
            following.version = ""
        case 400 | 422 if following.streaming and not following.version:
            following.streaming = False
            return 0.0
        case 404:
            following.version = ""
            if following.next_version():
                return 0.0
            following.absent += 1
            await following.tell(Absent() if following.absent == 1 else Listed(()))
            return MISSING_LOOK * (0.75 + random.random() / 2)
        case _:
            if failures > 1 or error.code in (401, 403):
                await following.tell(Unreadable(_words(following.scope, error), of_server=error.code == 0))
            if error.code == 401:
                await following.renew()
    return max(pause(failures, random.random()), error.retry_after)


def _words(scope: Scope, error: AccessError) -> str:
    if error.code == 403:
        group = f'"{scope.resource.group}"'
        where = f"a Role in namespace {scope.namespace}" if scope.namespace else "a ClusterRole"
        rule = f'apiGroups: [{group}], resources: ["{scope.resource.plural}"], verbs: ["get", "list", "watch"]'
        return f"{error}; wanted the rule `{rule}` in {where}"
    return str(error)


class _ScopeWatch:
    """Where one scope stands."""

    def __init__(
        self, api: ApiServer, scope: Scope, tell: TellNews, streaming: bool, limiter: trio.CapacityLimiter
    ) -> None:
        self.scope, self.streaming = scope, streaming
        self.version = ""
        """Version from which to watch on; empty where a list comes first."""
        self.progress = False
        """Whether the last attempt brought something."""
        self.absent = 0
        """Looks in a row that did not find the kind."""
        self._api, self._tell, self._limiter = api, tell, limiter
        self._served = 0

    async def tell(self, news: News) -> None:
        """Hand on what was found."""
        await self._tell(self.scope, news)

    async def renew(self) -> None:
        """Read the credentials again; where that fails, the next attempt says so."""
        with contextlib.suppress(AccessError):
            await trio.to_thread.run_sync(self._api.renew, limiter=self._limiter)

    def next_version(self) -> bool:
        """Try another version of the kind's API; False where all were tried."""
        self._served = (self._served + 1) % len(self.scope.resource.versions)
        return self._served != 0

    async def once(self) -> None:
        """List where that is due, and watch until the watch ends."""
        self.progress = False
        if not self.version and not self.streaming:
            objects, version = await trio.to_thread.run_sync(self._list, limiter=self._limiter, abandon_on_cancel=True)
            await self._have(objects, version)
        await self._watch()

    async def _have(self, objects: Iterable[ReadObject], version: str) -> None:
        await self.tell(Listed(tuple(objects)))
        self.version, self.progress, self.absent = version, True, 0

    # --- lists ------------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return self.scope.resource.path(self.scope.resource.versions[self._served], self.scope.namespace)

    @property
    def _selected(self) -> dict[str, str]:
        return {"fieldSelector": f"metadata.name={self.scope.name}"} if self.scope.name else {}

    def _list(self) -> tuple[list[ReadObject], str]:
        """All objects and the version they have together; blocks."""
        query = {"limit": str(PAGE), **self._selected}
        objects: list[ReadObject] = []
        while True:
            page = decoded(self._api.get(self._path, query), _ListPage)
            objects.extend(self._read(item, page.api_version) for item in page.items or ())
            if not page.metadata.next_page:
                return objects, page.metadata.version
            query["continue"] = page.metadata.next_page

    def _read(self, item: msgspec.Raw, api_version: str) -> ReadObject:
        value = decoded(item, dict[str, object])
        # Items of a list do not say again what they are.
        value.setdefault("apiVersion", api_version)
        value.setdefault("kind", self.scope.resource.kind)
        return with_obstacle(read_object(value), value)

    # --- watches ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Watch until the server ends it."""
        send, receive = trio.open_memory_channel[list[_Change]](4)
        holder: list[AnswerStream] = []
        failure: AccessError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take, receive)
            try:
                await trio.to_thread.run_sync(
                    partial(self._read_watch, send, holder), limiter=self._limiter, abandon_on_cancel=True
                )
            except AccessError as error:
                failure = error  # what was read before it is taken first
            finally:
                for stream in holder:
                    stream.close()
                send.close()
        if failure is not None:
            raise failure

    async def _take(self, receive: "trio.MemoryReceiveChannel[list[_Change]]") -> None:
        """Hand on what the thread read, in order."""
        initial: dict[str, ReadObject] | None = None if self.version else {}
        async for batch in receive:
            changes: list[ReadObject | str] = []
            for found in batch:
                if initial is not None and isinstance(found.change, ReadObject):
                    initial[found.change.name] = found.change
                elif initial is not None and found.initial_end:
                    await self._have(initial.values(), found.version)
                    initial = None
                elif found.change is not None and initial is None:
                    changes.append(found.change)
            if changes:
                await self.tell(Watched(tuple(changes)))
            if initial is None and batch:
                self.version, self.progress = batch[-1].version or self.version, True

    def _read_watch(self, send: "trio.MemorySendChannel[list[_Change]]", holder: list[AnswerStream]) -> None:
        """Read a watch to its end; blocks."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),
            **self._selected,
        }
        if self.version:
            query["resourceVersion"] = self.version
        else:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        stream = self._api.stream(self._path, query, SILENT_MAX)
        holder.append(stream)
        for lines in _whole_lines(stream.chunks()):
            batch: list[_Change] = []
            fault: AccessError | None = None
            for line in lines:
                try:
                    batch.append(self._event(line))
                except AccessError as error:
                    fault = error
                    break
            if batch:
                trio.from_thread.run(send.send, batch)
            if fault is not None:
                raise fault

    def _event(self, line: bytes) -> "_Change":
        event = decoded(line, _WatchEvent)
        if event.type == "ERROR":
            status = decoded(event.object, ApiStatus)
            raise AccessError(f"the watch ended: {status.code} {status.message}", status.code)
        metadata = decoded(event.object, _WatchObject).metadata
        if event.type == "BOOKMARK":
            end = metadata.annotations is not None and metadata.annotations.get(INITIAL_EVENTS_END) == "true"
            return _Change(metadata.version, None, end)
        if event.type == "DELETED":
            return _Change(metadata.version, f"{metadata.namespace}/{metadata.name}")
        if event.type not in ("ADDED", "MODIFIED"):
            raise AccessError(f"the watch said {event.type!r}, wanted ADDED, MODIFIED, DELETED, BOOKMARK or ERROR")
        return _Change(metadata.version, self._read(event.object, ""))


class _Change(msgspec.Struct, frozen=True):
    """One event of a watch."""

    version: str
    change: ReadObject | str | None = None
    initial_end: bool = False


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines that each chunk completes; a last one without an end is not whole and is left out."""
    rest: list[bytes] = []
    size = 0
    for chunk in chunks:
        *lines, tail = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join((*rest, lines[0]))
            rest, size = [], 0
            yield [line for line in lines if line.strip()]
        rest.append(tail)
        size += len(tail)
        if size > LINE_BYTES_MAX:
            raise AccessError(f"the watch sent a line of over {LINE_BYTES_MAX:,} bytes")


# --- what is read of the server's JSON --------------------------------------------------------------


class _ListMetadata(msgspec.Struct):
    version: str = msgspec.field(default="", name="resourceVersion")
    next_page: str | None = msgspec.field(default="", name="continue")


class _ListPage(msgspec.Struct):
    metadata: _ListMetadata
    api_version: str = msgspec.field(default="", name="apiVersion")
    items: list[msgspec.Raw] | None = None


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _WatchMetadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")
    annotations: dict[str, str] | None = None


class _WatchObject(msgspec.Struct):
    metadata: _WatchMetadata
