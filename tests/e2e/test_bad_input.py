"""What clients, servers and operators get wrong, through the gateway and the whole system."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from worlds.evidence import entries, verified
from worlds.load import LLAMA, Load, completion
from worlds.system import NEW, OLD, System, serve
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import (
    ConfigRejected,
    Entry,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    SourceRejected,
)
from pointsman.eventlog.opening import open_reader

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

BODY_MAX = 1 << 20
CONFIG = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
  - pluginRef: max-score-picker
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    home = tmp_path_factory.mktemp("bad")
    (home / "config.yaml").write_text(CONFIG)
    with serve(home, "--body-max=1Mi", "--config-file", str(home / "config.yaml"), shares={OLD: 1}) as running:
        yield running
        running.stop()
        verified(running.data)


def ask(system: System, body: bytes, headers: dict[str, str] | None = None, name: str = "") -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", system.gateway, timeout=20)
    try:
        fields = {"content-type": "application/json", **(headers or {}), **({"x-request-id": name} if name else {})}
        connection.request("POST", "/v1/completions", body, fields)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def good(number: int = 0, **more: object) -> bytes:
    return json.dumps({**completion(number)[1], **more}).encode()


def recorded(system: System, name: str) -> list[Entry]:
    """The decision about a request and its end, once they are there."""

    def of(entry: Entry) -> bool:
        return isinstance(e := entry.event, RequestRouted | RequestRefused) and e.request.request_id == name

    with open_reader(system.log) as reader:
        wait_for(lambda: any(of(e) for e in reader.entries(1)), 10, f"a decision about {name}")
        time.sleep(0.2)
        found = [e for e in reader.entries(1) if of(e)]
        numbers = [e.event.origin.n for e in found if isinstance(e.event, RequestRouted)]
        ends = (e for e in reader.entries(1) if isinstance(e.event, RequestFinished))
        return found + [e for e in ends if e.event.request_n in numbers]  # type: ignore[union-attr]


def refusals(system: System, name: str) -> set[str]:
    """Why requests of this id were refused."""
    return {e.event.reason for e in recorded(system, name) if isinstance(e.event, RequestRefused)}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"model": "food-review-1", "prompt": ', "json"),
        (b'{"prompt": "who am I asking?"}', "model"),
        (b'["model"]', ""),
        (b"\xff\xfe\x00\x80", ""),
    ],
)
def test_a_body_that_is_no_request_is_answered_400_and_recorded(system: System, body: bytes, words: str) -> None:
    name = f"bad-{len(body)}-{len(words)}"
    status, reply = ask(system, body, name=name)

    assert status == 400, reply
    assert words in reply.decode().lower()
    [entry] = recorded(system, name)
    assert isinstance(entry.event, RequestRefused)
    assert (entry.event.reason, entry.event.status) == ("bad-request", 400)


def test_a_body_over_the_limit_is_answered_413_in_bounded_memory(system: System) -> None:
    def resident() -> int:
        text = Path(f"/proc/{system.pids()['picker']}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024

    assert ask(system, good(prompt="x" * (BODY_MAX - 1000)), name="fits")[0] == 400, "the model takes no such prompt"
    assert isinstance(recorded(system, "fits")[0].event, RequestRouted)
    before = resident()
    with Load(system.gateway, 50, large, limit=8, prefix="large") as load:
        load.wait_sent(8, 10)

    # The gateway closes after its answer: who still sends may find the connection reset before having read it.
    answered = [outcome.id for outcome in load.outcomes if outcome.status]
    assert {outcome.status for outcome in load.outcomes} - {0} == {413}
    assert resident() - before < 24 * BODY_MAX
    assert {reason for name in answered for reason in refusals(system, name)} == {"body-too-large"}


def large(number: int) -> tuple[str, dict[str, object], dict[str, str]]:
    return "/v1/completions", {"model": LLAMA, "prompt": "x" * 8 * BODY_MAX}, {}


def test_header_bytes_that_are_no_text_are_routed(system: System) -> None:
    body = good()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\nx-request-id: odd-header\r\nx-odd: \xff\xc3\x28\xa9\r\n"
    with socket.create_connection(("127.0.0.1", system.gateway), timeout=10) as connection:
        connection.sendall(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert isinstance(recorded(system, "odd-header")[0].event, RequestRouted)


def test_a_server_that_resets_in_the_middle_ends_its_request_alone(system: System) -> None:
    streamed = good(stream=True, max_tokens=50)
    with Load(system.gateway, 100) as others:
        others.wait_sent(50, 10)
        with pytest.raises((ConnectionError, Exception)) as broken:
            ask(system, streamed, {"x-sim-fault": "reset"}, "reset")
        others.wait_sent(100, 10)
    assert type(broken.value).__name__ in ("IncompleteRead", "ConnectionResetError")
    assert others.broken() == []
    routed, end = recorded(system, "reset")
    assert isinstance(routed.event, RequestRouted)
    assert isinstance(end.event, RequestFinished)
    assert (end.event.cause, end.event.status) == ("disconnected", 200)


# What is no HTTP is no answer to the gateway, which then looks for a fallback: the picker's list has none.
@pytest.mark.parametrize(("fault", "wanted"), [("status=500", 500), ("garbage", 503), ("nonsense", 200)])
def test_what_a_server_answers_is_passed_on_and_recorded(system: System, fault: str, wanted: int) -> None:
    status, _ = ask(system, good(), {"x-sim-fault": fault}, f"fault-{wanted}")

    assert status == wanted
    _, end = recorded(system, f"fault-{wanted}")
    assert isinstance(end.event, RequestFinished)
    assert end.event.status == wanted


def test_an_invalid_manifest_leaves_what_was_and_its_line_is_told(system: System) -> None:
    pools = system.manifests / "pools.yaml"
    right = pools.read_text()
    wrong = right.replace("targetPorts:", "targetPort:")
    line = 1 + wrong[: wrong.index("targetPort:")].count("\n")
    pools.write_text(wrong)
    wait_for(lambda: f"{pools.name}, line {line}" in system.said(), 10, f"a word about line {line}: {system.said()}")
    assert "what it said before stays" in system.said()

    assert ask(system, good())[0] == 200
    assert any(isinstance(e.event, SourceRejected) and e.event.line == line for e in entries(system.log))
    pools.write_text(right)


def test_an_invalid_configuration_leaves_what_was_and_its_line_is_told(system: System) -> None:
    path = system.data.parent / "config.yaml"
    path.write_text(CONFIG.replace("- type: queue-scorer", "- type: queue-scorre"))
    wait_for(lambda: "config.yaml, line 4" in system.said(), 10, f"a word about line 4: {system.said()}")
    assert "queue-scorer" in system.said()
    assert "what was in force stays" in system.said()

    assert ask(system, good())[0] == 200
    assert [e.event.line for e in entries(system.log) if isinstance(e.event, ConfigRejected)] == [4]
    path.write_text(CONFIG)


def test_when_all_samples_are_stale_only_requests_that_may_be_shed_are(system: System) -> None:
    objective = f"""\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {{name: batch, namespace: default}}
spec:
  priority: -1
  poolRef: {{group: inference.networking.k8s.io, name: {OLD}}}
"""
    (system.manifests / "objective.yaml").write_text(objective)
    batch = {"x-gateway-inference-objective": "batch"}
    wait_for(lambda: ask(system, good(), batch, "fresh")[0] == 200, 5)
    stop_metrics(system, "slow=30")
    wait_for(lambda: ask(system, good(), batch, "shed")[0] == 429, 15, "shedding")

    assert ask(system, good(), name="kept")[0] == 200
    assert refusals(system, "shed") == {"saturated"}
    assert refusals(system, "kept") == set()
    stop_metrics(system, "")
    wait_for(lambda: ask(system, good(), batch)[0] == 200, 15, "admission")


def stop_metrics(system: System, fault: str) -> None:
    """Have all simulated servers answer scrapes late, or again in time."""
    text = (system.manifests / "pods.yaml").read_text()
    [port] = {line.split(":")[1].strip() for line in text.splitlines() if "containerPort" in line}
    for address in {line.split(":")[1].strip() for line in text.splitlines() if "podIP" in line}:
        connection = HTTPConnection(address, int(port), timeout=10)
        order = json.dumps({"fault": fault, "path": "/metrics"})
        connection.request("POST" if fault else "DELETE", "/sim/fault", order if fault else None)
        assert connection.getresponse().status == 200
        connection.close()


def test_without_endpoints_the_answer_is_503(system: System) -> None:
    pods = system.manifests / "pods.yaml"
    there = pods.read_text()
    pods.write_text("")
    wait_for(lambda: ask(system, good(), name="nobody")[0] == 503, 10, "a refusal")
    assert refusals(system, "nobody") == {"no-endpoints"}
    pods.write_text(there)
    wait_for(lambda: ask(system, good(), name="again")[0] == 200, 10, "an answer")


def kept_down(system: System, done: threading.Event) -> None:
    """Kill every picker process until `done`."""
    while not done.wait(0.02):
        pid = system.pids().get("picker")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def test_a_picker_that_does_not_come_back_is_answered_for_at_once(system: System) -> None:
    done = threading.Event()
    killer = threading.Thread(target=kept_down, args=(system, done))
    killer.start()
    try:
        wait_for(lambda: "no picker is ready still" in system.said(), 15, "a word about it")
        time.sleep(0.3)
        for _ in range(10):
            began = time.monotonic()
            status, _ = ask(system, good())
            assert status >= 500
            assert time.monotonic() - began < 0.5
    finally:
        done.set()
        killer.join()
    wait_for(lambda: "a picker is ready" in system.said(), 15, "a picker")
    wait_for(lambda: ask(system, good())[0] == 200, 5, "an answer")
    with Load(system.gateway, 100, limit=100) as load:
        load.wait_sent(100, 10)
    assert load.broken() == []


def test_a_pool_that_fails_open_is_served_while_no_picker_is_up(tmp_path: Path) -> None:
    with serve(tmp_path, shares={OLD: 1, NEW: 1}, failure_mode="FailOpen") as system:
        assert ask(system, good())[0] == 200
        done = threading.Event()
        killer = threading.Thread(target=kept_down, args=(system, done))
        killer.start()
        try:
            wait_for(lambda: "no picker is ready" in system.said(), 15, "a word about it")
            time.sleep(0.5)
            with Load(system.gateway, 100, limit=200, prefix="open") as load:
                load.wait_sent(200, 10)
            assert load.broken() == []
        finally:
            done.set()
            killer.join()
        wait_for(lambda: "a picker is ready" in system.said(), 15, "a picker")
        time.sleep(0.5)
        with Load(system.gateway, 100, limit=100, prefix="asked") as load:
            load.wait_sent(100, 10)
        assert load.broken() == []
        system.stop()
    names = [e.event.request.request_id for e in entries(system.log) if isinstance(e.event, RequestRouted)]
    assert not [name for name in names if name.startswith("open")], "nobody was asked"
    assert len([name for name in names if name.startswith("asked")]) == 100
