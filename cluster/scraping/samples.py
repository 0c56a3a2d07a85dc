"""Results of scrapes between two commits, gathered into as few events as they need.

Ages are the scraper's own: seconds from an endpoint's last success to the attempt that failed.
"""

import msgspec
import numpy as np

from pointsman.core.events import NEVER_SAMPLED, Event, LabelsChanged, LoadSampled, ScrapeFailed, ServerStarted
from pointsman.core.parsers.metrics.server_metrics import Reading
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import pack, pack_floats

AGE_MAX = NEVER_SAMPLED - 1
"""Milliseconds, 49 days: an age above it is told as this."""


class _Known(msgspec.Struct):
    """What is known of one endpoint."""

    labels: LabelsChanged
    waiting: int = 0
    running: int = 0
    kv_cache: float = 0.0
    succeeded: float | None = None
    """Monotonic time of the last success."""
    cause: str = ""
    """Cause of the last failure; empty after a success."""
    answered: float | None = None
    """Wall time of a success that no event tells yet."""
    unreadable: bool = False
    """The last failure was an answer."""
    failed: float | None = None
    """Monotonic time of a failure that no event tells yet."""
    news: bool = False
    """The cause is another one than the events tell."""
    started_at: float | None = None
    """Time at which the server's process started, as its page said last."""


class Samples:
    """The results that no event tells yet, and what each endpoint said last."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._touched: set[int] = set()
        self._labels: dict[int, LabelsChanged] = {}
        self._started: dict[int, ServerStarted] = {}

    @property
    def pending(self) -> bool:
        """`drain` has something to tell."""
        return bool(self._touched or self._labels or self._started)

    def follow(self, endpoint: int, state: ClusterState) -> None:
        """Begin with what the log says of the endpoint's labels, so that a restart tells nothing twice."""
        slot = state.endpoints[endpoint].slot
        held = state.adapters[slot]
        labels = LabelsChanged(
            endpoint,
            tuple(sorted(held.running)),
            tuple(sorted(held.waiting)),
            held.max,
            int(state.cache_block_tokens[slot]),
            int(state.cache_blocks[slot]),
            asleep=slot in state.sleeping,
        )
        process = state.processes.get(endpoint)
        self._known[endpoint] = _Known(
            labels,
            int(state.waiting[slot]),
            int(state.running[slot]),
            float(state.kv_cache[slot]),
            started_at=None if process is None else process.started_at,
        )

    def forget(self, endpoint: int) -> None:
        """The endpoint left: nothing more is told of it."""
        self._known.pop(endpoint, None)
        self._touched.discard(endpoint)
        self._labels.pop(endpoint, None)
        self._started.pop(endpoint, None)

    def succeeded(self, endpoint: int, reading: Reading, now: float, wall: float) -> None:
        """A page was read at monotonic time `now`; what it does not say stays as it was."""
        known = self._known[endpoint]
        known.waiting = known.waiting if reading.waiting is None else reading.waiting
        known.running = known.running if reading.running is None else reading.running
        known.kv_cache = known.kv_cache if reading.kv_cache is None else reading.kv_cache
        known.succeeded, known.answered, known.failed, known.cause = now, wall, None, ""
        self._touched.add(endpoint)
        if reading.started_at is not None and reading.started_at != known.started_at:
            self._started[endpoint] = ServerStarted(endpoint, reading.started_at)
            if known.started_at is not None:
                known.labels = LabelsChanged(endpoint)  # of the process before: the fold forgets it as well
            known.started_at = reading.started_at
        labels = _labels(endpoint, reading, known.labels)
        if labels != known.labels:
            known.labels = self._labels[endpoint] = labels

    def failed(self, endpoint: int, cause: str, now: float, *, unreadable: bool = False) -> None:
        """An attempt ended at monotonic time `now` without a page; `unreadable` where the server answered."""
        known = self._known[endpoint]
        known.news |= cause != known.cause
        known.failed, known.cause, known.unreadable = now, cause, unreadable
        self._touched.add(endpoint)

    def age(self, endpoint: int, now: float) -> float | None:
        """Seconds since the endpoint's last success; None without one."""
        succeeded = self._known[endpoint].succeeded
        return None if succeeded is None else now - succeeded

    def drain(self) -> list[Event]:
        """Return the events that tell everything since the last call."""
        told = sorted(self._touched)
        # What a former process held goes first.
        events: list[Event] = [self._started[number] for number in sorted(self._started)]
        self._started.clear()
        # An endpoint that answered and then failed before this call is told of twice, in that order.
        if answered := [(n, k) for n in told if (k := self._known[n]).answered is not None]:
            events.append(_load_sampled(answered))
        if failed := [(n, k) for n in told if (k := self._known[n]).failed is not None]:
            events.append(_scrape_failed(failed))
        events.extend(self._labels[n] for n in sorted(self._labels))
        for number in told:
            known = self._known[number]
            known.answered = known.failed = None
            known.news = False
        self._touched.clear()
        self._labels.clear()
        return events


def _load_sampled(answered: list[tuple[int, _Known]]) -> LoadSampled:
    times = [k.answered or 0.0 for _, k in answered]
    latest = max(times)
    return LoadSampled(
        endpoints=pack(np.array([n for n, _ in answered], dtype=np.int64)),
        sampled_at=latest,
        # A step of the clock in between must not make the column wide.
        earlier=pack(np.array([min(int((latest - t) * 1000), 60_000) for t in times], dtype=np.int64)),
        waiting=pack(np.array([k.waiting for _, k in answered], dtype=np.int64)),
        running=pack(np.array([k.running for _, k in answered], dtype=np.int64)),
        kv_cache=pack_floats(np.array([k.kv_cache for _, k in answered], dtype=np.float64)),
    )


def _scrape_failed(failed: list[tuple[int, _Known]]) -> ScrapeFailed:
    ages = [
        NEVER_SAMPLED
        if k.succeeded is None or k.failed is None
        else min(max(int((k.failed - k.succeeded) * 1000), 1), AGE_MAX)
        for _, k in failed
    ]
    answered = [n for n, k in failed if k.unreadable]
    return ScrapeFailed(
        endpoints=pack(np.array([n for n, _ in failed], dtype=np.int64)),
        ages=pack(np.array(ages, dtype=np.int64)),
        causes=tuple((n, k.cause) for n, k in failed if k.news),
        unreadable=pack(np.array(answered, dtype=np.int64)) if answered else b"",
    )


def _labels(endpoint: int, reading: Reading, before: LabelsChanged) -> LabelsChanged:
    """What the page says beside numbers.

    vLLM writes the family of adapters with the first request for one, so a page without it says that none is loaded.
    How many there is room for, and the cache's geometry, stay what they were where the page does not say.
    """
    lora = reading.lora
    return LabelsChanged(
        endpoint,
        # Servers list adapters in the order of a set, which differs from page to page.
        () if lora is None else tuple(sorted(set(lora.running))),
        () if lora is None else tuple(sorted(set(lora.waiting))),
        before.lora_max if lora is None else lora.max,
        before.cache_block_tokens if reading.block_tokens is None else reading.block_tokens,
        before.cache_blocks if reading.blocks is None else reading.blocks,
        # Only where the family was there before it says something that it is gone.
        lora is not None or (before.lora_told and before.lora_max == 0),
        reading.asleep,
    )
