"""`/metrics`: a projection of committed entries, in the names that dashboards of the field ask for.

Every family of requests and pools is there twice: as llm-d-router names it (`llm_d_epp_`) and as GIE does.
The counts are of this process's life; what a client can choose becomes a label value at most LABEL_VALUES_MAX times.
Requests without a body, as for the list of models, ask for no inference and are left out.
Entries are counted a thousand at a time, or when somebody asks: a column of values costs less than each by itself.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import msgspec

from pointsman.core.deciding.refusals import refusal
from pointsman.core.events import Event, LoadSampled, OpenRequestsListed, PickerEnded, ScrapeFailed
from pointsman.core.state.marks import MARKS, FactsMark, FinishedMark, Mark, RefusedMark, RoutedMark, StartedMark
from pointsman.core.state.membership import Endpoint
from pointsman.core.state.open_requests import OpenByEpoch
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import unpack
from pointsman.web.metrics.exposition import MANY, Bounded, Histogram

LABEL_VALUES_MAX = 1000
"""Distinct model names, and fairness ids; llm-d-router's bound."""

LABEL_BYTES_MAX = 128
"""Bytes of such a value, as the page writes it: the longest names of models in use have 100."""

SERIES_MAX = 1024
"""Combinations of them: each of a thousand models of one fairness id, and some of those that are `other`.

Each has up to 500 lines: these are a page of 100 MB at worst, and 10 MB where answers tell no tokens.
"""

ATTEMPTS_MAX = 4000
"""Combinations of a target model and an endpoint, with two lines each."""

PLUGINS_MAX = 500
"""Plugins whose times are counted: a configuration names a dozen, and each change of it may bring others."""

PENDING = 1000
"""Entries that are counted together: a sixth of a second of a load, and half a millisecond of work."""

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

_ENDED_CODES = {"lost": "Internal"}
"""Codes by the cause of an end that is not `complete`; all others are Unknown."""


class RequestSeries:
    """What is counted for one combination of model, target model, fairness id and priority."""

    def __init__(self, model: str, target: str, fairness: str, priority: str) -> None:
        self.model, self.target, self.fairness, self.priority = model, target, fairness, priority
        self.requests = 0
        self.running = 0
        self.errors: dict[str, int] = {}
        self.duration = Histogram(LATENCY)
        self.first_token = Histogram(LATENCY)
        """Seconds to the first token of streamed answers."""
        self.token_time = Histogram(TOKEN_TIME)
        self.normalized = Histogram(NORMALIZED)
        self.request_bytes = Histogram(REQUEST_BYTES)
        self.response_bytes = Histogram(RESPONSE_BYTES)
        self.input_tokens = Histogram(INPUT_TOKENS)
        self.output_tokens = Histogram(OUTPUT_TOKENS)
        self.cached_tokens = Histogram(INPUT_TOKENS)

    def copy(self) -> "RequestSeries":
        """What was counted so far."""
        one = copy(self)
        one.errors = dict(self.errors)
        one.duration = self.duration.copy()
        one.first_token = self.first_token.copy()
        one.token_time, one.normalized = self.token_time.copy(), self.normalized.copy()
        one.request_bytes, one.response_bytes = self.request_bytes.copy(), self.response_bytes.copy()
        one.input_tokens, one.output_tokens = self.input_tokens.copy(), self.output_tokens.copy()
        one.cached_tokens = self.cached_tokens.copy()
        return one

    def failed(self, code: str) -> None:
        """Count an error."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def routed(self, sizes: Sequence[int]) -> None:
        """Count requests for which an endpoint was found, each with the bytes of its body."""
        self.requests += len(sizes)
        self.running += len(sizes)
        self.request_bytes.observe_all(sizes)

    def finished(self, event: FinishedMark) -> None:
        """Count a request's end."""
        self.running -= 1
        self.duration.observe(event.duration)
        if (first := event.streamed_token) is not None:
            self.first_token.observe(first)
        self.response_bytes.observe(event.response_bytes)
        if event.prompt_tokens is not None:
            self.input_tokens.observe(event.prompt_tokens)
        if event.cached_tokens is not None:
            self.cached_tokens.observe(event.cached_tokens)
        if (made := event.completion_tokens) is not None:
            self.output_tokens.observe(made)
            if made > 0:
                self.normalized.observe(event.duration / made)
                if made > 1 and first is not None:
                    self.token_time.observe(max(0.0, event.duration - first) / (made - 1))
        self._ended(event)

    def _ended(self, event: FinishedMark) -> None:
        if event.cause != "complete":
            self.failed(_ENDED_CODES.get(event.cause, "Unknown"))
        elif event.unanswered:
            self.failed("ServiceUnavailable")
        elif event.failed:
            self.failed("ModelServerError")

    def finished_all(self, events: Sequence[FinishedMark]) -> None:
        """Count the ends of requests, as one after the other.

        Many go by column and few by `finished`: of one model a request costs 2.0 µs by column and 2.8 µs singly;
        where each of 300 series has one end in a thousand entries it costs 8.8 µs by column and 5.6 µs singly.
        """
        if len(events) < MANY:
            for event in events:
                self.finished(event)
            return
        self.running -= len(events)
        self.duration.observe_all([event.duration for event in events])
        self.first_token.observe_all([time for event in events if (time := event.streamed_token) is not None])
        self.response_bytes.observe_all([event.response_bytes for event in events])
        self.input_tokens.observe_all([n for event in events if (n := event.prompt_tokens) is not None])
        self.cached_tokens.observe_all([n for event in events if (n := event.cached_tokens) is not None])
        self.output_tokens.observe_all([n for event in events if (n := event.completion_tokens) is not None])
        made = [(event, n) for event in events if (n := event.completion_tokens) is not None and n > 0]
        self.normalized.observe_all([event.duration / n for event, n in made])
        begun = [(event.duration - first, n) for event, n in made if (first := event.streamed_token) is not None]
        self.token_time.observe_all([max(0.0, time) / (n - 1) for time, n in begun if n > 1])
        for event in events:
            if event.failed:
                self._ended(event)


class AttemptLabels(msgspec.Struct, frozen=True):
    """The labels of scheduler attempts."""

    status: str
    target: str
    endpoint: str = ""
    namespace: str = ""
    port: str = ""


class Metrics:
    """Folds committed entries; `metrics_page` writes what they add up to."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str, str], RequestSeries] = {}
        self._attempts: dict[AttemptLabels, int] = {}
        self._scheduling = Histogram(SCHEDULER)
        self._plugins: dict[tuple[str, str, str], Histogram] = {}
        self._samples = 0
        self._scrapes_failed = 0
        self._models = Bounded(LABEL_VALUES_MAX, LABEL_BYTES_MAX)
        self._fairness = Bounded(LABEL_VALUES_MAX, LABEL_BYTES_MAX)
        self._by_facts: dict[tuple[str, str, str, int], RequestSeries] = {}
        self._attempts_known: dict[tuple[str, int], AttemptLabels] = {}
        """Labels by target and the endpoint's number, which is never used again."""
        self._open = OpenByEpoch[RequestSeries]()
        self._pending: list[Event | Mark] = []
        self._endpoints: dict[int, Endpoint] = {}
        """Endpoints by number, of the membership with which all of `_pending` was committed."""
        self._membership = -1
        """Version of the membership that the last entries were committed with."""
        self._holds = 0
        """How many pages are copying what was counted; nothing is counted before they have."""
        self._held: list[tuple[Sequence[Event | Mark], dict[int, Endpoint] | None]] = []
        """Commits that came meanwhile, each with the endpoints where they are others than before."""

    @property
    def series(self) -> dict[tuple[str, str, str, str], RequestSeries]:
        """By the values of its labels."""
        self._count()
        return self._series

    @property
    def attempts(self) -> dict[AttemptLabels, int]:
        """How often the scheduler was asked, by what came of it."""
        self._count()
        return self._attempts

    @property
    def scheduling(self) -> Histogram:
        """Times of decisions."""
        self._count()
        return self._scheduling

    @property
    def plugins(self) -> dict[tuple[str, str, str], Histogram]:
        """Times of plugins by extension point, type and name, of the decisions that were timed."""
        self._count()
        return self._plugins

    @property
    def samples(self) -> int:
        """Samples of an endpoint's load."""
        self._count()
        return self._samples

    @property
    def scrapes_failed(self) -> int:
        """Scrapes of an endpoint that failed."""
        self._count()
        return self._scrapes_failed

    def follow(self, events: Sequence[Event | Mark], cluster: ClusterState) -> None:
        """Take the entries of a commit, as skimmed; `cluster` is the state after it, and names the endpoints."""
        renamed = None
        if cluster.membership_version != self._membership:
            self._membership, renamed = cluster.membership_version, dict(cluster.endpoints)
        if self._holds:
            self._held.append((events, renamed))
        else:
            self._take(events, renamed)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Count nothing meanwhile, so that what was counted so far can be copied a little at a time."""
        self._count()
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds:
                held, self._held = self._held, []
                for events, renamed in held:
                    self._take(events, renamed)

    def _take(self, events: Sequence[Event | Mark], renamed: dict[int, Endpoint] | None) -> None:
        if renamed is not None:
            self._count()  # with the names of its time
            self._endpoints = renamed
        self._pending.extend(events)
        if len(self._pending) >= PENDING:
            self._count()

    def _count(self) -> None:
        """Count what is pending."""
        pending, self._pending = self._pending, []
        routed: defaultdict[RequestSeries, list[int]] = defaultdict(list)
        finished: defaultdict[RequestSeries, list[FinishedMark]] = defaultdict(list)
        chosen: defaultdict[tuple[str, int], int] = defaultdict(int)
        took: list[int] = []
        picker, epoch, mine = (
            "",
            -1,
            dict[int, RequestSeries](),
        )  # entries that follow each other are nearly always of one
        for event in pending:
            # By type: to `isinstance`, a class that does not match costs a call.
            if type(event) is StartedMark:
                continue  # nothing is counted of that
            if type(event) not in MARKS:
                self._count_rare(event)
                epoch = -1
                continue
            mark: Mark = event  # type: ignore[assignment]  # as its type says
            origin = mark.origin
            if origin.epoch != epoch or origin.picker != picker:
                picker, epoch = origin.picker, origin.epoch
                mine = self._open.of((picker, epoch))
            if type(mark) is RoutedMark:
                facts = mark.request
                took.append(mark.took)
                if mark.timed:
                    self._time(mark.timed)
                if not facts.body_bytes and not facts.model:
                    chosen["", mark.endpoints[0]] += 1
                    continue
                mine[origin.n] = series = self._series_of(facts)
                routed[series].append(facts.body_bytes)
                chosen[series.target, mark.endpoints[0]] += 1
            elif type(mark) is FinishedMark:
                # One that was routed before this process began has nothing to be counted under.
                if (ended := mine.pop(mark.request_n, None)) is not None:
                    finished[ended].append(mark)
            elif type(mark) is RefusedMark and self._refused(mark):
                took.append(mark.took)
        self._scheduling.observe_all([micros / 1e6 for micros in took])
        for series, sizes in routed.items():
            series.routed(sizes)
        for series, ends in finished.items():
            series.finished_all(ends)
        for (target, number), count in chosen.items():
            self._count_attempt(self._attempt(target, number), count)

    def _time(self, times: Sequence[tuple[str, str, str, int]]) -> None:
        for point, kind, name, nanoseconds in times:
            where = point, kind, name
            if where not in self._plugins and len(self._plugins) >= PLUGINS_MAX:
                where = point, "other", "other"
            self._plugins.setdefault(where, Histogram(SCHEDULER)).observe(nanoseconds / 1e9)

    def _count_rare(self, event: Event | Mark) -> None:
        match event:
            case LoadSampled(numbers):
                self._samples += len(unpack(numbers))
            case OpenRequestsListed() | PickerEnded():
                for _, series in self._open.take_ended(event):
                    self._lost(series)
            case ScrapeFailed(endpoints):
                self._scrapes_failed += len(unpack(endpoints))
            case _:
                pass

    def _refused(self, event: RefusedMark) -> bool:
        """Count a refusal; whether the scheduler was asked."""
        series = self._series_of(event.request)
        series.failed(refusal(event.reason).error_code)
        if not event.digest:
            return False
        self._count_attempt(AttemptLabels("failure", series.target), 1)
        return True

    def _lost(self, series: RequestSeries) -> None:
        series.running -= 1
        series.failed("Internal")

    def _series_of(self, request: FactsMark) -> RequestSeries:
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
        if labels not in self._series and len(self._series) >= SERIES_MAX:
            labels = ("other", "other", "other", "other")
        series = self._series.setdefault(labels, RequestSeries(*labels))
        if len(self._by_facts) < SERIES_MAX:
            self._by_facts[key] = series
        return series

    def _attempt(self, target: str, number: int) -> AttemptLabels:
        """What chose an endpoint."""
        known = self._attempts_known.get((target, number))
        if known is not None:
            return known
        member = self._endpoints.get(number)
        if member is None:  # it left within the same commit
            return AttemptLabels("success", target)
        if len(self._attempts_known) >= ATTEMPTS_MAX:
            self._attempts_known.clear()
        found = AttemptLabels("success", target, member.name, member.namespace, str(member.port))
        self._attempts_known[target, number] = found
        return found

    def _count_attempt(self, attempt: AttemptLabels, count: int) -> None:
        if attempt not in self._attempts and len(self._attempts) >= ATTEMPTS_MAX:
            attempt = AttemptLabels(attempt.status, "other")
        self._attempts[attempt] = self._attempts.get(attempt, 0) + count
