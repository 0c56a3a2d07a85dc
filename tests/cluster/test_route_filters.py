"""What HTTPRoutes ask for beside weights, from the manifest through a real Envoy to the server and back."""

from pathlib import Path

import pytest
from worlds.envoy import FixedPickers, gateway_files, run_gateway
from worlds.pools import Client, two_servers
from worlds.routed import TO_P, Broken, P, applied, gateway_of, pool_text, route_text, seen
from worlds.waiting import wait_for

from pointsman.core.events import EndpointJoined

# --- rewrites -----------------------------------------------------------------------------------


def test_the_route_of_kserve_reaches_the_server_under_the_path_that_it_serves(tmp_path: Path) -> None:
    rules = """\
  - matches: [{path: {type: PathPrefix, value: /team/qwen/v1/chat/completions}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1/chat/completions}}}]
    backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: p, port: 8000}]
    timeouts: {request: 0s, backendRequest: 0s}
  - matches: [{path: {type: PathPrefix, value: /team/qwen}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{kind: Service, name: qwen-workload, port: 8000}]
"""
    texts = pool_text(namespace="team"), route_text(rules, "team")
    assert applied(*texts)[1] == (
        "line 21: spec.rules[1].backendRefs[0].kind: the gateway serves InferencePools alone, and no Service: this share gets 500",
    )

    with gateway_of(tmp_path, *texts) as (gateway, client, _):
        path, headers = seen(client.ask("/team/qwen/v1/chat/completions?a=1"))
        assert path == "/v1/chat/completions?a=1"
        assert headers["x-envoy-original-path"] == "/team/qwen/v1/chat/completions?a=1"
        assert client.ask("/team/qwen/v1/models")[0] == 500
        assert [line["path"] for line in gateway.access_log(2)] == [
            "/team/qwen/v1/chat/completions?a=1",
            "/team/qwen/v1/models",
        ]


# The table of Gateway API, HTTPPathModifier: path, prefix that is matched, its replacement, path that the server gets.
PREFIXES = [
    ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
    ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
    ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
    ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
    ("/foo", "/foo", "/xyz", "/xyz"),
    ("/foo/", "/foo", "/xyz", "/xyz/"),
    ("/foo/bar", "/foo", "", "/bar"),
    ("/foo/", "/foo", "", "/"),
    ("/foo", "/foo", "", "/"),
    ("/foo/", "/foo", "/", "/"),
    ("/foo", "/foo", "/", "/"),
    ("/foo/bar?x=/foo", "/foo", "/", "/bar?x=/foo"),
    ("/bar", "/", "/xyz", "/xyz/bar"),
    ("/a.b/c", "/a.b", "/\\\\1", "/\\1/c"),
]


def test_prefixes_are_replaced_as_gateway_api_says_in_rewrites_and_in_redirects(tmp_path: Path) -> None:
    rules = ""
    for number, (_, prefix, value, _) in enumerate(PREFIXES):
        path = f'path: {{type: ReplacePrefixMatch, replacePrefixMatch: "{value}"}}'
        for kind, field in (("URLRewrite", "urlRewrite"), ("RequestRedirect", "requestRedirect")):
            match = f'path: {{type: PathPrefix, value: {prefix}}}, headers: [{{name: x-case, value: "{kind}{number}"}}]'
            rules += f"  - matches: [{{{match}}}]\n    filters: [{{type: {kind}, {field}: {{{path}}}}}]\n"
            rules += TO_P if kind == "URLRewrite" else ""
    state, warnings = applied(pool_text(), route_text(rules))
    assert (warnings, len(state.routes["default/r"].rules)) == ((), 2 * len(PREFIXES))

    with gateway_of(tmp_path, pool_text(), route_text(rules)) as (_, client, _):
        for number, (path, _, _, wanted) in enumerate(PREFIXES):
            assert seen(client.ask(path, {"x-case": f"URLRewrite{number}"}))[0] == wanted
            status, headers, _ = client.ask(path, {"x-case": f"RequestRedirect{number}"})
            authority = headers["location"].split("/")[2]
            assert (status, headers["location"].removeprefix(f"http://{authority}")) == (302, wanted)


def test_the_picker_sees_the_path_and_the_headers_that_the_server_will_see(tmp_path: Path) -> None:
    rules = f"""\
  - matches: [{{path: {{type: Exact, value: /chat}}}}]
    filters:
    - {{type: URLRewrite, urlRewrite: {{hostname: model.example, path: {{type: ReplaceFullPath, replaceFullPath: /v1/chat/completions}}}}}}
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: X-Gateway-Inference-Objective, value: batch}}]}}
{TO_P}"""
    state, _ = applied(pool_text(), route_text(rules))
    with two_servers() as (server, _), FixedPickers() as pickers:
        ports = {"default/p": pickers.start(server)}
        with run_gateway(tmp_path, state, ports) as gateway, Client(gateway) as client:
            path, headers = seen(client.ask("/chat?x=1"))

        assert (path, headers["host"]) == ("/v1/chat/completions?x=1", "model.example")
        [asked] = pickers.headers[ports["default/p"]]
        assert asked[":path"] == "/v1/chat/completions?x=1"
        assert asked["x-gateway-inference-objective"] == "batch"


# --- redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redirect", "status", "location"),
    [
        ("{path: {type: ReplaceFullPath, replaceFullPath: /docs}, statusCode: 302}", 302, "http://a.example:PORT/docs"),
        ("{hostname: b.example}", 302, "http://b.example:PORT/?q=1"),
        ("{scheme: https, statusCode: 301}", 301, "https://a.example:443/?q=1"),
        ("{scheme: https, hostname: b.example, statusCode: 308}", 308, "https://b.example/?q=1"),
        ("{hostname: b.example, port: 80, statusCode: 307}", 307, "http://b.example/?q=1"),
        ("{port: 8443, scheme: https, statusCode: 303}", 303, "https://a.example:8443/?q=1"),
    ],
)
def test_a_rule_that_only_redirects_answers_with_the_place(
    tmp_path: Path, redirect: str, status: int, location: str
) -> None:
    rules = f"""\
  - matches: [{{path: {{type: Exact, value: /}}}}]
    filters:
    - {{type: RequestRedirect, requestRedirect: {redirect}}}
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-from, value: gateway}}]}}}}
"""
    state, warnings = applied(route_text(rules))
    assert warnings == ()

    with run_gateway(tmp_path, state, {}) as gateway, Client(gateway) as client:
        found, headers, _ = client.ask("/?q=1", {"host": f"a.example:{gateway.port}"})

        wanted = location.replace("PORT", str(gateway.port))
        wanted = wanted if "/docs" not in wanted else wanted + "?q=1"
        assert (found, headers["location"], headers["x-from"]) == (status, wanted, "gateway")


# --- headers ------------------------------------------------------------------------------------


def test_header_modifiers_of_a_rule_and_of_a_backend_change_requests_and_responses(tmp_path: Path) -> None:
    value = "100% of {all} \\\\1 “quoted”"
    rules = f"""\
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{{name: X-Set, value: "{value}"}}, {{name: x-set, value: second}}]
        add: [{{name: x-add, value: more}}]
        remove: [X-Gone]
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-server, value: hidden}}], add: [{{name: x-new, value: "50%"}}], remove: [x-picked-by]}}
    backendRefs:
    - group: inference.networking.k8s.io
      kind: InferencePool
      name: p
      filters:
      - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-backend, value: p}}]}}}}
"""
    with gateway_of(tmp_path, pool_text(), route_text(rules)) as (_, client, _):
        answer = client.ask(headers={"x-set": "theirs", "x-add": "first", "x-gone": "1"})
        _, got = seen(answer)

        assert got["x-set"].encode("latin-1").decode() == value.replace("\\\\", "\\")
        assert got["x-add"] in ("more", "first,more")  # two lines of one name are one, in the server's dictionary
        assert got["x-backend"] == "p"
        assert "x-gone" not in got
        assert (answer[1]["x-server"], answer[1]["x-new"]) == ("hidden", "50%")
        assert "x-picked-by" not in answer[1]


# --- what cannot be done ------------------------------------------------------------------------

RATHER_500 = [
    ("filters: [{type: CORS, cors: {allowOrigins: ['*']}}]", "filters of type CORS are not made"),
    ("filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]", "filters of type ExtensionRef are"),
    ("filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC}}]", "filters of type ExternalAuth are not made"),
    ("filters: [{type: UrlRewrit}]", "found 'UrlRewrit', did you mean 'URLRewrite'?"),
    ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]", "the header Host"),
    ("filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}}]", "is no path"),
    ("filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}]", "a RequestMirror to a Service"),
    ("matches: [{headers: [{type: RegularExpression, name: x-case, value: '^(?!gemma).*$'}]}]", "is none of RE2"),
    ("matches: [{queryParams: [{type: RegularExpression, name: case, value: 'a('}]}]", "is none of RE2"),
    ("matches: [{path: {type: RegularExpression, value: '/v1/(?=x).*'}}]", "is none of RE2"),
    (
        "matches: [{path: {type: Exact, value: /v1/x}}]\n    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
        "replaces the prefix of an exact path",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("field", "words"), RATHER_500)
def test_what_cannot_be_done_answers_500_and_goes_to_no_other_rule(tmp_path: Path, field: str, words: str) -> None:
    rules = f"  - {field}\n{TO_P}  - backendRefs: [{P[2:].replace('name: p', 'name: q')}]\n"
    texts = pool_text(), pool_text("q"), route_text(rules)
    _, warnings = applied(*texts)
    [warning] = [one for one in warnings if words in one]
    assert "500" in warning

    with gateway_of(tmp_path, *texts) as (_, client, _):
        status, _, body = client.ask("/v1/x?case=a", {"x-case": "other"})

        assert status == 500
        assert words.partition("?")[0] in body.decode()


def test_only_the_share_of_a_backend_whose_filter_cannot_be_made_answers_500(tmp_path: Path) -> None:
    odd = P[2:-1] + ", weight: 1, filters: [{type: RequestRedirect, requestRedirect: {hostname: a.b}}]}"
    rules = f"  - backendRefs: [{odd}, {P[2:].replace('name: p', 'name: q')}]\n"
    with gateway_of(tmp_path, pool_text(), pool_text("q"), route_text(rules)) as (_, client, _):
        assert {client.ask()[0] for _ in range(40)} == {200, 500}


# --- matches ------------------------------------------------------------------------------------


def test_of_headers_and_parameters_with_an_equivalent_name_the_first_counts(tmp_path: Path) -> None:
    rules = f"""\
  - matches:
    - headers: [{{name: X-Model, value: a}}, {{name: x-model, value: b}}]
      queryParams: [{{name: v, value: "1"}}, {{name: v, value: "2"}}, {{name: V, value: "3"}}]
{TO_P}"""
    texts = pool_text(), route_text(rules)
    assert applied(*texts)[1] == (
        "line 16: spec.rules[0].matches[0].headers[1].name: x-model stands in line 16 already: this entry counts for nothing",
        "line 17: spec.rules[0].matches[0].queryParams[1].name: v stands in line 17 already: this entry counts for nothing",
    )

    with gateway_of(tmp_path, *texts) as (_, client, _):
        assert client.ask("/?v=1&V=3", {"x-model": "a"})[0] == 200
        for path, model in (("/?v=1&V=3", "b"), ("/?v=2&V=3", "a"), ("/?v=1", "a"), ("/?v=1&V=3", "a,b")):
            assert client.ask(path, {"x-model": model})[0] == 404


def test_regular_expressions_of_re2_are_kept_and_choose(tmp_path: Path) -> None:
    patterns = {
        "^(?i)gemma-.*": "GEMMA-3",
        r"^llama-\pN+$": "llama-3",
        r"qwen\z": "qwen",
        "^phi-[[:digit:]]+$": "phi-4",
    }
    rules = ""
    for pattern in patterns:
        rules += f"  - matches: [{{headers: [{{type: RegularExpression, name: x-model, value: '{pattern}'}}]}}]\n{TO_P}"
    rules += f"  - backendRefs: [{P[2:].replace('name: p', 'name: q')}]\n"
    texts = pool_text(), pool_text("q"), route_text(rules)
    assert applied(*texts)[1] == ()

    with gateway_of(tmp_path, *texts) as (_, client, (gemma, rest)):
        for model in patterns.values():
            assert client.ask(headers={"x-model": model})[1]["x-server"] == gemma
        assert client.ask(headers={"x-model": "other"})[1]["x-server"] == rest


# --- other namespaces ---------------------------------------------------------------------------

GRANT = """\
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: tenant-b}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: tenant-a}]
  to: [{group: inference.networking.k8s.io, kind: InferencePool}]
"""
STEAL = f"  - backendRefs: [{P[2:-1]}, namespace: tenant-b}}]\n"


@pytest.mark.parametrize(
    ("grant", "status"),
    [
        ("", 500),
        (GRANT, 200),
        (GRANT.replace("kind: InferencePool}", "kind: InferencePool, name: p}"), 200),
        (GRANT.replace("kind: InferencePool}", "kind: InferencePool, name: other}"), 500),
        (GRANT.replace("kind: InferencePool", "kind: Service"), 500),
        (GRANT.replace("tenant-a", "tenant-c"), 500),
        (GRANT.replace("kind: HTTPRoute", "kind: GRPCRoute"), 500),
        (GRANT.replace("namespace: tenant-b", "namespace: tenant-a"), 500),
    ],
)
def test_a_pool_of_another_namespace_serves_with_a_grant_alone(tmp_path: Path, grant: str, status: int) -> None:
    texts = [pool_text(namespace="tenant-b"), route_text(STEAL, "tenant-a"), *([grant] if grant else [])]
    with gateway_of(tmp_path, *texts) as (_, client, _):
        assert client.ask()[0] == status


def test_a_grant_that_goes_takes_the_traffic_with_it(tmp_path: Path) -> None:
    texts = pool_text(namespace="tenant-b"), route_text(STEAL, "tenant-a")
    with two_servers() as (server, _), FixedPickers() as pickers:
        ports = {"tenant-b/p": pickers.start(server)}
        with run_gateway(tmp_path, applied(*texts, GRANT)[0], ports) as gateway, Client(gateway) as client:
            assert client.ask()[0] == 200
            gateway.write(gateway_files(tmp_path, applied(*texts)[0], ports, gateway.port))
            wait_for(lambda: client.ask()[0] == 500, 5, "the grant is gone")


# --- copies -------------------------------------------------------------------------------------


def test_a_mirror_gets_a_copy_and_its_answer_goes_nowhere(tmp_path: Path) -> None:
    rules = f"""\
  - filters: [{{type: RequestMirror, requestMirror: {{backendRef: {P[2:].replace("name: p", "name: q")}, percent: 100}}}}]
{TO_P}"""
    texts = pool_text(), pool_text("q"), route_text(rules)
    with two_servers() as (server, _), Broken(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n") as copy:
        port = int(copy.name.partition(":")[2])
        joined = EndpointJoined(1, "default/q", "uid", "default", "pod", "127.0.0.1", port)
        state, warnings = applied(*texts, also=(joined,))
        with FixedPickers() as pickers:
            ports = {"default/p": pickers.start(server), "default/q": pickers.start(copy.name)}
            with run_gateway(tmp_path, state, ports) as gateway, Client(gateway) as client:
                assert [client.ask()[1]["x-server"] for _ in range(5)] == [server] * 5
                wait_for(lambda: copy.requests == 5, 5, "all were copied")

        assert warnings == ()
        assert pickers.asked[ports["default/q"]] == []
