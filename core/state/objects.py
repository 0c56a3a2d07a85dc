"""The objects of every kind that the log says are there; `core/values/facts.py` says what a kind is."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar, cast

from pointsman.core.events import AppliedEvent, DeletedEvent
from pointsman.core.values.facts import Deleted, Key

ObjectKind: TypeAlias = type[Deleted]
"""A kind of object, as the type of the event that deletes one."""

A = TypeVar("A", bound=AppliedEvent)
K = TypeVar("K", bound=Key)


def deletion_of(event: AppliedEvent) -> DeletedEvent:
    """Return the event that deletes the object that `event` applied."""
    key = event.key
    return event.deletion(*((key,) if isinstance(key, str) else key))


class Objects:
    """The last `Applied` of each object that is there, by kind and key."""

    def __init__(self, applied: Iterable[AppliedEvent] = ()) -> None:
        self._kinds: dict[ObjectKind, dict[Key, AppliedEvent]] = {}
        for event in applied:
            self.put(event)

    def put(self, event: AppliedEvent) -> None:
        """Take on the object as `event` says it is."""
        self._of(event.deletion)[event.key] = event

    def drop(self, event: DeletedEvent) -> None:
        """Forget the object that `event` deletes."""
        self._of(type(event)).pop(event.key, None)

    def get(self, event: AppliedEvent) -> AppliedEvent | None:
        """What is known of the object that `event` is about; None where it is not there."""
        return self._of(event.deletion).get(event.key)

    def view(self, applied: type[A], key: type[K]) -> Mapping[K, A]:
        """The objects of the kind that `applied` events are about; the mapping follows later changes."""
        # What `put` files under a kind are events of its one type, by keys of its one form.
        return cast(Mapping[K, A], self._of(applied.deletion))

    def kinds(self) -> list[ObjectKind]:
        """The kinds of which there were objects, in the order of their tags."""
        return sorted(self._kinds, key=lambda kind: str(kind.__struct_config__.tag))

    def of_kind(self, kind: ObjectKind) -> list[AppliedEvent]:
        """The objects of one kind, by key."""
        return [found for _, found in sorted(self._of(kind).items(), key=lambda item: item[0])]

    def __iter__(self) -> Iterator[AppliedEvent]:
        """All objects, by kind and key."""
        for kind in self.kinds():
            yield from self.of_kind(kind)

    def _of(self, kind: ObjectKind) -> dict[Key, AppliedEvent]:
        return self._kinds.setdefault(kind, {})
