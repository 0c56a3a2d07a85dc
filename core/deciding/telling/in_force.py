"""What was in force when a decision was made: the weights that sent it there, the configuration, and what was known."""

import msgspec

from pointsman.core.events import RequestRefused, RequestRouted
from pointsman.core.plugin.view import UNKNOWN_AFTER
from pointsman.core.state.projection import ClusterState


class WeightInForce(msgspec.Struct, frozen=True):
    """The weight of a pool in a rule of a route."""

    route: str
    rule: int
    """Index of the rule in the route."""
    weight: int
    total: int
    """Sum of the weights of the rule."""


class InForce(msgspec.Struct, frozen=True):
    """What the cluster state that a decision was made on says around it."""

    position: int
    """Position of that cluster state."""
    weights: tuple[WeightInForce, ...]
    """Weights of the pool, rule by rule."""
    config: str
    """Source of the configuration; empty for the built-in default."""
    ready: int
    """Count of the pool's ready endpoints."""
    unknown: int
    """Count of those whose load nobody knew."""


def in_force(cluster: ClusterState, event: RequestRouted | RequestRefused) -> InForce:
    """What was in force for the decision that was made on `cluster`."""
    pool = event.request.pool
    weights = [
        WeightInForce(name, index, backend.weight, sum(b.weight for b in rule.backends))
        for name, route in sorted(cluster.routes.items())
        for index, rule in enumerate(route.rules)
        for backend in rule.backends
        if backend.pool == pool
    ]
    accepted, slots = cluster.config(pool), cluster.ready(pool)
    old = cluster.age[slots] > max(UNKNOWN_AFTER, cluster.threshold)
    return InForce(
        cluster.position,
        tuple(weights),
        "" if accepted is None else accepted.source,
        len(slots),
        int(old.sum()),
    )
