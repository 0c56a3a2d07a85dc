"""HTTPRoute rules in the order a gateway must try them.

The order is that of Gateway API: the more specific hostname, an exact path, a regular expression,
the longer prefix, a method, more headers; then the route's name and the rule's place in it.
A rule of a less specific hostname still applies where none of a more specific one matches.
"""

import re
from collections.abc import Iterable

import msgspec

from pointsman.core.events import RouteMatch, RouteObserved, RouteRule

ANY_HOST = "*"

_PATH_RANK = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
_BEYOND_RE2 = re.compile(r"\(\?(?:[=!>]|<[=!]|\()|\\[1-9]|\\[gkZ]|[*+?}]\+")


class RankedMatch(msgspec.Struct, frozen=True):
    """One match of one rule, at its place in the order."""

    route: str
    index: int
    """Place of the rule within its route, from 0."""
    rule: RouteRule
    match: RouteMatch


def ranked_matches(routes: Iterable[RouteObserved]) -> dict[str, list[RankedMatch]]:
    """Return by hostname the matches to try in order; `*` is always there and last.

    A match with a regular expression that the gateway cannot run is left out: it would refuse all routes for it.
    """
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


def usable_regex(pattern: str) -> bool:
    """Whether RE2 surely accepts `pattern`: Python does, and it holds nothing that RE2 lacks."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return bool(pattern) and _BEYOND_RE2.search(pattern) is None


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
                if _usable(match):
                    rank = (best[:2], *_match_rank(match), route.route, index)
                    found.append((rank, RankedMatch(route.route, index, rule, match)))
    found.sort(key=lambda pair: pair[0])  # stable: equal matches keep their order within the rule
    return [match for _, match in found]


def _usable(match: RouteMatch) -> bool:
    patterns = [h.value for h in match.headers if h.kind == "RegularExpression"]
    if match.path_kind == "RegularExpression":
        patterns.append(match.path)
    return match.path_kind in _PATH_RANK and all(usable_regex(p) for p in patterns)


def _match_rank(match: RouteMatch) -> tuple[int, int, int, int]:
    length = len(match.path.rstrip("/")) if match.path_kind == "PathPrefix" else len(match.path)
    return (_PATH_RANK[match.path_kind], -length, 0 if match.method else 1, -len(match.headers))
