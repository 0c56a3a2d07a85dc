"""What the log costs: a steady load with every commit synced, and the folds."""

import resource
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np
import trio

from pointsman.core.events import (
    Class,
    EndpointJoined,
    Event,
    LoadSampled,
    Origin,
    PickerStarted,
    PoolApplied,
    Read,
    RequestFacts,
    RequestFinished,
    RequestRouted,
    ResponseStarted,
    class_of,
    encode,
)
from pointsman.core.state.marks import skim
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import pack, pack_floats
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.stores.writing import Commit
from pointsman.eventlog.verifying.walk import DecisionWalk

ENDPOINTS = 100


def membership() -> list[Event]:
    """A pool with endpoints."""
    pool = "bench/pool"
    joined: list[Event] = [
        EndpointJoined(n, pool, f"uid-{n}", "bench", f"pod-{n}", f"10.0.{n // 250}.{n % 250}", 8000)
        for n in range(1, ENDPOINTS + 1)
    ]
    return [PoolApplied(pool, {"app": "bench"}, (8000,)), *joined]


def sample(rng: np.random.Generator) -> LoadSampled:
    """A sample of every endpoint."""
    return LoadSampled(
        endpoints=pack(np.arange(1, ENDPOINTS + 1, dtype=np.int64)),
        sampled_at=time.time(),
        earlier=pack(rng.integers(0, 50, ENDPOINTS)),
        waiting=pack(rng.integers(0, 20, ENDPOINTS)),
        running=pack(rng.integers(0, 200, ENDPOINTS)),
        kv_cache=pack_floats(rng.random(ENDPOINTS)),
    )


def request(n: int, applied: int, rng: np.random.Generator) -> list[Event]:
    """The three events of a request: routed, started, finished."""
    facts = RequestFacts(
        request_id=f"{n:08x}-0000-4000-8000-{rng.integers(1 << 40):012x}",
        pool="bench/pool",
        model="llama-3-8b",
        path="/v1/chat/completions",
        body_bytes=2048,
        prompt_bytes=1500,
    )
    origin = Origin("picker-1", 1 << 63, 3 * n + 2, applied)
    endpoint = int(rng.integers(1, ENDPOINTS + 1))
    reads = (Read(1, pack(rng.integers(0, 30, ENDPOINTS))),)
    best = ((endpoint, 1.5), (1, 1.4), (2, 1.3))
    return [
        RequestRouted(origin, time.time(), facts, (endpoint, 1, 2), best, (), reads, b"", False, b"12345678", 25),
        ResponseStarted(Origin("picker-1", 1 << 63, 3 * n + 3, applied), origin.n, 200, 0.05),
        RequestFinished(Origin("picker-1", 1 << 63, 3 * n + 4, applied), origin.n, "complete", 200, 0.9, 0.06, 2048, 1),
    ]


async def append_load(directory: Path, rate: int, seconds: float) -> dict[str, float]:
    """Append `rate` events a second, in bursts every 10 ms as the feed delivers them; return the costs."""
    rng = np.random.default_rng(1)
    log = open_log(directory, "bench")
    told: deque[Commit] = deque(maxlen=1)
    bodies = [(class_of(event), encode(event)) for n in range(3000) for event in request(n, 100, rng)]
    async with trio.open_nursery() as nursery:
        appender = Appender(log, told.append)
        await nursery.start(appender.run)
        await appender.append_many([*membership(), PickerStarted(Origin("picker-1", 1 << 63, 1, 0), "b", 1, {})])
        before = resource.getrusage(resource.RUSAGE_SELF)
        began, sent = trio.current_time(), 0
        while (now := trio.current_time()) < began + seconds:
            for _ in range(int((now - began) * rate) - sent):
                kind, body = bodies[sent % len(bodies)]
                appender.append_skimmed_nowait(kind, body, skim(kind, body))
                sent += 1
            await trio.sleep(0.010)
        elapsed = trio.current_time() - began
        await appender.append_many([])
        after = resource.getrusage(resource.RUSAGE_SELF)
        statistics = appender.statistics()
        appender.close()
    log.close()
    size = sum(path.stat().st_size for path in directory.glob("*.segment*"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "events_per_second": sent / elapsed,
        "core_percent": 100 * cpu / elapsed,
        "cpu_us_per_event": 1e6 * cpu / sent,
        "commits_per_second": statistics.commits / elapsed,
        "commit_p99_ms": 1000 * statistics.commit_duration_p99,
        "body_bytes_per_event": sum(len(body) for _, body in bodies) / len(bodies),
        "file_bytes_per_event": size / sent,
    }


async def write_mixed(directory: Path, requests: int) -> None:
    """A log in which every 20 requests follow a sample of all endpoints, decided on the state a little before."""
    rng = np.random.default_rng(3)
    log = open_log(directory, "bench")
    samples = [sample(rng) for _ in range(100)]
    async with trio.open_nursery() as nursery:
        appender = Appender(log, lambda commit: None)
        await nursery.start(appender.run)
        position = await appender.append_many(
            [*membership(), PickerStarted(Origin("picker-1", 1 << 63, 1, 0), "b", 1, {})]
        )
        for n in range(requests):
            if n % 20 == 0:
                position = appender.append_nowait(samples[n // 20 % 100])
            for event in request(n, position - int(rng.integers(0, 50)), rng):
                position = appender.append_nowait(event)
            if n % 500 == 0:
                await appender.append_many([])
        await appender.append_many([])
        appender.close()
    log.close()


def walk_decisions(directory: Path) -> dict[str, float]:
    """Rates of walking decisions with their state, of folding all entries and of the read model, and the time to open."""
    found: dict[str, float] = {}
    with open_reader(directory) as reader:
        start = time.process_time()
        count = sum(1 for decided in DecisionWalk(reader).decisions(1) if isinstance(decided.state, ClusterState))
        found["decisions_per_second"] = count / (time.process_time() - start)
        start = time.process_time()
        state = ClusterState()
        for entry in reader.entries(1):
            state.apply(entry)
        found["mixed_entries_folded_per_second"] = state.position / (time.process_time() - start)
    writer = ReadModelWriter(directory.parent / "readmodel.db", directory)
    start = time.process_time()
    while writer.fold():
        pass
    found["read_model_entries_per_second"] = writer.position / (time.process_time() - start)
    writer.close()
    start = time.process_time()
    open_log(directory, "bench").close()
    found["open_ms"] = 1000 * (time.process_time() - start)
    return found


def fold_load(entries: int) -> dict[str, float]:
    """Rates of folding load samples, of all endpoints and of a fifth of them."""
    rng = np.random.default_rng(2)
    state = ClusterState()
    for event in membership():
        state.apply_event(state.position + 1, event)
    bodies = [encode(sample(rng)) for _ in range(200)]
    start = time.process_time()
    for n in range(entries):
        state.apply_event(state.position + 1, skim(Class.LOAD, bodies[n % 200]))
    return {"load_entries_per_second": entries / (time.process_time() - start)}


def measured(rate: int, seconds: float, requests: int, directory_in: Path | None = None) -> dict[str, float]:
    """All figures of this module."""
    with tempfile.TemporaryDirectory(dir=directory_in) as directory:
        path = Path(directory) / "log"
        found = trio.run(append_load, path, rate, seconds)
        found |= fold_load(20_000)
        start = time.process_time()
        report = verify_chain(path)
        assert report.sound, report.fault
        found["chain_entries_per_second"] = report.entries / (time.process_time() - start)
        with open_reader(path) as reader:
            start = time.process_time()
            state = ClusterState()
            for entry in reader.entries(1):
                state.apply(entry)
            found["traffic_entries_per_second"] = state.position / (time.process_time() - start)
        mixed = Path(directory) / "mixed"
        trio.run(write_mixed, mixed, requests)
        found |= walk_decisions(mixed)
    return found
