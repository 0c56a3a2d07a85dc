"""What one decision costs: `schedule` with the default profile and 64 prefix blocks, and verifying it.

    .venv/bin/python benchmarks/schedule.py [--rounds 9] [--decisions 2000] [--profile]

Prints the median over rounds of the mean over a round's decisions, and the lowest: the machine may be shared.
"""

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable

import numpy as np

from pointsman.core.config import DEFAULT_CONFIG
from pointsman.core.draws import Draws
from pointsman.core.events import (
    ConfigAccepted,
    EndpointJoined,
    LoadSampled,
    Origin,
    PoolApplied,
    RequestFacts,
    RequestRouted,
    encode,
)
from pointsman.core.packing import pack, pack_floats
from pointsman.core.projection import ClusterState
from pointsman.core.prompt_blocks import prefix_hashes
from pointsman.core.replay import verify_decision
from pointsman.core.scheduler import profile_in_force, schedule
from pointsman.core.traffic import TrafficState

POOL = "default/llama"
BUDGETS = {5: 25, 100: 30, 1000: 60}
"""Microseconds: design.md, section 12."""
PROMPTS, BLOCKS, BLOCK_BYTES = 20, 64, 64


def cluster_of(count: int) -> ClusterState:
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
    """Prompts that share three quarters of their blocks with those of the same number."""
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
    """Median and lowest microseconds a call."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for i in range(decisions):
            run(i)
        times.append((time.perf_counter() - begin) / decisions * 1e6)
    return statistics.median(times), min(times)


def measured_at(count: int, rounds: int, decisions: int) -> tuple[float, float]:
    """Median microseconds of a decision and of verifying one, at `count` endpoints."""
    cluster = cluster_of(count)
    traffic, profile = warmed(cluster, count), profile_in_force(cluster, POOL)
    facts = [request_facts(i) for i in range(decisions)]
    events = []
    for i, request in enumerate(facts):
        decision = schedule(cluster, traffic, profile, request, Draws("benchmark", 1, i))
        events.append(decision.to_event(Origin("benchmark", 1, i, cluster.position), 1.7e9, request, 20))

    def verify(i: int) -> None:
        assert verify_decision(cluster, events[i]).kind == "ok"

    decided, _ = measured(
        lambda i: schedule(cluster, traffic, profile, facts[i], Draws("benchmark", 1, i)), rounds, decisions
    )
    return decided, measured(verify, 3, decisions)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decisions", type=int, default=2000)
    parser.add_argument("--profile", action="store_true", help="show where the time of 5 endpoints goes")
    options = parser.parse_args()
    print(f"{'endpoints':>9} {'schedule us':>12} {'lowest':>7} {'budget':>7} {'verify us':>10} {'entry bytes':>12}")
    for count, budget in BUDGETS.items():
        cluster = cluster_of(count)
        traffic = warmed(cluster, count)
        profile = profile_in_force(cluster, POOL)
        facts = [request_facts(i) for i in range(options.decisions)]

        def decide(i: int) -> object:
            return schedule(cluster, traffic, profile, facts[i], Draws("benchmark", 1, i))  # noqa: B023

        events = []
        for i, request in enumerate(facts):
            decision = schedule(cluster, traffic, profile, request, Draws("benchmark", 1, i))
            events.append(decision.to_event(Origin("benchmark", 1, i, cluster.position), 1.7e9, request, 20))

        def verify(i: int) -> object:
            assert verify_decision(cluster, events[i]).kind == "ok"  # noqa: B023
            return None

        median, lowest = measured(decide, options.rounds, options.decisions)
        verified, _ = measured(verify, options.rounds, options.decisions)
        size = statistics.median(len(encode(event)) for event in events)
        print(f"{count:9} {median:12.1f} {lowest:7.1f} {budget:7} {verified:10.1f} {size:12.0f}")
        if options.profile and count == 5:
            profiler = cProfile.Profile()
            profiler.runcall(measured, decide, 10, options.decisions)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
