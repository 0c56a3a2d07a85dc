"""What one decision costs: `schedule` with the default profile and 64 prefix blocks, and verifying it."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from pointsman.core.config.parse import DEFAULT_CONFIG
from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.scheduler import profile_in_force, schedule
from pointsman.core.deciding.verdict import verify_decision
from pointsman.core.events import (
    ConfigAccepted,
    EndpointJoined,
    LoadSampled,
    Origin,
    PoolApplied,
    RequestFacts,
    RequestRouted,
)
from pointsman.core.prefix.prompt_blocks import prefix_hashes
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import TrafficState
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack, pack_floats

POOL = "default/llama"
PROMPTS, BLOCKS, BLOCK_BYTES = 20, 64, 64


def cluster_of(count: int) -> ClusterState:
    """A pool of `count` endpoints, all sampled, with the default configuration in force."""
    cluster = ClusterState()
    cluster.apply_event(1, PoolApplied(POOL, {}, (8000,)))
    for i in range(1, count + 1):
        joined = EndpointJoined(i, POOL, f"uid-{i}", "default", f"llama-{i:05}", f"10.0.{i >> 8}.{i & 255}", 8000)
        cluster.apply_event(cluster.position + 1, joined)
    random = np.random.default_rng(count)
    waiting, running = pack(random.integers(0, 20, count)), pack(random.integers(0, 20, count))
    numbers, now = pack(np.arange(1, count + 1)), pack(np.zeros(count, dtype=np.int64))
    shares = pack_floats(random.random(count))
    cluster.apply_event(cluster.position + 1, LoadSampled(numbers, 1.7e9, now, waiting, running, shares))
    cluster.apply_event(cluster.position + 1, ConfigAccepted("*", DEFAULT_CONFIG.encode(), "benchmark"))
    return cluster


def request_facts(i: int) -> RequestFacts:
    """The facts of the i-th request; its prompt shares three quarters of its blocks with others of its group."""
    shared = f"system prompt {i % PROMPTS} ".ljust(BLOCKS * BLOCK_BYTES * 3 // 4, "x")
    prompt = (shared + f"question {i} ").ljust(BLOCKS * BLOCK_BYTES, "y").encode()
    return RequestFacts(
        f"request-{i}",
        POOL,
        model="llama",
        path="/v1/completions",
        body_bytes=len(prompt),
        prompt_bytes=len(prompt),
        prefix=prefix_hashes("llama", prompt, BLOCK_BYTES),
        prefix_block_bytes=BLOCK_BYTES,
    )


def warmed(cluster: ClusterState, count: int) -> TrafficState:
    """A traffic state in which each prompt was given to a few endpoints, one request each still open."""
    traffic = TrafficState()
    traffic.follow(cluster)
    random = np.random.default_rng(7)
    for n in range(1, max(200, 2 * count)):
        endpoint = int(random.integers(1, count + 1))
        origin = Origin("benchmark", 1, n, cluster.position)
        traffic.routed(n, RequestRouted(origin, 0.0, request_facts(n), (endpoint,)), cluster)
    return traffic


def measured(run: Callable[[int], object], rounds: int, decisions: int) -> tuple[float, float]:
    """Median and lowest microseconds of a call to `run`."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for i in range(decisions):
            run(i)
        times.append((time.perf_counter() - begin) / decisions * 1e6)
    return statistics.median(times), min(times)


class Work:
    """Requests on a warmed pool of `count` endpoints, and what was decided on them."""

    def __init__(self, count: int, decisions: int) -> None:
        self.cluster = cluster_of(count)
        self._traffic, self._profile = warmed(self.cluster, count), profile_in_force(self.cluster, POOL)
        self._facts = [request_facts(i) for i in range(decisions)]
        self.events = [
            self.decide(i).to_event(Origin("benchmark", 1, i, self.cluster.position), 1.7e9, request, 20)
            for i, request in enumerate(self._facts)
        ]

    def decide(self, i: int) -> Decision:
        """Decide the i-th request."""
        return schedule(self.cluster, self._traffic, self._profile, self._facts[i], Draws("benchmark", 1, i))

    def verify(self, i: int) -> None:
        """Decide it again from its entry, and compare."""
        assert verify_decision(self.cluster, self.events[i]).kind == "ok"


def measured_at(count: int, rounds: int, decisions: int) -> tuple[float, float]:
    """Median microseconds of a decision and of verifying one, at `count` endpoints."""
    work = Work(count, decisions)
    decided, _ = measured(work.decide, rounds, decisions)
    return decided, measured(work.verify, 3, decisions)[0]
