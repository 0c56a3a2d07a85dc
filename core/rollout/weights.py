"""Weights of a route rule: what a change means, when it is refused, and what the traffic shows.

The rules are W1 to W5: a change rests on the version that its author saw, touches only the weights of one rule,
names backends by group, kind and name, keeps the others, and never leaves a rule without weight.
"""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from pointsman.core.events import BackendRef, RouteObserved

WEIGHT_MAX = 1_000_000
"""Highest weight of one backendRef: the Gateway API's limit."""
REASON_MAX = 500
"""Characters of a reason: a sentence or two."""


class Share(Struct, frozen=True):
    """One backend's part of a rule's traffic."""

    backend: BackendRef
    desired: float
    """Weight over the sum of weights, 0 to 1; 0 where all weights are 0."""


class Change(Struct, frozen=True):
    """A change of weights that may be made."""

    route: RouteObserved
    rule: int
    before: tuple[BackendRef, ...]
    after: tuple[BackendRef, ...]

    @property
    def touched(self) -> tuple[BackendRef, ...]:
        """The backends whose weight differs, with their new weight."""
        return tuple(new for old, new in zip(self.before, self.after, strict=True) if old != new)


class Refused(Struct, frozen=True):
    """Why a change is not made; `stale` says that somebody else changed the rule meanwhile."""

    reason: str
    stale: bool = False


def backend_key(ref: BackendRef) -> str:
    """Names a backend in a form: group, kind and name, since names alone may be equal."""
    return f"{ref.group}/{ref.kind}/{ref.pool}"


def shares(backends: Sequence[BackendRef]) -> tuple[Share, ...]:
    """The desired share of each backend of a rule."""
    total = sum(b.weight for b in backends)
    return tuple(Share(b, b.weight / total if total else 0.0) for b in backends)


def plan(route: RouteObserved | None, rule: int, seen_version: str, wanted: Mapping[str, int]) -> Change | Refused:
    """The change that gives the backends of `wanted` (by `backend_key`) these weights, or why not.

    `seen_version` is the `version` of the route on which the author decided.
    """
    if route is None:
        return Refused("the route is gone")
    if not 0 <= rule < len(route.rules):
        return Refused(f"the route has {len(route.rules)} rules, wanted number {rule + 1}", stale=True)
    before = route.rules[rule].backends
    if route.version != seen_version:
        return Refused("somebody else changed the route since this form was opened", stale=True)
    keys = [backend_key(b) for b in before]
    if unknown := [key for key in wanted if key not in keys]:
        return Refused(f"the rule has no backend {unknown[0]}", stale=True)
    if twice := [key for key in wanted if keys.count(key) > 1]:
        return Refused(f"backend {twice[0]} stands twice in the rule, so its weight cannot be told apart")
    for key, weight in wanted.items():
        if not 0 <= weight <= WEIGHT_MAX:
            return Refused(f"weight of {key} is {weight}, wanted 0 to {WEIGHT_MAX:,}")
    after = tuple(replace(b, weight=wanted.get(key, b.weight)) for key, b in zip(keys, before, strict=True))
    if sum(b.weight for b in after) == 0:
        return Refused("all weights would be 0: requests would get an error, wanted at least one above 0")
    if after == before:
        return Refused("these are the weights already")
    return Change(route, rule, before, after)


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
