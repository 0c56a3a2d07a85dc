"""The cluster as facts: which kinds are followed where, and what their news change.

Pods are followed in the namespaces in which there are pools, and nowhere else: a cluster has many that are not ours.
"""

import random
from collections.abc import Callable, Iterable

import msgspec
import trio

from pointsman.cluster.kubernetes.access import AccessError, ApiServer, decoded
from pointsman.cluster.kubernetes.following import STREAMING_SINCE, News, follow, pause
from pointsman.cluster.kubernetes.held_objects import SERVER, HeldObjects
from pointsman.cluster.kubernetes.resources import GRANTS, OF_A_POOL, PODS, POOLS, POOLS_X, ROUTES, Scope
from pointsman.cluster.objects.difference import Emit, Roster
from pointsman.cluster.starting import Start
from pointsman.core.events import PoolApplied, SourceRejected
from pointsman.core.processes.settings import ClusterSettings
from pointsman.core.state.projection import ClusterState

GATHER = 0.005
"""Seconds in which news come together: a rolling restart is many events, and one change of membership."""

FIRST_READ_MAX = 10.0
"""Seconds after which the start waits no longer: what the log says is in force until the cluster was read."""

WATCHES_MAX = 1_000
"""Scopes that are followed at once, a thread and a connection each."""


class Followed(msgspec.Struct, frozen=True):
    """What of a cluster is followed."""

    namespaces: tuple[str, ...] = ()
    """Namespaces; none for all."""
    pool: str = ""
    """`namespace/name` of the one pool; empty for all pools, with routes and grants."""

    def scopes(self) -> list[Scope]:
        """What is followed from the start; Pods join where there are pools."""
        if self.pool:
            namespace, _, name = self.pool.partition("/")
            found = [Scope(one, namespace, name if one in (POOLS, POOLS_X) else "") for one in OF_A_POOL]
            return [*found, Scope(PODS, namespace)]
        kinds = (*OF_A_POOL, ROUTES, GRANTS)
        return [Scope(kind, namespace) for kind in kinds for namespace in self.namespaces or ("",)]

    def pods_in(self, namespaces: Iterable[str]) -> set[Scope]:
        """Where Pods are followed while there are pools in `namespaces`."""
        if self.pool:
            return {Scope(PODS, self.pool.partition("/")[0])}
        return {Scope(PODS, one) for one in namespaces if not self.namespaces or one in self.namespaces}


async def watch_cluster(
    cluster: ClusterSettings,
    followed: Followed,
    state: Callable[[], ClusterState],
    emit: Emit,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Turn what the API server says into events, for ever.

    Started when all that can be read was read once, or that takes too long: what the log says is in force until then.
    """
    started = Start(task_status)
    api = await _reached(cluster, emit, started)
    streaming = await _streams(api)
    rejected = {source: found.message for source, found in state().rejected_sources.items()}
    source = _ClusterSource(api, followed, HeldObjects(followed.scopes(), rejected), streaming)
    roster = Roster(state())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(started.done_after, FIRST_READ_MAX)
        source.follow_all(nursery, roster)
        while True:
            await source.news()
            changes = roster.change_to(source.held.wanted(roster))
            events = [*source.held.report(), *changes.events]
            if events:
                await emit(events, changes.removals)
            source.follow_all(nursery, roster)
            if source.held.settled:
                started.done()


async def _reached(cluster: ClusterSettings, emit: Emit, started: Start) -> ApiServer:
    """Find the credentials, for as long as it takes."""
    failures, told = 0, ""
    while True:
        try:
            return await trio.to_thread.run_sync(ApiServer, cluster)
        except AccessError as error:
            if str(error) != told:
                told = str(error)
                await emit([SourceRejected(SERVER, 0, told)], ())
            started.done()
        failures += 1
        await trio.sleep(pause(failures, random.random()))


async def _streams(api: ApiServer) -> bool:
    """Whether the server gives lists as streams; one that does not say is asked for pages."""

    def version() -> bool:
        found = decoded(api.get("/version"), _ServerVersion)
        major, minor = (int("".join(c for c in part if c.isdigit()) or "0") for part in (found.major, found.minor))
        return (major, minor) >= STREAMING_SINCE

    try:
        return await trio.to_thread.run_sync(version)
    except AccessError:
        return False


class _ServerVersion(msgspec.Struct):
    major: str
    minor: str


class _ClusterSource:
    """The tasks that follow a cluster, and what they hold."""

    def __init__(self, api: ApiServer, followed: Followed, held: HeldObjects, streaming: bool) -> None:
        self.held = held
        self._api, self._followed, self._streaming = api, followed, streaming
        self._limiter = trio.CapacityLimiter(WATCHES_MAX)
        self._scopes: dict[Scope, trio.CancelScope] = {}
        self._news = trio.Event()

    def follow_all(self, nursery: trio.Nursery, roster: Roster) -> None:
        """Begin to follow what is not yet, and stop where there is no pool any more."""
        wanted = {scope for scope in self.held.scopes if scope.resource != PODS}
        pools = roster.objects.view(PoolApplied, str)
        wanted |= self._followed.pods_in({name.partition("/")[0] for name in pools})
        for scope in [one for one in self._scopes if one not in wanted]:
            self._scopes.pop(scope).cancel()
            self.held.leave(scope)
        for scope in sorted(wanted - self._scopes.keys(), key=lambda one: one.words)[: WATCHES_MAX - len(self._scopes)]:
            self.held.scopes.add(scope)
            self._scopes[scope] = trio.CancelScope()
            nursery.start_soon(self._follow, scope, self._scopes[scope])

    async def news(self) -> None:
        """Wait for news, and for those that come with them."""
        await self._news.wait()
        await trio.sleep(GATHER)
        self._news = trio.Event()

    async def _follow(self, scope: Scope, cancel: trio.CancelScope) -> None:
        with cancel:
            await follow(self._api, scope, self._tell, streaming=self._streaming, limiter=self._limiter)

    async def _tell(self, scope: Scope, news: News) -> None:
        if self._scopes.get(scope) is not None:
            self.held.take(scope, news)
            self._news.set()
