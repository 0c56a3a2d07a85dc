"""How often to scrape, and from which age on a sample is stale."""

import math

import msgspec

INTERVAL_MIN = 0.05
"""The Go EPP's interval, and its lower bound."""

CPU_SHARE = 0.3
"""Share of one core that all scrapes together may take."""

COST_OF_A_FETCH = 50e-6
"""CPU seconds of a request, its response and the wake-ups, without reading the page (`benchmarks/scrape.py`)."""

IDLE_FACTOR = 4.0
"""Factor by which scraping is slower without traffic: load changes only through requests."""

IDLE_AFTER = 10.0
"""Seconds without a request; longer than the gap between two turns of a chat under test."""

STALE_INTERVALS = 3.0
"""The threshold in intervals at least: one lost scrape never makes a sample stale."""

STEP = 0.01
"""Intervals are multiples of it, so that a cost that wavers is not a change."""

SLACK = 0.2
"""A wanted interval that is shorter by less than this share, and a step, is no change; a longer one always is."""


class Pace(msgspec.Struct, frozen=True):
    """Interval and staleness threshold in force, in seconds."""

    interval: float
    threshold: float


def pace(
    endpoints: int, cost: float, idle: bool, threshold: float, before: Pace | None, *, shortest: float = INTERVAL_MIN
) -> Pace:
    """Return the pace for so many endpoints at `cost` CPU seconds a scrape, `before` where the change is too small."""
    interval = max(INTERVAL_MIN, shortest, endpoints * cost / CPU_SHARE)
    interval = math.ceil(round(interval / STEP, 6)) * STEP * (IDLE_FACTOR if idle else 1.0)
    interval = round(interval, 3)
    if before is not None and before.interval * (1 - SLACK) - STEP < interval < before.interval:
        interval = before.interval
    return Pace(interval, round(max(threshold, STALE_INTERVALS * interval), 3))
