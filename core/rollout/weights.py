"""Weights of a route rule: what a change means, when it is refused, and what the traffic shows.

Rules.  A change rests on the version of the route that its author saw.  It names backends by group, kind and name,
touches only the weights of one rule, keeps those that it does not name, and never leaves a rule without weight.
"""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from pointsman.core.events import BackendRef, RouteObserved
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal

WEIGHT_MAX = 1_000_000
"""Highest weight of one backendRef: the Gateway API's limit."""
REASON_MIN = 3
"""Characters of a reason: the shortest that says something, such as a ticket's number."""
REASON_MAX = 500
"""Characters of a reason: a sentence or two."""


class Share(Struct, frozen=True):
    """One backend's part of a rule's traffic."""

    backend: BackendRef
    desired: float
    """Weight over the sum of weights, 0 to 1; 0 where all weights are 0."""


class WeightsAsked(Struct, frozen=True):
    """A change of weights as somebody asks for it."""

    route: str
    """`namespace/name`."""
    rule: int
    """Index of the rule in the route, from 0."""
    version: str
    """Version of the route on which the author decided."""
    weights: Mapping[str, int]
    """New weights by `backend_key`; backends that are not named keep theirs."""
    reason: str
    actor: str


class PlannedChange(Struct, frozen=True):
    """A change of weights that may be made."""

    route: RouteObserved
    rule: int
    before: tuple[BackendRef, ...]
    after: tuple[BackendRef, ...]


def backend_key(ref: BackendRef) -> str:
    """Names a backend in a form: group, kind and name, since names alone may be equal."""
    return f"{ref.group}/{ref.kind}/{ref.pool}"


def shares(backends: Sequence[BackendRef]) -> tuple[Share, ...]:
    """The desired share of each backend of a rule."""
    total = sum(b.weight for b in backends)
    return tuple(Share(b, b.weight / total if total else 0.0) for b in backends)


def touched(before: Sequence[BackendRef], after: Sequence[BackendRef]) -> tuple[BackendRef, ...]:
    """The backends whose weight differs, with their new weight."""
    return tuple(new for old, new in zip(before, after, strict=True) if old != new)


def plan(asked: WeightsAsked, route: RouteObserved | None) -> PlannedChange | ChangeRefusal:
    """The change that is asked for of `route` as it is, or why it is not made."""
    if route is None:
        return ChangeRefusal(ChangeCode.ROUTE_GONE, f"there is no route {asked.route}", "a route that is there")
    if not 0 <= asked.rule < len(route.rules):
        found = f"the route has {len(route.rules)} rule{'' if len(route.rules) == 1 else 's'}"
        return ChangeRefusal(ChangeCode.RULE_GONE, found, f"number {asked.rule + 1}")
    if route.version != asked.version:
        found = "somebody else changed the route since it was read"
        return ChangeRefusal(ChangeCode.STALE, found, "the version that the change rests on")
    before = route.rules[asked.rule].backends
    if (refusal := _check_weights(before, asked.weights)) is not None:
        return refusal
    keys = [backend_key(b) for b in before]
    after = tuple(replace(b, weight=asked.weights.get(key, b.weight)) for key, b in zip(keys, before, strict=True))
    if sum(b.weight for b in after) == 0:
        found = "all weights would be 0 and requests would get an error"
        return ChangeRefusal(ChangeCode.NO_WEIGHT_LEFT, found, "at least one above 0")
    if after == before:
        return ChangeRefusal(ChangeCode.UNCHANGED, "these are the weights already", "at least one that differs")
    if (refusal := _check_reason(asked.reason.strip())) is not None:
        return refusal
    return PlannedChange(route, asked.rule, before, after)


def _check_weights(before: Sequence[BackendRef], weights: Mapping[str, int]) -> ChangeRefusal | None:
    keys = [backend_key(b) for b in before]
    for key, weight in weights.items():
        if key not in keys:
            found = f"the rule has no backend {key[:300]}"
            return ChangeRefusal(ChangeCode.BACKEND_UNKNOWN, found, f"one of {', '.join(keys)}")
        if keys.count(key) > 1:
            found = f"backend {key} stands twice in the rule, so its weight cannot be told apart"
            return ChangeRefusal(ChangeCode.BACKEND_TWICE, found, "each backend once")
        if not 0 <= weight <= WEIGHT_MAX:
            return ChangeRefusal(ChangeCode.WEIGHT_RANGE, f"weight of {key} is {weight}", f"0 to {WEIGHT_MAX:,}")
    return None


def _check_reason(reason: str) -> ChangeRefusal | None:
    if REASON_MIN <= len(reason) <= REASON_MAX and reason.isprintable():
        return None
    found = f"the reason has {len(reason)} characters"
    return ChangeRefusal(ChangeCode.REASON, found, f"{REASON_MIN} to {REASON_MAX} that can be read")


def new_weights(before: Sequence[BackendRef], after: Sequence[BackendRef]) -> dict[tuple[str, str, str], int]:
    """The weights that differ, by group, kind and name of their backend."""
    return {(ref.group, ref.kind, ref.pool): ref.weight for ref in touched(before, after)}


def interval(count: int, total: int) -> tuple[float, float]:
    """The observed share and half the width of its 95 % interval (Wilson's score interval).

    Both are 0 to 1; with nothing observed the share is 0 and the half width 1.
    """
    if total <= 0:
        return 0.0, 1.0
    z = 1.96
    share = count / total
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return share, half
