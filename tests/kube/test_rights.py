"""The roles under `deploy/rbac` are sufficient and least: they are compared with the requests that are made."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from kube.fake_api import FakeApi
from kube.kube_world import KubeWorld, followed, rule as route_rule
from kube.real_api import RealApi
from kube.test_cluster_actuator import intent, write

from pointsman.cluster.kubernetes.source import Followed

RBAC = Path(__file__).parents[2] / "deploy" / "rbac"
Right = tuple[str, str, str]
"""Group, resource and verb."""


def granted(name: str) -> set[Right]:
    """The rights that the role of a file gives."""
    found: set[Right] = set()
    for value in yaml.safe_load_all((RBAC / name).read_text()):
        for rule in value.get("rules", []):
            found |= {
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return found


def used(requests: list[str]) -> set[Right]:
    """The rights that requests need."""
    found: set[Right] = set()
    for request in requests:
        method, _, target = request.partition(" ")
        path, _, query = target.partition("?")
        match = re.fullmatch(r"/(?:api|apis/([^/]+))/[^/]+(?:/namespaces/[^/]+)?/([a-z]+)(/[^/]+)?(?:/status)?", path)
        if match is None:
            continue
        many = {"GET": "watch" if "watch=true" in query else "list"}
        verb = {"GET": "get", "PATCH": "patch"}[method] if match[3] else many[method]
        found.add((match[1] or "", match[2], verb))
    return found


async def _changes(world: KubeWorld) -> None:
    await world.until(lambda: world.names() == {"a": True})
    wanted = intent(world, 50, 50)
    assert await trio.to_thread.run_sync(write, world, wanted) is None


async def _nothing(world: KubeWorld) -> None:
    await world.until(lambda: world.names() == {"a": True})


def story(world: KubeWorld, *, one_pool: bool) -> None:
    if one_pool:
        followed(world, _nothing, Followed(pool=f"{world.namespace}/llama"))
    else:
        followed(world, _changes)
    assert not world.rejected()


@pytest.mark.parametrize(("name", "one_pool"), [("epp.yaml", True), ("serve.yaml", False)])
def test_roles_are_sufficient_and_least(world: KubeWorld, name: str, one_pool: bool, tmp_path: Path) -> None:
    world.pool()
    world.pod("a")
    world.route()
    if isinstance(world.api, RealApi):
        world.api = _as_service_account(world, name, tmp_path)
        story(world, one_pool=one_pool)
        return
    assert isinstance(world.api, FakeApi)
    needed: set[Right] = set()
    for version in ((1, 28), (1, 34)):  # pages are listed, streams are watched
        world.api.version = version
        world.api.requests.clear()
        if not one_pool and version == (1, 34):
            world.change(
                world.path("gateway.networking.k8s.io", "v1", "httproutes", "llm"),
                {"spec": {"rules": [route_rule(90, 10)]}},
            )
        world.api.requests.clear()
        story(world, one_pool=one_pool)
        needed |= used(world.api.requests)
    assert needed == granted(name)


def _as_service_account(world: KubeWorld, name: str, folder: Path) -> RealApi:
    assert isinstance(world.api, RealApi)
    namespace = world.namespace
    account = ""
    for value in yaml.safe_load_all((RBAC / name).read_text()):
        for subject in value.get("subjects", []):
            subject["namespace"] = namespace
        base = "/api/v1" if value["apiVersion"] == "v1" else f"/apis/{value['apiVersion']}"
        world.api.call("POST", f"{base}/namespaces/{namespace}/{value['kind'].lower()}s", value)
        if value["kind"] == "ServiceAccount":
            account = value["metadata"]["name"]
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer: Any = world.api.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
    account_api = copy.copy(world.api)  # the administrator's requests, and the account's kubeconfig
    account_api.kubeconfig = world.api.write_kubeconfig(folder / "account", answer["status"]["token"])
    return account_api
