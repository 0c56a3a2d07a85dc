"""The rollout guide in a cluster: `serve --kubernetes`, weights moved from here and with kubectl, all of it in the log."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube.crds import GATEWAY_GROUP
from kube.kube_world import KubeWorld
from worlds.evidence import entries, verified
from worlds.load import completion
from worlds.system import NEW, OLD, System, manifests, pointsman, serve
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import EndpointJoined, RequestRouted, RouteObserved, WeightsIntended, WeightsWritten

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

ROUTE = f"/apis/{GATEWAY_GROUP}/v1/namespaces/default/httproutes/llm-route"
PLACES = {
    "Pod": "/api/v1/namespaces/default/pods",
    "InferencePool": "/apis/inference.networking.k8s.io/v1/namespaces/default/inferencepools",
    "HTTPRoute": f"/apis/{GATEWAY_GROUP}/v1/namespaces/default/httproutes",
}


@pytest.fixture
def cluster(world: KubeWorld, tmp_path: Path) -> Iterator[KubeWorld]:
    """The objects of a small system, in namespace `default` of each server."""
    directory = tmp_path / "data" / "manifests"
    manifests(directory, servers=1)
    made = []
    for file in ("pools.yaml", "pods.yaml", "route.yaml"):
        for value in yaml.safe_load_all((directory / file).read_text()):
            path = PLACES[value["kind"]]
            made.append(f"{path}/{value['metadata']['name']}?gracePeriodSeconds=0")
            value["metadata"].pop("uid", None)
            for container in value["spec"].get("containers", []):
                container["image"] = "vllm"
            world.api.call("POST", path, value)
            if value["kind"] == "Pod":
                status = {"status": value["status"]}
                place = f"{path}/{value['metadata']['name']}/status"
                world.api.call("PATCH", place, status, "application/merge-patch+json")
    yield world
    for path in made:
        world.api.call("DELETE", path)


def ask(system: System, number: int) -> int:
    connection = HTTPConnection("127.0.0.1", system.gateway, timeout=60)
    try:
        path, body, _ = completion(number)
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def weights(world: KubeWorld) -> list[int]:
    route: Any = world.api.call("GET", ROUTE)
    return [ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"]]


def observed(system: System) -> list[list[int]]:
    found = [one.event for one in entries(system.log)]
    return [[b.weight for b in e.rules[0].backends] for e in found if isinstance(e, RouteObserved)]


def test_the_rollout_guide_in_a_cluster(cluster: KubeWorld, tmp_path: Path) -> None:
    kubeconfig = cluster.api.kubeconfig
    with serve(tmp_path, kubeconfig=kubeconfig) as system:
        wait_for(lambda: ask(system, 0) == 200, 20, "the first answer")
        assert [ask(system, number) for number in range(1, 40)] == [200] * 39

        # From here: recorded, written into the API, read back.
        set_ = pointsman(
            *("weights", "set", "--data-dir", system.data, "--route", "default/llm-route"),
            *("--reason", "half of it", f"{OLD}=50", f"{NEW}=50"),
        )
        assert set_.returncode == 0, set_.stdout + set_.stderr
        assert weights(cluster) == [50, 50]

        # With kubectl: seen here.
        route: Any = cluster.api.call("GET", ROUTE)
        for ref, weight in zip(route["spec"]["rules"][0]["backendRefs"], (0, 100), strict=True):
            ref["weight"] = weight
        cluster.api.call("PUT", ROUTE, route)
        wait_for(lambda: observed(system)[-1] == [0, 100], 10, "the weights of kubectl in the log")
        wait_for(lambda: ask(system, 41) == 200, 10, "an answer")
        assert [ask(system, number) for number in range(42, 60)] == [200] * 18

        # A pod that goes is gone for the next request.
        for name in (f"{OLD}-0",):
            cluster.api.call("DELETE", f"{PLACES['Pod']}/{name}?gracePeriodSeconds=0")
        wait_for(
            lambda: 'inference_pool_ready_pods{name="' + OLD + '"} 0' in system.metrics_page(), 10, "the pod is gone"
        )
        cluster.api.call("POST", PLACES["Pod"], _again(tmp_path, f"{OLD}-0"))

    found = entries(system.log)
    verified(system.data)
    kinds = [type(one.event) for one in found]
    assert kinds.count(WeightsIntended) == kinds.count(WeightsWritten) == 1
    assert observed(system) == [[90, 10], [50, 50], [0, 100]]
    joined = [one.event for one in found if isinstance(one.event, EndpointJoined)]
    assert all(one.uid and one.version for one in joined)
    assert kinds.count(RequestRouted) >= 58


def _again(tmp_path: Path, name: str) -> object:
    for value in yaml.safe_load_all((tmp_path / "data" / "manifests" / "pods.yaml").read_text()):
        if value["metadata"]["name"] == name:
            value["metadata"].pop("uid")
            value["spec"]["containers"][0]["image"] = "vllm"
            return value
    raise LookupError(name)
