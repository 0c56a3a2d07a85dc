"""The gateway's routes as Envoy's JSON: what rules match, where their requests go, and what becomes of them.

Nothing here is left out because it cannot be done: a rule, a match or a share that has a fault answers 500.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from pointsman.cluster.gateway.envoy_resources import (
    ATTEMPTS,
    DESTINATIONS,
    ENDPOINTS_TRIED,
    EXT_PROC,
    HEADERS,
    ROUTES_NAME,
    SERVED,
    TYPE,
    Message,
    destinations,
    open_name,
    picker_name,
    pool_cluster,
)
from pointsman.cluster.gateway.regular_expressions import literal_prefix, regex_fault
from pointsman.cluster.gateway.route_filters import header_changes, redirect_action, rewrite_of, url_of
from pointsman.cluster.gateway.route_order import RankedMatch, match_fault, ranked_matches
from pointsman.core.events import (
    BackendRef,
    HeaderMatch,
    QueryMatch,
    RequestMirror,
    RequestRedirect,
    RouteFilter,
    RouteMatch,
    RouteObserved,
    RouteRule,
)
from pointsman.core.rollout.answers import rule_fault

BODY_KEPT = 16 * 1024 * 1024
"""Bytes of a request's body that are kept for another attempt; a larger one has none.  Images in a chat fit."""

_UNANSWERED = "connect-failure,refused-stream,reset"
"""Attempts that are made again: those that ended before the first byte of an answer."""
_PAUSE, _PAUSE_MAX = 0.005, 0.025
"""Seconds before the next endpoint is tried, about: it is another server, which need not come to itself first."""


class RouteTargets(msgspec.Struct, frozen=True):
    """What routes depend on beside themselves."""

    picked: Mapping[str, bool]
    """Pools that can serve, and whether the picker of each is asked."""
    fault: Callable[[str, BackendRef], str]
    """Function that tells why the share of a backend in a route gets 500; empty where it does not."""
    mirrored: frozenset[str] = frozenset()
    """Pools that have a cluster for copies of requests."""
    port: int = 80
    """Port of the listener."""


def routes(observed: Iterable[RouteObserved], targets: RouteTargets) -> Message:
    """The route table."""
    hosts = [
        {"name": host, "domains": [host], "routes": [_route(match, targets) for match in matches]}
        for host, matches in ranked_matches(observed).items()
    ]
    return {"name": ROUTES_NAME, "virtual_hosts": hosts, "ignore_port_in_host_matching": True}


def _route(ranked: RankedMatch, targets: RouteTargets) -> Message:
    rule = ranked.rule
    found: Message = {"name": f"{ranked.route}/{rule.name or ranked.index}", "match": _match(ranked.match)}
    if fault := match_fault(ranked.match) or rule_fault(rule):
        found["direct_response"] = {"status": 500, "body": {"inline_string": f"{fault}\n"}}
        return found
    redirect = next((one for one in rule.filters if isinstance(one, RequestRedirect)), None)
    if redirect is not None:
        found["redirect"] = redirect_action(redirect, ranked.match.path, targets.port)
        if changes := header_changes(rule.filters):
            found["typed_per_filter_config"] = {HEADERS: changes}
        return found
    found["route"] = _action(ranked, targets)
    found["request_body_buffer_limit"] = BODY_KEPT
    found["response_headers_to_add"] = [
        {
            "header": {"key": SERVED, "value": "%UPSTREAM_REMOTE_ADDRESS%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]
    return found


def _action(ranked: RankedMatch, targets: RouteTargets) -> Message:
    rule = ranked.rule
    shares = [_backend(b, ranked, targets) for b in rule.backends if b.weight > 0]
    action: Message = {
        "weighted_clusters": {"clusters": shares},
        "timeout": f"{_timeout(rule):.3f}s",
        "retry_policy": _retries(rule),
        # The share of a backend that does not exist answers 500, as Gateway API wants it.
        "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
    }
    mirrors = [m for m in rule.filters if isinstance(m, RequestMirror) and m.pool in targets.mirrored]
    if mirrors:
        action["request_mirror_policies"] = [_mirror(mirror) for mirror in mirrors]
    return action


def _timeout(rule: RouteRule) -> float:
    """Seconds for the whole of a request; where nothing is tried again, that is the time of its one try."""
    limits = [rule.timeout] if rule.retry is not None else [rule.timeout, rule.backend_timeout]
    return min((limit for limit in limits if limit > 0), default=0.0)


def _retries(rule: RouteRule) -> Message:
    """How often a request is sent again: to the next endpoint of the picker's list, or as the rule says."""
    if rule.retry is None:
        pauses = {"base_interval": f"{_PAUSE}s", "max_interval": f"{_PAUSE_MAX}s"}
        return {"retry_on": _UNANSWERED, "num_retries": ENDPOINTS_TRIED - 1, "retry_back_off": pauses}
    found: Message = {"retry_on": _UNANSWERED, "num_retries": rule.retry.attempts}
    if rule.retry.codes:
        found["retry_on"] = f"{_UNANSWERED},retriable-status-codes"
        found["retriable_status_codes"] = list(rule.retry.codes)
    pause = max(rule.retry.backoff, 0.001)
    if rule.retry.backoff:
        found["retry_back_off"] = {"base_interval": f"{pause:.3f}s", "max_interval": f"{10 * pause:.3f}s"}
    if rule.backend_timeout:
        found["per_try_timeout"] = f"{rule.backend_timeout:.3f}s"
    return found


def _mirror(mirror: RequestMirror) -> Message:
    return {
        "cluster": open_name(mirror.pool),
        "runtime_fraction": {"default_value": {"numerator": mirror.share, "denominator": "MILLION"}},
        "disable_shadow_host_suffix_append": True,
    }


def _backend(backend: BackendRef, ranked: RankedMatch, targets: RouteTargets) -> Message:
    known = backend.pool in targets.picked and not targets.fault(ranked.route, backend)
    if not known:
        return {"name": f"absent:{backend.kind}:{backend.pool}", "weight": backend.weight}
    found: Message = {"weight": backend.weight}
    filters: dict[str, Message] = {}
    if targets.picked[backend.pool]:
        found["name"] = pool_cluster(backend.pool)
        picker: Message = {"grpc_service": {"envoy_grpc": {"cluster_name": picker_name(backend.pool)}}}
        filters[EXT_PROC] = {"@type": TYPE + "filters.http.ext_proc.v3.ExtProcPerRoute", "overrides": picker}
        if ranked.rule.retry is not None:
            filters[DESTINATIONS] = destinations(ATTEMPTS, again=True)
    else:
        found["name"] = open_name(backend.pool)
    changed = (*ranked.rule.filters, *backend.filters)
    filters |= _changes(changed, ranked.match)
    if filters:
        found["typed_per_filter_config"] = filters
    if hostname := url_of(changed).hostname:
        found["host_rewrite_literal"] = hostname
    return found


def _changes(filters: Iterable[RouteFilter], match: RouteMatch) -> dict[str, Message]:
    """The configurations of the HTTP filters that change requests and responses."""
    found: dict[str, Message] = {}
    filters = tuple(filters)
    if changes := header_changes(filters):
        found[HEADERS] = changes
    if rewrite := rewrite_of(url_of(filters), match.path):
        found |= rewrite
    return found


# --- matches ------------------------------------------------------------------------------------


def _match(match: RouteMatch) -> Message:
    """What Envoy has to match.

    Of a regular expression that it cannot run there remains what every text that it may mean has.
    """
    found: Message
    if match.path_kind == "Exact":
        found = {"path": match.path}
    elif match.path_kind == "RegularExpression" and not regex_fault(match.path):
        found = {"safe_regex": {"regex": match.path}}
    elif match.path_kind == "RegularExpression":
        found = {"prefix": literal_prefix(match.path) or "/"}
    elif "?" in match.path or "#" in match.path:
        found = {"path": match.path}  # no path has such a character: it matches nothing, and Envoy takes no such prefix
    elif prefix := match.path.rstrip("/"):
        found = {"path_separated_prefix": prefix}
    else:
        found = {"prefix": "/"}
    headers = [{"name": h.name.lower(), **_test(h)} for h in match.headers]
    if match.method:
        headers.append({"name": ":method", "string_match": {"exact": match.method}})
    if headers:
        found["headers"] = headers
    if match.query:
        found["query_parameters"] = [{"name": q.name, **_test(q)} for q in match.query]
    return found


def _test(condition: HeaderMatch | QueryMatch) -> Message:
    if condition.kind != "RegularExpression":
        return {"string_match": {"exact": condition.value}}
    if regex_fault(condition.value):
        return {"present_match": True}
    return {"string_match": {"safe_regex": {"regex": condition.value}}}
