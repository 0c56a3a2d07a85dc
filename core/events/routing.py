"""Facts about what a gateway does with requests: HTTPRoutes, and the grants without which they stay in their namespace."""

from typing import TypeAlias

import msgspec

from pointsman.core.values.facts import Applied, Deleted

HeaderValues: TypeAlias = tuple[tuple[str, str], ...]
"""Names of headers and their values."""


class HeaderModifier(msgspec.Struct, frozen=True, array_like=True):
    """Headers that are changed: set in the place of others of that name, added to them, or removed."""

    set: HeaderValues = ()
    add: HeaderValues = ()
    remove: tuple[str, ...] = ()


class RequestHeaderModifier(HeaderModifier, frozen=True, array_like=True, tag="RequestHeaderModifier"):
    """Headers of a request that are changed before the picker and the server see it."""


class ResponseHeaderModifier(HeaderModifier, frozen=True, array_like=True, tag="ResponseHeaderModifier"):
    """Headers of a response that are changed before the client sees it."""


class PathModifier(msgspec.Struct, frozen=True, array_like=True):
    """What becomes of a path; its query stays."""

    kind: str
    """`ReplaceFullPath` or `ReplacePrefixMatch`, as in HTTPRoute: the prefix is that of the match."""
    value: str


class UrlRewrite(msgspec.Struct, frozen=True, array_like=True, tag="URLRewrite"):
    """Host and path that the server sees; the picker sees the path, too."""

    hostname: str = ""
    path: PathModifier | None = None


class RequestRedirect(msgspec.Struct, frozen=True, array_like=True, tag="RequestRedirect"):
    """An answer that sends the client elsewhere; empty parts stay as they were asked for."""

    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    """Port of the address; 0 for the scheme's own, or where there is no scheme, for the gateway's."""
    status: int = 302


class RequestMirror(msgspec.Struct, frozen=True, array_like=True, tag="RequestMirror"):
    """A second backend that gets a copy of requests; its answers go nowhere."""

    pool: str
    """Name of the object that `kind` is about, as `namespace/name`."""
    kind: str = "InferencePool"
    group: str = "inference.networking.k8s.io"
    share: int = 1_000_000
    """Requests that are copied, of a million."""


RouteFilter: TypeAlias = RequestHeaderModifier | ResponseHeaderModifier | UrlRewrite | RequestRedirect | RequestMirror


class BackendRef(msgspec.Struct, frozen=True, array_like=True):
    """One backend of a route rule, with its desired weight."""

    pool: str
    """Name of the object that `kind` is about, as `namespace/name`."""
    weight: int = 1
    kind: str = "InferencePool"
    group: str = "inference.networking.k8s.io"
    filters: tuple[RouteFilter, ...] = ()
    """Filters of this backend's share alone, after those of the rule."""
    fault: str = ""
    """Reason why its share cannot be answered as written and gets 500; empty where there is none."""


class HeaderMatch(msgspec.Struct, frozen=True, array_like=True):
    """A header the request must carry."""

    name: str
    value: str
    kind: str = "Exact"
    """`Exact` or `RegularExpression`, as in HTTPRoute."""


class QueryMatch(msgspec.Struct, frozen=True, array_like=True):
    """A parameter that the request's query must have."""

    name: str
    value: str
    kind: str = "Exact"
    """`Exact` or `RegularExpression`, as in HTTPRoute."""


class RouteMatch(msgspec.Struct, frozen=True, array_like=True):
    """One of a rule's matches: all of its parts must hold."""

    path: str = "/"
    path_kind: str = "PathPrefix"
    """`PathPrefix`, `Exact` or `RegularExpression`, as in HTTPRoute."""
    headers: tuple[HeaderMatch, ...] = ()
    method: str = ""
    query: tuple[QueryMatch, ...] = ()
    fault: str = ""
    """Reason why it cannot be made as written, so that every request that it may mean gets 500; empty for none."""


class RouteRetry(msgspec.Struct, frozen=True, array_like=True):
    """When a request is sent again: after an attempt without an answer, or with one of these statuses."""

    codes: tuple[int, ...] = ()
    attempts: int = 1
    """Attempts after the first."""
    backoff: float = 0.0
    """Seconds before another attempt, at least; 0 for the gateway's own."""


class RouteRule(msgspec.Struct, frozen=True, array_like=True):
    """One rule of an HTTPRoute; an empty `matches` matches all."""

    matches: tuple[RouteMatch, ...]
    backends: tuple[BackendRef, ...]
    name: str = ""
    timeout: float = 0.0
    """Seconds of `timeouts.request`; 0 is none."""
    unwritable: str = ""
    """Reason why its weights cannot be written where the route stands; empty where none is known."""
    filters: tuple[RouteFilter, ...] = ()
    retry: RouteRetry | None = None
    backend_timeout: float = 0.0
    """Seconds of `timeouts.backendRequest`; 0 is none."""
    fault: str = ""
    """Reason why the rule cannot be made as written, so that its requests get 500; empty where there is none."""


class RouteDeleted(Deleted, frozen=True, tag="route-deleted"):
    """An HTTPRoute went away."""

    noun = "HTTPRoute"
    route: str


class RouteObserved(Applied, frozen=True, tag="route-observed"):
    """An HTTPRoute was seen for the first time, or something in it that we read changed."""

    deletion = RouteDeleted
    route: str
    """Name of the route, as `namespace/name`."""
    rules: tuple[RouteRule, ...]
    hostnames: tuple[str, ...] = ()
    source: str = ""
    version: str = ""
    """Digest of the file, or the API server's resourceVersion."""


class GrantFrom(msgspec.Struct, frozen=True, array_like=True):
    """Objects that may refer to those of the grant's namespace."""

    group: str
    kind: str
    namespace: str


class GrantTo(msgspec.Struct, frozen=True, array_like=True):
    """Objects of the grant's namespace that may be referred to."""

    group: str
    kind: str
    name: str = ""
    """Name of the one object that may be; empty for all of the kind."""


class ReferenceGrantDeleted(Deleted, frozen=True, tag="reference-grant-deleted"):
    """A ReferenceGrant went away: what it alone allowed is not allowed any more."""

    noun = "ReferenceGrant"
    grant: str


class ReferenceGrantApplied(Applied, frozen=True, tag="reference-grant-applied"):
    """A namespace allows that routes of others send requests to its pools."""

    deletion = ReferenceGrantDeleted
    grant: str
    """Name of the grant, as `namespace/name`."""
    sources: tuple[GrantFrom, ...]
    """Entries of `from`."""
    targets: tuple[GrantTo, ...]
    """Entries of `to`."""
    source: str = ""
