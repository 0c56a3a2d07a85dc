"""What an API server says, in one place: all objects that it has, and what is wrong with some of them.

Rules.  An object that cannot be understood keeps what it said when it last could be; what it said before this process
began is known from the log alone, and stays.
A scope that was not read yet, or cannot be read, keeps what the log says of its kind there, and nothing else.
"""

from collections.abc import Iterable, Mapping

from pointsman.cluster.kubernetes.following import Absent, Listed, News, Unreadable, Watched
from pointsman.cluster.kubernetes.resources import PODS, PRECEDENCE, Resource, Scope
from pointsman.cluster.objects.difference import Roster
from pointsman.cluster.objects.manifest import ReadObject
from pointsman.cluster.objects.wanted import Member, Pod, Wanted, members_of
from pointsman.core.events import (
    AppliedEvent,
    Event,
    ObjectiveApplied,
    PoolApplied,
    ReferenceGrantApplied,
    RouteObserved,
    SourceAccepted,
    SourceRejected,
)
from pointsman.core.state.objects import Objects

SERVER = "the API server"
"""Source of the fault that nothing can be read at all."""

_KINDS: Mapping[str, type[AppliedEvent]] = {
    "InferencePool": PoolApplied,
    "InferenceObjective": ObjectiveApplied,
    "HTTPRoute": RouteObserved,
    "ReferenceGrant": ReferenceGrantApplied,
}


class HeldObjects:
    """All that was read of a cluster."""

    def __init__(self, scopes: Iterable[Scope], rejected: Mapping[str, str] = {}) -> None:
        self.scopes = set(scopes)
        self._held: dict[Resource, dict[str, ReadObject]] = {resource: {} for resource in PRECEDENCE}
        self._read: set[Scope] = set()
        """Scopes that were read once."""
        self._absent: set[Scope] = set()
        """Scopes whose kind the server did not have when it was asked last."""
        self._unreadable: dict[Scope, Unreadable] = {}
        self._members: dict[str, tuple[ReadObject, tuple[Member, ...]]] = {}
        """Endpoints of each pod, by its name, of the pools `_members_of`."""
        self._members_of: tuple[PoolApplied, ...] = ()
        self._faults: dict[str, str] = {}
        """Faults of objects, by source."""
        self._warnings: dict[str, tuple[str, ...]] = {}
        self._told = dict(rejected)
        """Faults that the log knows, by source."""
        self._told_warnings: dict[str, tuple[str, ...]] = {}

    # --- what comes in ------------------------------------------------------------------------------

    def take(self, scope: Scope, news: News) -> None:
        """Take on what was read of a scope; news of a scope that is not followed any more count for nothing."""
        if scope not in self.scopes:
            return
        if isinstance(news, Unreadable):
            self._unreadable[scope] = news
            return
        self._unreadable.pop(scope, None)
        if isinstance(news, Absent):
            self._absent.add(scope)
            return
        self._absent.discard(scope)
        if isinstance(news, Listed):
            names = {one.name for one in news.objects}
            for name in [n for n in self._held[scope.resource] if scope.holds(n) and n not in names]:
                self._drop(scope.resource, name)
            self._read.add(scope)
            for one in news.objects:
                self._put(scope.resource, one)
        elif isinstance(news, Watched):
            for change in news.changes:
                if isinstance(change, str):
                    self._drop(scope.resource, change)
                else:
                    self._put(scope.resource, change)

    def leave(self, scope: Scope) -> None:
        """Forget a scope that is not followed any more."""
        self.scopes.discard(scope)
        self._read.discard(scope)
        self._absent.discard(scope)
        self._unreadable.pop(scope, None)
        for name in [n for n in self._held[scope.resource] if scope.holds(n)]:
            self._drop(scope.resource, name)

    def _put(self, resource: Resource, one: ReadObject) -> None:
        source = f"{one.kind} {one.name}"
        self._faults.pop(source, None)
        self._warnings.pop(source, None)
        if one.fault:
            self._faults[source] = one.fault
            before = self._held[resource].get(one.name)
            # What it last said stays beside the fault.
            one = ReadObject(one.kind, one.name, None if before is None else before.found, fault=one.fault)
        elif one.warnings and resource is not PODS:
            self._warnings[source] = one.warnings
        self._held[resource][one.name] = one

    def _drop(self, resource: Resource, name: str) -> None:
        one = self._held[resource].pop(name, None)
        if resource is PODS:
            self._members.pop(name, None)
        if one is not None:
            self._faults.pop(f"{one.kind} {name}", None)
            self._warnings.pop(f"{one.kind} {name}", None)

    # --- what goes out ------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether each scope was read, or is known not to be readable."""
        return self.scopes <= self._read | self._absent | self._unreadable.keys()

    def wanted(self, roster: Roster) -> Wanted:
        """What the cluster wants, with what stays of the parts that cannot be read."""
        objects = self._objects(roster)
        pools = objects.view(PoolApplied, str)
        if self._members_of != (now := tuple(pools.values())):
            self._members_of = now
            self._members.clear()
        members: list[Member] = []
        for one in self._held[PODS].values():
            members.extend(self._members_of_pod(one, now))
        members.extend(self._kept_members(pools, roster))
        return Wanted(tuple(objects), tuple(members))

    def _members_of_pod(self, one: ReadObject, pools: Iterable[PoolApplied]) -> tuple[Member, ...]:
        """The endpoints of a pod; the same values while nothing changes, so that thousands are compared in a moment."""
        known = self._members.get(one.name)
        if known is not None and known[0] is one:
            return known[1]
        found: tuple[Member, ...] = ()
        if one.found is not None and isinstance(pod := one.found.value, Pod):
            found = tuple(member for pool in pools for member in members_of(pool, (pod,)))
        self._members[one.name] = one, found
        return found

    def report(self) -> list[Event]:
        """The events that say what is wrong, and what no longer is."""
        faults = dict(self._faults)
        for scope, unreadable in self._unreadable.items():
            faults[SERVER if unreadable.of_server else scope.words] = unreadable.message
        events: list[Event] = [
            SourceRejected(source, 0, message)
            for source, message in sorted(faults.items())
            if self._told.get(source) != message
        ]
        events += [
            SourceAccepted(source, self._warnings.get(source, ()))
            for source in sorted(
                (self._told.keys() - faults.keys())
                | {s for s, said in self._warnings.items() if self._told_warnings.get(s) != said}
            )
        ]
        self._told, self._told_warnings = faults, dict(self._warnings)
        return events

    def _objects(self, roster: Roster) -> Objects:
        """Every object but the Pods: the groups named first win."""
        objects = Objects()
        for resource in reversed(PRECEDENCE):
            for one in self._held[resource].values():
                if one.found is not None and not isinstance(one.found.value, Pod):
                    objects.put(one.found.value)
        for known in roster.objects:
            if objects.get(known) is None and self._kept(known):
                objects.put(known)
        return objects

    def _kept(self, known: AppliedEvent) -> bool:
        """Whether an object that the log has stays: nothing says that it is gone."""
        name = _name(known)
        for resource in PRECEDENCE:
            if _KINDS.get(resource.kind) is not type(known):
                continue
            if self._unknown(resource, name):
                return True
            held = self._held[resource].get(name)
            if held is not None and held.fault:
                return True
        return False

    def _kept_members(self, pools: Mapping[str, PoolApplied], roster: Roster) -> Iterable[Member]:
        """Members that the log has, of pods of which nothing is known."""
        if all(scope in self._read for scope in self.scopes if scope.resource is PODS) and not any(
            source.startswith("Pod ") for source in self._faults
        ):
            return
        for known in roster.members.values():
            pod = f"{known.namespace}/{known.name}"
            held = self._held[PODS].get(pod)
            lost = self._unknown(PODS, pod) if held is None else held.found is None and bool(held.fault)
            if not lost:
                continue
            pool = pools.get(known.pool)
            if pool is not None and known.port in pool.target_ports and pool.selector.items() <= known.labels.items():
                yield known

    def _unknown(self, resource: Resource, name: str) -> bool:
        """Whether an object of this name may be there without being held: its scope was not read yet."""
        return any(
            scope.resource == resource and scope.holds(name) and scope not in self._read for scope in self.scopes
        )


def _name(known: AppliedEvent) -> str:
    if isinstance(known, ObjectiveApplied):
        return f"{known.pool.partition('/')[0]}/{known.name}"
    key = known.key
    return key if isinstance(key, str) else "/".join(map(str, key))
