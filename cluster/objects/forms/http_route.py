"""HTTPRoute manifests, as far as rules, weights and timeouts go."""

import re

from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms.form import ManifestForm, ManifestPlace
from pointsman.cluster.objects.wanted import NAME, NAME_FORM, NAMESPACE, NAMESPACE_FORM
from pointsman.cluster.objects.yaml_document import DocumentError, dump_document
from pointsman.core.events import BackendRef, HeaderMatch, RouteMatch, RouteObserved, RouteRule
from pointsman.core.rollout.weights import WEIGHT_MAX

VERSIONS = ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1")

# The limits and forms of the Gateway API's CRD.
RULES_MAX = MATCHES_MAX = HEADERS_MAX = BACKENDS_MAX = HOSTNAMES_MAX = 64
PATH_KINDS = ("PathPrefix", "Exact", "RegularExpression")
HEADER_KINDS = ("Exact", "RegularExpression")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
HOSTNAME = re.compile(r"(?:\*\.)?[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_|~]{1,256}")
DURATION = re.compile(r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

UNMATCHED = "QueryParams"
"""`path_kind` of a match with conditions that are not read here: no request takes it."""


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
    spec.ignore("parentRefs", "useDefaultGateways")
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
    matches = tuple(_match(match) for match in part.parts("matches", MATCHES_MAX))
    backends = tuple(_backend(ref, namespace) for ref in part.parts("backendRefs", BACKENDS_MAX))
    name = part.text("name", "")
    if "filters" in part:
        part.warn("filters", "filters are not applied by Pointsman's own gateway")
    part.ignore("filters", "retry", "sessionPersistence")
    timeout = 0.0
    if (timeouts := part.part("timeouts")) is not None:
        timeout = _duration(timeouts, "request")
        _duration(timeouts, "backendRequest")
        timeouts.done()
    part.done()
    return RouteRule(matches, backends, name, timeout)


def _match(part: Part) -> RouteMatch:
    path, path_kind = "/", PATH_KINDS[0]
    if (found := part.part("path")) is not None:
        path_kind = found.choice("type", PATH_KINDS, PATH_KINDS[0])
        path = found.text("value", "/")
        if len(path) > 1024:
            raise found.error("value", f"found {len(path):,} characters, wanted 1,024 at most")
        if path_kind != "RegularExpression" and not path.startswith("/"):
            raise found.error("value", f"found {path!r}, wanted a path that begins with '/'")
        found.done()
    headers = []
    for header in part.parts("headers", HEADERS_MAX):
        name = header.text("name", pattern=HEADER, form="a header name")
        headers.append(HeaderMatch(name, header.text("value"), header.choice("type", HEADER_KINDS, HEADER_KINDS[0])))
        header.done()
    method = part.choice("method", METHODS, "") if "method" in part else ""
    if "queryParams" in part:
        part.warn("queryParams", "queryParams are not read: Pointsman's own gateway sends no request by this match")
        path_kind = UNMATCHED
    part.ignore("queryParams", "method")
    part.done()
    return RouteMatch(path, path_kind, tuple(headers), method)


def _backend(part: Part, namespace: str) -> BackendRef:
    group, kind = part.text("group", ""), part.text("kind", "Service")
    name = part.text("name", pattern=NAME, form=NAME_FORM)
    namespace = part.text("namespace", namespace, pattern=NAMESPACE, form=NAMESPACE_FORM)
    weight = part.number("weight", 0, WEIGHT_MAX, 1)
    if "filters" in part:
        part.warn("filters", "filters are not applied by Pointsman's own gateway")
    part.ignore("port", "filters")
    part.done()
    return BackendRef(f"{namespace}/{name}", weight, kind, group)


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
