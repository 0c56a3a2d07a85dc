"""A server dies that its Pod calls ready: the next endpoint of each picker's list answers, and the log says which."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml
from worlds.evidence import entries, verified
from worlds.load import completion
from worlds.system import OLD, POINTSMAN, QUICK, System, manifests, pod, serve, write
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import EndpointJoined, RequestFinished, RequestRouted, ResponseStarted

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

CONFIG = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: max-score-picker
  parameters: {maxNumOfEndpoints: 2}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: max-score-picker}
"""
ASKED = 30


def ask(system: System, number: int, **more: object) -> int:
    """Status of one request."""
    connection = HTTPConnection("127.0.0.1", system.gateway, timeout=60)
    try:
        path, body, _ = completion(number)
        headers = {"content-type": "application/json", "x-request-id": f"fallback-{number}"}
        connection.request("POST", path, json.dumps({**body, **more}), headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


@contextmanager
def a_server_of_its_own(address: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A simulated server that can be killed alone."""
    process = subprocess.Popen([*POINTSMAN, "sim", "--listen", address, "--set", "decode_step=0.002"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ready(system: System) -> int:
    """Ready endpoints, as the metrics page has them."""
    lines = [line for line in system.metrics_page().splitlines() if line.startswith("inference_pool_ready_pods{")]
    return int(float(lines[0].rpartition(" ")[2])) if lines else 0


def test_thirty_of_thirty_requests_are_answered_while_a_third_of_the_servers_is_dead(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "manifests"
    manifests(directory, shares={OLD: 1}, servers=2)
    (tmp_path / "config.yaml").write_text(CONFIG)
    target: int = yaml.safe_load((directory / "pools.yaml").read_text())["spec"]["targetPorts"][0]["number"]
    dead = f"127.0.1.9:{target}"
    with (
        a_server_of_its_own(dead) as victim,
        serve(tmp_path, "--config-file", str(tmp_path / "config.yaml")) as system,
        ThreadPoolExecutor(24) as clients,
    ):
        write(directory / "third.yaml", pod("third", OLD, "127.0.1.9", target, QUICK))
        wait_for(lambda: ready(system) == 3, 20, "the third is an endpoint")
        # While the two others are busy, the third has the shortest queue, and is the first choice until it is known dead.
        long = {"max_tokens": 4_000, "ignore_eos": True}
        busy = [clients.submit(ask, system, 1_000 + number, **long) for number in range(24)]
        victim.kill()
        statuses = [ask(system, number) for number in range(ASKED)]
        assert [one.result() for one in busy].count(200) >= 16  # those that the third had begun to answer are lost
        wait_for(lambda: ready(system) == 3, 5, "its Pod is still called ready")
    found = entries(system.log)
    verified(system.data)

    assert statuses == [200] * ASKED
    routed = {e.event.request.request_id: e.event for e in found if isinstance(e.event, RequestRouted)}
    assert len([e for e in found if isinstance(e.event, RequestRouted)]) == len(routed) == ASKED + 24
    joined = {
        e.event.endpoint: f"{e.event.address}:{e.event.port}" for e in found if isinstance(e.event, EndpointJoined)
    }
    served = {
        (e.event.origin.epoch, e.event.request_n): e.event.served for e in found if isinstance(e.event, ResponseStarted)
    }
    ends = [(e.event.origin.epoch, e.event.request_n) for e in found if isinstance(e.event, RequestFinished)]
    assert len(ends) == len(set(ends)) == len(routed)
    asked = [routed[f"fallback-{number}"] for number in range(ASKED)]
    fallbacks = 0
    for one in asked:
        named = [joined[number] for number in one.endpoints]
        assert len(named) == 2
        by = served[one.origin.epoch, one.origin.n]
        assert by == (named[1] if named[0] == dead else named[0])
        fallbacks += named[0] == dead
    # A machine that is slow to ask finds the dead server left out already.
    assert fallbacks > 0 or all(one.rejections for one in asked)
