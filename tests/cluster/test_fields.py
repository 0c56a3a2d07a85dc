"""Each field of the objects that are read does what the documents say: none is dropped in silence."""

from typing import Any

from worlds.crd_fields import check_fields, rows

POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
PREFIX = {"path": {"type": "PathPrefix", "value": "/a"}}
HEADERS = {"set": [{"name": "a", "value": "1"}], "add": [{"name": "b", "value": "2"}], "remove": ["c"]}
ELSEWHERE = {**POOL, "namespace": "other", "port": 8000}
WHOLE, PART = ({"type": kind, kind[0].lower() + kind[1:]: "/x"} for kind in ("ReplaceFullPath", "ReplacePrefixMatch"))

FILTERS: list[dict[str, Any]] = [
    {"type": "RequestHeaderModifier", "requestHeaderModifier": HEADERS},
    {"type": "ResponseHeaderModifier", "responseHeaderModifier": HEADERS},
    {"type": "RequestMirror", "requestMirror": {"backendRef": ELSEWHERE, "percent": 10}},
    {
        "type": "RequestMirror",
        "requestMirror": {"backendRef": ELSEWHERE, "fraction": {"numerator": 1, "denominator": 8}},
    },
    *(
        {
            "type": "RequestRedirect",
            "requestRedirect": {
                "scheme": scheme,
                "hostname": "a.example",
                "port": 8443,
                "statusCode": status,
                "path": path,
            },
        }
        for scheme, status, path in (
            ("http", 301, WHOLE),
            ("https", 302, PART),
            ("https", 303, WHOLE),
            ("https", 307, WHOLE),
            ("https", 308, WHOLE),
        )
    ),
    {"type": "URLRewrite", "urlRewrite": {"hostname": "a.example", "path": WHOLE}},
    {"type": "URLRewrite", "urlRewrite": {"hostname": "a.example", "path": PART}},
    {"type": "ExtensionRef", "extensionRef": {"group": "a.example", "kind": "B", "name": "c"}},
    {
        "type": "CORS",
        "cors": {
            "allowOrigins": ["*"],
            "allowCredentials": True,
            "allowMethods": [*METHODS, "*"],
            "allowHeaders": ["a"],
            "exposeHeaders": ["b"],
            "maxAge": 5,
        },
    },
    *(
        {
            "type": "ExternalAuth",
            "externalAuth": {
                "protocol": protocol,
                "backendRef": {"group": "", "kind": "Service", "name": "a", "namespace": "b", "port": 1},
                "grpc": {"allowedHeaders": ["a"]},
                "http": {"path": "/a", "allowedHeaders": ["a"], "allowedResponseHeaders": ["b"]},
                "forwardBody": {"maxSize": 1},
            },
        }
        for protocol in ("GRPC", "HTTP")
    ),
]
CONDITIONS = [{"name": "a", "type": kind, "value": "1"} for kind in ("Exact", "RegularExpression")]
ROUTE: dict[str, object] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "r"},
    "spec": {
        "parentRefs": [
            {"group": "g", "kind": "Gateway", "name": "a", "namespace": "b", "port": 80, "sectionName": "c"}
        ],
        "useDefaultGateways": "All",
        "hostnames": ["a.example"],
        "rules": [
            *({"matches": [PREFIX], "filters": [one]} for one in FILTERS),
            *({"matches": [PREFIX], "backendRefs": [{**POOL, "filters": [one]}]} for one in FILTERS),
            {
                "name": "rest",
                "matches": [
                    *({"method": method} for method in METHODS),
                    *({"path": {"type": kind, "value": "/b"}} for kind in ("Exact", "PathPrefix", "RegularExpression")),
                    *({"headers": [one], "queryParams": [one]} for one in CONDITIONS),
                ],
                "backendRefs": [{**ELSEWHERE, "weight": 3}],
                "retry": {"codes": [503], "attempts": 2, "backoff": "1s"},
                "timeouts": {"request": "20s", "backendRequest": "10s"},
                "sessionPersistence": {
                    "sessionName": "a",
                    "type": "Cookie",
                    "absoluteTimeout": "1h",
                    "cookieConfig": {"lifetimeType": "Permanent"},
                },
            },
            {"name": "header", "sessionPersistence": {"type": "Header"}},
            {"name": "session", "sessionPersistence": {"cookieConfig": {"lifetimeType": "Session"}}},
        ],
    },
}
ALONE: dict[str, object] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "alone"},
    "spec": {"useDefaultGateways": "None"},
}

GRANT: dict[str, object] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "ReferenceGrant",
    "metadata": {"name": "g"},
    "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "a"}],
        "to": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}],
    },
}


def test_each_field_of_a_route_does_what_the_documents_say() -> None:
    effects = {field: effect for field, effect, *_ in rows("routes.md", "### Fields of a route")}
    for field, of_a_rule, of_a_backend, *_ in rows("routes.md", "### Fields of a filter"):
        effects[f"spec.rules[].filters[].{field}"] = of_a_rule
        effects[f"spec.rules[].backendRefs[].filters[].{field}"] = of_a_backend

    assert check_fields("httproute", effects, ROUTE, ALONE) == []


def test_each_field_of_a_grant_does_what_the_documents_say() -> None:
    effects = {field: effect for field, effect, *_ in rows("routes.md", "### Fields of a ReferenceGrant")}

    assert check_fields("referencegrant", effects, GRANT) == []


def pool(version: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": version, "kind": "InferencePool", "metadata": {"name": "p"}, "spec": spec}


def test_each_field_of_a_pool_does_what_the_documents_say() -> None:
    effects = {field: effect for field, effect, *_ in rows("compatibility.md", "### Fields of an InferencePool, v1")}
    picker = {"group": "", "kind": "Service", "name": "e", "port": {"number": 9003}}
    examples = [
        pool(
            "inference.networking.k8s.io/v1",
            selector={"matchLabels": {"app": "p", "tier": "x"}},
            targetPorts=[{"number": 8000}, {"number": 8001}],
            appProtocol=protocol,
            endpointPickerRef={**picker, "failureMode": mode},
        )
        for protocol, mode in (("http", "FailOpen"), ("kubernetes.io/h2c", "FailClose"))
    ]

    assert check_fields("inferencepool-v1", effects, *examples) == []


def test_each_field_of_a_pool_of_v1alpha2_does_what_the_documents_say() -> None:
    heading = "### Fields of an InferencePool, v1alpha2"
    effects = {field: effect for field, effect, *_ in rows("compatibility.md", heading)}
    picker = {"group": "", "kind": "Service", "name": "e", "portNumber": 9003}
    examples = [
        pool(
            "inference.networking.x-k8s.io/v1alpha2",
            selector={"app": "p", "tier": "x"},
            targetPortNumber=8000,
            extensionRef={**picker, "failureMode": mode},
        )
        for mode in ("FailOpen", "FailClose")
    ]

    assert check_fields("inferencepool-v1alpha2", effects, *examples) == []


def test_each_field_of_an_objective_does_what_the_documents_say() -> None:
    effects = {field: effect for field, effect, *_ in rows("compatibility.md", "### Fields of an InferenceObjective")}
    reference = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}
    example: dict[str, object] = {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": "o"},
        "spec": {"poolRef": reference, "priority": 5},
    }

    assert check_fields("inferenceobjective", effects, example) == []
