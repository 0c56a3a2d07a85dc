"""Weights reach an HTTPRoute only while it is the one that the change rests on, and nothing else of it changes."""

from typing import Any, cast
from urllib.error import HTTPError

import pytest
import trio
from hypothesis import given, strategies as st
from kube.crds import GATEWAY_GROUP
from kube.kube_world import KubeWorld, rule

from pointsman.cluster.kubernetes.actuator import ClusterActuator, weight_patch
from pointsman.cluster.kubernetes.ownership import HANDED_OVER, obstacle_of
from pointsman.cluster.objects.manifest import object_version, read_object
from pointsman.core.events import BackendRef, RouteObserved, WeightsIntended
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal
from pointsman.core.rollout.weight_change import ReadBack, WriteFailed


def path(world: KubeWorld, name: str = "llm") -> str:
    return world.path(GATEWAY_GROUP, "v1", "httproutes", name)


def route(world: KubeWorld) -> dict[str, object]:
    found: dict[str, object] = world.api.call("GET", path(world))
    return found


def intent(world: KubeWorld, *weights: int) -> WeightsIntended:
    value = route(world)
    read = read_object(value).found
    assert read is not None
    assert isinstance(read.value, RouteObserved)
    before = read.value.rules[0].backends
    after = tuple(
        BackendRef(ref.pool, weight, ref.kind, ref.group, ref.filters, ref.fault)
        for ref, weight in zip(before, weights, strict=True)
    )
    return WeightsIntended("c", f"{world.namespace}/llm", 0, object_version(value), before, after, "a", "why", 0.0)


def write(world: KubeWorld, wanted: WeightsIntended) -> ChangeRefusal | None:
    found = trio.run(ClusterActuator(world.settings()).write, "the cluster", wanted)
    return found.refusal if isinstance(found, WriteFailed) else None


def test_a_weight_is_written_and_read_back(world: KubeWorld) -> None:
    world.route()
    before = route(world)
    wanted = intent(world, 50, 50)
    assert write(world, wanted) is None
    after = route(world)
    found = trio.run(ClusterActuator(world.settings()).read_back, "the cluster", wanted)
    assert found == ReadBack(object_version(after), wanted.after)
    for ref in before["spec"]["rules"][0]["backendRefs"]:  # type: ignore[index]
        ref["weight"] = 50
    assert after["spec"] == before["spec"]


def test_a_route_changed_since_is_left_alone(world: KubeWorld) -> None:
    world.route()
    wanted = intent(world, 50, 50)
    world.change(path(world), {"spec": {"hostnames": ["a.example"]}})
    refused = write(world, wanted)
    assert refused is not None
    assert refused.code is ChangeCode.STALE
    assert [ref.weight for ref in wanted.before] == [90, 10]


def test_a_status_that_is_written_meanwhile_is_no_obstacle(world: KubeWorld) -> None:
    world.route()
    wanted = intent(world, 50, 50)
    world.change(path(world) + "/status", {"status": {"parents": []}})
    world.change(path(world), {"metadata": {"labels": {"seen": "yes"}}})
    assert write(world, wanted) is None


def test_a_route_that_is_gone_or_made_anew(world: KubeWorld) -> None:
    world.route()
    wanted = intent(world, 50, 50)
    world.api.call("DELETE", path(world))
    refused = write(world, wanted)
    assert refused is not None
    assert refused.code is ChangeCode.ROUTE_GONE
    world.route()
    refused = write(world, wanted)
    assert refused is not None
    assert refused.code is ChangeCode.STALE


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "x"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "x"}}, "Flux"),
        ({"annotations": {"meta.helm.sh/release-name": "x"}}, "Helm"),
    ],
)
def test_a_route_that_another_tool_keeps_is_left_to_it(
    world: KubeWorld, metadata: dict[str, dict[str, str]], tool: str
) -> None:
    world.route(**cast(dict[str, Any], metadata))
    refused = write(world, intent(world, 50, 50))
    assert refused is not None
    assert tool in refused.found
    annotations = {**metadata.get("annotations", {}), HANDED_OVER: "handed-over"}
    world.change(path(world), {"metadata": {"annotations": annotations}})
    assert write(world, intent(world, 50, 50)) is None


def test_the_field_manager_of_a_tool_tells_it() -> None:
    def metadata(fields: dict[str, object]) -> dict[str, object]:
        return {"managedFields": [{"manager": "argocd-controller", "operation": "Apply", "fieldsV1": fields}]}

    assert "Argo CD" in obstacle_of(metadata({"f:spec": {"f:rules": {}}}))
    assert obstacle_of(metadata({"f:status": {}})) == ""


def test_a_right_that_is_missing_is_said(world: KubeWorld) -> None:
    world.route()
    wanted = intent(world, 50, 50)
    if hasattr(world.api, "faults"):
        world.api.faults.denied = {"httproutes"}
    else:
        world.api.write_kubeconfig(world.api.kubeconfig.with_name("nobody"), "no-such-token")
        pytest.skip("the real server's own rights are tried with the charts")
    refused = write(world, wanted)
    assert refused is not None
    assert "403" in refused.found
    assert [ref.weight for ref in wanted.before] == [90, 10]


def test_what_a_webhook_would_add_stops_the_change(world: KubeWorld) -> None:
    if not hasattr(world.api, "objects"):
        pytest.skip("a webhook of the real server needs a server of its own")
    world.route()
    wanted = intent(world, 50, 50)
    replace = world.api.objects.replace

    def mutated(kind: object, value: dict[str, object], **more: bool) -> object:
        value["spec"]["hostnames"] = ["added.example"]  # type: ignore[index]
        return replace(kind, value, **more)

    world.api.objects.replace = mutated
    refused = write(world, wanted)
    assert refused is not None
    assert "webhook" in refused.found
    world.api.objects.replace = replace
    assert "hostnames" not in route(world)["spec"]  # type: ignore[operator]


def test_two_that_write_at_once_do_not_overwrite_each_other(world: KubeWorld) -> None:
    world.route()
    wanted = intent(world, 50, 50)
    world.change(path(world), {"spec": {"rules": [rule(70, 30)]}})
    refused = write(world, wanted)
    assert refused is not None
    refs = route(world)["spec"]["rules"][0]["backendRefs"]  # type: ignore[index]
    assert [ref["weight"] for ref in refs] == [70, 30]
    with pytest.raises(HTTPError):
        world.api.call("GET", path(world, "none"))


names = st.sampled_from(["a", "b", "c"])
backends = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "weight": st.integers(0, 100),
            "kind": st.sampled_from(["InferencePool", "Service"]),
            "port": st.just(1),
        },
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda ref: (ref["name"], ref.get("kind", "Service")),
)


@given(backends, st.data())
def test_a_patch_is_the_listed_weights_of_one_rule_and_nothing_else(
    refs: list[dict[str, object]], data: st.DataObject
) -> None:
    value = {
        "metadata": {"resourceVersion": "7"},
        "spec": {"hostnames": ["h"], "rules": [{"backendRefs": [{"name": "x"}]}, {"name": "r", "backendRefs": refs}]},
    }
    before = tuple(
        BackendRef(f"n/{ref['name']}", int(str(ref.get("weight", 1))), str(ref.get("kind", "Service")), "")
        for ref in refs
    )
    after = tuple(BackendRef(ref.pool, data.draw(st.integers(0, 100)), ref.kind, ref.group) for ref in before)
    wanted = WeightsIntended("c", "n/r", 1, "v", before, after, "a", "why", 0.0)
    spec, operations = weight_patch(value, wanted)
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    written = [one["path"] for one in operations if one["op"] == "add"]
    assert written == [f"/spec/rules/1/backendRefs/{index}/weight" for index in changed]
    assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    expected = [{**ref, "weight": after[i].weight} if i in changed else ref for i, ref in enumerate(refs)]
    assert spec == {**value["spec"], "rules": [value["spec"]["rules"][0], {"name": "r", "backendRefs": expected}]}  # type: ignore[dict-item,index]
