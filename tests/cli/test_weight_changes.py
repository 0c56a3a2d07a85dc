"""Changes of weights as the control process drives them: a real log, real manifests, several who ask."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import trio
from worlds.console_world import events_of

from pointsman.cli.control.weight_changes import WeightChanges
from pointsman.cluster.manifests.actuator import ManifestActuator
from pointsman.cluster.objects.manifest import file_version, read_manifest
from pointsman.core.events import (
    BackendRef,
    ClockStepped,
    RouteObserved,
    WeightsIntended,
    WeightsRefused,
    WeightsWritten,
)
from pointsman.core.rollout.outcome import ChangeCode, ChangeDone, ChangeOutcome, ChangeRefusal
from pointsman.core.rollout.weight_change import ReadBackResult, WriteResult
from pointsman.core.rollout.weights import WeightsAsked, backend_key
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError
from pointsman.eventlog.opening import open_log
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.eventlog.stores.writing import StoreLimits

RULE = """\
  - backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: old, weight: 90}
    - {group: inference.networking.k8s.io, kind: InferencePool, name: new, weight: 10}
"""
TEXT = f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  rules:
{RULE}{RULE}"""
QUEUE = 50
OLD = backend_key(BackendRef("default/old", 0))


class Held:
    """The manifests' actuator, whose writes wait until they may go on."""

    def __init__(self, directory: Path) -> None:
        self._files = ManifestActuator(directory)
        self.begun = trio.Event()
        self.go_on = trio.Event()

    async def write(self, source: str, intent: WeightsIntended) -> WriteResult:
        self.begun.set()
        await self.go_on.wait()
        return await self._files.write(source, intent)

    async def read_back(self, source: str, intent: WeightsIntended) -> ReadBackResult:
        return await self._files.read_back(source, intent)


class Manifests:
    """A directory with one route, and the log that knows it."""

    def __init__(self, home: Path, appender: Appender, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.directory = home / "manifests"
        self.file = self.directory / "r.yaml"
        self.appender = appender

    async def look(self) -> RouteObserved:
        """Record the route as the file has it."""
        [found] = read_manifest("r.yaml", self.file.read_bytes()).objects
        assert isinstance(found.value, RouteObserved)
        await self.appender.append(found.value)
        return found.value

    def asked(self, weight: int, rule: int = 0) -> WeightsAsked:
        version = self.appender.log.state.routes["default/r"].version
        return WeightsAsked("default/r", rule, version, {OLD: weight}, "because", "somebody")

    def said(self) -> list[WeightsIntended | WeightsWritten | WeightsRefused]:
        """What the log says of changes."""
        kinds = (WeightsIntended, WeightsWritten, WeightsRefused)
        return [e for e in events_of(self.appender) if isinstance(e, kinds)]

    def look_soon(self, pause: float) -> None:
        """Have the file looked at after a moment, as its source does."""

        async def later() -> None:
            await trio.sleep(pause)
            await self.look()

        self._nursery.start_soon(later)

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():
                await trio.sleep(0.01)

    @contextmanager
    def stalled(self, *, at_once: bool = True) -> Iterator[Callable[[], None]]:
        """A log whose disk takes nothing until the end of the block, from the call of what it gives on."""
        [segment] = segment_paths(self.appender.log.directory)
        with closing(sqlite3.connect(segment, isolation_level=None)) as other:

            def stall() -> None:
                other.execute("BEGIN IMMEDIATE")

            if at_once:
                stall()
            yield stall

    def fill_queue(self) -> None:
        """Queue entries until no more are taken."""
        with suppress(LogFullError):
            while True:
                self.appender.append_nowait(ClockStepped(1.0))

    async def leave_open(self, after: tuple[int, int], rule: int = 0) -> WeightsIntended:
        """An intent without an end, as a control process leaves it that dies."""
        route = self.appender.log.state.routes["default/r"]
        before = route.rules[rule].backends
        wanted = tuple(BackendRef(b.pool, weight) for b, weight in zip(before, after, strict=True))
        intent = WeightsIntended("open", "default/r", rule, route.version, before, wanted, "a", "cut off", 0.0)
        await self.appender.append(intent)
        return intent


@asynccontextmanager
async def manifests(home: Path) -> AsyncIterator[Manifests]:
    log = open_log(home / "log", "test", StoreLimits(queue_events=QUEUE))
    appender = Appender(log, lambda commit: None)
    try:
        async with trio.open_nursery() as nursery:
            made = Manifests(home, appender, nursery)
            made.directory.mkdir()
            made.file.write_text(TEXT)
            await nursery.start(appender.run)
            await made.look()
            yield made
            appender.close()
    finally:
        log.close()


def code(outcome: ChangeOutcome) -> ChangeCode:
    assert isinstance(outcome, ChangeRefusal), outcome
    return outcome.code


def changes(made: Manifests) -> WeightChanges:
    return WeightChanges(made.appender, ManifestActuator(made.directory))


def test_a_change_is_in_the_log_and_in_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with manifests(tmp_path) as made:
            made.look_soon(0.1)
            found = await changes(made).change(made.asked(50))

            assert isinstance(found, ChangeDone)
            assert found.version == file_version(made.file.read_bytes())
            assert made.appender.log.state.routes["default/r"].version == found.version
            assert made.file.read_text() == TEXT.replace("weight: 90", "weight: 50", 1)
            intent, end = made.said()
            assert isinstance(intent, WeightsIntended)
            assert end == WeightsWritten(intent.change, found.version)

    trio.run(main)


def test_two_who_change_a_rule_at_once_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        async with manifests(tmp_path) as made:
            held = Held(made.directory)
            driver = WeightChanges(made.appender, held)
            found: list[ChangeOutcome] = []

            async def ask(asked: WeightsAsked) -> None:
                found.append(await driver.change(asked))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, made.asked(50))
                await held.begun.wait()
                assert code(await driver.change(made.asked(60))) is ChangeCode.UNDER_WAY
                # Another rule of the same file waits for the write, and finds that its ground is gone.
                nursery.start_soon(ask, made.asked(70, rule=1))
                await made.until(lambda: len(made.said()) == 2)
                held.go_on.set()
                made.look_soon(0.1)

            assert isinstance(found[1], ChangeDone)
            assert code(found[0]) is ChangeCode.STALE
            assert made.file.read_text() == TEXT.replace("weight: 90", "weight: 50", 1)
            assert [type(e) for e in made.said()].count(WeightsRefused) == 1
            assert made.appender.log.state.pending_changes == {}

    trio.run(main)


def test_what_was_cut_off_gets_its_end_from_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        for number, (present, kind, said) in enumerate(
            (
                ("", WeightsRefused, "cut off before it was written"),
                ("weight: 50", WeightsWritten, ""),
                ("weight: 60", WeightsRefused, "read back are 60, 10, wanted 50, 10"),
                ("weight: [", WeightsRefused, "could not be read back: r.yaml"),
                ("gone", WeightsRefused, "could not be read back: r.yaml: No such file"),
            )
        ):
            home = tmp_path / str(number)
            home.mkdir()
            async with manifests(home) as made:
                await made.leave_open((50, 10))
                if present == "gone":
                    made.file.unlink()
                elif present:
                    made.file.write_text(TEXT.replace("weight: 90", present, 1))
                await changes(made).settle()

                *_, end = made.said()
                assert isinstance(end, kind)
                assert said in getattr(end, "cause", "")
                assert made.appender.log.state.pending_changes == {}
                if present != "gone":
                    assert made.file.read_text() == TEXT.replace("weight: 90", present or "weight: 90", 1)

    trio.run(main)


def test_a_rule_with_a_change_that_was_cut_off_is_looked_at_before_it_is_changed(tmp_path: Path) -> None:
    async def main() -> None:
        async with manifests(tmp_path) as made:
            await made.leave_open((50, 10))
            made.look_soon(0.1)
            assert isinstance(await changes(made).change(made.asked(60)), ChangeDone)

            kinds = [type(e) for e in made.said()]
            assert kinds == [WeightsIntended, WeightsRefused, WeightsIntended, WeightsWritten]

    trio.run(main)


def test_a_log_that_does_not_take_the_intent_leaves_the_file_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with manifests(tmp_path) as made:
            driver = changes(made)
            with made.stalled():
                late = await driver.change(made.asked(50))
                assert code(late) is ChangeCode.NOT_RECORDED
                # Its intent and its end are queued, so that the rule is free.
                made.fill_queue()
                full = await driver.change(made.asked(50))
                assert code(full) is ChangeCode.NOT_RECORDED
                assert "full" in str(full)
                assert made.file.read_text() == TEXT
            await made.appender.append_many([])

            assert [type(e) for e in made.said()] == [WeightsIntended, WeightsRefused]
            assert made.appender.log.state.pending_changes == {}

    trio.run(main)


def test_an_end_that_the_log_does_not_take_follows_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with manifests(tmp_path) as made, trio.open_nursery() as nursery:
            held = Held(made.directory)
            driver = WeightChanges(made.appender, held)
            found: list[ChangeOutcome] = []

            async def ask() -> None:
                found.append(await driver.change(made.asked(50)))
                nursery.start_soon(driver.settle)

            with made.stalled(at_once=False) as stall:
                nursery.start_soon(ask)
                await held.begun.wait()
                stall()
                made.fill_queue()
                held.go_on.set()
                await made.until(lambda: bool(found))
                assert code(found[0]) is ChangeCode.END_NOT_RECORDED
                assert made.file.read_text() != TEXT
                assert len(made.said()) == 1
            await made.until(lambda: len(made.said()) == 2)
            assert isinstance(made.said()[1], WeightsWritten)

    trio.run(main)
