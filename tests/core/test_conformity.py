"""Whether shares agree with weights: what is claimed, and on how much evidence."""

import math
import random

import pytest
from hypothesis import given, strategies as st

from pointsman.core.rollout.conformity import ENOUGH, TRUST, Conformity, StepVerdict, conformity, evidence

WEIGHTS = st.lists(st.integers(0, 1000), min_size=2, max_size=5).filter(lambda weights: sum(weights) > 0)


def counts(source: random.Random, shares: list[float], requests: int) -> list[int]:
    found = [0] * len(shares)
    for index in source.choices(range(len(shares)), shares, k=requests):
        found[index] += 1
    return found


def test_twenty_requests_are_no_verdict() -> None:
    found = conformity([(0, 0), (100, 20)])

    assert found == Conformity(StepVerdict.SETTLING, 20)
    assert found.words == "settling, 20 of about 400 requests"


@given(WEIGHTS, st.integers(0, ENOUGH - 1), st.integers())
def test_nothing_is_in_step_before_there_is_evidence(weights: list[int], requests: int, seed: int) -> None:
    seen = counts(random.Random(seed), [float(w) for w in weights], requests)

    assert conformity(list(zip(weights, seen, strict=True))).step is not StepVerdict.IN_STEP


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.99, 0.01], [1.0, 0.0], [0.7, 0.2, 0.1]])
def test_weights_that_are_kept_are_never_out_of_step_though_pages_look_all_the_time(shares: list[float]) -> None:
    weights = [round(1000 * share) for share in shares]
    for seed in range(30):
        source, seen = random.Random(seed), [0] * len(shares)
        for _ in range(300):
            seen = [a + b for a, b in zip(seen, counts(source, shares, 10), strict=True)]
            found = conformity(list(zip(weights, seen, strict=True))).step

            assert found is not StepVerdict.OUT_OF_STEP, (seed, seen)
        assert found is StepVerdict.IN_STEP


@pytest.mark.parametrize(
    ("wanted", "found", "within"),
    [([90, 10], [0.5, 0.5], 200), ([90, 10], [1.0, 0.0], 400), ([0, 100], [1.0, 0.0], 20), ([50, 50], [0.7, 0.3], 400)],
)
def test_what_deviates_is_told_soon(wanted: list[int], found: list[float], within: int) -> None:
    for seed in range(20):
        seen = counts(random.Random(seed), found, within)

        assert conformity(list(zip(wanted, seen, strict=True))).step is StepVerdict.OUT_OF_STEP


def test_what_cannot_be_told_is_not_told() -> None:
    assert conformity([(1, 500)]).step is StepVerdict.UNDIVIDED
    assert conformity([(0, 0), (0, 0)]).step is StepVerdict.UNDIVIDED
    assert conformity([(1, 0), (1, 0)]).step is StepVerdict.UNOBSERVED
    assert conformity([(90, 500), (10, 500)], mixed=True).step is StepVerdict.MIXED


@given(st.integers(1, 60), st.floats(0.0, 1.0))
def test_evidence_is_worth_its_odds(requests: int, share: float) -> None:
    """Under any share that counts as kept, the likelihood ratio is 1 on average at most: Ville's inequality rests on it."""
    expected = sum(
        math.comb(requests, k) * share**k * (1 - share) ** (requests - k) * math.exp(evidence(k, requests, share))
        for k in range(requests + 1)
    )

    assert expected <= 1 + 1e-9
    assert TRUST > 1
