"""Whatever the reader takes from a route, Envoy takes from us: it refuses the whole table for one field that it does not."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from worlds.envoy import envoy_binary
from worlds.pools import folded, pool

from pointsman.cluster.gateway.envoy import CLUSTERS, LISTENERS, ROUTES, GatewayPorts, xds
from pointsman.cluster.objects.manifest import read_manifest
from pointsman.cluster.objects.yaml_document import DocumentError
from pointsman.core.events import RouteObserved

text = st.text(min_size=1, max_size=8)
odd = st.sampled_from(
    ("%", "%%", "%REQ(a)%", "\\1", "{}", "/a?b", "/a#b", "//", "/", "/a/", "a b", "\x7f", "é", "/%2f", "*")
)
words = text | odd | st.from_regex(r"[a-zA-Z0-9#$%&'*+.^_|~-]{1,6}", fullmatch=True)
paths = words.map(lambda word: f"/{word}") | st.just("/") | words
patterns = words | st.from_regex(r"[ab.\[\]()*+?{}\\|^$0-9,:]{1,8}", fullmatch=True)
hosts = st.sampled_from(("a.example", "*.example", "b", "x-1.y")) | words
numbers = st.integers(0, 9_999)


def mapping(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def condition(value: st.SearchStrategy[str] = words) -> st.SearchStrategy[dict[str, Any]]:
    exact = st.fixed_dictionaries({"name": words, "value": value})
    regular = st.fixed_dictionaries({"name": words, "value": patterns, "type": st.just("RegularExpression")})
    return exact | regular


def few(items: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, max_size=most)


headers = mapping(
    set=few(st.fixed_dictionaries({"name": words, "value": words})),
    add=few(st.fixed_dictionaries({"name": words, "value": words})),
    remove=few(words),
)
modifiers = st.one_of(
    st.fixed_dictionaries({"type": st.just("ReplaceFullPath"), "replaceFullPath": paths}),
    st.fixed_dictionaries({"type": st.just("ReplacePrefixMatch"), "replacePrefixMatch": paths}),
)
POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}
filters = st.one_of(
    headers.map(lambda h: {"type": "RequestHeaderModifier", "requestHeaderModifier": h}),
    headers.map(lambda h: {"type": "ResponseHeaderModifier", "responseHeaderModifier": h}),
    mapping(hostname=hosts, path=modifiers).map(lambda f: {"type": "URLRewrite", "urlRewrite": f}),
    mapping(
        hostname=hosts,
        path=modifiers,
        scheme=st.sampled_from(("http", "https")),
        port=numbers,
        statusCode=st.sampled_from((301, 302, 303, 307, 308)),
    ).map(lambda f: {"type": "RequestRedirect", "requestRedirect": f}),
    st.integers(0, 100).map(
        lambda n: {"type": "RequestMirror", "requestMirror": {"backendRef": POOL, "percent": n}},
    ),
)
durations = st.sampled_from(("0s", "1ms", "99999h", "1h2m3s4ms"))
matches = mapping(
    path=st.fixed_dictionaries({"type": st.sampled_from(("Exact", "PathPrefix")), "value": paths})
    | st.fixed_dictionaries({"type": st.just("RegularExpression"), "value": patterns}),
    headers=few(condition()),
    queryParams=few(condition()),
    method=st.sampled_from(("GET", "CONNECT", "POST")),
)
rules = mapping(
    name=words,
    matches=few(matches),
    filters=few(filters),
    backendRefs=few(st.builds(lambda w, f: {**POOL, "weight": w, "filters": f}, st.integers(0, 10**6), few(filters))),
    retry=mapping(codes=few(st.integers(400, 599)), attempts=st.integers(0, 9), backoff=durations),
    timeouts=mapping(request=durations, backendRequest=durations),
)
routes = st.fixed_dictionaries({"hostnames": few(hosts), "rules": few(rules, 3)})


def read(number: int, spec: dict[str, Any]) -> list[RouteObserved]:
    """The route, where the reader takes it."""
    version = "gateway.networking.k8s.io/v1"
    found = {"apiVersion": version, "kind": "HTTPRoute", "metadata": {"name": f"r{number}"}, "spec": spec}
    try:
        manifest = read_manifest("f.json", json.dumps(found).encode())
    except DocumentError:
        return []
    return [one.value for one in manifest.objects if isinstance(one.value, RouteObserved)]


def refusal(home: Path, found: list[RouteObserved]) -> str:
    """What Envoy says against a table of these routes; empty where it takes it."""
    state = folded(pool("default/p"), *found)
    files = xds(state, GatewayPorts("127.0.0.1", 8080, {"default/p": 1}), home, home / "access.jsonl")
    listeners, clusters, tables = (json.loads(files[name])["resources"] for name in (LISTENERS, CLUSTERS, ROUTES))
    manager = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = {k: v for k, v in tables[0].items() if k != "@type"} | {"validate_clusters": False}
    static = {"listeners": listeners, "clusters": clusters}
    for resource in (*listeners, *clusters):
        del resource["@type"]
    (home / "static.json").write_text(json.dumps({"static_resources": static}))
    command = [str(envoy_binary()), "--mode", "validate", "--config-path", str(home / "static.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else done.stderr[-1500:]


def of_rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {"rules": [{"backendRefs": [POOL], **rule}]}


def odd_routes() -> Iterator[dict[str, Any]]:
    """Routes of one rule, with one thing in it that could break the table of all."""
    for path in ("/a?b", "/a#b", "/a//b", "/a b", "/é", "/\x7f", "/%2f", "//", "/a/.."):
        for kind in ("PathPrefix", "Exact"):
            yield of_rule({"matches": [{"path": {"type": kind, "value": path}}]})
    for value in ("\x7f", "é", "a\tb", "\u2028", " a ", "%", "%REQ(a)%", "\\1"):
        yield of_rule({"matches": [{"headers": [{"name": "a", "value": value}]}]})
        yield of_rule({"matches": [{"queryParams": [{"name": value, "value": value}]}]})
        for kind in ("Request", "Response"):
            changes = {"set": [{"name": "a", "value": value}]}
            yield of_rule({"filters": [{"type": f"{kind}HeaderModifier", f"{kind.lower()}HeaderModifier": changes}]})
    for name in ("a%b", "#", "a|b", "^", "HOST", ":path", "connection", "content-length", "x-envoy-a"):
        changed = {"set": [{"name": name, "value": "1"}], "remove": [name]}
        yield of_rule({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": changed}]})
        yield of_rule({"matches": [{"headers": [{"name": name, "value": "1"}]}]})
    for value in ("", "/", "/a b", "/a%20b", "/%", "/\\1", "/é", "//x", "a", "/a?b"):
        for kind in ("ReplaceFullPath", "ReplacePrefixMatch"):
            change = {"path": {"type": kind, kind[0].lower() + kind[1:]: value}}
            yield of_rule({"backendRefs": [], "filters": [{"type": "RequestRedirect", "requestRedirect": change}]})
            yield of_rule({"filters": [{"type": "URLRewrite", "urlRewrite": change}]})
    yield of_rule({"timeouts": {"request": "99999h"}, "retry": {"backoff": "99999h", "codes": [599, 599, 400]}})
    yield of_rule({"backendRefs": [{**POOL, "weight": 1_000_000}] * 64})


def test_envoy_takes_what_is_odd_in_a_route(tmp_path: Path) -> None:
    specs = list(odd_routes())
    found = [route for number, spec in enumerate(specs) for route in read(number, spec)]

    assert len(found) > len(specs) * 3 / 4
    assert refusal(tmp_path, found) == ""


@settings(max_examples=4, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(routes, min_size=30, max_size=40))
def test_envoy_takes_every_route_that_the_reader_takes(
    tmp_path_factory: pytest.TempPathFactory, specs: list[dict[str, Any]]
) -> None:
    found = [route for number, spec in enumerate(specs) for route in read(number, spec)]

    assert refusal(tmp_path_factory.mktemp("envoy"), found) == ""
