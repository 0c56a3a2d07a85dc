"""Filters of HTTPRoute as Envoy's JSON."""

import re
from collections.abc import Iterable

from pointsman.cluster.gateway.envoy_resources import REWRITE, TYPE, Message
from pointsman.core.events import (
    HeaderModifier,
    PathModifier,
    RequestHeaderModifier,
    RequestRedirect,
    ResponseHeaderModifier,
    RouteFilter,
    UrlRewrite,
)

_REDIRECTS = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
_PORTS = {"http": 80, "https": 443}


def header_changes(filters: Iterable[RouteFilter]) -> Message | None:
    """The header mutations of all modifiers, in order; None where there are none."""
    request: list[Message] = []
    response: list[Message] = []
    for one in filters:
        match one:
            case RequestHeaderModifier():
                request += _mutations(one)
            case ResponseHeaderModifier():
                response += _mutations(one)
    if not request and not response:
        return None
    return {
        "@type": TYPE + "filters.http.header_mutation.v3.HeaderMutationPerRoute",
        "mutations": {"request_mutations": request, "response_mutations": response},
    }


def _mutations(changes: HeaderModifier) -> list[Message]:
    ways = (("OVERWRITE_IF_EXISTS_OR_ADD", changes.set), ("APPEND_IF_EXISTS_OR_ADD", changes.add))
    found: list[Message] = [
        # Envoy reads values as formats, in which a percent sign is written twice.
        {"append": {"header": {"key": name, "value": value.replace("%", "%%")}, "append_action": way}}
        for way, headers in ways
        for name, value in headers
    ]
    found += [{"remove": name} for name in changes.remove]
    return found


def url_of(filters: Iterable[RouteFilter]) -> UrlRewrite:
    """What rewrites say together: those of a backend come after those of its rule, and go before them."""
    hostname, path = "", None
    for one in filters:
        if isinstance(one, UrlRewrite):
            hostname, path = one.hostname or hostname, one.path or path
    return UrlRewrite(hostname, path)


def rewrite_of(url: UrlRewrite, matched: str) -> dict[str, Message]:
    """The configuration of the filter that rewrites the path of requests matched by `matched`; empty where none is."""
    if url.path is None:
        return {}
    context: Message = {"path": url.path.value}
    if url.path.kind == "ReplacePrefixMatch":
        context = {"path": url.path.value.rstrip("/"), "prefix": matched.rstrip("/")}
    kind = TYPE + "filters.http.lua.v3.LuaPerRoute"
    return {REWRITE: {"@type": kind, "name": REWRITE, "filter_context": context}}


def redirect_action(redirect: RequestRedirect, matched: str, listening: int) -> Message:
    """Where a client is sent; `listening` is the gateway's own port, which is the one where nothing else is said."""
    found: Message = {"response_code": _REDIRECTS[redirect.status]}
    if redirect.scheme:
        found["scheme_redirect"] = redirect.scheme
    if redirect.hostname:
        found["host_redirect"] = redirect.hostname
    port = redirect.port or _PORTS.get(redirect.scheme, 0) or (listening if redirect.hostname else 0)
    # Envoy keeps the port that the client named unless it gets another host; the scheme's own need not be written.
    if port and not (redirect.hostname and port == _PORTS[redirect.scheme or "http"]):
        found["port_redirect"] = port
    if redirect.path is not None:
        found |= _redirect_path(redirect.path, matched)
    return found


def _redirect_path(path: PathModifier, matched: str) -> Message:
    if path.kind == "ReplaceFullPath":
        return {"path_redirect": path.value}
    prefix, value = re.escape(matched.rstrip("/")), path.value.rstrip("/")
    # Without a prefix of its own the rest of the path needs its slash, and must not get a second one.
    pattern, text = (f"^{prefix}", value) if value else (f"^{prefix}/?", "/")
    return {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": text.replace("\\", "\\\\")}}
