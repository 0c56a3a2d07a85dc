"""The shapes of plugins, and the decorators that register them.

A plugin is a frozen Struct whose fields are its `parameters`.  The decorator says what kind it is, by which
`type` an EndpointPickerConfig names it, and its version; `register.py` proves the shape.
What an author leaves unsaid has a default under which decisions are right, if slower or told in fewer words.
A changed formula raises the plugin's version: `formulas.py` has the rules for formulas.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.register import PluginKind, Shape, register
from pointsman.core.plugin.view import Floats, View

Reasons = npt.NDArray[np.int16]
Scores = Floats

# --- what an author writes --------------------------------------------------------------------------


class HasReject(Protocol):
    """What a filter must have."""

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        """A code per candidate, 0 to keep it; code c means `reasons[c - 1]`."""
        ...


class BindsFilters(Protocol):
    """What a filter made of other filters must have."""

    def refers_to(self) -> Sequence[str]:
        """The names of the filters it is made of."""
        ...

    def bind(self, filters: Mapping[str, "Filter"], /) -> "Filter":
        """The filter that it is, with those in their places."""
        ...


class HasScore(Protocol):
    """What a scorer must have."""

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        """A score per candidate; one outside 0 to 1 counts as the nearer of them."""
        ...


class HasPick(Protocol):
    """What a picker must have."""

    def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
        """Indexes of at most `count` candidates: the choice, then its fallbacks."""
        ...

    def chances(self, sums: Scores, view: View, /) -> list[float]:
        """The probability of each candidate to be the choice."""
        ...


class Detector(Protocol):
    """What a saturation detector must have, and all that the scheduler uses of one."""

    def saturation(self, request: RequestFacts, view: View, /) -> float:
        """Used over available capacity of the candidates together: saturated from 1.0."""
        ...


class FiltersAndDetects(HasReject, Detector, Protocol):
    """What a saturation detector must have that is a filter where a profile names it."""


# --- what the scheduler uses: the same with all that registration put in ----------------------------


class Filter(HasReject, Protocol):
    """Rejects candidates, each for a reason."""

    load: ClassVar[bool]
    """Whether it judges load: if so it passes all while the feed is lost."""

    @property
    def reasons(self) -> Sequence[str]:
        """Short stable names for counting."""
        ...

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        """The reason in words: what was found and what was wanted."""
        ...


class Scorer(HasScore, Protocol):
    """Scores candidates from 0 to 1."""

    load: ClassVar[bool]
    """Whether it judges load: if so it is neutral while the feed is lost."""
    standing: ClassVar[bool]
    """Whether its scores depend on the candidates and the cluster state alone, and so stand until that changes."""
    bounded: ClassVar[bool]
    """Whether its scores are from 0 to 1, without a negative zero, whatever it is given: then nobody need see to it."""
    advantage: ClassVar[str]
    """Name of what a candidate that scores higher has, as in "the shorter queue"."""

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        """What the score rests on, as a sentence about "it" without a full stop."""
        ...


class Picker(HasPick, Protocol):
    """Chooses among the scored candidates."""

    scored: ClassVar[bool]
    """Whether it looks at the sums."""

    @property
    def max_num_of_endpoints(self) -> int:
        """How many it chooses: the choice and its fallbacks; 0 or less means 1."""
        ...


# --- registration -----------------------------------------------------------------------------------

FilterClass = TypeVar("FilterClass", bound=HasReject)
ComposedClass = TypeVar("ComposedClass", bound=BindsFilters)
ScorerClass = TypeVar("ScorerClass", bound=HasScore)
PickerClass = TypeVar("PickerClass", bound=HasPick)
DetectorClass = TypeVar("DetectorClass", bound=Detector)
FilteringDetectorClass = TypeVar("FilteringDetectorClass", bound=FiltersAndDetects)
ParametersClass = TypeVar("ParametersClass", bound=msgspec.Struct)


def filter(
    *types: str, version: int, load: bool = False, reasons: tuple[str, ...] = ("rejected",)
) -> Callable[[type[FilterClass]], type[FilterClass]]:
    """Register a filter.

    Without `load` it is a rule that holds whatever happens; one that judges load has to say so, or it goes on
    rejecting by old samples while the feed is lost.
    A class without `words` is quoted with its reason.
    """
    return register(("filter",), types, version, _filter_shape(load, reasons))


def composed_filter(*types: str, version: int) -> Callable[[type[ComposedClass]], type[ComposedClass]]:
    """Register a filter that is made of other filters, which its parameters name."""
    return register(("filter",), types, version, Shape((BindsFilters,)))


def scorer(
    *types: str, version: int, load: bool = True, standing: bool = False, bounded: bool = False, advantage: str = ""
) -> Callable[[type[ScorerClass]], type[ScorerClass]]:
    """Register a scorer.

    With the defaults it is asked for every request, its scores are put between 0 and 1, and it has no say while
    the feed is lost, when what it reads may be old.
    A class without `words` is quoted by its type, as is a scorer without `advantage`.
    """
    named = types[0] if types else ""

    def words(self: object, request: RequestFacts, view: View, index: int, /) -> str:
        return f"it was scored by {named}"

    given: dict[str, object] = {
        "load": load,
        "standing": standing,
        "bounded": bounded,
        "advantage": advantage or f"higher {named} score",
    }
    return register(("scorer",), types, version, Shape((HasScore,), {"words": words}, given))


def picker(*types: str, version: int, scored: bool = True) -> Callable[[type[PickerClass]], type[PickerClass]]:
    """Register a picker; one without the parameter `max_num_of_endpoints` chooses one."""
    return register(("picker",), types, version, Shape((HasPick,), {"max_num_of_endpoints": 1}, {"scored": scored}))


def detector(*types: str, version: int) -> Callable[[type[DetectorClass]], type[DetectorClass]]:
    """Register a saturation detector."""
    return register(("detector",), types, version, Shape((Detector,)))


def filtering_detector(
    *types: str, version: int, load: bool = False, reasons: tuple[str, ...] = ("rejected",)
) -> Callable[[type[FilteringDetectorClass]], type[FilteringDetectorClass]]:
    """Register a saturation detector that is a filter where a profile names it; `filter` says the rest."""
    as_filter = _filter_shape(load, reasons)
    shape = Shape((Detector, *as_filter.required), as_filter.optional, as_filter.given)
    return register(("detector", "filter"), types, version, shape)


def _filter_shape(load: bool, reasons: tuple[str, ...]) -> Shape:
    def words(self: Filter, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        return self.reasons[code - 1].replace("-", " ")

    def refers_to(self: Filter) -> Sequence[str]:
        return ()

    def bind(self: Filter, filters: Mapping[str, Filter], /) -> Filter:
        return self

    given: dict[str, object] = {"load": load, "reasons": reasons, "refers_to": refers_to, "bind": bind}
    return Shape((HasReject,), {"words": words}, given)


class ParametersDecorator(Protocol):
    """A decorator for a kind whose plugins are parameters alone, read by the process that does the work."""

    def __call__(self, *types: str, version: int) -> Callable[[type[ParametersClass]], type[ParametersClass]]:
        """Register a Struct without methods."""
        ...


def _parameters_of(kind: PluginKind) -> ParametersDecorator:
    def decorator(*types: str, version: int) -> Callable[[type[ParametersClass]], type[ParametersClass]]:
        return register((kind,), types, version, Shape())

    return decorator


profile_handler = _parameters_of("profile handler")
"""Register what says which scheduling profiles a request runs; `core/config` reads it."""
data_producer = _parameters_of("data producer")
"""Register what shapes a part of the traffic state; the picker process reads it."""
metrics_source = _parameters_of("metrics source")
"""Register what says where metrics pages are; the scraper reads it."""
extractor = _parameters_of("extractor")
"""Register what says which series of a metrics page mean what; the scraper reads it."""
parser = _parameters_of("parser")
"""Register the name of a reader of request bodies; `core/parsers` has the code."""
discovery = _parameters_of("discovery")
"""Register what says where endpoints come from; the control process reads it."""


# --- use -------------------------------------------------------------------------------------------


def rejected(filter: Filter, request: RequestFacts, view: View) -> Reasons:
    """What `filter` rejects of `view`: nothing where it judges load and the feed is lost."""
    if filter.load and view.degraded:
        return np.zeros(view.size, dtype=np.int16)
    return filter.reject(request, view)
