"""The table of budgets: what is allowed, what was measured, and whether that is met.

    make bench                        everything: some twenty minutes
    make bench ARGS=--quick           short rounds, a short log: three to four minutes
    make bench ARGS=--parts           only what needs no gateway

With the rig in ../shared/bench, Pointsman and the yardstick stand behind the same Envoy, in turns, and a request's
cost is told as a ratio to the yardstick's.  Without it, a request is measured without sockets beside our own echo.
Needs an otherwise idle machine: two processes that share a core slow each other down, and ratios move by a tenth.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from console import MATRIX_BUDGET, PAGE_BUDGET, is_matrix

from pointsman.cli.bench.parts import CHUNKS, measure_parts, measure_requests
from pointsman.cli.bench.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RIG = ROOT.parent / "shared/bench/compare.py"

PICKER = {5: 0.40, 100: 0.42, 1000: 0.55}
ALL = {5: 0.57, 100: 0.4 * 1.27, 1000: 0.1 * 9.4}
"""Budgets of all processes by number of endpoints, as ratios to the yardstick.

They are what the Go EPP needs at 5 endpoints, two fifths of that at 100, and a tenth at 1,000, each as a ratio to the
yardstick of the run in which the Go EPP was measured.
"""
ALL_CROWDED = 0.47
"""Budget of all processes at 5 endpoints and 64 connections, as a ratio: what the Go EPP needs there."""
CONTROL, CHUNK, ADDED, TAIL = 0.10, 0.25, 0.8, 3.0
MEMORY = {"control": 200.0, "picker": 120.0}

Row = dict[str, object]


def middle(rows: Iterable[Row], value: Callable[[Row], float]) -> float:
    """The median over rounds."""
    return statistics.median(value(row) for row in rows)


def measured_rig(endpoints: int, connections: str, seconds: int, rounds: int, chunks: int = 0) -> list[Row]:
    """The rows of yardstick and Pointsman that the rig measures, with CPU and memory by process."""
    python = ROOT / ".venv-bench/bin/python"
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as data:
        picker = (
            f"{shlex.quote(sys.executable)} -P -m pointsman.cli epp --pool-name bench --config-file {{config}}"
            " --grpc-port {port} --grpc-health-port {health} --metrics-port {metrics} --secure-serving=false"
            f" --data-dir $(mktemp -d -p {shlex.quote(data)})"
        )
        words = [str(python), str(HERE / "rig.py"), "--endpoints", str(endpoints), "--connections", connections]
        words += ["--seconds", str(seconds), "--rounds", str(rounds), "--chunks", str(chunks)]
        done = subprocess.run([*words, "yardstick", f"pointsman={picker}"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"the rig ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def pick(rows: list[Row], label: str, connections: int) -> list[Row]:
    return [row for row in rows if row["label"] == label and row["connections"] == connections]


def role(name: str, which: str = "by_role") -> Callable[[Row], float]:
    return lambda row: row[which].get(name, 0.0)  # type: ignore[attr-defined]


def number(name: str) -> Callable[[Row], float]:
    return lambda row: float(row[name])  # type: ignore[arg-type]


def scraping(name: str) -> Callable[[Row], float]:
    """CPU a request that scraping takes in a process: what the same number of samples took without requests."""
    return lambda row: 1e6 * role(name, "idle_by_role")(row) * number("still_scraped")(row) / number("rate")(row)


def apart(name: str) -> Callable[[Row], float]:
    """CPU a request of a process, without scraping."""
    return lambda row: role(name)(row) - scraping(name)(row)


def all_apart(row: Row) -> float:
    """The CPU a request of all processes without scraping."""
    return number("cpu")(row) - sum(scraping(name)(row) for name in ("control", "picker"))


def behind_envoy(table: Table, quick: bool) -> None:
    """The rows that need the rig."""
    seconds, rounds = (4, 1) if quick else (6, 3)
    for endpoints, budget in PICKER.items():
        rows = measured_rig(endpoints, "1,16,64" if endpoints == 5 else "16", seconds, rounds)
        theirs, ours = pick(rows, "yardstick", 16), pick(rows, "pointsman", 16)
        base = middle(theirs, number("cpu"))
        at = f"{endpoints} endpoints, 16 connections: "
        table.line(at + "yardstick", None, base, "µs")
        table.line(at + "picker", budget, middle(ours, role("picker")) / base, "x")
        table.line(at + "control, scraping apart", CONTROL, middle(ours, apart("control")) / base, "x")
        table.line(at + "all processes, scraping apart", ALL[endpoints], middle(ours, all_apart) / base, "x")
        table.line(at + "all processes", None, middle(ours, number("cpu")) / base, "x")
        idle = 100 * middle(ours, number("idle"))
        table.line(f"{endpoints} endpoints: scraping and waiting, of a core", None, idle, "%")
        if endpoints == 5:
            alone, yard = pick(rows, "pointsman", 1), pick(rows, "yardstick", 1)
            table.line(
                "time added: p50 at 1 connection",
                ADDED,
                middle(alone, number("p50")) / middle(yard, number("p50")),
                "x",
            )
            theirs, crowded = pick(rows, "yardstick", 64), pick(rows, "pointsman", 64)
            ratio = middle(crowded, all_apart) / middle(theirs, number("cpu"))
            table.line("5 endpoints, 64 connections: all processes, scraping apart", ALL_CROWDED, ratio, "x")
            table.line("tail: p99 over p50 at 16 connections", TAIL, middle(ours, lambda r: r["p99"] / r["p50"]), "x")  # type: ignore[operator]
        if endpoints == 100:
            for name, most in MEMORY.items():
                table.line(f"memory at 100 endpoints: {name}", most, middle(ours, role(name, "memory_by_role")), "MiB")
        if errors := sum(number("errors")(row) for row in rows):
            table.line(at + "errors", 0, errors)
    rows = measured_rig(5, "48", seconds, rounds, CHUNKS)
    theirs, ours = pick(rows, "yardstick", 48), pick(rows, "pointsman", 48)
    base = middle(theirs, number("cpu"))
    table.line("streamed chunk, yardstick", None, base / CHUNKS, "µs")
    table.line("streamed chunk: picker", CHUNK, middle(ours, role("picker")) / base, "x")


def in_the_console(table: Table, quick: bool) -> None:
    """The rows of the pages over a long log, which is made first."""
    decisions = 100_000 if quick else 1_000_000
    words = [sys.executable, str(HERE / "console.py"), "--decisions", str(decisions), "--output", "json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    medians = {page: 1000 * statistics.median(times) for page, times in json.loads(done.stdout).items()}
    for what, matrix, budget in (
        ("slowest page", False, PAGE_BUDGET),
        ("matrix of an old decision", True, MATRIX_BUDGET),
    ):
        slowest = max(median for page, median in medians.items() if is_matrix(page) is matrix)
        table.line(f"console, {decisions:,} decisions: {what}", 1000 * budget, slowest, "ms")


def main() -> int:
    """Print the table; 0 when all of it could be measured, met or not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds, one each")
    parser.add_argument("--parts", action="store_true", help="leave out what needs the gateway")
    parser.add_argument("--strict", action="store_true", help="fail where a budget is missed")
    options = parser.parse_args()
    table = Table()
    if RIG.exists() and not options.parts:
        behind_envoy(table, options.quick)
    else:
        print(f"(no rig at {RIG}, or not asked for: no figures through a gateway)")
    measure_requests(table, options.quick)
    measure_parts(table, options.quick)
    if not options.parts:
        in_the_console(table, options.quick)
    print(f"{table.missed} budgets are missed" if table.missed else "every budget is met")
    return 1 if options.strict and table.missed else 0


if __name__ == "__main__":
    sys.exit(main())
