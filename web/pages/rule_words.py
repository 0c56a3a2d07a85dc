"""What a rule of a route does beside its weights, in sentences: filters, retries, limits, and what answers 500."""

from collections.abc import Iterable, Iterator
from typing import assert_never

from pointsman.core.events import (
    HeaderModifier,
    PathModifier,
    RequestMirror,
    RequestRedirect,
    ResponseHeaderModifier,
    RouteFilter,
    RouteMatch,
    RouteObserved,
    RouteRule,
    UrlRewrite,
)
from pointsman.core.rollout.answers import rule_fault, share_fault
from pointsman.core.state.projection import ClusterState
from pointsman.web.drawing import words


def rule_words(state: ClusterState, route: RouteObserved, index: int) -> tuple[str, ...]:
    """What the rule does, in the order in which a request meets it."""
    rule = route.rules[index]
    if fault := rule_fault(rule):
        return (f"Every request gets 500: {fault}.",)
    return tuple(_sentences(state, route, rule))


def match_words(match: RouteMatch) -> str:
    """What a match is for."""
    beginning = {"PathPrefix": "paths below ", "Exact": "path ", "RegularExpression": "paths like "}
    told = beginning.get(match.path_kind, "") + match.path
    more = len(match.headers) + len(match.query) + bool(match.method)
    return told + (f" with {words.plural(more, 'condition')}" if more else "")


def _sentences(state: ClusterState, route: RouteObserved, rule: RouteRule) -> Iterator[str]:
    for match in rule.matches:
        if match.fault:
            yield f"What {match_words(match)} may be for gets 500: {match.fault}."
    yield from _filters(rule.filters, "")
    for backend in rule.backends:
        namespace, _, short = backend.pool.partition("/")
        name = short if namespace == route.route.partition("/")[0] else backend.pool
        if backend.weight and (fault := share_fault(route.route, backend, state.pools, state.grants.values())):
            yield f"The share of {name} gets 500: {fault}."
        else:
            yield from _filters(backend.filters, f" on their way to {name}")
    if rule.retry is not None:
        codes = ", ".join(map(str, rule.retry.codes))
        told = f"no answer, or with {codes}" if codes else "no answer"
        yield f"Attempts that end with {told} are made again, {words.plural(rule.retry.attempts, 'time')} at most."
    if rule.timeout:
        yield f"A request may take {words.duration(rule.timeout)}."
    if rule.backend_timeout:
        yield f"An attempt may take {words.duration(rule.backend_timeout)}."


def _filters(filters: Iterable[RouteFilter], where: str) -> Iterator[str]:
    for one in filters:
        match one:
            case HeaderModifier():
                whose = "Responses" if isinstance(one, ResponseHeaderModifier) else "Requests"
                yield f"{whose}{where} have headers changed: {', '.join(_headers(one))}."
            case UrlRewrite(hostname, path):
                parts = [*([f"the host {hostname}"] if hostname else []), *([_path(path)] if path else [])]
                yield f"Requests{where} get {' and '.join(parts) or 'nothing new'}."
            case RequestRedirect():
                yield f"Clients are sent elsewhere with {one.status}: {_target(one)}."
            case RequestMirror(pool, _, _, share):
                yield f"{words.percent(share / 1_000_000)} of the requests are copied to {pool}; no picker is asked for a copy."
            case _:
                assert_never(one)


def _headers(changes: HeaderModifier) -> Iterator[str]:
    yield from (f"{name} is set" for name, _ in changes.set)
    yield from (f"{name} is added" for name, _ in changes.add)
    yield from (f"{name} is removed" for name in changes.remove)


def _path(path: PathModifier) -> str:
    if path.kind == "ReplaceFullPath":
        return f"the path {path.value}"
    return f"{path.value or '/'} in the place of the prefix that was matched"


def _target(redirect: RequestRedirect) -> str:
    address = [redirect.scheme, redirect.hostname, f"port {redirect.port}" if redirect.port else ""]
    told = [*filter(None, address), *([_path(redirect.path)] if redirect.path else [])]
    return ", ".join(told) or "the same place"
