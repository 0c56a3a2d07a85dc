"""What the log costs: a steady load with every commit synced, and the folds.

`python benchmarks/log.py [--rate 20000] [--seconds 5] [--directory DIR]`
Budgets: at most 10 % of a core and 5 ms for the 99th percentile commit at 20,000 events/s; 100,000 cluster entries/s
folded; 5,000 decisions/s walked with the state at their `applied`.
"""

import argparse
import json
from pathlib import Path

from pointsman.cli.bench.bench_log import measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=30_000, help="in the log that is walked")
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    found = measured(options.rate, options.seconds, options.requests, options.directory)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
