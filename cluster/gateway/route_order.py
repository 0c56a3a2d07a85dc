"""HTTPRoute rules in the order a gateway must try them.

The order is that of Gateway API: the more specific hostname, an exact path, a regular expression,
the longer prefix, a method, more headers, more parameters; then the route's name and the rule's place in it.
A rule of a less specific hostname still applies where none of a more specific one matches.
"""

from collections.abc import Iterable

import msgspec

from pointsman.cluster.gateway.regular_expressions import regex_fault
from pointsman.core.events import RouteMatch, RouteObserved, RouteRule

ANY_HOST = "*"

_PATH_RANK = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}


class RankedMatch(msgspec.Struct, frozen=True):
    """One match of one rule, at its place in the order."""

    route: str
    index: int
    """Place of the rule within its route, from 0."""
    rule: RouteRule
    match: RouteMatch


def ranked_matches(routes: Iterable[RouteObserved]) -> dict[str, list[RankedMatch]]:
    """Return by hostname the matches to try in order; `*` is always there and last."""
    known = sorted(routes, key=lambda r: r.route)
    hosts = sorted({h.lower() for r in known for h in r.hostnames} | {ANY_HOST}, key=_host_rank)
    return {host: _matches_for(host, known) for host in hosts}


def covers(hostname: str, host: str) -> bool:
    """Whether a route's hostname applies to `host`, itself perhaps a wildcard; `*.a.b` covers `x.a.b`, not `a.b`."""
    if hostname in (ANY_HOST, host):
        return True
    if not hostname.startswith("*."):
        return False
    return host.endswith(hostname[1:]) and host != hostname[1:]


def match_fault(match: RouteMatch) -> str:
    """Why the gateway cannot make a match as written; empty where it can."""
    patterns = [header.value for header in match.headers if header.kind == "RegularExpression"]
    patterns += [parameter.value for parameter in match.query if parameter.kind == "RegularExpression"]
    if match.path_kind == "RegularExpression":
        patterns.append(match.path)
    faults = (f"the regular expression {p[:100]!r} is none of RE2: {why}" for p in patterns if (why := regex_fault(p)))
    return match.fault or next(faults, "")


def _host_rank(host: str) -> tuple[int, int, str]:
    """Sort key of a hostname: exact ones before wildcards, then longer before shorter, as the specification says."""
    exact = 0 if host.startswith("*") else len(host)
    return (-exact, -len(host), host)


def _matches_for(host: str, routes: list[RouteObserved]) -> list[RankedMatch]:
    found: list[tuple[tuple[object, ...], RankedMatch]] = []
    for route in routes:
        names = [h.lower() for h in route.hostnames] or [ANY_HOST]
        best = min((_host_rank(n) for n in names if covers(n, host)), default=None)
        if best is None:
            continue
        for index, rule in enumerate(route.rules):
            for match in rule.matches or (RouteMatch(),):
                if match.path_kind in _PATH_RANK:  # another one is of an older entry, in which it took no request
                    rank = (best[:2], *_match_rank(match), route.route, index)
                    found.append((rank, RankedMatch(route.route, index, rule, match)))
    found.sort(key=lambda pair: pair[0])  # stable: equal matches keep their order within the rule
    return [match for _, match in found]


def _match_rank(match: RouteMatch) -> tuple[int, int, int, int, int]:
    length = len(match.path.rstrip("/")) if match.path_kind == "PathPrefix" else len(match.path)
    return (_PATH_RANK[match.path_kind], -length, 0 if match.method else 1, -len(match.headers), -len(match.query))
