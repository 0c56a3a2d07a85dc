"""Scraping: the load of every endpoint, as facts.

One task per endpoint fetches its page each interval; what the pages say is told when all that were asked have
answered, after 10 ms at most.
Rules.  A page has a time of its own to arrive, apart from the staleness threshold: one that is slow is fresh.
A time-out that this process caused itself, by not running, is not the server's failure.
Endpoints follow the cluster state, ready or not, so that one that becomes ready has a fresh sample.
"""

import math
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import msgspec
import trio

from pointsman.cluster.scraping.block_size import BlockSizes
from pointsman.cluster.scraping.http_page import PageResponse
from pointsman.cluster.scraping.pace import COST_OF_A_FETCH, IDLE_AFTER, INTERVAL_MIN, Pace, pace
from pointsman.cluster.scraping.page_client import FetchError, PageAddress, PageClient, UnreadableError
from pointsman.cluster.scraping.samples import Samples
from pointsman.core.events import Event, ScrapePaced
from pointsman.core.parsers.metrics.engines import ENGINE_LABEL, ENGINES, EngineNames, engine_for
from pointsman.core.parsers.metrics.server_metrics import Reading, extract
from pointsman.core.state.membership import Endpoint
from pointsman.core.state.projection import ClusterState

FLUSH_AFTER = 0.01
"""Seconds from a result to its event at most: the log commits as often."""

FOLLOW_EVERY = 0.1
"""Seconds between looks at membership and traffic at most; each turn is one as well."""

GROUP = 32
"""Endpoints that are scraped at the same moment: one event tells of all, and 3 ms of work hold up nobody."""

RETRY_MAX = 0.25
"""Seconds between attempts at an endpoint that keeps failing: half of what a picker takes for a lost feed."""

PAGE_TIME = 1.0
"""Seconds that a page may take at least: a busy server's come late, and two that hang leave it out of decisions."""

STALL = 0.1
"""Seconds that a time-out may be late before it counts as our own pause."""


class ScrapeSettings(msgspec.Struct, frozen=True):
    """Where pages are, and when a sample is stale."""

    path: str = "/metrics"
    scheme: str = "http"
    metrics_port: int = 0
    """Port that is read instead of the endpoint's own, in pools with one target port; 0 for none."""
    verify_certificate: bool = False
    """Whether `https` verifies certificates; off, as in the Go EPP: model servers mostly sign their own."""
    threshold: float = 0.2
    """Seconds; in force is three intervals at least."""
    page_bytes_max: int = 1024 * 1024
    """Fifty times a usual page."""
    engines: Mapping[str, EngineNames] = ENGINES
    engine_label: str = ENGINE_LABEL
    """Label of a pod that names the engine its servers run, one of `engines`."""
    default_engine: str = "vllm"
    interval: float = INTERVAL_MIN
    """Seconds between scrapes at least; the CPU budget may make it longer."""


class ScrapeStatistics(msgspec.Struct, frozen=True):
    """What the scraper did since its start."""

    endpoints: int
    interval: float
    threshold: float
    cost: float
    """CPU seconds a scrape, as paced."""
    idle: bool
    successes: int
    failures: int
    stalls: int
    """Time-outs that were our own."""


class _Failure(msgspec.Struct, frozen=True):
    """Why an attempt gave no page."""

    cause: str
    answered: bool = False
    """Whether the server answered, only not with a page that can be read."""


class _Target(msgspec.Struct, eq=False):
    """One endpoint's task."""

    endpoint: Endpoint
    client: PageClient
    engine: EngineNames
    gone: trio.CancelScope
    attempt: trio.CancelScope
    turn: trio.lowlevel.ParkingLot
    began: float | None = None
    """Time at which the attempt under way began; None between attempts."""
    failures: int = 0
    """Failures in a row; 0 after a success."""
    not_before: float = 0.0
    """Earliest time of the next attempt."""


class Scraper:
    """Scrapes all endpoints of the cluster state until cancelled.

    `state` gives the cluster state as it is; `emit` takes events at once and may drop LoadSampled and ScrapeFailed
    only; `last_request` gives `time.monotonic()` of the latest request, minus infinity without one;
    `on_result` is called after each attempt, while one may still end well, and while there is nothing to scrape.
    """

    def __init__(
        self,
        settings: ScrapeSettings,
        state: Callable[[], ClusterState],
        emit: Callable[[Sequence[Event]], None],
        *,
        last_request: Callable[[], float],
        on_result: Callable[[], None],
    ) -> None:
        self.settings = settings
        """Another threshold takes effect at the next look; other fields for endpoints that join after."""
        self._state, self._emit = state, emit
        self._last_request, self._on_result = last_request, on_result
        self._samples = Samples()
        self._block_sizes = BlockSizes()
        self._targets: dict[int, _Target] = {}
        self._groups: list[list[_Target]] = [[]]
        self._seen: tuple[ClusterState, int] | None = None
        self._pace: Pace | None = None
        self._idle = False
        self._reading_cost = 20e-6
        self._alarm = trio.CancelScope()
        self._under_way = 0
        self._due = math.inf
        """Time at which the next group has its turn."""
        self._lost = 0.0
        """Seconds in which this process should have run and did not."""
        self._successes = self._failures = self._stalls = 0

    def statistics(self) -> ScrapeStatistics:
        """What it did, and its pace."""
        in_force = self._pace or Pace(0.0, 0.0)
        return ScrapeStatistics(
            len(self._targets),
            in_force.interval,
            in_force.threshold,
            COST_OF_A_FETCH + self._reading_cost,
            self._idle,
            self._successes,
            self._failures,
            self._stalls,
        )

    async def run(self) -> None:
        """Scrape until cancelled."""
        # Of each process its own moment, so that replicas do not ask a server all at once.
        self._due = trio.current_time() + random.random() * INTERVAL_MIN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_late)
            turn = 0
            while True:
                now = self._now()
                self._follow(nursery)
                pace = self._set_pace()
                if sizes := self._block_sizes.due(self._state()):
                    self._emit(sizes)
                if trio.current_time() >= self._due:
                    self._give_turn(self._groups[turn % len(self._groups)], now, pace)
                    turn += 1
                    self._due += pace.interval / len(self._groups)
                await trio.sleep_until(min(self._due, trio.current_time() + FOLLOW_EVERY))

    def _now(self) -> float:
        """The scraper's own clock: it stands still while this process does not run."""
        now = trio.current_time()
        if (late := now - self._due) > STALL:
            self._lost += late
            self._due = now
            self._stalls += 1
        return now - self._lost

    # --- who, and how often ---------------------------------------------------------------------

    def _follow(self, nursery: trio.Nursery) -> None:
        """Have one task for each endpoint of the cluster state."""
        state = self._state()
        if self._seen is not None and self._seen[0] is state and self._seen[1] == state.membership_version:
            return
        self._seen = (state, state.membership_version)
        for number in [n for n in self._targets if n not in state.endpoints]:
            self._targets.pop(number).gone.cancel()
            self._samples.forget(number)
        for number, endpoint in state.endpoints.items():
            target = self._targets.get(number)
            if target is None:
                target = self._targets[number] = self._target(endpoint, state)
                self._samples.follow(number, state)
                nursery.start_soon(self._scrape, target)
            else:
                target.endpoint = endpoint
                target.engine = self._engine(endpoint)
        # By slot, so that an endpoint keeps its place while others come and go.
        groups: list[list[_Target]] = [[] for _ in range(max(1, math.ceil(state.slots / GROUP)))]
        for number, target in self._targets.items():
            groups[state.endpoints[number].slot // GROUP].append(target)
        self._groups = groups

    def _target(self, endpoint: Endpoint, state: ClusterState) -> _Target:
        pool = state.pools.get(endpoint.pool)
        single = pool is None or len(pool.target_ports) == 1
        port = self.settings.metrics_port if single and self.settings.metrics_port else endpoint.port
        page = PageAddress(endpoint.address, port, self.settings.path, self.settings.scheme)
        tls = _tls(self.settings.verify_certificate) if self.settings.scheme == "https" else None
        client = PageClient(page, self.settings.page_bytes_max, tls)
        return _Target(
            endpoint,
            client,
            self._engine(endpoint),
            trio.CancelScope(),
            trio.CancelScope(),
            trio.lowlevel.ParkingLot(),
        )

    def _engine(self, endpoint: Endpoint) -> EngineNames:
        settings = self.settings
        return engine_for(endpoint.labels, settings.engines, settings.default_engine, settings.engine_label)

    def _set_pace(self) -> Pace:
        """Return the pace in force, and say it where it is another one than the log says."""
        state = self._state()
        self._idle = time.monotonic() - self._last_request() > IDLE_AFTER
        before = self._pace or (Pace(state.interval, state.threshold) if state.interval else None)
        cost = COST_OF_A_FETCH + self._reading_cost
        shortest = self.settings.interval
        self._pace = pace(len(self._targets), cost, self._idle, self.settings.threshold, before, shortest=shortest)
        if self._pace != before:
            self._emit([ScrapePaced(self._pace.interval, self._pace.threshold)])
        return self._pace

    def _give_turn(self, group: list[_Target], now: float, pace: Pace) -> None:
        """Let a group's endpoints be scraped, and give up on attempts that hang."""
        # Seen once an interval: the last look within the threshold must find it over.
        limit = max(PAGE_TIME, pace.threshold - pace.interval / 2)
        waits = False
        for target in group:
            if target.began is None:
                if target.not_before <= now:
                    target.turn.unpark()
            elif now - target.began >= limit:
                target.attempt.cancel()
            else:
                waits = True
        if waits or not self._targets:
            self._on_result()

    # --- one endpoint -----------------------------------------------------------------------------

    async def _scrape(self, target: _Target) -> None:
        """Fetch and read the page at each turn, until the endpoint is gone."""
        try:
            with target.gone:
                joined = True
                while True:
                    target.attempt = trio.CancelScope()
                    with target.attempt:
                        while True:
                            if not joined:
                                await target.turn.park()
                            joined = False
                            await self._attempt(target)
                    if target.began is not None:  # else the page came in the same moment
                        self._note(target, _Failure("timed out"))
        finally:
            if target.began is not None:
                self._under_way -= 1
            target.client.close()

    async def _attempt(self, target: _Target) -> None:
        target.began = self._now()
        self._under_way += 1
        try:
            response = await target.client.fetch()
        except FetchError as error:
            self._note(target, _Failure(str(error), isinstance(error, UnreadableError)))
        else:
            self._note(target, self._read(target, response))

    def _note(self, target: _Target, outcome: Reading | _Failure) -> None:
        """An attempt ended: with a page, or with the cause why there is none."""
        assert self._pace is not None
        now, number = self._now(), target.endpoint.number
        target.began = None
        self._under_way -= 1
        if number not in self._targets:  # left in the same moment
            return
        if isinstance(outcome, Reading):
            target.failures, target.not_before = 0, 0.0
            self._successes += 1
            self._samples.succeeded(number, outcome, now, time.time())
        else:
            wait = self._pace.interval * 2.0 ** min(target.failures, 8)
            target.not_before = now + min(wait, RETRY_MAX) * random.uniform(0.5, 1.0) if target.failures else 0.0
            target.failures += 1
            self._failures += 1
            self._samples.failed(number, outcome.cause, now, unreadable=outcome.answered)
        self._on_result()
        if self._under_way == 0:
            self._tell()
        elif self._alarm.deadline == math.inf:
            self._alarm.deadline = trio.current_time() + FLUSH_AFTER

    def _read(self, target: _Target, response: PageResponse) -> Reading | _Failure:
        """What the page says, or why it says nothing."""
        if response.status != 200:
            return _Failure(f"status {response.status}", answered=True)
        began = time.perf_counter()
        reading = extract(response.body, target.engine, time.time())
        # A pause of the process in between is not the page's cost.
        took = min(time.perf_counter() - began, 10 * self._reading_cost)
        self._reading_cost += (took - self._reading_cost) / 64
        if reading.empty:
            wanted = target.engine.waiting[0].name
            return _Failure(f"no metric of its engine in the page, wanted {wanted}", answered=True)
        return reading

    def _tell(self) -> None:
        self._alarm.deadline = math.inf
        if events := self._samples.drain():
            self._emit(events)

    async def _tell_late(self) -> None:
        """Tell what waits for attempts that take long."""
        while True:
            with trio.CancelScope() as self._alarm:
                await trio.sleep_forever()
            self._tell()


@lru_cache
def _tls(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
