"""A plugin is registered whole, or refused where it is defined."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from worlds.configured import HEAD, parsed, placed
from worlds.strategies import POOL, Readings, folded, pool_of

from pointsman.core import plugins
from pointsman.core.config.known_names import UNBUILT_TYPES
from pointsman.core.deciding.explanation import Explanation, Rejection, explain
from pointsman.core.deciding.scheduler import compile_profile, schedule
from pointsman.core.events import RequestFacts
from pointsman.core.parsers import DEFAULT_PARSERS
from pointsman.core.plugin.register import REGISTER
from pointsman.core.plugin.shapes import Reasons, Scores, detector, filter, filtering_detector, parser, picker, scorer
from pointsman.core.plugin.view import View
from pointsman.core.values.draws import Draws

REQUEST = RequestFacts("id-1", POOL)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = dict(REGISTER)
    yield
    REGISTER.clear()
    REGISTER.update(before)


def explained(
    text: str, waiting: list[int], kv_cache: list[float] | None = None, *, degraded: bool = False
) -> Explanation:
    profile = compile_profile(parsed(HEAD + text))
    cluster = folded(pool_of(waiting, kv_cache=kv_cache))
    return explain(cluster, Readings(degraded=degraded), profile, REQUEST, Draws("p", 1, 1))


def chosen(found: Explanation) -> list[int]:
    """The endpoints chosen, in order of choice."""
    ranked = sorted((c.scored.chosen, c.endpoint) for c in found.candidates if c.scored and c.scored.chosen)
    return [endpoint for _, endpoint in ranked]


# --- what an author leaves unsaid -------------------------------------------------------------------


def shortest() -> None:
    """Register a scorer that says no more than its formula."""

    @scorer("shortest-scorer", version=1)
    class ShortestScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        def score(self, request: RequestFacts, view: View, /) -> Scores:
            return 10.0 / (1 + view.waiting)


def test_a_scorer_that_says_no_more_than_its_formula_scores() -> None:
    shortest()

    config = parsed(HEAD + "plugins: [{type: shortest-scorer}]")
    decision = schedule(folded(pool_of([99, 19, 9])), Readings(), compile_profile(config), REQUEST, Draws("p", 1, 1))

    assert placed(config) == [("shortest-scorer", 1.0), ("max-score-picker", 1.0)]
    assert decision.sums.tolist() == [0.1, 0.5, 1.0]
    assert decision.endpoints == (3,)


def test_scores_of_a_scorer_that_does_not_say_that_they_are_bounded_are_put_between_zero_and_one() -> None:
    shortest()

    (candidate,) = explained("plugins: [{type: shortest-scorer}]", [0]).candidates

    assert candidate.scored is not None
    assert candidate.scored.sum == 1.0


def test_a_scorer_that_does_not_say_whether_it_judges_load_is_neutral_while_the_feed_is_lost() -> None:
    shortest()

    found = explained("plugins: [{type: shortest-scorer}]", [99, 0], degraded=True)

    assert [c.scored.sum for c in found.candidates if c.scored] == [0.5, 0.5]


def test_a_scorer_that_does_not_say_that_its_scores_stand_is_asked_for_every_request() -> None:
    asked: list[str] = []

    @scorer("named-scorer", version=1)
    class NamedScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        def score(self, request: RequestFacts, view: View, /) -> Scores:
            asked.append(request.request_id)
            return np.ones(view.size)

    cluster, profile = folded(pool_of([0, 0])), compile_profile(parsed(HEAD + "plugins: [{type: named-scorer}]"))
    for name in ("a", "b"):
        schedule(cluster, Readings(), profile, RequestFacts(name, POOL), Draws("p", 1, 1))

    assert asked == ["a", "b"]


def test_a_scorer_without_words_is_quoted_by_its_type() -> None:
    shortest()

    alone = explained("plugins: [{type: shortest-scorer}]", [99, 9])
    against = explained("plugins: [{type: shortest-scorer}, {type: kv-cache-scorer}]", [99, 9], [0.0, 0.95])

    assert [c.scored.scores[0].words for c in alone.candidates if c.scored] == ["it was scored by shortest-scorer"] * 2
    assert alone.why.startswith("It was scored by shortest-scorer, and no scorer preferred 0001.")
    assert "worth more than the higher shortest-scorer score of 0002." in against.why


def long_ones() -> None:
    """Register a filter that says no more than whom it rejects."""

    @filter("short-filter", version=1)
    class ShortFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        threshold: int = 5

        def reject(self, request: RequestFacts, view: View, /) -> Reasons:
            return (view.waiting > self.threshold).astype(np.int16)


@pytest.mark.parametrize("degraded", [False, True])
def test_a_filter_that_says_no_more_than_whom_it_rejects_is_a_rule_that_always_holds(degraded: bool) -> None:
    long_ones()

    found = explained("plugins: [{type: short-filter}]", [9, 0], degraded=degraded)

    assert chosen(found) == [2]
    assert found.candidates[0].rejection == Rejection("short-filter", "rejected", "rejected")


def test_a_filter_of_an_author_may_stand_in_a_tree() -> None:
    long_ones()

    found = explained(
        "plugins: [{type: short-filter}, {type: decision-tree-filter, name: tree,"
        " parameters: {current: {pluginRef: short-filter}}}]\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: tree}]}]",
        [9, 0],
    )

    assert chosen(found) == [2]
    assert found.candidates[0].rejection is not None
    assert found.candidates[0].rejection.plugin == "tree"
    assert found.candidates[0].rejection.reason == "short-filter: rejected"


def test_a_picker_without_the_parameter_chooses_one() -> None:
    @picker("last-picker", version=1)
    class LastPicker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
            return [view.size - 1 - i for i in range(count)]

        def chances(self, sums: Scores, view: View, /) -> list[float]:
            return [float(i == view.size - 1) for i in range(view.size)]

    assert chosen(explained("plugins: [{type: last-picker}]", [0, 0, 0])) == [3]


def test_a_detector_is_no_filter_unless_it_is_registered_as_one() -> None:
    @detector("full-detector", version=1)
    class FullDetector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        def saturation(self, request: RequestFacts, view: View, /) -> float:
            return 2.0

    config = parsed(HEAD + "plugins: [{type: full-detector}]\nsaturationDetector: {pluginRef: full-detector}")
    shed = RequestFacts("id-2", POOL, priority=-1)
    decision = schedule(folded(pool_of([0])), Readings(), compile_profile(config), shed, Draws("p", 1, 1))

    assert placed(config) == [("max-score-picker", 1.0)]
    assert decision.reason == "saturated"
    assert REGISTER["utilization-detector"].kinds == {"detector", "filter"}


def test_a_plugin_goes_by_its_older_names_too() -> None:
    assert REGISTER["kv-cache-scorer"].struct is REGISTER["kv-cache-utilization-scorer"].struct
    assert REGISTER["model-server-protocol-metrics"].kinds == {"extractor"}


# --- what is refused where it is defined ------------------------------------------------------------


def named(name: str, *bases: type, **members: object) -> type:
    """A class of these members; the default base has every option that a plugin needs."""
    parents = bases or (msgspec.Struct,)
    options = {} if bases else {"frozen": True, "forbid_unknown_fields": True, "rename": "camel"}
    return type(parents[0])(name, parents, {"__module__": __name__, **members}, **options)


def one(self: object, request: object, /) -> None: ...
def two(self: object, request: object, view: object, /) -> None: ...
def three(self: object, sums: object, view: object, count: object, /) -> None: ...
async def waits(self: object, request: object, view: object, /) -> None: ...


class Loose(msgspec.Struct, forbid_unknown_fields=True):
    score = two


class Open(msgspec.Struct, frozen=True):
    score = two


class Snake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    half_life: int = 1
    score = two


@dataclass(frozen=True)
class Plain:
    score = two


class Loaded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    load: bool = True
    score = two


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    score: int = 1


MISSHAPEN: list[tuple[Callable[..., Any], type, str]] = [
    (scorer, named("X"), "class X has no score, wanted score(self, request, view)"),
    (scorer, named("X", score=one), "score of class X takes (self, request), wanted score(self, request, view)"),
    (scorer, named("X", score=three), "score of class X takes (self, sums, view, count), wanted score("),
    (scorer, named("X", score=waits), "score of class X waits or yields, wanted score(self, request, view)"),
    (scorer, named("X", score=staticmethod(two)), "score of class X is a staticmethod, wanted score("),
    (scorer, Field, "score of class Field is a member_descriptor, wanted score(self, request, view)"),
    (scorer, named("X", score=two, words=two), "words of class X takes (self, request, view), wanted words("),
    (scorer, named("X", score=two, word=two), "class X has word, which its kind does not know, did you mean 'words'?"),
    (scorer, named("X", score=two, reject=two), "class X has reject, which its kind does not know"),
    (scorer, named("X", score=two, standing=True), "class X has standing, wanted it in the decorator, as in standing="),
    (scorer, Loaded, "class Loaded has load, wanted it in the decorator"),
    (scorer, Plain, "class Plain is no msgspec.Struct, wanted one whose fields are the parameters"),
    (scorer, Loose, "class Loose has not the option frozen=True"),
    (scorer, Open, "class Open has not the option forbid_unknown_fields=True"),
    (scorer, Snake, "class Snake has the parameter 'half_life', wanted no \"_\" in its name: the option rename="),
    (filter, named("X", score=two), "class X has no reject, wanted reject(self, request, view)"),
    (filter, named("X", reject=two, reasons=("a",)), "class X has reasons, wanted it in the decorator"),
    (picker, named("X", pick=three), "class X has no chances, wanted chances(self, sums, view)"),
    (picker, named("X", chances=two), "class X has no pick, wanted pick(self, sums, view, count)"),
    (
        picker,
        named("X", pick=three, chances=two, max_num_of_endpoints=3),
        "class X has max_num_of_endpoints, which is no parameter, wanted a field",
    ),
    (detector, named("X"), "class X has no saturation, wanted saturation(self, request, view)"),
    (detector, named("X", saturation=two, reject=two), "class X has reject, which its kind does not know"),
    (filtering_detector, named("X", saturation=two), "class X has no reject, wanted reject(self, request, view)"),
    (parser, named("X", parse=two), "class X has parse, which its kind does not know, wanted parameters alone"),
]


@pytest.mark.parametrize(
    ("decorator", "struct", "message"), MISSHAPEN, ids=[message.split(",")[0] for _, _, message in MISSHAPEN]
)
def test_a_class_of_another_shape_is_refused_with_what_was_wanted(
    decorator: Callable[..., Any], struct: type, message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        decorator("new-plugin", version=1)(struct)

    assert f" 'new-plugin': {message}" in str(caught.value)
    assert "new-plugin" not in REGISTER


def test_the_error_names_the_kind_the_type_and_the_class() -> None:
    with pytest.raises(TypeError) as caught:

        @scorer("new-scorer", version=1)  # refused by mypy as well
        class NewScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):  # type: ignore[type-var]
            pass

    assert str(caught.value) == "scorer 'new-scorer': class NewScorer has no score, wanted score(self, request, view)"


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="'queue-scorer' is registered twice"):
        scorer("new-scorer", "queue-scorer", version=1)(named("X", score=two))
    with pytest.raises(ValueError, match="'queue-scorer' is registered twice"):
        detector("queue-scorer", version=1)(named("X", saturation=two))

    assert "new-scorer" not in REGISTER


def test_a_plugin_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="scorer X is registered under no name"):
        scorer(version=1)(named("X", score=two))


def test_what_the_type_checker_refuses() -> None:
    """Holds by `mypy tests`: an exemption below that is not needed is an error there."""

    @scorer("wrong-scorer", version=1)  # a list is no array of scores
    class WrongScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):  # type: ignore[type-var]
        def score(self, request: RequestFacts, view: View, /) -> list[float]:
            return [1.0] * view.size

    @filter("wrong-filter", version=1)  # a mask is no array of reasons
    class WrongFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):  # type: ignore[type-var]
        def reject(self, request: RequestFacts, view: View, /) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
            return view.waiting > 5

    @detector("wrong-detector", version=1)  # the arguments are swapped
    class WrongDetector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):  # type: ignore[type-var]
        def saturation(self, view: View, request: RequestFacts, /) -> float:
            return 1.0

    with pytest.raises(TypeError):
        scorer("wrong-scorer", version=1, stand=True)  # type: ignore[call-arg]


# --- one list ---------------------------------------------------------------------------------------


def test_every_module_of_plugins_is_in_the_catalogue() -> None:
    modules = {path.stem for path in Path(plugins.__file__).parent.glob("*.py")} - {"__init__"}

    assert {name for name in modules if not hasattr(plugins, name)} == set()


def test_no_type_that_is_built_is_said_to_be_not_yet_available() -> None:
    assert set(REGISTER) & UNBUILT_TYPES == set()


def test_every_parser_that_may_be_named_has_its_code() -> None:
    assert {name for name, known in REGISTER.items() if "parser" in known.kinds} == set(DEFAULT_PARSERS)
