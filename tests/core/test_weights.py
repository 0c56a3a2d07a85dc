"""Plans for weights: what may change, and what may not."""

from hypothesis import given
from hypothesis import strategies as st

from pointsman.core.events import BackendRef, RouteObserved, RouteRule
from pointsman.core.rollout.weights import Change, Refused, backend_key, interval, plan, shares

REFS = (BackendRef("default/old", 90), BackendRef("default/new", 10), BackendRef("default/old", 3, "Service", ""))
ROUTE = RouteObserved("default/llm-route", (RouteRule((), REFS),), version="v1")
WEIGHTS = st.dictionaries(st.sampled_from([backend_key(b) for b in REFS]), st.integers(-5, 1_000_100), max_size=3)


@given(WEIGHTS)
def test_a_plan_changes_the_listed_weights_and_nothing_else(wanted: dict[str, int]) -> None:
    change = plan(ROUTE, 0, "v1", wanted)

    if isinstance(change, Refused):
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


def test_a_form_that_saw_another_version_is_refused_as_stale() -> None:
    refused = plan(ROUTE, 0, "v0", {backend_key(REFS[0]): 50})

    assert isinstance(refused, Refused)
    assert refused.stale


def test_equal_names_of_different_kinds_are_different_backends() -> None:
    change = plan(ROUTE, 0, "v1", {backend_key(REFS[2]): 7})

    assert isinstance(change, Change)
    assert change.touched == (BackendRef("default/old", 7, "Service", ""),)


def test_a_rule_is_never_left_without_weight() -> None:
    refused = plan(ROUTE, 0, "v1", {backend_key(b): 0 for b in REFS})

    assert isinstance(refused, Refused)
    assert "all weights would be 0" in refused.reason


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_interval_holds_the_share_and_narrows(a: int, b: int) -> None:
    share, half = interval(a, a + b)
    _, narrower = interval(a * 100, (a + b) * 100)

    assert 0 <= share <= 1
    assert half <= 1
    assert a + b == 0 or narrower < half
