"""The shapes of plugins, and their register.

A plugin is a frozen Struct whose fields are its `parameters`.
Rules for formulas: only + - * / and comparison, minimum and maximum, in a fixed order; a mean goes through
`math.fsum`.  So a decision is the same on every machine.  A changed formula raises the plugin's version.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.core.events import RequestFacts
from pointsman.core.view import Floats, View

FEW = 48
"""Up to here plain numbers are sooner done than arrays; the result is the same."""

Reasons = npt.NDArray[np.int16]
Scores = Floats
PluginKind = Literal[
    "scheduling", "profile handler", "detector", "producer", "source", "extractor", "parser", "discovery"
]


@runtime_checkable
class Filter(Protocol):
    """Rejects candidates, each for a reason."""

    load: ClassVar[bool]
    """It judges load: degraded, it passes all."""

    @property
    def reasons(self) -> Sequence[str]:
        """Short stable names for counting; code c is `reasons[c - 1]`."""
        ...

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        """A code per candidate, 0 to keep it."""
        ...

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        """The reason in words: what was found and what was wanted."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Scores candidates from 0 to 1."""

    load: ClassVar[bool]
    """It judges load: degraded, it is neutral."""
    standing: ClassVar[bool]
    """Its scores depend on the candidates and the cluster state alone: they stand until that changes."""
    bounded: ClassVar[bool]
    """Its scores are numbers from 0 to 1, without a negative zero, whatever it is given: nobody need see to that."""
    advantage: ClassVar[str]
    """What a candidate that scores higher has, as in "the shorter queue"."""

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        """A score per candidate; what is outside 0 to 1 counts as the nearer of them."""
        ...

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        """What the score rests on, as a sentence about "it" without a full stop."""
        ...


@runtime_checkable
class Picker(Protocol):
    """Chooses among the scored candidates."""

    scored: ClassVar[bool]
    """It looks at the sums."""

    @property
    def max_num_of_endpoints(self) -> int:
        """The choice and its fallbacks; 0 or less means 1."""
        ...

    def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
        """Indexes of at most `count` candidates: the choice, then its fallbacks."""
        ...

    def chances(self, sums: Scores, view: View, /) -> list[float]:
        """The probability of each candidate to be the choice."""
        ...


@runtime_checkable
class Detector(Protocol):
    """Says how saturated the candidates are together."""

    def saturation(self, request: RequestFacts, view: View, /) -> float:
        """Used over available capacity: saturated from 1.0."""
        ...


class Registered(msgspec.Struct, frozen=True):
    """A plugin type."""

    name: str
    version: int
    struct: type[msgspec.Struct]
    kind: PluginKind


REGISTER: dict[str, Registered] = {}
"""Every plugin type this process knows, by the `type` an EndpointPickerConfig names it by."""

PluginClass = TypeVar("PluginClass", bound=type[msgspec.Struct])


def plugin(type: str, *, version: int, kind: PluginKind = "scheduling") -> Callable[[PluginClass], PluginClass]:
    """Register a Struct as the plugin `type`; a second one of that name is an error."""

    def register(struct: PluginClass) -> PluginClass:
        if type in REGISTER:
            raise ValueError(f"plugin type {type!r} is registered twice: {REGISTER[type].struct} and {struct}")
        REGISTER[type] = Registered(type, version, struct, kind)
        return struct

    return register


def rejected(filter: Filter, request: RequestFacts, view: View) -> Reasons:
    """What `filter` rejects of `view`: nothing where it judges load and the feed is lost."""
    if filter.load and view.degraded:
        return np.zeros(view.size, dtype=np.int16)
    return filter.reject(request, view)


def spread(values: npt.NDArray[np.int64]) -> Scores:
    """1 for the lowest value, 0 for the highest, linear between; all equal is no preference, hence 1 for each."""
    if len(values) <= FEW:
        listed = values.tolist()
        lowest, highest = min(listed), max(listed)
    else:
        lowest, highest = int(values.min()), int(values.max())
    if lowest == highest:
        return np.ones(len(values))
    scores: Scores = (highest - values) / (highest - lowest)
    return scores
