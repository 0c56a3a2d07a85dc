"""`pointsman bench`: what Pointsman costs on this machine, beside what it may cost."""

import gc
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import msgspec

from pointsman.cli.arguments import Parser, print_json
from pointsman.cli.bench.parts import measure_parts, measure_requests
from pointsman.cli.bench.table import Table
from pointsman.cli.failure import Failure

COLLECT_AFTER = 5000
"""Allocations between two garbage collections: so many that collecting is a small part of what is measured."""


def run(name: str, words: list[str]) -> int:
    """Measure and print; with `--strict`, return 1 where a budget is missed."""
    options = _parser(name).parse_args(words)
    if options.directory is not None and not options.directory.is_dir():
        raise Failure(f"--directory: found no directory {options.directory}, wanted one on the disk to measure", 2)
    text = options.output == "text"
    began = time.monotonic()
    gc.set_threshold(COLLECT_AFTER)
    table = Table(shown=text)
    try:
        measure_requests(table, options.quick)
        measure_parts(table, options.quick, options.directory)
    except OSError as error:
        raise Failure(f"cannot be measured: {error}") from error
    seconds = time.monotonic() - began
    if text:
        verdict = f"{table.missed} budgets are missed" if table.missed else "every budget is met"
        print(f"{verdict}; {seconds:.0f} s")
    else:
        print_json(
            {
                "version": version("pointsman"),
                "python": platform.python_version(),
                "cpus": os.cpu_count(),
                "quick": options.quick,
                "seconds": round(seconds, 1),
                "missed": table.missed,
                "rows": [msgspec.structs.asdict(row) | {"met": row.met} for row in table.rows],
            }
        )
    return 1 if options.strict and table.missed else 0


def _parser(name: str) -> Parser:
    parser = Parser(
        name,
        "Measure on this machine what a request, a decision, the log, replay and scraping cost, and compare it with the\n"
        "budgets. It needs no gateway: everything runs in this process, and the pages that it scrapes are on loopback.\n"
        "What a request costs is told as a ratio to a bare gRPC echo that decides and records nothing, measured in turns.\n"
        "Two minutes, on a machine that should do nothing else meanwhile.",
        f"{name} --quick\n{name} --directory /var/lib/pointsman --output json",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds: less than a minute")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a budget is missed")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the log is written (default: that of temporary files)"
    )
    parser.output_option()
    return parser
