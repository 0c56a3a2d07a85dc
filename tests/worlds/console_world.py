"""A console over a log that real decisions made, for the tests of its pages."""

import http.client
import json
import queue
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import trio

from pointsman.cli.control.weight_changes import WeightChanges
from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION, profile_in_force, schedule
from pointsman.core.events import (
    BackendRef,
    EndpointJoined,
    Event,
    LabelsChanged,
    LoadSampled,
    Origin,
    PickerStarted,
    PoolApplied,
    RequestFacts,
    RequestFinished,
    RequestRouted,
    ResponseStarted,
    RouteMatch,
    RouteObserved,
    RouteRule,
    ScrapePaced,
    WeightsIntended,
)
from pointsman.core.prefix.prompt_blocks import prefix_hashes
from pointsman.core.rollout.outcome import ChangeRefusal
from pointsman.core.rollout.weight_change import ReadBack, ReadBackResult, WriteDone, WriteFailed, WriteResult
from pointsman.core.rollout.weights import touched
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import TrafficState
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack, pack_floats
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedStatistics
from pointsman.eventlog.opening import open_log, open_reader
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.access import Access
from pointsman.web.app import create_app
from pointsman.web.console import Console, Watch
from pointsman.web.loopback import listen
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.serving.console_server import LIMITS, serve
from pointsman.web.serving.http_limits import HttpLimits
from pointsman.web.stream import Broadcast

T = TypeVar("T")
OLD, NEW = "default/vllm-llama3-8b-instruct", "default/vllm-llama3-8b-instruct-new"
ROUTE = "default/llm-route"
EPOCH = 0x1D2C3B4A59687706
MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "food-review-1")


class World:
    """The parts of a control process that the console needs, and a hand on each."""

    def __init__(self, home: Path, appender: Appender, model: ReadModelWriter, broadcast: Broadcast) -> None:
        self.home = home
        self.appender = appender
        self.model = model
        self.feed = FeedStatistics(1, 1, 0, 0, 1, 0)
        self.kept: Kept | None = None
        self.watch = Watch()
        self.broadcast = broadcast
        self.access = Access()
        self.written: list[tuple[BackendRef, ...]] = []
        self.refuse_writes: ChangeRefusal | None = None
        self.changes = WeightChanges(appender, self)
        self.traffic = TrafficState()
        self.n = 0
        self.replayer = Replayer(
            [sys.executable, "-P", "-c", WORKER, str(home / "log")],
        )

    @property
    def state(self) -> ClusterState:
        return self.appender.log.state

    def console(self) -> Console:
        """What the pages get."""
        return Console(
            state=lambda: self.state,
            in_flight=self.appender.log.open_requests.in_flight,
            log=self.appender.statistics,
            feed=lambda: self.feed,
            kept=lambda: self.kept,
            change_weights=self.changes.change,
            log_directory=self.home / "log",
            read_model=self.home / "readmodel.db",
            data_directory=self.home,
            manifests=str(self.home / "manifests"),
            gateway="http://127.0.0.1:8080",
            broadcast=self.broadcast,
            replayer=self.replayer,
            access=self.access,
            watch=self.watch,
        )

    async def write(self, source: str, intent: WeightsIntended) -> WriteResult:
        """A route's file that is written and seen again at once."""
        if self.refuse_writes is not None:
            return WriteFailed(self.refuse_writes)
        route = self.state.routes[intent.route]
        self.written.append(touched(intent.before, intent.after))
        rules = (msgspec.structs.replace(route.rules[intent.rule], backends=intent.after),)
        version = f"v{len(self.written) + 1}"
        await self.appender.append(msgspec.structs.replace(route, rules=rules, version=version))
        return WriteDone()

    async def read_back(self, source: str, intent: WeightsIntended) -> ReadBackResult:
        """What the route's file says."""
        route = self.state.routes[intent.route]
        return ReadBack(route.version, route.rules[intent.rule].backends)

    async def index(self) -> None:
        """Bring the read model up to the head."""
        while await trio.to_thread.run_sync(self.model.fold):
            self.broadcast.changed("decisions", "pools", "routes")

    async def request(self, source: random.Random, pool: str, *, finish: bool = True) -> int:
        """One request, decided as a picker does; the position of its decision."""
        state, self.n = self.state, self.n + 1
        self.traffic.follow(state)
        model = source.choice(MODELS)
        prompt = f"system prompt {source.randrange(5)} ".encode() * 40 + b"and a question"
        facts = RequestFacts(
            f"{source.getrandbits(128):032x}",
            pool,
            model,
            path="/v1/completions",
            body_bytes=len(prompt) + 60,
            prompt_bytes=len(prompt),
            prefix=prefix_hashes(model, prompt, 64),
            prefix_block_bytes=64,
        )
        origin = Origin("picker-0", EPOCH, self.n, state.position)
        decision = schedule(state, self.traffic, profile_in_force(state, pool), facts, Draws("picker-0", EPOCH, self.n))
        event = decision.to_event(origin, time.time(), facts, 23)
        position = await self.appender.append(event)
        if isinstance(event, RequestRouted):
            self.traffic.routed(self.n, event, state)
            if finish:
                await self._finish(source, event)
        return position

    async def _finish(self, source: random.Random, event: RequestRouted) -> None:
        decided, state = self.n, self.state
        for make in (self._started, self._finished):
            self.n += 1
            await self.appender.append(make(source, Origin("picker-0", EPOCH, self.n, state.position), decided))
        self.traffic.finished(decided)

    def _started(self, source: random.Random, origin: Origin, decided: int) -> Event:
        return ResponseStarted(origin, decided, 200, 0.05, "127.0.1.1:8000")

    def _finished(self, source: random.Random, origin: Origin, decided: int) -> Event:
        status = 200 if source.random() < 0.97 else 500
        first = source.uniform(0.08, 0.3)
        return RequestFinished(
            origin, decided, "complete", status, first + 1.1, first, 2000, 40, True, 120, source.randrange(20, 100), 64
        )


WORKER = """
import sys
from pathlib import Path
from pointsman.web.recomputing.worker import serve
serve(Path(sys.argv[1]))
"""


def membership() -> list[Event]:
    """The demo's pools and pods."""
    events: list[Event] = [ScrapePaced(0.05, 0.2)]
    number = 0
    for index, pool in enumerate((OLD, NEW)):
        name = pool.rpartition("/")[2]
        events.append(PoolApplied(pool, {"app": name}, (8000,), f"{name}-epp", 9002 + 2 * index, source="pools.yaml"))
        for i in range(3):
            number += 1
            address = f"127.0.{index + 1}.{i + 1}"
            pod = f"{name}-{'abc'[i] * 2}{number}"
            events.append(
                EndpointJoined(number, pool, f"uid-{number}", "default", pod, address, 8000, ready=number != 6)
            )
            events.append(LabelsChanged(number, ("food-review-1",) if i < 2 else (), (), 2, 16, 4096))
    rule = RouteRule((RouteMatch(),), (BackendRef(OLD, 90), BackendRef(NEW, 10)))
    events.append(RouteObserved(ROUTE, (rule,), source="route.yaml", version="v1"))
    events.append(PickerStarted(Origin("picker-0", EPOCH, 1, 0), "test", SCHEDULER_VERSION, dict(PLUGIN_VERSIONS)))
    return events


def sample(source: random.Random) -> LoadSampled:
    """A scrape of the first five endpoints."""
    numbers = np.arange(1, 6, dtype=np.int64)
    return LoadSampled(
        pack(numbers),
        time.time(),
        pack(np.zeros(5, dtype=np.int64)),
        pack(np.array([source.randrange(3) for _ in range(5)], dtype=np.int64)),
        pack(np.array([source.randrange(1, 30) for _ in range(5)], dtype=np.int64)),
        pack_floats(np.array([source.random() * 0.5 for _ in range(5)])),
    )


def events_of(appender: Appender, first: int = 1, last: int | None = None) -> list[Event]:
    """What the log of this appender says, from the disk."""
    with open_reader(appender.log.directory) as reader:
        return [entry.event for entry in reader.entries(first, last)]


@asynccontextmanager
async def world(home: Path, requests: int = 30, seed: int = 1, *, fresh: bool = True) -> AsyncIterator[World]:
    """A world with this many requests behind it; one that is not fresh goes on with the log that is there."""
    log = open_log(home / "log", "test")
    source = random.Random(seed)
    broadcast = Broadcast()
    appender = Appender(log, lambda commit: broadcast.changed("log", "strip"))
    model = ReadModelWriter(home / "readmodel.db", home / "log")
    made = World(home, appender, model, broadcast)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(appender.run)
            nursery.start_soon(made.replayer.run, made.watch.looked_at, lambda: broadcast.changed("strip"))
            if fresh:
                await appender.append_many(membership())
            made.n = 1
            for i in range(requests):
                if i % 3 == 0:
                    await appender.append(sample(source))
                await made.request(source, OLD if source.random() < 0.9 else NEW, finish=i != requests - 1)
            await made.index()
            try:
                yield made
            finally:
                model.close()
                appender.close()
                await appender.wait_committed(log.head.position)
                nursery.cancel_scope.cancel()
    finally:
        log.close()


@asynccontextmanager
async def served(made: World, port: int = 0, limits: HttpLimits = LIMITS) -> AsyncIterator[str]:
    """The console on a port of its own; its URL."""
    listening = listen("127.0.0.1", port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, create_app(made.console()), listening, made.broadcast, limits)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            nursery.cancel_scope.cancel()


class Answer(msgspec.Struct, frozen=True):
    """What the console answered."""

    status: int
    headers: dict[str, str]
    """By lower-case name; the last of each."""
    body: str

    @property
    def json(self) -> Any:
        """The body decoded."""
        return json.loads(self.body)


class Running:
    """A served world in a thread of its own, for tests that are not asynchronous."""

    def __init__(self, made: World, url: str, token: trio.lowlevel.TrioToken) -> None:
        self.world = made
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self._token = token

    def call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run an async function beside the console and return what it returns."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def ask(
        self, path: str, method: str = "GET", body: str | bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, names, found.read().decode())
        finally:
            connection.close()

    def request(self, pool: str = OLD, finish: bool = True) -> int:
        """One more decision, indexed; its position."""

        async def make() -> int:
            position = await self.world.request(random.Random(self.world.n), pool, finish=finish)
            await self.world.index()
            return position

        return self.call(make)


@contextmanager
def running(home: Path, requests: int = 30, *, port: int = 0, fresh: bool = True) -> Iterator[Running]:
    """A world with its console, served until the context ends."""
    ready: queue.Queue[Running | BaseException] = queue.Queue()
    ended = threading.Event()

    async def live() -> None:
        async with world(home, requests, fresh=fresh) as made, served(made, port) as url:
            ready.put(Running(made, url, trio.lowlevel.current_trio_token()))
            await trio.to_thread.run_sync(ended.wait)

    def run() -> None:
        try:
            trio.run(live)
        except BaseException as error:
            ready.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        found = ready.get(timeout=30)
        if isinstance(found, BaseException):
            raise found
        yield found
    finally:
        ended.set()
        thread.join(timeout=30)
        assert not thread.is_alive(), "the console did not end"


class Restarting:
    """A console that can be ended and started again, at the same port over the same log."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = 0
        self._stack = ExitStack()
        self.running = self._enter(5)
        self._port = self.running.port
        self.url = self.running.url

    def _enter(self, requests: int) -> Running:
        return self._stack.enter_context(running(self._home, requests, port=self._port, fresh=self._port == 0))

    def stop(self) -> None:
        """End it."""
        self._stack.close()

    def start(self) -> None:
        """Start it again."""
        self.running = self._enter(0)


@contextmanager
def restarting(home: Path) -> Iterator[Restarting]:
    """Such a console, ended at the end."""
    found = Restarting(home)
    try:
        yield found
    finally:
        found.stop()
