"""The rows of the table that need no gateway: a request without sockets, `schedule()`, the log, replay, scraping.

Budgets are those of docs/performance.md; what has none is a ratio to the bare echo, which only a gateway's requests have.
"""

import asyncio
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pointsman.cli.bench import (
    bench_decisions as decisions,
    bench_log as log,
    bench_request as request,
    bench_scrape as scrape,
)
from pointsman.cli.bench.table import Table

CHUNKS = 100
"""Chunks in one streamed reply."""
SCHEDULE = {5: 25.0, 100: 30.0, 1000: 60.0}
"""Budgets of a decision in microseconds, by number of endpoints."""
VERIFIED, WALKED, FOLDED = 5_000, 5_000, 100_000
"""Budgets as rates a second: decisions verified, decisions walked with their state, cluster entries folded."""
RATE, CORE_PERCENT, COMMIT_P99 = 20_000, 10.0, 5.0
"""Load of the log in events a second, and its budgets: percent of a core, and milliseconds of a commit."""
PAGES, PAGE = 32, 75.0
"""Number of servers that are scraped, and the budget of a page in microseconds."""


def measure_requests(table: Table, quick: bool) -> None:
    """What a request costs in the picker process beside the bare echo, both without sockets."""
    for endpoints, chunks in ((5, 1), (100, 1), (1000, 1), (5, CHUNKS)):
        what = f"{endpoints} endpoints" if chunks == 1 else "streamed chunk"
        table.begin(f"a request without sockets, {what}")
        mine, theirs = asyncio.run(
            request.measure(
                request.Options(
                    endpoints=endpoints,
                    chunks=chunks,
                    requests=(1000 if quick else 2000) // (1 if chunks == 1 else 10),
                    rounds=3 if quick else 7,
                )
            )
        )
        ratio = statistics.median(one / other for one, other in zip(mine, theirs, strict=True))
        if (endpoints, chunks) == (5, 1):
            table.line("without sockets: bare echo, a request", None, statistics.median(theirs), "µs")
        table.line(f"without sockets: {what}: picker over echo", None, ratio, "x")


def measure_parts(table: Table, quick: bool, directory: Path | None = None) -> None:
    """Measure what needs neither gateway nor load; the log is written in `directory`, or among temporary files."""
    for endpoints, budget in SCHEDULE.items():
        table.begin(f"schedule() at {endpoints} endpoints")
        decided, verified = decisions.measured_at(endpoints, 5 if quick else 15, 1000 if quick else 2000)
        table.line(f"schedule(), {endpoints} endpoints, 64 blocks", budget, decided, "µs")
        if endpoints == 100:
            table.line("replay: decisions verified", VERIFIED, 1e6 / verified, "/s", least=True)
    table.begin("the log")
    # In a process of its own, as the log has one: here the collector would also walk what was measured before.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        seconds, requests = (3.0, 10_000) if quick else (10.0, 30_000)
        found = apart.submit(log.measured, RATE, seconds, requests, directory).result()
    table.line("log: events appended, of 20,000 offered", None, found["events_per_second"], "/s")
    table.line("log at 20,000 events/s, of a core", CORE_PERCENT, found["core_percent"], "%")
    table.line("log: commit p99", COMMIT_P99, found["commit_p99_ms"], "ms")
    table.line("replay: decisions walked with their state", WALKED, found["decisions_per_second"], "/s", least=True)
    table.line("replay: cluster entries folded", FOLDED, found["load_entries_per_second"], "/s", least=True)
    table.begin("scraping")
    with scrape.page_servers(PAGES) as ports:
        table.line("scrape and extract a vLLM page", PAGE, scrape.back_to_back(ports, 2.0 if quick else 5.0), "µs")
