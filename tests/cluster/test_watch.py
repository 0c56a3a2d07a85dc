"""A directory of manifests becomes facts, while files come, change, break and go."""

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio
import trio.lowlevel
import trio.testing
from worlds.waiting import HUNG

from pointsman.cluster.manifests.watch import watch_manifests
from pointsman.core.events import Event, SourceAccepted, SourceRejected
from pointsman.core.state.projection import ClusterState

POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec: {selector: {matchLabels: {app: llama}}, targetPorts: [{number: 8000}]}
"""


def pod(name: str, address: str = "10.0.0.1", ready: str = "True") -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: llama}}}}
status: {{podIP: {address}, conditions: [{{type: Ready, status: "{ready}"}}]}}
---
"""


class World:
    """A directory, and a log that folds what is told of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = ClusterState()
        self.events: list[Event] = []
        self.advice: list[int] = []

    async def emit(self, events: Sequence[Event], removals: Sequence[int]) -> None:
        self.advice.extend(removals)
        await trio.sleep(0.02)  # a commit takes time, and advice goes ahead of it
        self.events.extend(events)
        for event in events:
            self.state.apply_event(self.state.position + 1, event)

    def names(self) -> dict[str, bool]:
        return {e.name: e.ready for e in self.state.endpoints.values()}

    def put(self, name: str, text: str) -> None:
        """As editors and Kubernetes do it: beside, then over."""
        (self.directory / f".{name}.new").write_text(text)
        os.replace(self.directory / f".{name}.new", self.directory / name)

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(HUNG):
            while not condition():
                await trio.sleep(0.01)


def watched(directory: Path, body: Callable[[World], Awaitable[None]], world: World | None = None) -> World:
    world = world or World(directory)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_manifests, directory, lambda: world.state, world.emit)
            await body(world)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return world


async def nothing(world: World) -> None:
    await trio.lowlevel.checkpoint()


def test_files_come_change_and_go(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)
    (tmp_path / "notes.txt").write_text("not: [yaml")

    async def body(world: World) -> None:
        assert list(world.state.pools) == ["default/llama"]
        world.put("pods.yaml", pod("a") + pod("b", "10.0.0.2"))
        await world.until(lambda: world.names() == {"a": True, "b": True})
        world.put("pods.yaml", pod("a", ready="False"))
        await world.until(lambda: world.names() == {"a": False})

        assert world.advice == [1, 2]
        (tmp_path / "pool.yaml").unlink()
        await world.until(lambda: world.state.pools == {})

        assert world.names() == {}

    watched(tmp_path, body)


def test_a_restart_with_the_same_manifests_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(pod("a") + POOL)
    (tmp_path / "odd.yaml").write_text(
        POOL.replace("llama}\n", "odd}\n").replace("targetPorts: [{number: 8000}]", "targetPortNumber: 1")
    )
    (tmp_path / "wrong.yaml").write_text("a: [")
    world = watched(tmp_path, nothing)

    assert len(world.events) == 7  # two files accepted, one not; two pools, and the pod is an endpoint of each
    world.events.clear()
    watched(tmp_path, nothing, world)

    assert world.events == []


def test_a_wrong_file_is_told_and_keeps_what_it_said_until_it_is_right(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(pod("a") + POOL)

    async def body(world: World) -> None:
        world.events.clear()
        world.put("all.yaml", pod("b") + POOL.replace("8000", "80000"))
        await world.until(lambda: bool(world.events))
        (rejected,) = world.events

        assert isinstance(rejected, SourceRejected)
        assert (rejected.source, rejected.line) == ("all.yaml", 9)
        assert "found 80000, wanted a whole number from 1 to 65,535" in rejected.message
        assert world.names() == {"a": True}
        world.put("all.yaml", pod("b", "10.0.0.2") + POOL)
        await world.until(lambda: world.names() == {"b": True})

        assert world.state.rejected_sources == {}

    watched(tmp_path, body)


def test_a_restart_while_a_file_is_wrong_keeps_what_the_log_says(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(pod("a") + POOL)
    world = watched(tmp_path, nothing)
    (tmp_path / "all.yaml").write_text("a: [")

    async def body(world: World) -> None:
        assert world.names() == {"a": True}
        world.put("all.yaml", POOL)
        await world.until(lambda: world.names() == {})

        assert list(world.state.pools) == ["default/llama"]

    watched(tmp_path, body, world)


def test_an_object_that_two_files_define_is_taken_from_the_first_until_that_one_goes(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(POOL)

    async def body(world: World) -> None:
        world.put("a.yaml", POOL)
        await world.until(lambda: "a.yaml" in world.state.rejected_sources)

        assert "stands in b.yaml, line 1, already" in world.state.rejected_sources["a.yaml"].message
        (tmp_path / "b.yaml").unlink()
        await world.until(lambda: world.state.rejected_sources == {})

        assert world.state.pools["default/llama"].source == "a.yaml"

    watched(tmp_path, body)


def test_a_directory_that_is_away_takes_nothing_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "all.yaml").write_text(pod("a") + POOL)

    async def body(world: World) -> None:
        directory.rename(tmp_path / "away")
        await world.until(lambda: str(directory) in world.state.rejected_sources)

        assert world.names() == {"a": True}
        (tmp_path / "away").rename(directory)
        await world.until(lambda: world.state.rejected_sources == {})

        assert world.names() == {"a": True}

    world = watched(directory, body)

    assert world.advice == []


def test_a_start_without_the_directory_takes_nothing_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "all.yaml").write_text(pod("a") + POOL)
    world = watched(directory, nothing)
    directory.rename(tmp_path / "away")
    watched(directory, nothing, world)

    assert world.names() == {"a": True}
    assert "no such file or directory" in world.state.rejected_sources[str(directory)].message


def test_a_file_half_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)
    (tmp_path / "pods.yaml").write_text("".join(pod(f"p{i}", f"10.0.0.{i}") for i in range(9)))

    async def body(world: World) -> None:
        for _ in range(15):  # an editor that saves piece by piece
            with (tmp_path / "pods.yaml").open("w") as file:
                for i in range(9):
                    file.write(pod(f"p{i}", f"10.0.0.{i}"))
                    file.flush()
                    await trio.sleep(0.01)

    assert watched(tmp_path, body).advice == []


def test_a_link_is_followed_as_kubernetes_mounts_a_config_map(tmp_path: Path) -> None:
    for version, text in (("..1", POOL), ("..2", POOL.replace("8000", "9000"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "pool.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "pool.yaml").symlink_to("..data/pool.yaml")

    async def body(world: World) -> None:
        (tmp_path / "..new").symlink_to("..2")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        await world.until(lambda: world.state.pools["default/llama"].target_ports == (9000,))

    watched(tmp_path, body)


def test_a_changed_file_without_objects_or_warnings_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\n")

    async def body(world: World) -> None:
        world.put("other.yaml", "apiVersion: v1\nkind: Service\n")
        world.put("pool.yaml", POOL)
        await world.until(lambda: bool(world.state.pools))

    assert [e for e in watched(tmp_path, body).events if isinstance(e, SourceAccepted)] == [SourceAccepted("pool.yaml")]


def test_what_is_no_regular_file_is_told_and_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "pool.yaml").write_text(POOL)

    async def body(world: World) -> None:
        wrong = {e.source: e.message for e in world.events if isinstance(e, SourceRejected)}
        assert wrong == dict.fromkeys(("fifo.yaml", "folder.yaml", "zero.yaml"), "is no regular file, wanted one")
        (tmp_path / "pool.yaml").unlink()
        await world.until(lambda: world.state.pools == {})

    watched(tmp_path, body)


class SlowDirectory(type(Path())):  # type: ignore[misc]  # the class of paths of this system
    """A directory on a disk that answers when it is told to."""

    answers = threading.Event()

    def __fspath__(self) -> str:
        assert self.answers.wait(HUNG)
        return super().__fspath__()  # type: ignore[no-any-return]  # it is text for any path


def test_a_look_that_takes_five_seconds_is_a_fault_that_is_told_while_it_lasts_and_after(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL)
    slow = SlowDirectory(tmp_path)
    world = World(tmp_path)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            try:
                SlowDirectory.answers.clear()
                await nursery.start(watch_manifests, slow, lambda: world.state, world.emit)  # the log is in force

                assert world.events == [SourceRejected(str(tmp_path), 0, world.events[0].message)]  # type: ignore[union-attr]
                assert "takes over 5 s" in world.events[0].message  # type: ignore[union-attr]
                SlowDirectory.answers.set()
                await world.until(lambda: "default/llama" in world.state.pools)
                await world.until(lambda: not world.state.rejected_sources)
                SlowDirectory.answers.clear()
                await world.until(lambda: str(tmp_path) in world.state.rejected_sources)
                world.put("a.yaml", POOL.replace("llama", "other"))
                SlowDirectory.answers.set()
                await world.until(lambda: set(world.state.pools) == {"default/other"})
                await world.until(lambda: not world.state.rejected_sources)
            finally:
                SlowDirectory.answers.set()
            nursery.cancel_scope.cancel()

    # Five seconds pass in one: faster than that a busy machine would be late by itself.
    trio.run(main, clock=trio.testing.MockClock(rate=5.0))
