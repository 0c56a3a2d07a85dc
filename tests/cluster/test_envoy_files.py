"""The gateway's files as values: what they say, and in which order they are replaced."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from worlds.pools import NEW, OLD, folded, pool, split

from pointsman.cluster.gateway.envoy import (
    BOOTSTRAP,
    CLUSTERS,
    LISTENERS,
    ROUTES,
    EnvoyMissing,
    GatewayPorts,
    XdsFiles,
    envoy_command,
    find_envoy,
    plan_writes,
    write_xds,
    xds,
)
from pointsman.cluster.gateway.regular_expressions import literal_prefix, regex_fault
from pointsman.cluster.gateway.route_order import covers
from pointsman.core.events import (
    BackendRef,
    EndpointJoined,
    GrantFrom,
    GrantTo,
    HeaderMatch,
    PoolApplied,
    ReferenceGrantApplied,
    RouteMatch,
    RouteObserved,
    RouteRule,
)
from pointsman.core.state.projection import ClusterState

HOME, LOG = Path("/run/xds"), Path("/run/access.jsonl")
POOLS = ("default/a", "default/b", "other/c")
HOSTS = ("example.com", "api.example.com", "*.example.com", "*.api.example.com", "other.org")
SEGMENTS = st.lists(st.sampled_from(("a", "b", "ab")), max_size=3)

paths = SEGMENTS.map(lambda parts: "/" + "/".join(parts))
matches = st.builds(
    RouteMatch,
    path=paths | SEGMENTS.map(lambda parts: "/" + "".join(p + "/" for p in parts)),
    path_kind=st.sampled_from(("PathPrefix", "Exact")),
    headers=st.lists(st.sampled_from((HeaderMatch("X-A", "1"), HeaderMatch("x-b", "2"))), unique=True).map(tuple),
    method=st.sampled_from(("", "GET", "POST")),
)
backends = st.builds(BackendRef, pool=st.sampled_from((*POOLS, "default/missing")), weight=st.integers(0, 100))
rules = st.builds(
    RouteRule,
    matches=st.lists(matches, max_size=3).map(tuple),
    backends=st.lists(backends, max_size=3, unique_by=lambda b: b.pool).map(tuple),
)
observed = st.builds(
    RouteObserved,
    route=st.sampled_from(("default/r1", "default/r2", "other/r1")),
    rules=st.lists(rules, min_size=1, max_size=4).map(tuple),
    hostnames=st.lists(st.sampled_from(HOSTS), max_size=2, unique=True).map(tuple),
)
pools = st.lists(
    st.builds(pool, st.sampled_from(POOLS), st.sampled_from(("FailOpen", "FailClose"))), unique_by=lambda p: p.pool
)
grants = st.builds(
    lambda own, other, name: ReferenceGrantApplied(
        f"{other}/g",
        (GrantFrom("gateway.networking.k8s.io", "HTTPRoute", own),),
        (GrantTo("inference.networking.k8s.io", "InferencePool", name),),
    ),
    st.sampled_from(("default", "other")),
    st.sampled_from(("default", "other")),
    st.sampled_from(("", "a")),
)
states = st.builds(
    lambda pools, routes, grants: folded(*pools, *routes, *grants),
    pools,
    st.lists(observed, max_size=3, unique_by=lambda r: r.route),
    st.lists(grants, max_size=2, unique_by=lambda g: g.grant),
)
ports = st.builds(
    GatewayPorts,
    address=st.just("127.0.0.1"),
    port=st.just(8080),
    pickers=st.dictionaries(st.sampled_from(POOLS), st.integers(1, 65_535)),
    without_picker=st.frozensets(st.sampled_from(POOLS)),
)


def resources(files: XdsFiles, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(files[name])["resources"]
    return found


def envoys_choice(table: dict[str, Any], host: str, path: str, method: str, headers: dict[str, str]) -> str:
    """The name of the route that Envoy takes, by its documentation; nothing where it answers 404."""
    domains = {domain: v for v in table["virtual_hosts"] for domain in v["domains"]}
    wild = [d for d in domains if d.startswith("*.") and host.endswith(d[1:]) and host != d[1:]]
    virtual = domains.get(host) or domains.get(max(wild, key=len, default="*"))
    assert virtual is not None
    for route in virtual["routes"]:
        match = route["match"]
        plain = path.partition("?")[0]
        by_path = (
            plain == match.get("path")
            or ("prefix" in match and plain.startswith(match["prefix"]))
            or (
                "path_separated_prefix" in match
                and re.match(re.escape(match["path_separated_prefix"]) + "(/|$)", plain)
            )
        )
        got = {**headers, ":method": method}
        if by_path and all(got.get(h["name"]) == h["string_match"]["exact"] for h in match.get("headers", ())):
            name: str = route["name"]
            return name
    return ""


def specified_choice(state: ClusterState, host: str, path: str, method: str, headers: dict[str, str]) -> str:
    """The rule that Gateway API gives the request to: the best of all that match, looked at one by one."""
    found: list[tuple[tuple[object, ...], str]] = []
    for route in state.routes.values():
        covering = [h for h in route.hostnames or ("*",) if covers(h, host)]
        for index, rule in enumerate(route.rules):
            for match in rule.matches or (RouteMatch(),):
                prefix = match.path.rstrip("/")
                exact = match.path_kind == "Exact"
                if not (path == match.path if exact else path == prefix or path.startswith(prefix + "/")):
                    continue
                if any(headers.get(h.name.lower()) != h.value for h in match.headers):
                    continue
                if not covering or (match.method and match.method != method):
                    continue
                specific = max((0 if h.startswith("*") else len(h), len(h)) for h in covering)
                length = len(match.path) if exact else len(prefix)
                rank = (-specific[0], -specific[1], not exact, -length, not match.method, -len(match.headers))
                found.append(((*rank, route.route, index), f"{route.route}/{rule.name or index}"))
    return min(found)[1] if found else ""


@given(
    states,
    st.sampled_from(("example.com", "api.example.com", "x.example.com", "x.api.example.com", "nobody.net")),
    paths,
    st.sampled_from(("GET", "POST")),
    st.dictionaries(st.sampled_from(("x-a", "x-b")), st.sampled_from(("1", "2"))),
)
def test_envoy_takes_the_rule_that_gateway_api_names(
    state: ClusterState, host: str, path: str, method: str, headers: dict[str, str]
) -> None:
    files = xds(state, GatewayPorts("127.0.0.1", 80, {}), HOME, LOG)
    [table] = resources(files, ROUTES)

    taken = envoys_choice(table, host, path, method, headers)

    assert taken == specified_choice(state, host, path, method, headers)


@given(states, ports)
def test_every_share_goes_to_its_pool_and_asks_that_pools_picker(state: ClusterState, ports: GatewayPorts) -> None:
    files = xds(state, ports, HOME, LOG)
    clusters = {c["name"]: c for c in resources(files, CLUSTERS)}
    [table] = resources(files, ROUTES)

    assert files == xds(state, ports, HOME, LOG)
    assert len(clusters) == len(resources(files, CLUSTERS))
    for virtual in table["virtual_hosts"]:
        for route in virtual["routes"]:
            of = state.routes[route["name"].rpartition("/")[0]]
            rule = of.rules[int(route["name"].rpartition("/")[2])]
            shares = {b.pool: b.weight for b in rule.backends if b.weight}
            if not shares:
                assert route["direct_response"]["status"] == 500
                continue
            drawn = {c["name"]: c for c in route["route"]["weighted_clusters"]["clusters"]}
            assert sorted(c["weight"] for c in drawn.values()) == sorted(shares.values())
            for name, weight in shares.items():
                open_now = name in ports.without_picker and name in state.pools
                open_now = open_now and state.pools[name].failure_mode == "FailOpen"
                asked_now = name in ports.pickers and name not in ports.without_picker
                if name not in state.pools or not (open_now or asked_now) or not granted(state, of.route, name):
                    assert drawn[f"absent:InferencePool:{name}"]["weight"] == weight
                    known = (
                        name in state.pools and name in ports.pickers and not open_now
                    )  # it is kept for the picker's return
                    assert (f"pool:{name}" in clusters) == known
                    continue
                mine = drawn[f"{'open' if open_now else 'pool'}:{name}"]
                assert mine["weight"] == weight
                if open_now:
                    assert clusters[mine["name"]]["type"] == "STATIC"
                    assert "typed_per_filter_config" not in mine
                    continue
                attempts = clusters[mine["name"]]["cluster_type"]["typed_config"]["clusters"]
                assert {clusters[one["name"]]["type"] for one in attempts} == {"ORIGINAL_DST"}
                [override] = mine["typed_per_filter_config"].values()
                asked = override["overrides"]["grpc_service"]["envoy_grpc"]["cluster_name"]
                [member] = clusters[asked]["load_assignment"]["endpoints"][0]["lb_endpoints"]
                assert member["endpoint"]["address"]["socket_address"]["port_value"] == ports.pickers[name]


def granted(state: ClusterState, route: str, name: str) -> bool:
    """Whether the route and the pool share a namespace, or a grant of the pool's says that they need not."""
    (own, _, _), (other, _, short) = route.partition("/"), name.partition("/")
    found = state.grants.get(f"{other}/g")
    return own == other or (
        found is not None and found.sources[0].namespace == own and found.targets[0].name in ("", short)
    )


def used_clusters(text: str) -> set[str]:
    return set(re.findall(r'"((?:pool|open|picker):[^"]*)"', text))


@given(states, ports, states, ports)
def test_no_route_is_ever_without_its_clusters(
    before: ClusterState, ports_before: GatewayPorts, after: ClusterState, ports_after: GatewayPorts
) -> None:
    there = dict(xds(before, ports_before, HOME, LOG))
    wanted = xds(after, ports_after, HOME, LOG)

    for name, text in plan_writes(there, wanted):
        assert there[name] != text
        there[name] = text
        clusters = {c["name"] for c in json.loads(there[CLUSTERS])["resources"]}
        assert used_clusters(there[ROUTES]) <= clusters

    assert there == wanted
    assert plan_writes(there, wanted) == []


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_change_of_weights_writes_the_routes_and_nothing_else(a: int, b: int, c: int, d: int) -> None:
    ports = GatewayPorts("127.0.0.1", 80, {OLD: 1, NEW: 2})
    before, after = (
        xds(folded(pool(OLD), pool(NEW), split(*weights)), ports, HOME, LOG) for weights in ((a, b), (c, d))
    )

    written = [name for name, _ in plan_writes(before, after)]

    assert written in ([], [ROUTES])
    assert (written == []) == (before == after)


def test_pods_that_come_and_go_change_no_file() -> None:
    ports = GatewayPorts("127.0.0.1", 80, {OLD: 1})
    joined = EndpointJoined(1, OLD, "uid", "default", "pod", "10.0.0.1", 8000)

    assert xds(folded(pool(OLD), split(1, 0)), ports, HOME, LOG) == xds(
        folded(pool(OLD), split(1, 0), joined), ports, HOME, LOG
    )


def test_files_are_replaced_whole_and_only_when_they_differ(tmp_path: Path) -> None:
    ports = GatewayPorts("127.0.0.1", 80, {OLD: 1})
    files = xds(folded(pool(OLD), split(1, 0)), ports, HOME, LOG)

    first = write_xds(tmp_path / "new" / "xds", files)
    inodes = {name: (tmp_path / "new" / "xds" / name).stat().st_ino for name in files}
    second = write_xds(tmp_path / "new" / "xds", files)

    assert first == [CLUSTERS, ROUTES, LISTENERS, BOOTSTRAP]
    assert second == []
    assert {path.name: path.read_text() for path in (tmp_path / "new" / "xds").iterdir()} == files
    assert inodes == {name: (tmp_path / "new" / "xds" / name).stat().st_ino for name in files}


@pytest.mark.parametrize(
    ("pattern", "usable"),
    [
        ("/v1/.*", True),
        ("(?i)llama|mistral", True),
        ("(?P<name>x)", True),
        ("^(?i)gemma-.*", True),
        (r"^gemma-\pN+$", True),
        (r"gemma\z", True),
        ("^gemma-[[:digit:]]+$", True),
        ("^(?!gemma).*$", False),
        ("gemma-(", False),
        ("[a-z]{2,3}+", False),
        ("(?=x)", False),
        ("(?<!x)y", False),
        (r"(a)\1", False),
        ("(a{1000}){1000}", False),
        ("(", False),
        ("", False),
    ],
)
def test_regular_expressions_that_envoy_would_refuse_are_seen(pattern: str, usable: bool) -> None:
    assert (regex_fault(pattern) == "") == usable


@given(st.from_regex(r"\^?/?(?:[a-c./]|\\\.|\[ab\]|a\*|b\?|c\{0,2\}|\(a\|b\)|\|){0,6}", fullmatch=True), st.data())
def test_all_that_a_pattern_means_begins_with_its_literal_prefix(pattern: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(pattern, fullmatch=True))

    assert text.startswith(literal_prefix(pattern))


def test_an_application_protocol_of_h2c_is_spoken() -> None:
    state = folded(pool(OLD, app_protocol="kubernetes.io/h2c"), PoolApplied(NEW, {}, (8000,)))
    clusters = {
        c["name"]: json.dumps(c["typed_extension_protocol_options"])
        for c in resources(xds(state, GatewayPorts("127.0.0.1", 80, {OLD: 1, NEW: 2}), HOME, LOG), CLUSTERS)
    }

    assert '"http2_protocol_options"' in clusters[f"pool:{OLD}"]
    assert '"http2_protocol_options"' not in clusters[f"pool:{NEW}"]


def test_the_command_names_the_binary_that_was_found() -> None:
    found = find_envoy()
    if isinstance(found, EnvoyMissing):
        pytest.skip(found.reason)

    assert envoy_command(found, HOME / BOOTSTRAP)[:3] == [str(found), "--config-path", "/run/xds/bootstrap.json"]
