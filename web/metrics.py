"""`/metrics`: a projection of committed entries, in the names that dashboards of the field ask for.

Every family of requests and pools is there twice: as llm-d-router names it (`llm_d_epp_`) and as GIE does.
The counts are of this process's life; what a client can choose becomes a label value at most LABEL_VALUES_MAX times.
"""

from collections.abc import Iterable

import msgspec

from pointsman.core.events import Event, LoadSampled, OpenRequestsListed, Origin, PickerEnded, ScrapeFailed
from pointsman.core.marks import FactsMark, FinishedMark, Mark, RefusedMark, RoutedMark, StartedMark
from pointsman.core.packing import unpack
from pointsman.core.projection import ClusterState
from pointsman.web.exposition import Bounded, Histogram

LABEL_VALUES_MAX = 1000
"""Distinct model names, and fairness ids; llm-d-router's bound."""

SERIES_MAX = 4000
"""Combinations of them: a page of some megabytes."""

LATENCY = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120),
    *(180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
TOKEN_TIME = (
    *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5),
    *(2, 3, 4.5, 6, 12, 18, 24, 30, 36, 48, 60, 90, 120, 180, 270, 360),
)
NORMALIZED = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
REQUEST_BYTES = tuple(float(2**power) for power in range(6, 31))
# 32778 is a typo of the original that dashboards rest on.
RESPONSE_BYTES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778, 65536)
INPUT_TOKENS = (*RESPONSE_BYTES, 131072, 262144, 524288, 1048576)
OUTPUT_TOKENS = RESPONSE_BYTES[:12]
SCHEDULER = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

_REFUSED_CODES = {
    "bad-request": "BadRequest",
    "body-too-large": "BadRequest",
    "saturated": "InferencePoolResourceExhausted",
}
"""Codes of GIE by our reasons; all others are ServiceUnavailable."""

_ENDED_CODES = {"lost": "Internal"}
"""Codes by the cause of an end that is not `complete`; all others are Unknown."""


_NO_EPOCH = ("", -1)


class Series:
    """What is counted for one combination of model, target model, fairness id and priority."""

    def __init__(self, model: str, target: str, fairness: str, priority: str) -> None:
        self.model, self.target, self.fairness, self.priority = model, target, fairness, priority
        self.requests = 0
        self.running = 0
        self.errors: dict[str, int] = {}
        self.duration = Histogram(LATENCY)
        self.first_token = {False: Histogram(LATENCY), True: Histogram(LATENCY)}
        """By whether the answer was streamed."""
        self.token_time = Histogram(TOKEN_TIME)
        self.normalized = Histogram(NORMALIZED)
        self.request_bytes = Histogram(REQUEST_BYTES)
        self.response_bytes = Histogram(RESPONSE_BYTES)
        self.input_tokens = Histogram(INPUT_TOKENS)
        self.output_tokens = Histogram(OUTPUT_TOKENS)
        self.cached_tokens = Histogram(INPUT_TOKENS)

    def failed(self, code: str) -> None:
        """Count an error."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def finished(self, event: FinishedMark) -> None:
        """Count a request's end."""
        self.duration.observe(event.duration)
        if event.first_token is not None:
            self.first_token[event.streamed].observe(event.first_token)
        self.response_bytes.observe(event.response_bytes)
        if event.prompt_tokens is not None:
            self.input_tokens.observe(event.prompt_tokens)
        if event.cached_tokens is not None:
            self.cached_tokens.observe(event.cached_tokens)
        if (made := event.completion_tokens) is not None:
            self.output_tokens.observe(made)
            if event.streamed and made > 0:
                self.normalized.observe(event.duration / made)
                if made > 1 and event.first_token is not None:
                    self.token_time.observe(max(0.0, event.duration - event.first_token) / (made - 1))
        if event.cause != "complete":
            self.failed(_ENDED_CODES.get(event.cause, "Unknown"))
        elif event.status >= 400:
            self.failed("ModelServerError")


class Attempt(msgspec.Struct, frozen=True):
    """The labels of scheduler attempts."""

    status: str
    target: str
    endpoint: str = ""
    namespace: str = ""
    port: str = ""


class Metrics:
    """Folds committed entries; `metrics_page` writes what they add up to."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str, str, str], Series] = {}
        """By the values of its labels."""
        self.attempts: dict[Attempt, int] = {}
        self.scheduling = Histogram(SCHEDULER)
        self.samples = 0
        self.scrapes_failed = 0
        self._models = Bounded(LABEL_VALUES_MAX)
        self._fairness = Bounded(LABEL_VALUES_MAX)
        self._by_facts: dict[tuple[str, str, str, int], Series] = {}
        self._attempts_known: dict[tuple[str, int], Attempt] = {}
        """Of a target and an endpoint's number, which is never used again."""
        self._open: dict[tuple[str, int], dict[int, Series]] = {}
        self._epoch, self._open_there = _NO_EPOCH, dict[int, Series]()
        """Whose request was counted last, and that epoch's part of `_open`."""

    def follow(self, events: Iterable[Event | Mark], cluster: ClusterState) -> None:
        """Count the entries of a commit, as skimmed; `cluster` is the state after it, and names the endpoints."""
        chosen: dict[tuple[str, int], int] = {}
        for event in events:
            if isinstance(event, RoutedMark):
                series = self._routed(event)
                attempt = (series.target, event.endpoints[0])
                chosen[attempt] = chosen.get(attempt, 0) + 1
            elif isinstance(event, FinishedMark):
                # One that was routed before this process began has nothing to be counted under.
                open_series = self._of_epoch(event.origin).pop(event.request_n, None)
                if open_series is not None:
                    open_series.running -= 1
                    open_series.finished(event)
            elif not isinstance(event, StartedMark):  # nothing is counted of that
                self._count_rare(event)
        for (target, endpoint), count in chosen.items():
            self._attempted(target, endpoint, count, cluster)

    def _routed(self, event: RoutedMark) -> Series:
        series, request = self._series(event.request), event.request
        series.requests += 1
        series.running += 1
        series.request_bytes.observe(request.body_bytes)
        self._of_epoch(event.origin)[event.origin.n] = series
        self.scheduling.observe(event.took / 1e6)
        return series

    def _of_epoch(self, origin: Origin) -> dict[int, Series]:
        if origin.epoch != self._epoch[1] or origin.picker != self._epoch[0]:
            self._epoch = (origin.picker, origin.epoch)
            self._open_there = self._open.setdefault(self._epoch, {})
        return self._open_there

    def _count_rare(self, event: Event | Mark) -> None:
        match event:
            case LoadSampled(numbers):
                self.samples += len(unpack(numbers))
            case RefusedMark(reason=reason):
                series = self._series(event.request)
                series.failed(_REFUSED_CODES.get(reason, "ServiceUnavailable"))
                if event.digest:
                    self.scheduling.observe(event.took / 1e6)
                    self._count_attempt(Attempt("failure", series.target), 1)
            case OpenRequestsListed(origin, listed):
                kept = set(unpack(listed).tolist())
                mine = self._of_epoch(origin)
                for n in [n for n in mine if n not in kept]:
                    self._lost(mine.pop(n))
            case PickerEnded(picker, epoch):
                self._epoch_ended((picker, epoch))
            case ScrapeFailed(endpoints):
                self.scrapes_failed += len(unpack(endpoints))
            case _:
                pass

    def _epoch_ended(self, life: tuple[str, int]) -> None:
        for series in self._open.pop(life, {}).values():
            self._lost(series)
        if life == self._epoch:
            self._epoch, self._open_there = _NO_EPOCH, {}

    def _lost(self, series: Series) -> None:
        series.running -= 1
        series.failed("Internal")

    def _series(self, request: FactsMark) -> Series:
        key = (request.model, request.target_model, request.fairness_id, request.priority)
        known = self._by_facts.get(key)
        if known is not None:
            return known
        labels = (
            self._models.name(request.model),
            self._models.name(request.target_model or request.model),
            self._fairness.name(request.fairness_id),
            str(request.priority),
        )
        if labels not in self.series and len(self.series) >= SERIES_MAX:
            labels = ("other", "other", "other", "other")
        series = self.series.setdefault(labels, Series(*labels))
        if len(self._by_facts) < SERIES_MAX:
            self._by_facts[key] = series
        return series

    def _attempted(self, target: str, number: int, count: int, cluster: ClusterState) -> None:
        attempt = self._attempts_known.get((target, number))
        if attempt is None:
            member = cluster.endpoints.get(number)
            if member is None:  # it left within the same commit
                attempt = Attempt("success", target)
            else:
                attempt = Attempt("success", target, member.name, member.namespace, str(member.port))
                if len(self._attempts_known) >= SERIES_MAX:
                    self._attempts_known.clear()
                self._attempts_known[target, number] = attempt
        self._count_attempt(attempt, count)

    def _count_attempt(self, attempt: Attempt, count: int) -> None:
        if attempt not in self.attempts and len(self.attempts) >= SERIES_MAX:
            attempt = Attempt(attempt.status, "other")
        self.attempts[attempt] = self.attempts.get(attempt, 0) + count
