"""What a request costs in the picker process, without sockets: bytes of the gateway in, bytes to it and to the feed out.

    .venv/bin/python benchmarks/request.py [--endpoints 5] [--rounds 7] [--requests 2000] [--chunks 1]

Prints the median over rounds of the CPU a request, the lowest, and the same of the bare echo, interleaved.
What sockets and the loop cost comes on top: `benchmarks/run.py` measures the whole.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import re
import statistics
from pathlib import Path

from pointsman.cli.bench.bench_decisions import POOL, cluster_of
from pointsman.cli.bench.bench_request import Bench, BufferFeed, Options, measure
from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.picking import PoolPicking
from pointsman.grpc.serving.grpc_server import ENGINES, GrpcServer


async def watch_memory(requests: int) -> None:
    """Print the resident memory of this process after each tenth of the requests; fail where it goes on growing."""
    feed = BufferFeed(cluster_of(100))
    epp = ExternalProcessor(PoolPicking(POOL, feed), feed, Load(StreamLimits()))
    picker = Bench(GrpcServer([epp]), 1, 1)
    seen = []
    for tenth in range(1, 11):
        for _ in range(max(1, requests // 10_000)):
            await picker.run(1000)
        found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None, "Linux tells it"
        seen.append(int(found.group(1)) / 1024)
        print(f"{tenth * max(1, requests // 10_000) * 1000:9,} requests: {seen[-1]:.1f} MiB", flush=True)
    # Twenty prompts that differ in their ends: the index must not grow with requests.
    index = feed.traffic.prefix.statistics()
    print(f"prefix index: {index.bytes / 2**20:.1f} MiB in arrays, {index.blocks:,} blocks of {index.blocks_max:,}")
    if seen[-1] > 1.05 * seen[4]:
        raise SystemExit(f"memory grew from {seen[4]:.0f} to {seen[-1]:.0f} MiB in the second half, wanted 5 % at most")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=1, help="server-sent events a reply; 1 is a JSON reply of 2 KB")
    parser.add_argument("--http2", choices=sorted(ENGINES), default="pointsman", help="the engine")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--memory", type=int, metavar="REQUESTS", help="watch memory instead: 1000000, say")
    options = parser.parse_args()
    wanted = Options(
        options.endpoints, options.rounds, options.requests, options.chunks, options.http2, options.profile
    )
    gc.set_threshold(5000)
    if options.memory:
        asyncio.run(watch_memory(options.memory))
        return

    if options.profile:
        profiler = cProfile.Profile()
        mine, theirs = profiler.runcall(asyncio.run, measure(wanted))
        for order in ("tottime", "cumtime"):
            pstats.Stats(profiler).sort_stats(order).print_stats(70)
    else:
        mine, theirs = asyncio.run(measure(wanted))
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    print(
        f"{statistics.median(mine):.1f} us a request, lowest {min(mine):.1f};"
        f" echo {statistics.median(theirs):.1f}; ratio {statistics.median(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
