"""What one decision costs: `schedule` with the default profile and 64 prefix blocks, and verifying it.

    .venv/bin/python benchmarks/schedule.py [--rounds 9] [--decisions 2000] [--profile]

Prints the median over rounds of the mean over a round's decisions, and the lowest: the machine may be shared.
"""

import argparse
import cProfile
import pstats
import statistics

from pointsman.cli.bench.bench_decisions import Work, measured
from pointsman.cli.bench.parts import SCHEDULE
from pointsman.core.events import encode


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decisions", type=int, default=2000)
    parser.add_argument("--profile", action="store_true", help="show where the time of 5 endpoints goes")
    options = parser.parse_args()
    print(f"{'endpoints':>9} {'schedule us':>12} {'lowest':>7} {'budget':>7} {'verify us':>10} {'entry bytes':>12}")
    for count, budget in SCHEDULE.items():
        work = Work(count, options.decisions)
        median, lowest = measured(work.decide, options.rounds, options.decisions)
        verified, _ = measured(work.verify, options.rounds, options.decisions)
        size = statistics.median(len(encode(event)) for event in work.events)
        print(f"{count:9} {median:12.1f} {lowest:7.1f} {budget:7.0f} {verified:10.1f} {size:12.0f}")
        if options.profile and count == 5:
            profiler = cProfile.Profile()
            profiler.runcall(measured, work.decide, 10, options.decisions)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
