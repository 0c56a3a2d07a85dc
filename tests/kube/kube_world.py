"""An API server, the objects of a story in it, and what the source makes of them."""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from kube.api_client import ApiClient
from kube.crds import GATEWAY_GROUP, POOL_GROUP, X_GROUP
from worlds.waiting import HUNG

from pointsman.cluster.kubernetes.source import Followed, watch_cluster
from pointsman.core.events import Event, SourceAccepted, SourceRejected
from pointsman.core.processes.settings import ClusterSettings
from pointsman.core.state.projection import ClusterState


def rule(*weights: int) -> dict[str, Any]:
    """A rule that divides its requests between the pools `old` and `new`."""
    refs = [
        {"group": POOL_GROUP, "kind": "InferencePool", "name": pool, "weight": weight}
        for pool, weight in zip(("old", "new"), weights, strict=True)
    ]
    return {"backendRefs": refs}


class KubeWorld:
    """A namespace of an API server, and the state that the source's events add up to."""

    def __init__(self, api: ApiClient, namespace: str = "") -> None:
        self.api = api
        self.namespace = namespace or f"n-{secrets.token_hex(4)}"
        self.state = ClusterState()
        self.events: list[Event] = []
        self.advice: list[int] = []
        self.recorded_at: list[float] = []

    # --- objects --------------------------------------------------------------------------------

    def path(self, group: str, version: str, plural: str, name: str = "") -> str:
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        return f"{base}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def begin(self) -> None:
        """Create the namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self.api.call("POST", "/api/v1/namespaces", body)

    def pool(
        self, name: str = "llama", *, group: str = POOL_GROUP, app: str = "llama", ports: Sequence[int] = (8000,)
    ) -> None:
        if group == POOL_GROUP:
            spec: dict[str, object] = {
                "selector": {"matchLabels": {"app": app}},
                "targetPorts": [{"number": port} for port in ports],
                "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
            }
        else:
            spec = {"selector": {"app": app}, "targetPortNumber": ports[0], "extensionRef": {"name": "epp"}}
        version = "v1" if group == POOL_GROUP else "v1alpha2"
        self.create(f"{group}/{version}", "InferencePool", name, {"spec": spec})

    def create(self, api_version: str, kind: str, name: str, rest: dict[str, Any]) -> Any:
        metadata = {"name": name, "namespace": self.namespace, **rest.pop("metadata", {})}
        body = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
        group, _, version = api_version.rpartition("/")
        return self.api.call("POST", self.path(group, version, f"{kind.lower()}s"), body)

    def change(self, path: str, patch: dict[str, Any]) -> Any:
        return self.api.call("PATCH", path, patch, "application/merge-patch+json")

    def pod(self, name: str, address: str = "127.0.0.2", *, ready: bool = True, app: str = "llama") -> None:
        """A pod without a kubelet: its status is written by hand."""
        spec = {"containers": [{"name": "c", "image": "i"}]}
        self.create("v1", "Pod", name, {"metadata": {"labels": {"app": app}}, "spec": spec})
        self.pod_status(name, address, ready=ready)

    def pod_status(self, name: str, address: str = "127.0.0.2", *, ready: bool = True) -> None:
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        self.change(self.path("", "v1", "pods", name) + "/status", {"status": status})

    def delete_pod(self, name: str) -> None:
        self.api.call("DELETE", self.path("", "v1", "pods", name) + "?gracePeriodSeconds=0")

    def route(self, name: str = "llm", weights: Sequence[int] = (90, 10), **metadata: Any) -> Any:
        spec = {"parentRefs": [{"name": "gateway"}], "rules": [rule(*weights)]}
        rest = {"metadata": metadata, "spec": spec}
        return self.create(f"{GATEWAY_GROUP}/v1", "HTTPRoute", name, rest)

    def objective(self, name: str, priority: int, group: str = X_GROUP, pool: str = "llama") -> None:
        spec = {"poolRef": {"name": pool}, "priority": priority}
        self.create(f"{group}/v1alpha2", "InferenceObjective", name, {"spec": spec})

    # --- what is known of them ------------------------------------------------------------------

    async def emit(self, events: Sequence[Event], removals: Sequence[int]) -> None:
        self.advice.extend(removals)
        await trio.lowlevel.checkpoint()
        self.events.extend(events)
        self.recorded_at.extend([time.monotonic()] * len(events))
        for event in events:
            self.state.apply_event(self.state.position + 1, event)

    def names(self) -> dict[str, bool]:
        """Readiness of the endpoints, by name of the pod."""
        return {one.name: one.ready for one in self.state.endpoints.values() if one.namespace == self.namespace}

    def rejected(self) -> dict[str, str]:
        return {source: found.message for source, found in self.state.rejected_sources.items()}

    def warnings(self) -> list[str]:
        return [w for event in self.events if isinstance(event, SourceAccepted) for w in event.warnings]

    def rejections(self) -> list[SourceRejected]:
        return [event for event in self.events if isinstance(event, SourceRejected)]

    async def until(self, condition: Callable[[], bool], within: float = HUNG) -> None:
        with trio.move_on_after(within):
            while not condition():
                await trio.sleep(0.005)
        assert condition(), (self.names(), self.rejected())

    def settings(self) -> ClusterSettings:
        return ClusterSettings(str(self.api.kubeconfig))


def followed(world: KubeWorld, body: Callable[[KubeWorld], Awaitable[None]], what: Followed | None = None) -> KubeWorld:
    """Run the source beside `body`, until that ends."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            what_ = what if what is not None else Followed((world.namespace,))
            await nursery.start(watch_cluster, world.settings(), what_, lambda: world.state, world.emit)
            await body(world)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return world


async def nothing(world: KubeWorld) -> None:
    """What happens after the start: nothing."""
    await trio.lowlevel.checkpoint()
