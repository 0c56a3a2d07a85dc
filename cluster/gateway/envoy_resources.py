"""The parts of the gateway's configuration: listener, clusters and routes, as Envoy's JSON.

Names of Envoy's messages and fields are those of its v3 API; every limit here is set because Envoy's own
default is either missing or too small for long streams of tokens.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from pointsman.cluster.gateway.route_order import RankedMatch, ranked_matches
from pointsman.core.events import BackendRef, HeaderMatch, PoolApplied, RouteMatch, RouteObserved, RouteRule

Message: TypeAlias = dict[str, object]

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
EXT_PROC = "envoy.filters.http.ext_proc"
ROUTES_NAME = "routes"
OWN_METADATA = "pointsman"

_TYPE = "type.googleapis.com/envoy.extensions."
_LIMITS: Message = {
    # Envoy's default of 1,024 would refuse the rest of a burst.
    "thresholds": [
        {
            "max_connections": 40_000,
            "max_pending_requests": 40_000,
            "max_requests": 40_000,
            "max_connection_pools": 4_096,
        }
    ]
}
_STREAM_IDLE = "3600s"
"""Time without bytes after which a stream is cut: a first token may take many minutes, Envoy's default is 5."""
_HTTP2_STREAMS_MAX = 1_024
_PICKER_FRAMES_MAX = 100_000
"""Frames that may wait for a picker.  With the default of 1,000 resets, clients that leave together end all streams."""
_DELAYED_CLOSE = "0.050s"
"""Time that passes after a server breaks off before an HTTP/1.1 client hears of it; Envoy's default is a second."""
_UPSTREAM_IDLE = "4s"
"""Time after which an idle connection to a server is closed: vLLM does so after 5 s, when a request would fail."""


def pool_cluster(pool: str) -> str:
    """Name of the cluster that serves `pool`; it is in the access log."""
    return f"pool:{pool}"


def open_name(pool: str) -> str:
    """Name of the cluster that serves `pool` while it fails open; a name of its own, so that both exist in a change."""
    return f"open:{pool}"


def picker_name(pool: str) -> str:
    """Name of the cluster that is asked for `pool`."""
    return f"picker:{pool}"


# --- listener -----------------------------------------------------------------------------------


def listener(address: str, port: int, routes_path: str, access_log: str) -> Message:
    """The one HTTP listener; its routes come from the file at `routes_path`."""
    manager: Message = {
        "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "rds": {
            "route_config_name": ROUTES_NAME,
            "config_source": {"resource_api_version": "V3", "path_config_source": {"path": routes_path}},
        },
        "http_filters": _filters(),
        "early_header_mutation_extensions": [_drop_destination()],
        "access_log": [_access_log(access_log)],
        **_request_ids(),
        "use_remote_address": True,
        "normalize_path": True,
        "stream_idle_timeout": _STREAM_IDLE,
        "request_headers_timeout": "60s",
        "delayed_close_timeout": _DELAYED_CLOSE,
        "max_request_headers_kb": 60,
        "http_protocol_options": {"enable_trailers": True},
        "http2_protocol_options": {"max_concurrent_streams": _HTTP2_STREAMS_MAX, "allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }
    return {
        "name": "gateway",
        "address": _address(address, port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _request_ids() -> Message:
    uuid = _TYPE + "request_id.uuid.v3.UuidRequestIdConfig"
    return {
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # Packing would change a digit of the client's own id.
        "request_id_extension": {"typed_config": {"@type": uuid, "pack_trace_reason": False}},
    }


def _drop_destination() -> Message:
    mutation = _TYPE + "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": mutation, "mutations": [{"remove": DESTINATION}, {"remove": SERVED}]},
    }


def _filters() -> list[Message]:
    """The HTTP filters: a picker is asked where a route names one, and the first endpoint that it names is used."""
    processor: Message = {
        "@type": _TYPE + "filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
        "failure_mode_allow": False,
        "message_timeout": "1000s",
        "route_cache_action": "RETAIN",
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "response_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
            "response_trailer_mode": "SEND",
        },
        "metadata_options": {
            "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
    }
    first: Message = {"pattern": {"regex": "^\\s*([^,\\s]*).*$"}, "substitution": "\\1"}
    chosen: Message = {"metadata_namespace": OWN_METADATA, "key": "destination", "regex_value_rewrite": first}
    served: Message = {"metadata_namespace": "envoy.lb", "key": SERVED}
    metadata: Message = {
        "@type": _TYPE + "filters.http.header_to_metadata.v3.Config",
        "request_rules": [{"header": DESTINATION, "on_header_present": chosen}],
        "response_rules": [{"header": SERVED, "on_header_present": served, "remove": True}],
    }
    router: Message = {"@type": _TYPE + "filters.http.router.v3.Router"}
    return [
        {"name": EXT_PROC, "typed_config": processor, "disabled": True},
        {"name": "envoy.filters.http.header_to_metadata", "typed_config": metadata},
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def _access_log(path: str) -> Message:
    """The access log, a JSON object a line; `endpoint` is the address of the server that the connection went to."""
    fields: dict[str, object] = {
        "time": "%START_TIME(%s.%6f)%",
        "request_id": "%REQ(x-request-id)%",
        "method": "%REQ(:method)%",
        "authority": "%REQ(:authority)%",
        "path": "%REQ(:path)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "endpoint": "%UPSTREAM_HOST%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "route": "%ROUTE_NAME%",
        "duration": "%DURATION%",
        "request_bytes": "%BYTES_RECEIVED%",
        "response_bytes": "%BYTES_SENT%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": _TYPE + "access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": fields},
        },
    }


# --- clusters -----------------------------------------------------------------------------------


def cluster(pool: PoolApplied) -> Message:
    """The cluster that sends a request where the pool's picker said."""
    return {
        "name": pool_cluster(pool.pool),
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"metadata_key": {"key": OWN_METADATA, "path": [{"key": "destination"}]}},
        **_to_servers(pool),
    }


def open_cluster(pool: PoolApplied, endpoints: list[tuple[str, int]]) -> Message:
    """The cluster of a pool that fails open while its picker is down: its ready endpoints, balanced by Envoy."""
    name = open_name(pool.pool)
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        **_members(name, endpoints),
        **_to_servers(pool),
    }


def picker_cluster(pool: str, port: int, tls: bool) -> Message:
    """The cluster of the picker that chooses endpoints of `pool`."""
    name = picker_name(pool)
    # Without the pings a picker that hangs would hold its requests until the message timeout.
    options: Message = {
        "max_concurrent_streams": 16_384,
        "connection_keepalive": {"interval": "2s", "timeout": "3s"},
        "max_outbound_frames": _PICKER_FRAMES_MAX,
        "max_outbound_control_frames": _PICKER_FRAMES_MAX,
    }
    found: Message = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _LIMITS,
        "typed_extension_protocol_options": _protocol({"explicit_http_config": {"http2_protocol_options": options}}),
        **_members(name, [("127.0.0.1", port)]),
    }
    if tls:
        context = _TYPE + "transport_sockets.tls.v3.UpstreamTlsContext"
        found["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": context, "common_tls_context": {"alpn_protocols": ["h2"]}},
        }
    return found


def _to_servers(pool: PoolApplied) -> Message:
    version: Message = {"http_protocol_options": {"enable_trailers": True}}
    if pool.app_protocol == "kubernetes.io/h2c":
        version = {"http2_protocol_options": {}}
    options: Message = {
        "explicit_http_config": version,
        "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
    }
    return {
        "connect_timeout": "2s",
        "circuit_breakers": _LIMITS,
        "typed_extension_protocol_options": _protocol(options),
    }


def _protocol(options: Message) -> Message:
    kind = "upstreams.http.v3.HttpProtocolOptions"
    return {f"envoy.extensions.{kind}": {"@type": _TYPE + kind, **options}}


def _members(name: str, endpoints: list[tuple[str, int]]) -> Message:
    members = [{"endpoint": {"address": _address(address, port)}} for address, port in endpoints]
    return {"load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": members}]}}


def _address(address: str, port: int) -> Message:
    return {"socket_address": {"address": address, "port_value": port}}


# --- routes -------------------------------------------------------------------------------------


def routes(observed: Iterable[RouteObserved], picked: Mapping[str, bool]) -> Message:
    """The route table; `picked` says of each pool that can serve whether its picker is asked."""
    hosts = [
        {"name": host, "domains": [host], "routes": [_route(match, picked) for match in matches]}
        for host, matches in ranked_matches(observed).items()
    ]
    return {"name": ROUTES_NAME, "virtual_hosts": hosts, "ignore_port_in_host_matching": True}


def _route(ranked: RankedMatch, picked: Mapping[str, bool]) -> Message:
    rule = ranked.rule
    found: Message = {"name": f"{ranked.route}/{rule.name or ranked.index}", "match": _match(ranked.match)}
    if sum(b.weight for b in rule.backends) == 0:  # Gateway API: such a rule answers 500
        found["direct_response"] = {"status": 500, "body": {"inline_string": "no backend has a weight\n"}}
        return found
    found["route"] = _action(rule, picked)
    found["response_headers_to_add"] = [
        {
            "header": {"key": SERVED, "value": "%UPSTREAM_REMOTE_ADDRESS%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]
    return found


def _action(rule: RouteRule, picked: Mapping[str, bool]) -> Message:
    return {
        "weighted_clusters": {"clusters": [_backend(b, picked) for b in rule.backends if b.weight > 0]},
        "timeout": f"{rule.timeout:.3f}s",
        # The share of a backend that does not exist answers 500, as Gateway API wants it.
        "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
    }


def _backend(backend: BackendRef, picked: Mapping[str, bool]) -> Message:
    known = backend.kind == "InferencePool" and backend.pool in picked
    if not known:
        return {"name": f"absent:{backend.kind}:{backend.pool}", "weight": backend.weight}
    if not picked[backend.pool]:
        return {"name": open_name(backend.pool), "weight": backend.weight}
    override: Message = {
        "@type": _TYPE + "filters.http.ext_proc.v3.ExtProcPerRoute",
        "overrides": {"grpc_service": {"envoy_grpc": {"cluster_name": picker_name(backend.pool)}}},
    }
    return {
        "name": pool_cluster(backend.pool),
        "weight": backend.weight,
        "typed_per_filter_config": {EXT_PROC: override},
    }


def _match(match: RouteMatch) -> Message:
    found: Message
    if match.path_kind == "Exact":
        found = {"path": match.path}
    elif match.path_kind == "RegularExpression":
        found = {"safe_regex": {"regex": match.path}}
    elif prefix := match.path.rstrip("/"):
        found = {"path_separated_prefix": prefix}
    else:
        found = {"prefix": "/"}
    headers = [_header(h) for h in match.headers]
    if match.method:
        headers.append({"name": ":method", "string_match": {"exact": match.method}})
    if headers:
        found["headers"] = headers
    return found


def _header(header: HeaderMatch) -> Message:
    regular = header.kind == "RegularExpression"
    test: Message = {"safe_regex": {"regex": header.value}} if regular else {"exact": header.value}
    return {"name": header.name.lower(), "string_match": test}
