"""What goes wrong between the source and the API server: the last good state stays, and comes right by itself."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, strategies as st
from kube.crds import POOL_GROUP, X_GROUP
from kube.fake_api import FakeApi, fake_api
from kube.kube_world import KubeWorld, followed, nothing

from pointsman.cluster.kubernetes import following
from pointsman.cluster.kubernetes.following import FIRST_PAUSE, PAUSE_MAX, _whole_lines, pause
from pointsman.cluster.kubernetes.held_objects import SERVER
from pointsman.core.events import EndpointJoined, EndpointLeft


@pytest.fixture(params=[(1, 34), (1, 28)], ids=["streaming lists", "pages"])
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeApi]:
    with fake_api(tmp_path, version=request.param) as api:
        yield api


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of an operator's patience are those of a test."""
    monkeypatch.setattr(following, "PAUSE_MAX", 0.2)
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(following, "MISSING_LOOK", 0.1)
    monkeypatch.setattr(following, "SILENT_MAX", 2.5)


def world_of(api: FakeApi, pods: int = 2) -> KubeWorld:
    world = KubeWorld(api, "default")
    world.pool()
    for number in range(pods):
        world.pod(f"p{number}", f"127.0.0.{2 + number}")
    return world


Story = Callable[[KubeWorld], Awaitable[None]]


def membership(world: KubeWorld) -> list[str]:
    return [type(e).__name__ for e in world.events if isinstance(e, EndpointJoined | EndpointLeft)]


def test_watches_that_are_cut_go_on_where_they_were(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        for number in range(2, 8):
            fake.cut_watches()
            world.pod(f"p{number}", f"127.0.0.{2 + number}")
            world.delete_pod(f"p{number - 2}")
        await world.until(lambda: set(world.names()) == {"p6", "p7"})

    world = followed(world_of(fake), story)
    assert not world.rejections()


def test_a_version_that_was_forgotten_means_a_new_list_and_its_difference(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        # What happens while nobody watches is in the difference alone.
        with fake.objects.changed:
            fake.faults.cut += 1
        fake.faults.answer = 503
        fake.cut_watches()
        await trio.sleep(0.1)
        world.delete_pod("p0")
        world.pod("p9", "127.0.0.9")
        fake.objects.forget()
        fake.faults.answer = 0
        await world.until(lambda: set(world.names()) == {"p1", "p9"})

    followed(world_of(fake), story)


def test_a_storm_of_410_is_not_answered_with_a_storm_of_lists(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        begun = len(fake.requests)
        with trio.move_on_after(1.0):
            while True:
                fake.objects.forget()
                fake.cut_watches()
                await trio.sleep(0.01)
        scopes = 7
        assert len(fake.requests) - begun < scopes * 150
        world.pod("p5", "127.0.0.7")
        await world.until(lambda: "p5" in world.names())

    world = followed(world_of(fake), story)
    assert "EndpointLeft" not in membership(world), "nothing left meanwhile"


def test_events_that_come_twice_and_lines_that_break_off_change_nothing(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        fake.faults.twice = True
        fake.faults.half_line = True
        world.pod("p5", "127.0.0.7")
        await world.until(lambda: "p5" in world.names())
        world.delete_pod("p5")
        await world.until(lambda: "p5" not in world.names())

    world = followed(world_of(fake), story)
    assert membership(world) == ["EndpointJoined"] * 3 + ["EndpointLeft"]


def test_a_server_that_is_away_is_said_once_and_takes_nobody_with_it(tmp_path: Path, quick: None) -> None:
    with fake_api(tmp_path) as first:
        world = world_of(first)

        async def story(world: KubeWorld) -> None:
            first.close()
            await world.until(lambda: SERVER in world.rejected())
            await trio.sleep(0.5)
            assert set(world.names()) == {"p0", "p1"}
            with fake_api(tmp_path, port=first.port) as second:
                again = KubeWorld(second, "default")
                again.pool()
                again.pod("p1", "127.0.0.3")
                # It is another server with other uids: what it has is what counts.
                await world.until(lambda: set(world.names()) == {"p1"} and not world.rejected())

        followed(world, story)
    assert len({r.message for r in world.rejections()}) == len(world.rejections())


def test_a_connection_that_says_nothing_is_taken_for_dead(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        fake.faults.silent = True
        world.pod("p5", "127.0.0.7")
        await trio.sleep(0.3)
        assert "p5" not in world.names()
        await trio.sleep(2.5)
        fake.faults.silent = False
        await world.until(lambda: "p5" in world.names())

    followed(world_of(fake), story)


def test_one_kind_that_is_forbidden_is_named_with_the_rule_and_holds_back_itself_alone(
    fake: FakeApi, quick: None
) -> None:
    async def story(world: KubeWorld) -> None:
        [(source, message)] = world.rejected().items()
        assert source == "httproutes.gateway.networking.k8s.io in namespace default"
        assert 'apiGroups: ["gateway.networking.k8s.io"], resources: ["httproutes"]' in message
        assert "a Role in namespace default" in message
        world.pod("p5", "127.0.0.7")
        await world.until(lambda: "p5" in world.names())
        fake.faults.denied.clear()
        await world.until(lambda: not world.rejected())

    fake.faults.denied = {"httproutes"}
    followed(world_of(fake), story)


def test_a_kind_that_is_forbidden_later_keeps_what_was_read(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        fake.faults.denied = {"pods"}
        fake.cut_watches()
        await world.until(lambda: bool(world.rejected()))
        await trio.sleep(0.3)
        assert set(world.names()) == {"p0", "p1"}

    followed(world_of(fake), story)


def test_after_a_restart_what_cannot_be_read_stays_as_the_log_has_it(fake: FakeApi, quick: None) -> None:
    async def later(world: KubeWorld) -> None:
        assert set(world.names()) == {"p0", "p1"}
        assert len(world.state.pools) == 1

    world = followed(world_of(fake), nothing)
    fake.faults.denied = {"pods", "inferencepools"}
    followed(world, later)
    assert membership(world) == ["EndpointJoined"] * 2


def test_credentials_that_are_not_taken_are_said_and_read_again(fake: FakeApi, quick: None, tmp_path: Path) -> None:
    async def story(world: KubeWorld) -> None:
        assert any("401" in message for message in world.rejected().values())
        fake.write_kubeconfig(fake.kubeconfig, fake.token)
        await world.until(lambda: set(world.names()) == {"p0", "p1"} and not world.rejected())

    world = world_of(fake)
    fake.write_kubeconfig(fake.kubeconfig, "expired")
    followed(world, story)


def test_a_kubeconfig_that_is_not_there_yet(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        assert "wanted a kubeconfig" in world.rejected()[SERVER]
        fake.write_kubeconfig(fake.kubeconfig, fake.token)
        await world.until(lambda: set(world.names()) == {"p0", "p1"} and not world.rejected())

    world = world_of(fake)
    fake.kubeconfig.unlink()
    followed(world, story)


def test_a_kind_that_is_installed_late_is_picked_up(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        assert not world.state.pools
        assert not world.rejected()
        fake.objects.serve(POOL_GROUP, "inferencepools", "InferencePool", "v1")
        world.pool()
        await world.until(lambda: set(world.names()) == {"p0"})

    for group in (POOL_GROUP, X_GROUP):
        fake.objects.withdraw(group, "inferencepools")
    world = KubeWorld(fake, "default")
    world.pod("p0")
    followed(world, story)


def test_a_server_that_does_not_know_its_kinds_for_a_moment_empties_no_pool(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        held = fake.objects.served.pop((POOL_GROUP, "inferencepools"))
        fake.cut_watches()
        await trio.sleep(0.05)
        fake.objects.served[POOL_GROUP, "inferencepools"] = held
        await trio.sleep(0.5)
        assert len(world.state.pools) == 1

    world = followed(world_of(fake), story)
    assert membership(world) == ["EndpointJoined"] * 2


def test_a_kind_that_is_withdrawn_takes_its_objects_along(fake: FakeApi, quick: None) -> None:
    async def story(world: KubeWorld) -> None:
        fake.objects.withdraw(POOL_GROUP, "inferencepools")
        await world.until(lambda: not world.state.pools and not world.state.endpoints)

    followed(world_of(fake), story)


def test_lists_of_many_pages(tmp_path: Path) -> None:
    with fake_api(tmp_path, version=(1, 28)) as api:
        world = KubeWorld(api, "default")
        world.pool()
        for number in range(1_201):
            world.pod(f"p{number}", f"127.1.{number // 250}.{1 + number % 250}")
        followed(world, nothing)
        assert len(world.names()) == 1_201
        assert len([one for one in api.requests if "/pods?limit" in one]) == 3


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_are_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    edges = [0, *cuts, len(text)]
    chunks = [text[a:b] for a, b in itertools.pairwise(edges)]
    found = [line for batch in _whole_lines(chunks) for line in batch]
    assert found == [line for line in lines if line.strip()]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_pause_grows_and_ends(failures: int, draw: float) -> None:
    assert FIRST_PAUSE / 2 <= pause(failures, draw) <= PAUSE_MAX
