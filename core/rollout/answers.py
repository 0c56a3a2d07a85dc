"""What a route's rules answer by themselves: a request for which no backend can be used as written gets 500.

"A backend that is not valid gets 500 for its share" (Gateway API, HTTPRouteRule), and so does what cannot be done.
Rules.  The gateway's routes and the console say the same, because both ask here.
"""

from collections.abc import Iterable, Mapping

from pointsman.core.events import (
    BackendRef,
    PoolApplied,
    ReferenceGrantApplied,
    RequestRedirect,
    RouteObserved,
    RouteRule,
)

ROUTE = ("gateway.networking.k8s.io", "HTTPRoute")


def rule_fault(rule: RouteRule) -> str:
    """Why every request of the rule gets 500; empty where it does not."""
    if rule.fault:
        return rule.fault
    if any(isinstance(one, RequestRedirect) for one in rule.filters) or any(b.weight for b in rule.backends):
        return ""
    return "no backend has a weight"


def share_fault(
    route: str, backend: BackendRef, pools: Mapping[str, PoolApplied], grants: Iterable[ReferenceGrantApplied]
) -> str:
    """Why the share of `backend` in a rule of `route` gets 500; empty where it does not."""
    if backend.fault:
        return backend.fault
    if backend.kind != "InferencePool":
        return f"the gateway serves InferencePools alone, and no {backend.kind}"
    if not permitted(route, (backend.group, backend.kind, backend.pool), grants):
        own, namespace = route.partition("/")[0], backend.pool.partition("/")[0]
        return f"no ReferenceGrant of namespace {namespace} lets an HTTPRoute of {own} use the pool"
    return "" if backend.pool in pools else "there is no such pool"


def refused_shares(
    routes: Iterable[RouteObserved], pools: Mapping[str, PoolApplied], grants: Iterable[ReferenceGrantApplied]
) -> list[str]:
    """Shares that get 500 because of what other objects say or do not say: reading a route alone cannot tell of them."""
    known = tuple(grants)
    return [
        f"{route.route}, rule {index + 1}: the share of {backend.pool} gets 500: {fault}"
        for route in routes
        for index, rule in enumerate(route.rules)
        for backend in rule.backends
        if backend.weight and backend.kind == "InferencePool" and not backend.fault
        if (fault := share_fault(route.route, backend, pools, known))
    ]


def permitted(route: str, target: tuple[str, str, str], grants: Iterable[ReferenceGrantApplied]) -> bool:
    """Whether `route` may refer to `target`, an object's group, kind and `namespace/name`.

    Within a namespace it may; elsewhere a grant of the target's namespace has to say so.
    """
    own = route.partition("/")[0]
    group, kind, pool = target
    namespace, _, name = pool.partition("/")
    if namespace == own:
        return True
    return any(
        grant.grant.partition("/")[0] == namespace
        and any((s.group, s.kind, s.namespace) == (*ROUTE, own) for s in grant.sources)
        and any((t.group, t.kind) == (group, kind) and t.name in ("", name) for t in grant.targets)
        for grant in grants
    )
