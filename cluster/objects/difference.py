"""The difference between what a source wants and what the log says, as events.

A roster is what the log will say when all that was made of it has committed, so that nothing is said twice
while a commit is under way.  It assigns the numbers of endpoints, each once.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from pointsman.cluster.objects.wanted import Member, Wanted
from pointsman.core.events import (
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    PoolDeleted,
)
from pointsman.core.state.objects import ObjectKind, Objects, deletion_of
from pointsman.core.state.projection import ClusterState

Identity = tuple[str, str, int]

Emit: TypeAlias = Callable[[Sequence[Event], Sequence[int]], Awaitable[None]]
"""Takes events in the order to record them, and the endpoints to avoid before they are recorded."""


class Changes(msgspec.Struct, frozen=True):
    """Events in the order to record them, and which endpoints to avoid before they are recorded."""

    events: tuple[Event, ...]
    removals: tuple[int, ...] = ()
    """Endpoints that left or are not ready any more."""


class Roster:
    """What the log says of membership, with what is on its way to it."""

    def __init__(self, state: ClusterState) -> None:
        self.objects = Objects(state.objects)
        self.next_endpoint = state.next_endpoint
        self.members: dict[int, Member] = {
            number: Member(e.pool, e.uid, e.namespace, e.name, e.address, e.port, e.rank, e.labels, e.ready, e.source)
            for number, e in state.endpoints.items()
        }

    def change_to(self, wanted: Wanted) -> Changes:
        """Take on what is `wanted` and return what that changes: nothing where it is the same."""
        by_identity = {member.identity: member for member in wanted.members}
        objects = Objects(wanted.objects)
        left, moved, removals = self._leave(by_identity)
        events: list[Event] = [*left]
        events += self._objects(PoolDeleted, objects)
        events += moved
        events += self._join(by_identity)
        for kind in Objects((*self.objects, *objects)).kinds():
            if kind is not PoolDeleted:
                events += self._objects(kind, objects)
        return Changes(tuple(events), tuple(removals))

    def _leave(self, by_identity: Mapping[Identity, Member]) -> tuple[list[Event], list[Event], list[int]]:
        """Who leaves, who changes, and which of these must not get traffic any more."""
        left: list[Event] = []
        changed: list[Event] = []
        removals: list[int] = []
        for number, member in sorted(self.members.items()):
            other = by_identity.get(member.identity)
            if other is member:
                continue
            if other is None or _place(other) != _place(member):
                left.append(EndpointLeft(number, "gone" if other is None else "moved"))
                removals.append(number)
                del self.members[number]
            elif msgspec.structs.replace(other, version=member.version) == member:
                self.members[number] = other
            else:
                changed.append(EndpointChanged(number, other.ready, other.labels, _news(member, other), other.version))
                if member.ready and not other.ready:
                    removals.append(number)
                self.members[number] = other
        return left, changed, removals

    def _join(self, by_identity: dict[Identity, Member]) -> Iterable[Event]:
        here = {member.identity for member in self.members.values()}
        for identity in sorted(by_identity.keys() - here):
            m = by_identity[identity]
            number, self.next_endpoint = self.next_endpoint, self.next_endpoint + 1
            self.members[number] = m
            place = (m.namespace, m.name, m.address, m.port, m.rank)
            yield EndpointJoined(number, m.pool, m.uid, *place, m.labels, m.ready, m.source, m.version)

    def _objects(self, kind: ObjectKind, wanted: Objects) -> Iterable[Event]:
        for known in self.objects.of_kind(kind):
            if wanted.get(known) is None:
                deletion = deletion_of(known)
                self.objects.drop(deletion)
                yield deletion
        for one in wanted.of_kind(kind):
            if self.objects.get(one) != one:
                self.objects.put(one)
                yield one


def _news(member: Member, other: Member) -> str:
    """Return the source of `other` where it is another one; empty says that it stays."""
    return other.source if other.source != member.source else ""


def _place(member: Member) -> tuple[object, ...]:
    """What a member cannot change and stay the same endpoint."""
    return member.namespace, member.name, member.address, member.rank
