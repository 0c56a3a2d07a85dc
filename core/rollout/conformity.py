"""Whether the shares that traffic shows are those that the weights ask for, as far as there is evidence.

Rules.  Pages look again and again, so a deviation is told by a test that may be looked at after every request: with
weights that are kept, a rule is ever called out of step with a probability of 1/TRUST at most.
That nothing deviates is said only after ENOUGH requests; before that a rule is settling, whatever it shows.
Only pools are seen: backends of other kinds have weight and no requests here, so shares are those among the pools.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

ENOUGH = 400
"""Requests from which on agreement is evidence.

The 95 % interval of a share is then a tenth of the spread of one request: 5 points at a half, 3 at a tenth, 1 at a
hundredth.
"""

TRUST = 1_000
"""Odds against calling weights that are kept out of step, ever: a console is open for months, on some dozen rules."""

NEAR = 0.005
"""Share by which a gateway may miss a weight and still keep it: gateways round weights to whole per cents or less."""

PRIOR = 100.0
"""Requests that the test's mixture is worth: it finds 20 % for 10 after some 240, 50 % after 40."""


class StepVerdict(StrEnum):
    """How a rule's observed shares stand to its weights."""

    IN_STEP = "in step"
    OUT_OF_STEP = "out of step"
    SETTLING = "settling"
    """Too few requests for either."""
    UNOBSERVED = "not observed yet"
    UNDIVIDED = "one pool"
    """There is nothing to divide."""
    MIXED = "cannot be told"
    """Another rule sends requests to one of the pools, and requests are counted by pool."""


class Conformity(Struct, frozen=True):
    """A verdict on a rule, with what it rests on."""

    step: StepVerdict
    requests: int
    """Requests that were observed."""

    @property
    def words(self) -> str:
        """The verdict in words, with the evidence where there is not enough of it."""
        if self.step is StepVerdict.SETTLING:
            return f"settling, {self.requests:,} of about {ENOUGH:,} requests"
        return str(self.step)


def conformity(observed: Sequence[tuple[int, int]], *, mixed: bool = False) -> Conformity:
    """The verdict on a rule, of whose pools `observed` has (weight, requests).

    `mixed` says that another rule sends requests to one of these pools too.
    """
    total, requests = sum(weight for weight, _ in observed), sum(count for _, count in observed)
    if len(observed) < 2 or not total:
        return Conformity(StepVerdict.UNDIVIDED, requests)
    if mixed:
        return Conformity(StepVerdict.MIXED, requests)
    if not requests:
        return Conformity(StepVerdict.UNOBSERVED, 0)
    # Shares of two pools are one question, of more as many as there are pools; each gets its part of the odds.
    odds = TRUST * (1 if len(observed) == 2 else len(observed))
    if any(evidence(count, requests, weight / total) >= math.log(odds) for weight, count in observed):
        return Conformity(StepVerdict.OUT_OF_STEP, requests)
    return Conformity(StepVerdict.IN_STEP if requests >= ENOUGH else StepVerdict.SETTLING, requests)


def evidence(count: int, of: int, share: float) -> float:
    """Logarithm of the evidence that `count` requests `of` all are not drawn with probability `share`, give or take NEAR.

    It is a likelihood ratio: a beta mixture around `share` against the share that explains the count best among those
    that count as kept.  Where the weight is kept it exceeds log(x) at any time with probability 1/x at most.
    """
    kept = min(max(count / of, share - NEAR, 0.0), share + NEAR, 1.0)
    a, b = max(PRIOR * share, 0.5), max(PRIOR * (1 - share), 0.5)
    mixture = _log_beta(a + count, b + of - count) - _log_beta(a, b)
    return mixture - _times_log(count, kept) - _times_log(of - count, 1.0 - kept)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _times_log(count: int, probability: float) -> float:
    """`count` times the logarithm of `probability`."""
    if not count:
        return 0.0
    return count * math.log(probability) if probability > 0.0 else -math.inf
