"""What events are made of, and how a kind of object is declared by two of them.

Some facts are about objects that somebody applies and deletes: an InferencePool, an HTTPRoute, an InferenceObjective.
All kinds of them behave alike: an object has a key, the last event that applied it says all that is known of it,
and it is gone after an event that deletes it.  So a kind is declared once, by its two events in `core/events/`:

- a `Deleted`: its fields are the key of the object that is gone, and `noun` is what people call the kind;
- an `Applied`: its first fields are the same key, the others what we read of the object, and `deletion` is the first.

Both stand in the unions there, `DeletedEvent` and `AppliedEvent`.  The rest follows from the declaration:

- the fold, which keeps the last `Applied` under each key (`core/state/objects.py`);
- the snapshot, which holds those (`core/state/snapshot.py`);
- the events that say what a source changed (`cluster/objects/difference.py`), and which objects stay while
  a file cannot be read: those whose field `source` names it, and those of which the log does not say whose they are;
- the line on the log's page, which begins with the noun and the key.

What a manifest of the kind looks like is its form in `cluster/objects/forms/`.
"""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import ClassVar, TypeAlias

import msgspec

Key: TypeAlias = str | tuple[str, ...]
"""The key of an object within its kind: the value of the one key field, or those of several."""


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """What all events share: the encoding."""


class Deleted(Fact, frozen=True):
    """An object is gone."""

    noun: ClassVar[str]
    """Name of the kind, as manifests and people say it: `InferencePool`."""

    @classmethod
    def key_fields(cls) -> tuple[str, ...]:
        """The names of the key's fields."""
        return cls.__struct_fields__

    @property
    def key(self) -> Key:
        """The object's key."""
        return _key_of(type(self))(self)


class Applied(Fact, frozen=True):
    """An object is there, and is as this says."""

    deletion: ClassVar[type[Deleted]]
    """Type of the event that ends objects of the kind."""

    @classmethod
    def key_fields(cls) -> tuple[str, ...]:
        """The names of the key's fields."""
        return cls.deletion.__struct_fields__

    @property
    def key(self) -> Key:
        """The object's key."""
        return _key_of(self.deletion)(self)


@cache
def _key_of(kind: type[Deleted]) -> Callable[[Fact], Key]:
    return attrgetter(*kind.key_fields())


def subject(event: Applied | Deleted) -> str:
    """Return the object in words: `InferencePool default/llama`."""
    kind = event.deletion if isinstance(event, Applied) else event
    return f"{kind.noun} {event.key if isinstance(event.key, str) else '/'.join(event.key)}"
