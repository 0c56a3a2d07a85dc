"""Plans for weights: what may change, and what may not."""

from hypothesis import given, strategies as st

from pointsman.core.events import BackendRef, RouteObserved, RouteRule
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal
from pointsman.core.rollout.weights import PlannedChange, WeightsAsked, backend_key, interval, plan, shares, touched

REFS = (BackendRef("default/old", 90), BackendRef("default/new", 10), BackendRef("default/old", 3, "Service", ""))
ROUTE = RouteObserved("default/llm-route", (RouteRule((), REFS),), version="v1")
WEIGHTS = st.dictionaries(st.sampled_from([backend_key(b) for b in REFS]), st.integers(-5, 1_000_100), max_size=3)


def asked(weights: dict[str, int], rule: int = 0, version: str = "v1", reason: str = "because") -> WeightsAsked:
    return WeightsAsked(ROUTE.route, rule, version, weights, reason, "somebody")


def code(found: PlannedChange | ChangeRefusal) -> ChangeCode:
    assert isinstance(found, ChangeRefusal)
    assert found.sentence == f"{found.found}, wanted {found.wanted}"
    return found.code


@given(WEIGHTS)
def test_a_plan_changes_the_listed_weights_and_nothing_else(wanted: dict[str, int]) -> None:
    change = plan(asked(wanted), ROUTE)

    if isinstance(change, ChangeRefusal):
        after = {backend_key(b): b.weight for b in REFS} | wanted
        assert (
            any(not 0 <= w <= 1_000_000 for w in wanted.values())
            or sum(after.values()) == 0
            or (list(after.values()) == [b.weight for b in REFS])
        )
        return
    assert {backend_key(b): b.weight for b in change.after} == {backend_key(b): b.weight for b in REFS} | wanted
    assert [backend_key(b) for b in change.after] == [backend_key(b) for b in REFS]
    assert sum(s.desired for s in shares(change.after)) - 1 < 1e-9


def test_what_cannot_be_is_refused_with_its_code() -> None:
    old, new, service = (backend_key(b) for b in REFS)
    twice = RouteObserved(ROUTE.route, (RouteRule((), (REFS[0], REFS[0])),), version="v1")

    assert code(plan(asked({old: 50}), None)) is ChangeCode.ROUTE_GONE
    assert code(plan(asked({old: 50}, rule=1), ROUTE)) is ChangeCode.RULE_GONE
    assert code(plan(asked({old: 50}, version="v0"), ROUTE)) is ChangeCode.STALE
    assert code(plan(asked({"g/K/default/other": 50}), ROUTE)) is ChangeCode.BACKEND_UNKNOWN
    assert code(plan(asked({old: 50}), twice)) is ChangeCode.BACKEND_TWICE
    assert code(plan(asked({old: -1}), ROUTE)) is ChangeCode.WEIGHT_RANGE
    assert code(plan(asked({old: 0, new: 0, service: 0}), ROUTE)) is ChangeCode.NO_WEIGHT_LEFT
    assert code(plan(asked({old: 90}), ROUTE)) is ChangeCode.UNCHANGED
    for reason in ("", " x ", "x" * 501, "a\x00b"):
        assert code(plan(asked({old: 50}, reason=reason), ROUTE)) is ChangeCode.REASON


def test_a_rule_that_is_not_as_its_author_saw_it_is_told_apart_from_a_wrong_wish() -> None:
    stale = plan(asked({backend_key(REFS[0]): 50}, version="v0"), ROUTE)
    wrong = plan(asked({backend_key(REFS[0]): -1}), ROUTE)

    assert isinstance(stale, ChangeRefusal)
    assert isinstance(wrong, ChangeRefusal)
    assert (stale.stale, wrong.stale) == (True, False)


def test_equal_names_of_different_kinds_are_different_backends() -> None:
    change = plan(asked({backend_key(REFS[2]): 7}), ROUTE)

    assert isinstance(change, PlannedChange)
    assert touched(change.before, change.after) == (BackendRef("default/old", 7, "Service", ""),)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_interval_holds_the_share_and_narrows(a: int, b: int) -> None:
    share, half = interval(a, a + b)
    _, narrower = interval(a * 100, (a + b) * 100)

    assert 0 <= share <= 1
    assert half <= 1
    assert a + b == 0 or narrower < half
