"""Filters of an HTTPRoute's rules and backends.

A filter is made as it is written, or the requests that it is for get 500: "if a reference to a filter cannot be
resolved, the filter must not be skipped" (Gateway API, HTTPRouteFilter).
"""

import re
from typing import TypeVar

import msgspec

from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.wanted import NAME, NAME_FORM, NAMESPACE, NAMESPACE_FORM
from pointsman.core.events import (
    HeaderModifier,
    HeaderValues,
    PathModifier,
    RequestHeaderModifier,
    RequestMirror,
    RequestRedirect,
    ResponseHeaderModifier,
    RouteFilter,
    UrlRewrite,
)
from pointsman.core.values.distance import wanted

# The limits and forms of the Gateway API's CRD.
FILTERS_MAX = CHANGES_MAX = 16
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_|~]{1,256}")
HEADER_FORM = "a header name"
PRECISE_HOSTNAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
PATH_MODIFIERS = ("ReplaceFullPath", "ReplacePrefixMatch")
SCHEMES = ("http", "https")
REDIRECTS = ("301", "302", "303", "307", "308")

VALUE = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")
"""A header's value: what Envoy takes for one, so that no route can break the table of all."""
PATH = re.compile(r"[\x21-\x22\x24-\x3e\x40-\x7e]{0,1024}")
"""A path without query and fragment, of the characters that a request line may have."""

MADE = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite")
NOT_MADE = ("ExtensionRef", "CORS", "ExternalAuth")
OF_A_RULE = ("RequestMirror", "RequestRedirect")
"""Filters that are made for a whole rule, and not for the share of one backend."""

H = TypeVar("H", bound=HeaderModifier)


class ReadFilters(msgspec.Struct, frozen=True):
    """Filters as they were read."""

    filters: tuple[RouteFilter, ...]
    fault: str
    """Reason why they cannot be made as written; empty where they can."""

    @property
    def prefixed(self) -> bool:
        """Whether one of them replaces the prefix of the match."""
        paths = [f.path for f in self.filters if isinstance(f, UrlRewrite | RequestRedirect)]
        return any(path is not None and path.kind == PATH_MODIFIERS[1] for path in paths)


def read_filters(part: Part, namespace: str, *, of_backend: bool) -> ReadFilters:
    """Read the field `filters` of a rule or of a backend; where one cannot be made, a warning says what happens."""
    found: list[RouteFilter] = []
    fault = ""
    for one in part.parts("filters", FILTERS_MAX):
        kind = one.text("type")
        value: RouteFilter | str
        if of_backend and kind in OF_A_RULE:
            value = f"a {kind} for one backend is not made"
            one.ignore(_field(kind))
        elif kind in MADE:
            value = _filter(one.needed_part(_field(kind)), kind, namespace)
        else:
            known = f"filters of type {kind} are not made"
            value = known if kind in NOT_MADE else f"found {kind!r}, {wanted(kind, (*MADE, *NOT_MADE))}"
            one.ignore(*one.value)
        if isinstance(value, str):
            fault = fault or value
            one.warn("type", f"{value}: the requests that it is for get 500")
        else:
            found.append(value)
        one.done()
    kinds = [type(one) for one in found]
    if RequestRedirect in kinds and UrlRewrite in kinds:
        raise part.error("filters", "found RequestRedirect and URLRewrite together, wanted one of them")
    for once in set(kinds) - {RequestMirror}:
        if kinds.count(once) > 1:
            raise part.error("filters", f"found {once.__struct_config__.tag} more than once, wanted it once")
    return ReadFilters(tuple(found), fault)


def _field(kind: str) -> str:
    """Name of the field that holds the filter's own fields."""
    return "urlRewrite" if kind == "URLRewrite" else kind[0].lower() + kind[1:]


def _filter(part: Part, kind: str, namespace: str) -> RouteFilter | str:
    """The filter, or why it cannot be made."""
    read: RouteFilter | str
    match kind:
        case "RequestHeaderModifier":
            read = _headers(part, RequestHeaderModifier)
        case "ResponseHeaderModifier":
            read = _headers(part, ResponseHeaderModifier)
        case "RequestMirror":
            read = _mirror(part, namespace)
        case "RequestRedirect":
            read = _redirect(part)
        case _:
            read = _rewrite(part)
    part.done()
    return read


def _headers(part: Part, kind: type[H]) -> H | str:
    removed = part.list_of_text("remove", CHANGES_MAX)
    for name in removed:
        if HEADER.fullmatch(name) is None:
            raise part.error("remove", f"found {name!r}, wanted {HEADER_FORM}s")
    changes = kind(_values(part, "set"), _values(part, "add"), tuple(dict.fromkeys(n.lower() for n in removed)))
    for name in (*(n for n, _ in changes.set), *(n for n, _ in changes.add), *changes.remove):
        if name == "host":
            return "the header Host is changed by the hostname of a URLRewrite alone"
    return changes


def _values(part: Part, name: str) -> HeaderValues:
    """Entries of `set` or `add`: of those with an equivalent name the first counts, as Gateway API has it."""
    values: dict[str, str] = {}
    for entry in part.parts(name, CHANGES_MAX):
        header = entry.text("name", pattern=HEADER, form=HEADER_FORM).lower()
        value = entry.text("value", pattern=VALUE, form="a value of 1 to 4,096 characters without control characters")
        values.setdefault(header, value)
        entry.done()
    return tuple(values.items())


def _hostname(part: Part) -> str:
    if "hostname" not in part:
        return part.text("hostname", "")
    return part.text("hostname", pattern=PRECISE_HOSTNAME, form="a lower-case host name")


def _path(part: Part) -> PathModifier | str | None:
    path = part.part("path")
    if path is None:
        return None
    kind = path.choice("type", PATH_MODIFIERS, "")
    value = path.text(kind[0].lower() + kind[1:], "")
    path.done()
    if PATH.fullmatch(value) is None or (kind == PATH_MODIFIERS[0] and not value.startswith("/")):
        return f"{value[:100]!r} is no path that the gateway can put in the place of another"
    return PathModifier(kind, value)


def _rewrite(part: Part) -> UrlRewrite | str:
    hostname, path = _hostname(part), _path(part)
    return path if isinstance(path, str) else UrlRewrite(hostname, path)


def _redirect(part: Part) -> RequestRedirect | str:
    scheme = part.choice("scheme", SCHEMES, "") if "scheme" in part else ""
    hostname, path = _hostname(part), _path(part)
    port = part.number("port", 1, 65_535, 0)
    status = part.number("statusCode", 301, 308, 302)
    part.ignore("scheme")
    if str(status) not in REDIRECTS:
        raise part.error("statusCode", f"found {status}, wanted one of {', '.join(REDIRECTS)}")
    return path if isinstance(path, str) else RequestRedirect(scheme, hostname, path, port, status)


def _mirror(part: Part, namespace: str) -> RequestMirror | str:
    ref = part.needed_part("backendRef")
    kind, group = ref.text("kind", "Service"), ref.text("group", "")
    name = ref.text("name", pattern=NAME, form=NAME_FORM)
    namespace = ref.text("namespace", namespace, pattern=NAMESPACE, form=NAMESPACE_FORM)
    ref.ignore("port")
    ref.done()
    share = part.number("percent", 0, 100, 100) * 10_000
    if (fraction := part.part("fraction")) is not None:
        whole = fraction.number("denominator", 1, 2**31 - 1, 100)
        share = fraction.number("numerator", 0, whole) * 1_000_000 // whole
        fraction.done()
    if kind != "InferencePool":
        return f"a RequestMirror to a {kind} is not made"
    return RequestMirror(f"{namespace}/{name}", kind, group, share)
