"""The parts of the gateway's configuration that do not depend on routes: listener and clusters, as Envoy's JSON.

Names of Envoy's messages and fields are those of its v3 API; every limit here is set because Envoy's own
default is either missing or too small for long streams of tokens.
"""

from typing import TypeAlias

from pointsman.core.events import PoolApplied

Message: TypeAlias = dict[str, object]

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
EXT_PROC = "envoy.filters.http.ext_proc"
DESTINATIONS = "envoy.filters.http.header_to_metadata"
REWRITE = "pointsman.rewrite"
HEADERS = "pointsman.headers"
"""Names of HTTP filters, by which routes turn them on."""
ROUTES_NAME = "routes"
OWN_METADATA = "pointsman"
ORIGINAL_PATH = "x-envoy-original-path"
"""Header with the path that a client asked for, where a route rewrites it."""

TYPE = "type.googleapis.com/envoy.extensions."
ENDPOINTS_TRIED = 3
"""Endpoints of a picker's list that are tried: more dead ones in a row are an outage, and each that hangs costs 2 s."""
ATTEMPTS = 6
"""Most attempts of a request: the first and those that a rule's `retry` may ask for."""
_LIMITS: Message = {
    # Envoy's default of 1,024 would refuse the rest of a burst.  A request that was tried again counts as a retry to
    # its end: with the default of 3, three streams that a dead server lost would keep all others from the next one.
    "thresholds": [
        {
            "max_connections": 40_000,
            "max_pending_requests": 40_000,
            "max_requests": 40_000,
            "max_retries": 40_000,
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
    """Name of the cluster that serves `pool` without its picker; a name of its own, so that both exist in a change."""
    return f"open:{pool}"


def picker_name(pool: str) -> str:
    """Name of the cluster that is asked for `pool`."""
    return f"picker:{pool}"


# --- listener -----------------------------------------------------------------------------------


def listener(address: str, port: int, routes_path: str, access_log: str) -> Message:
    """The one HTTP listener; its routes come from the file at `routes_path`."""
    manager: Message = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "rds": {
            "route_config_name": ROUTES_NAME,
            "config_source": {"resource_api_version": "V3", "path_config_source": {"path": routes_path}},
        },
        "http_filters": _filters(),
        "early_header_mutation_extensions": [_drop_own_headers()],
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
    uuid = TYPE + "request_id.uuid.v3.UuidRequestIdConfig"
    return {
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # Packing would change a digit of the client's own id.
        "request_id_extension": {"typed_config": {"@type": uuid, "pack_trace_reason": False}},
    }


def _drop_own_headers() -> Message:
    mutation = TYPE + "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": mutation, "mutations": [{"remove": n} for n in (DESTINATION, SERVED, ORIGINAL_PATH)]},
    }


_REWRITE_SOURCE = """\
function envoy_on_request(handle)
  local wanted, headers = handle:filterContext(), handle:headers()
  local path = headers:get(":path")
  local bare, query = string.match(path, "^([^?]*)(.*)$")
  local rewritten = wanted:get("path")
  if wanted:get("prefix") ~= nil then
    rewritten = rewritten .. string.sub(bare, #wanted:get("prefix") + 1)
  end
  if string.sub(rewritten, 1, 1) ~= "/" then
    rewritten = "/" .. rewritten
  end
  headers:replace("x-envoy-original-path", path)
  headers:replace(":path", rewritten .. query)
end
"""
"""The path that the server will see, made before the picker is asked: Envoy's own rewriting comes after it."""


def _filters() -> list[Message]:
    """The HTTP filters in the order in which a request passes them; a response passes them the other way.

    First what a rule changes, so that the picker sees what the server will see; then the picker, where a route names
    one; then the endpoints that it named become metadata, which clusters read.
    """
    processor: Message = {
        "@type": TYPE + "filters.http.ext_proc.v3.ExternalProcessor",
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
    rewrite: Message = {
        "@type": TYPE + "filters.http.lua.v3.Lua",
        "source_codes": {REWRITE: {"inline_string": _REWRITE_SOURCE}},
        "clear_route_cache": False,  # the weights would be drawn anew
    }
    mutation: Message = {"@type": TYPE + "filters.http.header_mutation.v3.HeaderMutation"}
    router: Message = {"@type": TYPE + "filters.http.router.v3.Router"}
    return [
        {"name": HEADERS, "typed_config": mutation, "disabled": True},
        {"name": REWRITE, "typed_config": rewrite, "disabled": True},
        {"name": EXT_PROC, "typed_config": processor, "disabled": True},
        {"name": DESTINATIONS, "typed_config": destinations(ENDPOINTS_TRIED, again=False)},
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def destinations(attempts: int, *, again: bool) -> Message:
    """The filter that gives each attempt its endpoint: the next of the list, after the last none, or the last `again`."""
    rules: list[Message] = []
    for number in range(attempts):
        # Entries before this attempt's, as many as the list has but for its last; or exactly as many, or nothing.
        pattern = (
            f"^(?:[^,]*,){{0,{number}}}\\s*([^,\\s]*).*$" if again else f"^(?:[^,]*,){{{number}}}\\s*([^,\\s]+).*$|^.*$"
        )
        rewrite: Message = {"pattern": {"regex": pattern}, "substitution": "\\1"}
        rules.append(
            {
                "header": DESTINATION,
                "on_header_present": {
                    "metadata_namespace": OWN_METADATA,
                    "key": _destination(number),
                    "regex_value_rewrite": rewrite,
                },
            }
        )
    served: Message = {"metadata_namespace": "envoy.lb", "key": SERVED}
    return {
        "@type": TYPE + "filters.http.header_to_metadata.v3.Config",
        "request_rules": rules,
        "response_rules": [{"header": SERVED, "on_header_present": served, "remove": True}],
    }


def _destination(number: int) -> str:
    """Name of the metadata with the endpoint of attempt `number`, from 0."""
    return f"destination{number}"


def _access_log(path: str) -> Message:
    """The access log, a JSON object a line; `endpoint` is the address of the server that the connection went to."""
    fields: dict[str, object] = {
        "time": "%START_TIME(%s.%6f)%",
        "request_id": "%REQ(x-request-id)%",
        "method": "%REQ(:method)%",
        "authority": "%REQ(:authority)%",
        "path": f"%REQ({ORIGINAL_PATH}?:path)%",
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
            "@type": TYPE + "access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": fields},
        },
    }


# --- clusters -----------------------------------------------------------------------------------


def clusters(pool: PoolApplied) -> list[Message]:
    """The cluster that sends a request where the pool's picker said, behind those of its attempts."""
    name = pool_cluster(pool.pool)
    attempts: list[Message] = [
        {
            "name": f"{name}#{number}",
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"metadata_key": {"key": OWN_METADATA, "path": [{"key": _destination(number)}]}},
            **_to_servers(pool),
        }
        for number in range(ATTEMPTS)
    ]
    composite: Message = {
        "@type": TYPE + "clusters.composite.v3.ClusterConfig",
        "clusters": [{"name": one["name"]} for one in attempts],
    }
    whole: Message = {
        "name": name,
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.composite", "typed_config": composite},
        **_to_servers(pool),
    }
    return [*attempts, whole]


def open_cluster(pool: PoolApplied, endpoints: list[tuple[str, int]]) -> Message:
    """The cluster of a pool's ready endpoints, balanced by Envoy: while it fails open, and for copies of requests."""
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
        context = TYPE + "transport_sockets.tls.v3.UpstreamTlsContext"
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
    return {f"envoy.extensions.{kind}": {"@type": TYPE + kind, **options}}


def _members(name: str, endpoints: list[tuple[str, int]]) -> Message:
    members = [{"endpoint": {"address": _address(address, port)}} for address, port in endpoints]
    return {"load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": members}]}}


def _address(address: str, port: int) -> Message:
    return {"socket_address": {"address": address, "port_value": port}}
