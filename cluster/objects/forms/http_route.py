"""HTTPRoute manifests.

What cannot be made as it is written keeps a reason, `fault`, beside it: its requests get 500 and go nowhere else.
"""

import re
from collections.abc import Iterator

from pointsman.cluster.gateway.regular_expressions import regex_fault
from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms.form import ManifestForm, ManifestPlace
from pointsman.cluster.objects.forms.route_filters import HEADER, HEADER_FORM, read_filters
from pointsman.cluster.objects.wanted import NAME, NAME_FORM, NAMESPACE, NAMESPACE_FORM
from pointsman.cluster.objects.yaml_document import DocumentError, dump_document
from pointsman.core.events import (
    BackendRef,
    HeaderMatch,
    QueryMatch,
    RequestRedirect,
    RouteMatch,
    RouteObserved,
    RouteRetry,
    RouteRule,
)
from pointsman.core.rollout.weights import WEIGHT_MAX

VERSIONS = ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1")

# The limits and forms of the Gateway API's CRD.
RULES_MAX = MATCHES_MAX = HEADERS_MAX = BACKENDS_MAX = HOSTNAMES_MAX = 64
PATH_KINDS = ("PathPrefix", "Exact", "RegularExpression")
HEADER_KINDS = ("Exact", "RegularExpression")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
HOSTNAME = re.compile(r"(?:\*\.)?[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
QUERY_NAME = re.compile(r".{1,256}")
CODES_MAX = 64
DURATION = re.compile(r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

ATTEMPTS_MAX = 5
"""Attempts after the first that a rule may ask for: each is a cluster of its own in the gateway."""


def read_route(root: Part, place: ManifestPlace) -> RouteObserved:
    """Return the route of a manifest; `DocumentError` with the line where it is wrong."""
    spec = root.needed_part("spec")
    hostnames = spec.list_of_text("hostnames", HOSTNAMES_MAX)
    for at, hostname in enumerate(hostnames):
        if HOSTNAME.fullmatch(hostname) is None or len(hostname) > 253:
            raise spec.error(
                "hostnames", f"item {at + 1} is {hostname!r}, wanted a lower-case host name, or `*.` and one"
            )
    rules = tuple(_rule(part, place.namespace) for part in _rules(root, spec))
    spec.ignore("parentRefs", "useDefaultGateways")  # the one gateway serves every route, whatever its parents
    spec.done()
    return RouteObserved(place.name, rules, tuple(hostnames), place.source, place.version)


def _rules(root: Part, spec: Part) -> list[Part]:
    written = spec.value.get("rules")
    if not isinstance(written, dict):
        return spec.parts("rules", RULES_MAX)
    rule = spec.needed_part("rules")
    whole = dict(root.value)
    whole["spec"] = {**spec.value, "rules": [written]}
    corrected = dump_document(whole)
    spec.warn("rules", f"found a mapping, wanted a list: read as a list of one. Corrected:\n{corrected}")
    return [rule]


def _rule(part: Part, namespace: str) -> RouteRule:
    read = read_filters(part, namespace, of_backend=False)
    shares = [_backend(ref, namespace) for ref in part.parts("backendRefs", BACKENDS_MAX)]
    prefixed = read.prefixed or any(prefixed for _, prefixed in shares)
    matches = tuple(_match(match, prefixed) for match in part.parts("matches", MATCHES_MAX))
    backends = tuple(backend for backend, _ in shares)
    if backends and any(isinstance(one, RequestRedirect) for one in read.filters):
        part.warn("backendRefs", "have no effect beside a RequestRedirect: it answers every request itself")
    timeout = backend_timeout = 0.0
    if (timeouts := part.part("timeouts")) is not None:
        timeout, backend_timeout = _duration(timeouts, "request"), _duration(timeouts, "backendRequest")
        timeouts.done()
    retry = None if (written := part.part("retry")) is None else _retry(written)
    if "sessionPersistence" in part:
        part.warn("sessionPersistence", "has no effect: the pool's picker chooses the endpoint of every request")
    part.ignore("sessionPersistence")
    rule = RouteRule(
        matches,
        backends,
        part.text("name", ""),
        timeout,
        filters=read.filters,
        retry=retry,
        backend_timeout=backend_timeout,
        fault=read.fault,
    )
    part.done()
    return rule


def _retry(part: Part) -> RouteRetry:
    codes = part.numbers("codes", 400, 599, CODES_MAX)
    attempts = part.number("attempts", 0, 2**31 - 1, 1)
    if attempts > ATTEMPTS_MAX:
        part.warn("attempts", f"found {attempts}: the gateway makes {ATTEMPTS_MAX} after the first")
    backoff = _duration(part, "backoff")
    part.done()
    return RouteRetry(tuple(codes), min(attempts, ATTEMPTS_MAX), backoff)


def _match(part: Part, prefixed: bool) -> RouteMatch:
    """One match of a rule; `prefixed` tells that a filter of the rule replaces the prefix of its path."""
    path, path_kind, fault = "/", PATH_KINDS[0], ""
    if (found := part.part("path")) is not None:
        path_kind = found.choice("type", PATH_KINDS, PATH_KINDS[0])
        path = found.text("value", "/")
        if len(path) > 1024:
            raise found.error("value", f"found {len(path):,} characters, wanted 1,024 at most")
        if path_kind != "RegularExpression" and not path.startswith("/"):
            raise found.error("value", f"found {path!r}, wanted a path that begins with '/'")
        if path_kind != "RegularExpression" and ("?" in path or "#" in path):
            found.warn("value", "holds '?' or '#', which no path does: no request matches it")
        if path_kind == "RegularExpression":
            fault = _regex(found, path)
        elif path_kind == "Exact" and prefixed:
            fault = "a filter of the rule replaces the prefix of an exact path"
            found.warn("type", f"{fault}: what the match is for gets 500")
        found.done()
    if path_kind == "RegularExpression" and prefixed and not fault:
        fault = "a filter of the rule replaces the prefix of a regular expression"
        part.warn("path", f"{fault}: what the match is for gets 500")
    headers, queries = {}, {}
    for name, value, kind, wrong in _conditions(part, "headers", HEADER, HEADER_FORM, fold=True):
        headers[name.lower()] = HeaderMatch(name, value, kind)
        fault = fault or wrong
    for name, value, kind, wrong in _conditions(part, "queryParams", QUERY_NAME, "a name of 1 to 256 characters"):
        queries[name] = QueryMatch(name, value, kind)
        fault = fault or wrong
    method = part.choice("method", METHODS, "") if "method" in part else ""
    part.ignore("method")
    part.done()
    return RouteMatch(path, path_kind, tuple(headers.values()), method, tuple(queries.values()), fault)


def _conditions(
    part: Part, field: str, pattern: re.Pattern[str], form: str, *, fold: bool = False
) -> Iterator[tuple[str, str, str, str]]:
    """Name, value and kind of headers or parameters, and why a value cannot be matched.

    Of entries with an equivalent name the first counts, as Gateway API has it; `fold` compares names as headers' are.
    """
    seen: dict[str, int] = {}
    for condition in part.parts(field, HEADERS_MAX):
        name, value = condition.text("name", pattern=pattern, form=form), condition.text("value")
        kind = condition.choice("type", HEADER_KINDS, HEADER_KINDS[0])
        key = name.lower() if fold else name
        if key in seen:
            condition.warn("name", f"{name} stands in line {seen[key]} already: this entry counts for nothing")
        else:
            yield name, value, kind, _regex(condition, value) if kind == "RegularExpression" else ""
        seen.setdefault(key, condition.line("name"))
        condition.done()


def _regex(part: Part, pattern: str) -> str:
    """Why the gateway cannot run the regular expression in the field `value`; empty where it can."""
    wrong = regex_fault(pattern)
    if not wrong:
        return ""
    fault = f"the regular expression {pattern[:100]!r} is none of RE2: {wrong}"
    part.warn("value", f"{fault}: every request that the match may be for gets 500")
    return fault


def _backend(part: Part, namespace: str) -> tuple[BackendRef, bool]:
    """A backend, and whether a filter of it replaces the prefix of the match."""
    group, kind = part.text("group", ""), part.text("kind", "Service")
    name = part.text("name", pattern=NAME, form=NAME_FORM)
    namespace = part.text("namespace", namespace, pattern=NAMESPACE, form=NAMESPACE_FORM)
    weight = part.number("weight", 0, WEIGHT_MAX, 1)
    read = read_filters(part, namespace, of_backend=True)
    if kind != "InferencePool":
        part.warn("kind", f"the gateway serves InferencePools alone, and no {kind}: this share gets 500")
    part.ignore("port")
    part.done()
    return BackendRef(f"{namespace}/{name}", weight, kind, group, read.filters, read.fault), read.prefixed


def _duration(part: Part, name: str) -> float:
    """Seconds of a Gateway API duration, 0 where there is none."""
    written = part.text(name, "0s", pattern=DURATION, form="a duration such as 30s, 1m30s or 500ms")
    return sum(int(amount) * _UNITS[unit] for amount, unit in re.findall(r"([0-9]+)(ms|h|m|s)", written))


def of_gateway_api(root: Part) -> bool:
    """Whether the object is the Gateway API's; `DocumentError` where it is of a version that is not known."""
    version = root.text("apiVersion")
    if version.partition("/")[0] != VERSIONS[0].partition("/")[0]:
        return False
    if version not in VERSIONS:
        raise DocumentError(root.line("apiVersion"), f"apiVersion: found {version!r}, wanted {' or '.join(VERSIONS)}")
    return True


FORM = ManifestForm(RouteObserved, "HTTPRoute", read_route, takes=of_gateway_api)
