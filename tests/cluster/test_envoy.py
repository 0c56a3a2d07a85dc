"""The gateway's files in a real Envoy."""

import json
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from worlds.envoy import FixedPickers, Gateway, envoy_binary, gateway_files, run_envoy, run_gateway
from worlds.pools import NEW, OLD, Client, folded, pool, rollout, split, two_servers
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import BOOTSTRAP, CLUSTERS, LISTENERS, ROUTES, GatewayPorts, write_xds, xds
from pointsman.core.events import BackendRef, EndpointJoined, HeaderMatch, RouteMatch, RouteObserved, RouteRule


def test_the_pool_that_the_weight_drew_is_asked_and_serves(tmp_path: Path) -> None:
    state = folded(pool(OLD), pool(NEW), split(90, 10))
    with rollout(tmp_path, state) as (gateway, pickers, ports), Client(gateway) as client:
        seen: Counter[tuple[str, str]] = Counter()
        for i in range(1_000):
            status, headers, _ = client.ask(headers={"x-request-id": f"request-{i}"})
            assert status == 200
            assert headers["x-request-id"] == f"request-{i}"
            assert headers["x-served"] == headers["x-server"]
            seen[headers["x-picked-by"], headers["x-server"]] += 1

        assert set(seen) == {(str(port), pickers.named[port]) for port in ports.values()}
        # 1,000 draws of 0.1: 60 to 140 is beyond four standard deviations
        assert 60 < seen[str(ports[NEW]), pickers.named[ports[NEW]]] < 140
        lines = gateway.access_log(1_000)
        assert len(lines) == 1_000
        by_id = {line["request_id"]: line for line in lines}
        for name, port in ports.items():
            for request_id in pickers.asked[port]:
                line = by_id[request_id]
                assert line["cluster"] == f"pool:{name}"
                assert line["endpoint"] == pickers.named[port]
                assert (line["status"], line["path"]) == (200, "/v1/completions")


def test_new_weights_rewrite_only_the_routes_and_leave_a_waiting_request_with_its_pool(tmp_path: Path) -> None:
    before, after = (folded(pool(OLD), pool(NEW), split(*weights)) for weights in ((1, 0), (0, 1)))
    with rollout(tmp_path, before) as (gateway, pickers, ports):
        pickers.hold(ports[OLD])
        answers: list[tuple[int, dict[str, str], bytes]] = []

        def ask() -> None:
            with Client(gateway) as waiting:
                answers.append(waiting.ask())

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: len(pickers.asked[ports[OLD]]) == 1, 5, "the old pool's picker is asked")
        pid = gateway.process.pid
        written = gateway.write(gateway_files(tmp_path, after, ports, gateway.port))
        wait_for(lambda: _picked_by(gateway) == str(ports[NEW]), 5, "the new weights are in force")
        pickers.release(ports[OLD])
        thread.join(10)

        assert written == [ROUTES]
        [(status, headers, _)] = answers
        assert (status, headers["x-picked-by"]) == (200, str(ports[OLD]))
        assert headers["x-server"] == pickers.named[ports[OLD]]
        assert gateway.process.poll() is None
        assert gateway.process.pid == pid


def _picked_by(gateway: Gateway) -> str:
    """The picker that answers within half a second; nothing where it does not."""
    with Client(gateway, patience=0.5) as client, suppress(TimeoutError):
        return client.ask()[1]["x-picked-by"]
    return ""


def test_without_its_picker_a_pool_answers_5xx_at_once_and_again_when_it_is_back(tmp_path: Path) -> None:
    state = folded(pool(OLD), pool(NEW), split(1, 0))
    with rollout(tmp_path, state) as (gateway, pickers, ports), Client(gateway) as client:
        assert client.ask()[0] == 200
        for _ in range(2):
            pickers.stop(ports[OLD])
            for body in (b"{}", None):
                started = time.monotonic()
                with Client(gateway) as fresh:
                    status, _, _ = fresh.ask(body=body)
                assert 500 <= status < 600
                assert time.monotonic() - started < 1
            pickers.start(pickers.named[ports[OLD]], ports[OLD])
            wait_for(lambda: _status(gateway) == 200, 1, "the picker is asked again")


def test_a_picker_that_hangs_holds_its_requests_for_seconds_only(tmp_path: Path) -> None:
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()  # connections are taken by the kernel, and nobody answers them
        with run_gateway(tmp_path, folded(pool(OLD), split(1, 0)), {OLD: hung.getsockname()[1]}) as gateway:
            started = time.monotonic()

            assert 500 <= _status(gateway) < 600
            assert time.monotonic() - started < 7


def _status(gateway: Gateway) -> int:
    with Client(gateway) as client:
        return client.ask()[0]


def test_a_destination_the_client_names_is_not_used(tmp_path: Path) -> None:
    state = folded(pool(OLD), pool(NEW), split(1, 0))
    with rollout(tmp_path, state) as (gateway, pickers, ports), Client(gateway) as client:
        theirs = pickers.named[ports[NEW]]

        status, headers, body = client.ask(headers={"X-Gateway-Destination-Endpoint": theirs})

        assert status == 200
        assert headers["x-server"] == pickers.named[ports[OLD]]
        assert theirs not in body.decode()


def test_of_several_named_endpoints_the_first_serves(tmp_path: Path) -> None:
    state = folded(pool(OLD), pool(NEW), split(1, 0))
    with rollout(tmp_path, state) as (gateway, pickers, ports), Client(gateway) as client:
        first, second = pickers.named[ports[OLD]], pickers.named[ports[NEW]]
        for text in (f"{first},{second}", f"{first}, {second}"):
            pickers.stop(ports[OLD])
            pickers.start(text, ports[OLD])
            assert client.ask()[1]["x-server"] == first


def test_a_websocket_passes_through_the_pool_that_its_picker_named(tmp_path: Path) -> None:
    with (
        rollout(tmp_path, folded(pool(OLD), pool(NEW), split(1, 0))) as (gateway, _, _),
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client,
        client.makefile("rb") as lines,
    ):
        client.sendall(
            b"GET /v1/realtime?model=m HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert lines.readline().startswith(b"HTTP/1.1 101 ")
        while lines.readline() != b"\r\n":
            pass
        for message in (b"one\n", b"two" * 1000 + b"\n"):
            client.sendall(message)
            assert lines.readline() == message


def test_request_ids_are_made_where_missing_and_kept_where_not(tmp_path: Path) -> None:
    theirs = "7b0ee2a2-42b7-4f8a-9c4e-1a2b3c4d5e6f"
    with rollout(tmp_path, folded(pool(OLD), pool(NEW), split(1, 0))) as (gateway, pickers, ports):
        with Client(gateway) as client:
            made = client.ask()[1]["x-request-id"]
            kept = client.ask(headers={"x-request-id": theirs})[1]["x-request-id"]

        assert len(made) == 36
        assert kept == theirs
        assert pickers.asked[ports[OLD]] == [made, theirs]


def test_a_body_of_megabytes_reaches_the_server_whole(tmp_path: Path) -> None:
    with rollout(tmp_path, folded(pool(OLD), pool(NEW), split(1, 0))) as (gateway, _, _), Client(gateway) as client:
        status, _, body = client.ask(body=b"x" * 5_000_000)

        assert status == 200
        assert json.loads(body)["body_bytes"] == 5_000_000


def test_rules_without_a_backend_that_can_serve(tmp_path: Path) -> None:
    missing = BackendRef("default/missing", 1)
    service = BackendRef("default/web", 1, "Service", "")
    rules = (
        RouteRule((RouteMatch("/none"),), ()),
        RouteRule((RouteMatch("/zero"),), (BackendRef(OLD, 0), BackendRef(NEW, 0))),
        RouteRule((RouteMatch("/missing"),), (missing,)),
        RouteRule((RouteMatch("/service"),), (service,)),
        RouteRule((RouteMatch("/half"),), (BackendRef(OLD, 1), missing)),
        RouteRule((RouteMatch("/unpicked"),), (BackendRef("default/unpicked", 1),)),
    )
    state = folded(pool(OLD), pool(NEW), pool("default/unpicked"), RouteObserved("default/r", rules))
    with rollout(tmp_path, state) as (gateway, _, _), Client(gateway) as client:
        for path in ("/none", "/zero", "/missing", "/service", "/unpicked"):
            assert client.ask(path)[0] == 500, path
        shares = Counter(client.ask("/half")[0] for _ in range(200))
        assert client.ask("/elsewhere")[0] == 404

        assert set(shares) == {200, 500}
        assert 60 < shares[500] < 140


def test_routes_appear_and_go_without_a_restart(tmp_path: Path) -> None:
    empty, full = folded(), folded(pool(OLD), pool(NEW), split(1, 0))
    with two_servers() as (old, _), FixedPickers() as pickers:
        ports = {OLD: pickers.start(old)}
        with run_gateway(tmp_path, empty, ports) as gateway:
            assert _status(gateway) == 404
            gateway.write(gateway_files(tmp_path, full, ports, gateway.port))
            wait_for(lambda: _status(gateway) == 200, 5, "the route is there")
            gateway.write(gateway_files(tmp_path, empty, ports, gateway.port))
            wait_for(lambda: _status(gateway) == 404, 5, "the route is gone")


def test_rules_match_as_gateway_api_says(tmp_path: Path) -> None:
    to_old, to_new = (BackendRef(OLD),), (BackendRef(NEW),)
    beta = HeaderMatch("X-Version", "beta")
    rules = (
        RouteRule((RouteMatch("/"),), to_old, "all"),
        RouteRule((RouteMatch("/v1/chat"),), to_new, "prefix"),
        RouteRule((RouteMatch("/v1/chat/exact", "Exact"),), to_old, "exact"),
        RouteRule((RouteMatch("/v1/chat", headers=(beta,)),), to_old, "one-header"),
        RouteRule(
            (RouteMatch("/v1/chat", headers=(beta, HeaderMatch("x-user", "a.*", "RegularExpression"))),), to_new, "two"
        ),
        RouteRule((RouteMatch("/v1/chat", method="GET"),), to_old, "method"),
        RouteRule((RouteMatch("/models/[a-z]+", "RegularExpression"),), to_new, "regex"),
        RouteRule((RouteMatch("/looked(?=ahead)", "RegularExpression"),), to_new, "none-of-re2"),
    )
    other = RouteObserved("default/b", (RouteRule((), to_new, "host"),), ("api.example.com",))
    wild = RouteObserved("default/c", (RouteRule((RouteMatch("/wild"),), to_new, "wild"),), ("*.example.com",))
    state = folded(pool(OLD), pool(NEW), RouteObserved("default/a", rules), other, wild)
    cases: list[tuple[str, str, dict[str, str], str]] = [
        ("POST", "/v1/completions", {}, "a/all"),
        ("POST", "/v1/chat", {}, "a/prefix"),
        ("POST", "/v1/chat/", {}, "a/prefix"),
        ("POST", "/v1/chat?x=1", {}, "a/prefix"),
        ("POST", "/v1/chat/completions", {}, "a/prefix"),
        ("POST", "/v1/chatter", {}, "a/all"),
        ("POST", "/v1/chat/exact", {}, "a/exact"),
        ("POST", "/v1/chat/exact/", {}, "a/prefix"),
        ("POST", "/v1/chat", {"x-version": "beta"}, "a/one-header"),
        ("POST", "/v1/chat", {"x-version": "betamax"}, "a/prefix"),
        ("POST", "/v1/chat", {"x-version": "beta", "x-user": "ann"}, "a/two"),
        ("GET", "/v1/chat", {"x-version": "beta"}, "a/method"),
        ("POST", "/models/llama", {}, "a/regex"),
        ("POST", "/models/llama/3", {}, "a/all"),
        ("POST", "/v1/chat", {"host": "api.example.com:8080"}, "b/host"),
        ("POST", "/wild/x", {"host": "web.example.com"}, "c/wild"),
        ("POST", "/v1/chat/exact", {"host": "web.example.com"}, "a/exact"),
        ("POST", "/wild", {"host": "example.com"}, "a/all"),
    ]
    with rollout(tmp_path, state) as (gateway, _, _), Client(gateway) as client:
        for number, (method, path, headers, _) in enumerate(cases):
            body = None if method == "GET" else b"{}"
            assert client.ask(path, {"x-request-id": str(number), **headers}, body)[0] == 200
        assert client.ask("/looked/ahead")[0] == 500
        by_id = {line["request_id"]: line["route"] for line in gateway.access_log(len(cases))}

        assert [by_id[str(n)] for n in range(len(cases))] == [f"default/{case[3]}" for case in cases]


def test_a_pool_that_fails_open_is_balanced_while_its_picker_is_down(tmp_path: Path) -> None:
    with two_servers() as (first, second), FixedPickers() as pickers:
        members = [
            EndpointJoined(n, OLD, f"uid-{n}", "default", f"pod-{n}", "127.0.0.1", int(e.partition(":")[2]))
            for n, e in enumerate((first, second), 1)
        ]
        state = folded(pool(OLD, failure_mode="FailOpen"), pool(NEW), *members, split(1, 1))
        ports = {OLD: pickers.reserve(), NEW: pickers.reserve()}
        down = frozenset((OLD, NEW))
        with (
            run_envoy(
                tmp_path,
                lambda port: xds(
                    state,
                    GatewayPorts("127.0.0.1", port, ports, without_picker=down),
                    tmp_path / "xds",
                    tmp_path / "access.jsonl",
                ),
            ) as gateway,
            Client(gateway) as client,
        ):
            seen = Counter(
                headers.get("x-server", str(status)) for status, headers, _ in (client.ask() for _ in range(100))
            )

            assert set(seen) == {first, second, "500"}


def test_a_picker_with_a_certificate_of_its_own_is_asked_over_tls(tmp_path: Path) -> None:
    state = folded(pool(OLD), split(1, 0))
    with two_servers() as (old, _), FixedPickers() as pickers:
        ports = {OLD: pickers.start(old, tls=True)}
        with run_envoy(
            tmp_path,
            lambda port: xds(
                state,
                GatewayPorts("127.0.0.1", port, ports, picker_tls=True),
                tmp_path / "xds",
                tmp_path / "access.jsonl",
            ),
        ) as gateway:
            assert _status(gateway) == 200


def test_envoy_accepts_the_files_of_every_shape(tmp_path: Path) -> None:
    state = folded(
        pool(OLD, failure_mode="FailOpen"),
        pool(NEW, app_protocol="kubernetes.io/h2c"),
        EndpointJoined(1, OLD, "uid", "default", "pod", "fd00::1", 8000),
        split(90, 10),
        RouteObserved("default/h", (RouteRule((), (BackendRef(OLD, 1),), timeout=1.5),), ("*.example.com",)),
    )
    ports = GatewayPorts("::1", 8080, {OLD: 1, NEW: 2}, True, frozenset((OLD,)), str(tmp_path / "admin.sock"))
    files = xds(state, ports, tmp_path / "xds", tmp_path / "access.jsonl")
    write_xds(tmp_path / "xds", files)
    static = {"listeners": LISTENERS, "clusters": CLUSTERS}
    bootstrap = json.loads(files[BOOTSTRAP])
    # `validate` does not open files that are watched, so their resources are also given in place.
    del bootstrap["dynamic_resources"]
    bootstrap["static_resources"] = {}
    for name, file in static.items():
        resources = json.loads(files[file])["resources"]
        bootstrap["static_resources"][name] = [{k: v for k, v in r.items() if k != "@type"} for r in resources]
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    [table] = json.loads(files[ROUTES])["resources"]
    manager["route_config"] = {k: v for k, v in table.items() if k != "@type"}
    (tmp_path / "static.json").write_text(json.dumps(bootstrap))

    for config in (tmp_path / "static.json", tmp_path / "xds" / BOOTSTRAP):
        command = [str(envoy_binary()), "--mode", "validate", "--config-path", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr.lower(), done.stderr
