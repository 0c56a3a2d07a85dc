"""Small logs for tests, and a world of events that fold."""

import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import trio

from pointsman.core.events import (
    EndpointJoined,
    EndpointLeft,
    Event,
    LoadSampled,
    Origin,
    PickerStarted,
    PoolApplied,
    Read,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ResponseStarted,
)
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.core.values.packing import pack, pack_floats
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import DEFAULT_LIMITS, open_log
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.stores.snapshots import Projection
from pointsman.eventlog.stores.writing import Commit, StoreLimits

POOL = "test/pool"
PICKER, EPOCH = "picker-1", 2**63 + 11
SMALL = StoreLimits(segment_bytes=150_000, snapshot_cost=700, batch_interval=0.0, batch_events=50)
"""Limits under which a few thousand events make several segments and many snapshots."""


def world(seed: int) -> Iterator[Event]:
    """Events for ever: a pool whose members come and go, samples, requests that are routed, served and refused."""
    rng = random.Random(seed)
    members, number, n, position = list[int](), 0, 1, 2
    opened = list[int]()
    yield PoolApplied(POOL, {"app": "test"}, (8000,))
    yield PickerStarted(Origin(PICKER, EPOCH, 1, 2), "test", 1, {})
    while True:
        position += 1
        kind = rng.random()
        origin = Origin(PICKER, EPOCH, n + 1, max(position - rng.randrange(1, 40), 1))
        if len(members) < 3 or kind < 0.02:
            number += 1
            members.append(number)
            yield EndpointJoined(number, POOL, f"uid-{number}", "test", f"pod-{number}", f"10.0.0.{number % 250}", 8000)
        elif kind < 0.03 and len(members) > 4:
            yield EndpointLeft(members.pop(rng.randrange(len(members))), "gone")
        elif kind < 0.3:
            yield sample(sorted(rng.sample(members, rng.randrange(1, len(members) + 1))), rng)
        elif kind < 0.6 or not opened:
            n += 1
            facts = RequestFacts(f"request-{n}", POOL, rng.choice(["llama", "qwen"]), prefix=rng.randbytes(16))
            if kind < 0.35:
                yield RequestRefused(origin, 1.7e9 + n, facts, "saturated", 429)
            else:
                opened.append(n)
                reads = (Read(1, pack(np.arange(len(members), dtype=np.int64))),)
                yield RequestRouted(origin, 1.7e9 + n, facts, (rng.choice(members),), reads=reads)
        elif kind < 0.8:
            n += 1
            yield ResponseStarted(origin, opened[0], 200, 0.1)
        else:
            n += 1
            done = opened.pop(rng.randrange(len(opened)))
            yield RequestFinished(origin, done, "complete", 200 if kind < 0.97 else 503, 0.5, 0.1, completion_tokens=7)


def sample(numbers: list[int], rng: random.Random) -> LoadSampled:
    """A sample of these endpoints."""
    column = [pack(np.array([rng.randrange(50) for _ in numbers], dtype=np.int64)) for _ in range(3)]
    kv_cache = pack_floats(np.array([rng.random() for _ in numbers]))
    return LoadSampled(pack(np.array(numbers, dtype=np.int64)), 1.7e9, column[0], column[1], column[2], kv_cache)


def some(count: int, seed: int = 1) -> list[Event]:
    """The first events of a world."""
    events = world(seed)
    return [next(events) for _ in range(count)]


def with_appender(
    directory: Path,
    work: Callable[[Appender], Awaitable[None]],
    limits: StoreLimits = DEFAULT_LIMITS,
    commits: list[Commit] | None = None,
) -> list[Commit]:
    """Open the log, do `work`, close it in order; the commits, which `commits` gets as they come."""
    commits = [] if commits is None else commits

    async def main() -> None:
        log = open_log(directory, "test", limits)
        try:
            async with trio.open_nursery() as nursery:
                appender = Appender(log, commits.append)
                await nursery.start(appender.run)
                with trio.fail_after(30):
                    await work(appender)
                appender.close()
        finally:
            log.close()

    trio.run(main)
    return commits


def write(directory: Path, events: list[Event], limits: StoreLimits = DEFAULT_LIMITS) -> list[Commit]:
    """Append events to the log in `directory`, in the batches that the limits make."""

    async def append(appender: Appender) -> None:
        step = limits.batch_events * 4
        for start in range(0, len(events), step):
            await appender.append_many(events[start : start + step])

    return with_appender(directory, append, limits)


def fold(path: Path, directory: Path) -> None:
    """Bring the read model at `path` up to the head of a log."""
    writer = ReadModelWriter(path, directory)
    while writer.fold():
        pass
    writer.close()


def dump(path: Path) -> list[tuple[object, ...]]:
    """All rows of a read model."""
    with sqlite3.connect(path) as connection:
        found = [
            row
            for table in ("requests", "occurring", "spans", "refusals", "moments", "endpoints", "changes")
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
        ]
    connection.close()
    return found


def same(mine: Projection, theirs: Projection) -> bool:
    """Whether two projections say the same."""
    mine_open = {key: value for key, value in mine.open_requests.by_epoch.items() if value}
    theirs_open = {key: value for key, value in theirs.open_requests.by_epoch.items() if value}
    return encode_snapshot(mine.cluster) == encode_snapshot(theirs.cluster) and mine_open == theirs_open


CHILD = """
import sys
from pathlib import Path
import trio
import msgspec
from worlds.logs import SMALL, some
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import open_log

async def main():
    log = open_log(Path(sys.argv[1]), "test", msgspec.structs.replace(SMALL, segment_bytes=70_000))
    print("open", log.head.position, flush=True)
    def told(commit):
        print(commit.last, commit.digest.hex(), flush=True)
    async with trio.open_nursery() as nursery:
        appender = Appender(log, told)
        await nursery.start(appender.run)
        events = some(2000, seed=int(sys.argv[2]))
        while True:
            for start in range(0, 2000, 25):
                for event in events[start : start + 25]:
                    # membership of this world may not fit what earlier lives left behind
                    if type(event).__name__.startswith(("Request", "Response", "Load")):
                        appender.append_nowait(event)
                await trio.sleep(0.001)
trio.run(main)
"""
"""A process that appends to a log until it is killed; it prints each commit."""
