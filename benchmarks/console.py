"""What the console's pages cost over a long log of real decisions.

`python benchmarks/console.py [--decisions 1000000] [--directory DIR] [--repeat 9] [--output json]`
Budgets: 100 ms a page over a log of 1,000,000 decisions; 1 s for the full matrix of an old decision.
A directory that already holds such a log is used as it is.
"""

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import trio

from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION, profile_in_force, schedule
from pointsman.core.events import (
    BackendRef,
    EndpointJoined,
    Event,
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
)
from pointsman.core.prefix.prompt_blocks import prefix_hashes
from pointsman.core.rollout.outcome import ChangeCode, ChangeOutcome, ChangeRefusal
from pointsman.core.rollout.weights import WeightsAsked
from pointsman.core.state.traffic import TrafficState
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack, pack_floats
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedStatistics
from pointsman.eventlog.opening import open_log, open_reader
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters
from pointsman.eventlog.stores.log import Log
from pointsman.web.access import Access
from pointsman.web.app import create_app
from pointsman.web.console import Console, Watch
from pointsman.web.loopback import listen
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.serving.console_server import serve
from pointsman.web.stream import Broadcast

POOLS = ("bench/stable", "bench/new")
ENDPOINTS = 10
"""Number of endpoints of each pool."""
EPOCH = 0x5EED
MODELS = ("llama", "food-review-1", "qwen")
AHEAD = 2_000
"""Entries queued before the builder waits for the disk."""
PAGE_BUDGET, MATRIX_BUDGET = 0.1, 1.0


def membership() -> list[Event]:
    """Two pools, one route over them, one picker."""
    events: list[Event] = []
    for at, pool in enumerate(POOLS):
        events.append(PoolApplied(pool, {"app": pool}, (8000,)))
        for i in range(ENDPOINTS):
            number = at * ENDPOINTS + i + 1
            name = f"{pool.partition('/')[2]}-{i}"
            events.append(EndpointJoined(number, pool, f"uid-{number}", "bench", name, f"10.0.{at}.{i + 1}", 8000))
    backends = tuple(BackendRef(pool, weight) for pool, weight in zip(POOLS, (90, 10), strict=True))
    events.append(RouteObserved("bench/route", (RouteRule((RouteMatch(),), backends),), version="1"))
    events.append(PickerStarted(Origin("bench", EPOCH, 1, 0), "bench", SCHEDULER_VERSION, dict(PLUGIN_VERSIONS)))
    return events


def sample(source: random.Random) -> LoadSampled:
    """A sample of every endpoint."""
    count = ENDPOINTS * len(POOLS)

    def column(highest: int) -> bytes:
        return pack(np.array([source.randrange(highest) for _ in range(count)], dtype=np.int64))

    used = pack_floats(np.array([source.random() for _ in range(count)]))
    return LoadSampled(pack(np.arange(1, count + 1)), time.time(), column(1), column(20), column(30), used)


class Builder:
    """Makes decisions as a picker does, and their outcomes."""

    def __init__(self, log: Log, appender: Appender) -> None:
        self.log = log
        self.appender = appender
        self.traffic = TrafficState()
        self.source = random.Random(1)
        self.n = 1
        prompts = [f"system prompt {i} ".encode() * 60 for i in range(40)]
        self.prefixes = [(len(p), model, prefix_hashes(model, p, 64)) for p in prompts for model in MODELS]

    async def build(self, decisions: int) -> None:
        """Record this many decisions and their outcomes."""
        await self.appender.append_many(membership())
        told = time.monotonic()
        for made in range(decisions):
            if made % 20 == 0:
                self.appender.append_nowait(sample(self.source))
            position = self._request()
            if made % (AHEAD // 3) == 0:
                await self.appender.wait_committed(position)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                print(f"{made:,} of {decisions:,} decisions", file=sys.stderr, flush=True)
        await self.appender.wait_committed(position)

    def _request(self) -> int:
        state, source = self.log.state, self.source
        self.n += 1
        self.traffic.follow(state)
        size, model, prefix = source.choice(self.prefixes)
        pool = POOLS[source.random() < 0.1]
        facts = RequestFacts(
            f"{source.getrandbits(128):032x}", pool, model, "", "/v1/completions", body_bytes=size, prompt_bytes=size,
            prefix=prefix, prefix_block_bytes=64,
        )  # fmt: skip
        decided = self.n
        origin = Origin("bench", EPOCH, decided, state.position)
        draws = Draws("bench", EPOCH, decided)
        decision = schedule(state, self.traffic, profile_in_force(state, pool), facts, draws)
        event = decision.to_event(origin, time.time(), facts, 30)
        self.appender.append_nowait(event)
        assert isinstance(event, RequestRouted)
        self.traffic.routed(decided, event, state)
        self.n += 2
        status = 200 if source.random() < 0.999 else 500
        started = Origin("bench", EPOCH, self.n - 1, state.position)
        self.appender.append_nowait(ResponseStarted(started, decided, status, 0.01))
        ended = Origin("bench", EPOCH, self.n, state.position)
        self.traffic.finished(decided)
        return self.appender.append_nowait(
            RequestFinished(ended, decided, "complete", status, 1.0, 0.2, 900, 10, True, 120, source.randrange(200))
        )


def console(home: Path, log: Log, appender: Appender, worker: Replayer) -> Console:
    """The console over this log, with what its pages take their values from."""

    async def never(asked: WeightsAsked) -> ChangeOutcome:
        return ChangeRefusal(ChangeCode.NOT_WRITTEN, "a benchmark writes nothing", "a console")

    return Console(
        state=lambda: log.state,
        in_flight=log.open_requests.in_flight,
        log=appender.statistics,
        feed=lambda: FeedStatistics(1, 1, 0, 0, 1, 0),
        kept=lambda: None,
        change_weights=never,
        log_directory=home / "log",
        read_model=home / "readmodel.db",
        data_directory=home,
        manifests="",
        gateway="",
        broadcast=Broadcast(),
        replayer=worker,
        access=Access(),
        watch=Watch(),
    )


def pages(home: Path) -> dict[str, list[str]]:
    """Addresses by the name of the page; several where asking for one again would be answered from memory."""
    with open_read_model(home / "readmodel.db") as model, open_reader(home / "log") as reader:
        newest = model.decisions(Filters(), limit=500).rows
        head, first = reader.head().position, reader.first()
        middle = model.decisions(Filters(), before=head // 2, limit=500).rows
        oldest = model.decisions(Filters(), after=first, limit=500).rows
    moments = (oldest[0].decided_at, middle[0].decided_at + 1)
    times = [time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) for at in moments]
    return {
        "overview": ["/"],
        "pools": ["/pools"],
        "pool, 5 minutes": ["/pools/bench/stable"],
        "pool, day": ["/pools/bench/stable?span=day"],
        "route": ["/routes/bench/route"],
        "decisions, newest": ["/decisions"],
        "decisions, middle": [f"/decisions?before={head // 2}"],
        "decisions, oldest": [f"/decisions?after={first}"],
        "search, model": ["/decisions?model=food-review-1"],
        "search, endpoint": ["/decisions?endpoint=new-3"],
        "search, rare status": ["/decisions?status=500"],
        "search, model, endpoint and rare status": ["/decisions?model=qwen&endpoint=new-3&status=500"],
        "search, refused (none)": ["/decisions?status=refused"],
        "search, time": [f"/decisions?since={times[0]}&until={times[1]}"],
        "search, rare status in time": [f"/decisions?since={times[0]}&until={times[1]}&status=500&model=qwen"],
        "search, request id": [f"/decisions?request={middle[7].request_id}"],
        "log, newest": ["/log"],
        "log, middle": [f"/log?first={head // 2}"],
        "log, rare type": ["/log?type=weights-written"],
        "decision, newest": [f"/decisions/{row.position}" for row in newest],
        "decision, middle": [f"/decisions/{row.position}" for row in middle],
        "decision, oldest": [f"/decisions/{row.position}" for row in oldest],
        "matrix, middle": [f"/api/v1/decisions/{row.position}" for row in middle[100:]],
        "matrix, oldest": [f"/api/v1/decisions/{row.position}" for row in oldest[100:]],
    }


def measure(port: int, addresses: list[str], repeat: int) -> list[float]:
    """Seconds of each answer, in order: the first includes what the server process does only once."""
    found = []
    for i in range(repeat):
        address = addresses[i * 7 % len(addresses)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        began = time.perf_counter()
        connection.request("GET", address)
        answer = connection.getresponse()
        body = answer.read()
        found.append(time.perf_counter() - began)
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{address} answered {answer.status}: {body[:200]!r}")
        if "/api/v1/decisions/" in address and json.loads(body)["verdict"]["word"] != "verified":
            raise SystemExit(f"{address} is not verified: {body[:300]!r}")
    return found


WORKER = (
    "import sys; from pathlib import Path; from pointsman.web.recomputing.worker import serve; serve(Path(sys.argv[1]))"
)


async def run(home: Path, decisions: int, repeat: int) -> dict[str, list[float]]:
    """Build the log where there is none, index it, and measure; the seconds of each page's answers."""
    log = open_log(home / "log", "bench")
    appender = Appender(log, lambda commit: None)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        stack.callback(log.close)
        await nursery.start(appender.run)
        if not log.state.pools:
            began = time.perf_counter()
            await Builder(log, appender).build(decisions)
            took = time.perf_counter() - began
            print(f"{decisions:,} decisions, {log.head.position:,} entries recorded in {took:.0f} s", file=sys.stderr)
        model = ReadModelWriter(home / "readmodel.db", home / "log")
        began, before = time.perf_counter(), 0
        while await trio.to_thread.run_sync(model.fold):
            before += 1
        print(f"indexed in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        model.close()
        worker = Replayer([sys.executable, "-P", "-c", WORKER, str(home / "log")])
        found = console(home, log, appender, worker)
        nursery.start_soon(worker.run, lambda: False, lambda: None)
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        nursery.start_soon(serve, create_app(found), listening, found.broadcast)
        times = await trio.to_thread.run_sync(measure_all, home, port, repeat)
        nursery.cancel_scope.cancel()
    return times


def measure_all(home: Path, port: int, repeat: int) -> dict[str, list[float]]:
    """Seconds of each page's answers."""
    return {name: measure(port, addresses, repeat) for name, addresses in pages(home).items()}


def is_matrix(page: str) -> bool:
    return page.startswith("matrix")


def report(found: dict[str, list[float]]) -> bool:
    """Print a line for each page; whether all keep their budget."""
    good = True
    print(f"{'page':42}{'first':>9}{'median':>9}{'worst':>9}   ms")
    for name, times in found.items():
        budget = MATRIX_BUDGET if is_matrix(name) else PAGE_BUDGET
        median = statistics.median(times)
        over = "" if median <= budget else f"   over {budget * 1e3:.0f}"
        good = good and not over
        print(f"{name:42}{times[0] * 1e3:9.1f}{median * 1e3:9.1f}{max(times) * 1e3:9.1f}{over}")
    return good


def main() -> None:
    """Measure and print; fail where a row of the table misses its budget."""
    parser = argparse.ArgumentParser(description="The console's pages over a long log.")
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--output", choices=("table", "json"), default="table", help="json: seconds of each answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = trio.run(run, options.directory or Path(scratch), options.decisions, options.repeat)
    if options.output == "json":
        print(json.dumps(found))
        return
    sys.exit(0 if report(found) else 1)


if __name__ == "__main__":
    main()
