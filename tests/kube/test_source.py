"""What happens in a cluster becomes facts, in order and once."""

from collections.abc import Sequence

from kube.crds import GATEWAY_GROUP, LLM_D_GROUP, POOL_GROUP, X_GROUP
from kube.kube_world import KubeWorld, followed, nothing, rule

from pointsman.cluster.kubernetes.source import Followed
from pointsman.core.events import EndpointChanged, EndpointJoined, EndpointLeft, PoolApplied, RouteObserved


def test_what_is_there_at_the_start_is_known_when_it_has_started(world: KubeWorld) -> None:
    world.pool()
    world.pod("a", "127.0.0.2")
    world.pod("b", "127.0.0.3", ready=False)
    world.pod("other", "127.0.0.4", app="other")
    world.objective("batch", -1)
    world.route()
    followed(world, nothing)
    assert world.names() == {"a": True, "b": False}
    [pool] = world.state.pools.values()
    assert (pool.pool, pool.picker_port, pool.target_ports) == (f"{world.namespace}/llama", 9002, (8000,))
    [objective] = world.state.objectives.values()
    assert objective.priority == -1
    [route] = world.state.routes.values()
    assert [backend.weight for backend in route.rules[0].backends] == [90, 10]
    joined = [event for event in world.events if isinstance(event, EndpointJoined)]
    assert all(event.version and len(event.uid) == 36 for event in joined)


def test_a_pod_that_comes_changes_and_goes(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        await world.until(lambda: bool(world.state.pools))
        world.pod("a")
        await world.until(lambda: world.names() == {"a": True})
        world.pod_status("a", ready=False)
        await world.until(lambda: world.names() == {"a": False})
        [number] = world.state.endpoints
        assert number in world.advice, "pickers avoid it before that is recorded"
        world.pod_status("a")
        await world.until(lambda: world.names() == {"a": True})
        world.delete_pod("a")
        await world.until(lambda: world.names() == {})

    world.pool()
    followed(world, story)
    told = [event for event in world.events if isinstance(event, EndpointJoined | EndpointChanged | EndpointLeft)]
    assert [type(event).__name__ for event in told][-3:] == ["EndpointChanged", "EndpointChanged", "EndpointLeft"]


def test_a_pod_made_anew_under_its_name_is_another_endpoint(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        first = set(world.state.endpoints)
        world.delete_pod("a")
        world.pod("a")
        await world.until(lambda: world.names() == {"a": True} and set(world.state.endpoints) != first)

    world.pool()
    world.pod("a")
    followed(world, story)
    assert any(isinstance(event, EndpointLeft) for event in world.events)


def test_a_terminating_pod_gets_no_more_requests(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        # A finalizer keeps it, as a node that waits for its containers does.
        world.api.call("DELETE", world.path("", "v1", "pods", "a"))
        await world.until(lambda: world.names() == {})

    world.pool()
    world.create("v1", "Pod", "a", _pod_with_finalizer())
    world.pod_status("a")
    followed(world, story)


def _pod_with_finalizer() -> dict[str, object]:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    return {"metadata": {"labels": {"app": "llama"}, "finalizers": ["pointsman.io/test"]}, "spec": spec}


def test_several_ports_and_the_annotation_of_active_ones(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        await world.until(lambda: len(world.state.endpoints) == 2)
        path = world.path("", "v1", "pods", "a")
        world.change(path, {"metadata": {"annotations": {"llm-d.ai/active-ports": "8001"}}})
        await world.until(lambda: [e.port for e in world.state.endpoints.values()] == [8001])

    world.pool(ports=(8000, 8001))
    world.pod("a")
    followed(world, story)


def test_the_selector_of_a_pool_moves(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        await world.until(lambda: world.names() == {"a": True})
        path = world.path(POOL_GROUP, "v1", "inferencepools", "llama")
        world.change(path, {"spec": {"selector": {"matchLabels": {"app": "other"}}}})
        await world.until(lambda: world.names() == {"b": True})

    world.pool()
    world.pod("a")
    world.pod("b", app="other")
    followed(world, story)


def test_a_pool_that_goes_takes_its_endpoints_along(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        await world.until(lambda: world.names() == {"a": True})
        world.api.call("DELETE", world.path(POOL_GROUP, "v1", "inferencepools", "llama"))
        await world.until(lambda: not world.state.pools and not world.state.endpoints)
        world.pool()
        await world.until(lambda: world.names() == {"a": True})

    world.pool()
    world.pod("a")
    followed(world, story)


def test_both_groups_of_a_kind_and_which_one_counts(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        await world.until(lambda: len(world.state.pools) == 2)
        assert [one.priority for one in world.state.objectives.values()] == [7]
        path = world.path(LLM_D_GROUP, "v1alpha2", "inferenceobjectives", "batch")
        world.api.call("DELETE", path)
        await world.until(lambda: [one.priority for one in world.state.objectives.values()] == [-1])

    world.pool()
    world.pool("old", group=X_GROUP, app="old")
    world.objective("batch", -1, X_GROUP)
    world.objective("batch", 7, LLM_D_GROUP)
    followed(world, story)


def test_a_status_alone_makes_no_new_version_of_a_route(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        [before] = world.state.routes.values()
        path = world.path(GATEWAY_GROUP, "v1", "httproutes", "llm")
        world.change(path + "/status", {"status": {"parents": []}})
        world.change(path, {"metadata": {"annotations": {"a": "b"}}})
        world.change(path, {"spec": {"rules": [rule(50, 50)]}})
        await world.until(lambda: _weights(world) == [50, 50])
        [after] = world.state.routes.values()
        assert before.version != after.version

    world.route()
    followed(world, story)
    assert len([event for event in world.events if isinstance(event, RouteObserved)]) == 2


def _weights(world: KubeWorld) -> Sequence[int]:
    return [backend.weight for route in world.state.routes.values() for backend in route.rules[0].backends]


def test_an_object_that_is_wrong_keeps_what_it_said_and_holds_nothing_else_back(world: KubeWorld) -> None:
    async def story(world: KubeWorld) -> None:
        path = world.path(POOL_GROUP, "v1", "inferencepools", "llama")
        world.change(path, {"spec": {"targetPorts": None}})
        await world.until(lambda: bool(world.rejected()))
        [(source, message)] = world.rejected().items()
        assert source == f"InferencePool {world.namespace}/llama"
        assert "targetPorts" in message
        assert "line" not in message
        world.pod("b")
        await world.until(lambda: set(world.names()) == {"a", "b"})
        world.change(path, {"spec": {"targetPorts": [{"number": 9000}]}})
        await world.until(lambda: not world.rejected() and {e.port for e in world.state.endpoints.values()} == {9000})

    world.pool()
    world.pod("a")
    followed(world, story)


def test_one_pool_by_name_reads_nothing_else(world: KubeWorld) -> None:
    world.pool()
    world.pool("other", app="other")
    world.pod("a")
    world.route()
    followed(world, nothing, Followed(pool=f"{world.namespace}/llama"))
    assert [type(one) for one in world.state.objects if isinstance(one, PoolApplied | RouteObserved)] == [PoolApplied]
    assert world.names() == {"a": True}


def test_what_the_log_says_already_is_not_said_again(world: KubeWorld) -> None:
    world.pool()
    world.pod("a")
    world.route()
    followed(world, nothing)
    said = len(world.events)
    followed(world, nothing)
    assert len(world.events) == said
