"""The text of `/metrics`, from the projection and the cluster state.

A page can have half a million lines, and is written on the loop that commits entries and feeds pickers.
So it is written in pieces, and whoever sends it lets others run between two of them.
What it is written from is copied when the first piece is asked for: the page is of that moment.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.metrics.counting import (
    INPUT_TOKENS,
    LATENCY,
    NORMALIZED,
    OUTPUT_TOKENS,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    SCHEDULER,
    TOKEN_TIME,
    AttemptLabels,
    Metrics,
    RequestSeries,
)
from pointsman.web.metrics.exposition import ExpositionPage, Histogram, Labels, summed

FIRST_TOKEN = LATENCY[:24]
STREAMING_TOKEN_TIME = tuple(bound for bound in TOKEN_TIME if bound <= 2 and bound != 1.5)

PIECE_LINES = 500
"""Lines after which a piece ends: half a millisecond of work."""

PIECE_SERIES = 40
"""Series that are copied at a time, which takes a millisecond."""

Pauses = Iterator[None]
"""Places at which a page that is being written can be left for a while: after each value and each histogram."""

_HISTOGRAMS: tuple[tuple[str, str, str, tuple[float, ...], Callable[[RequestSeries], Histogram]], ...] = (
    ("request_duration_seconds", "request_duration_seconds", "Time of a request.", LATENCY, lambda s: s.duration),
    ("request_size_bytes", "request_sizes", "Bytes of a request's body.", REQUEST_BYTES, lambda s: s.request_bytes),
    ("response_size_bytes", "response_sizes", "Bytes of a reply's body.", RESPONSE_BYTES, lambda s: s.response_bytes),
    ("request_input_tokens", "input_tokens", "Tokens of a prompt.", INPUT_TOKENS, lambda s: s.input_tokens),
    ("request_output_tokens", "output_tokens", "Tokens of a reply.", OUTPUT_TOKENS, lambda s: s.output_tokens),
    (
        "request_cached_tokens",
        "prompt_cached_tokens",
        "Tokens of a prompt that the server had cached.",
        INPUT_TOKENS,
        lambda s: s.cached_tokens,
    ),
    (
        "request_ntpot_seconds",
        "normalized_time_per_output_token_seconds",
        "Time of a request by the tokens of its reply.",
        NORMALIZED,
        lambda s: s.normalized,
    ),
)
"""llm-d-router's name, GIE's, help, bounds, which of a series."""


def metrics_page(
    metrics: Metrics, cluster: ClusterState, build: str, kept: Kept | None = None, *, legacy: bool = False
) -> Iterator[str]:
    """The page, piece by piece; the first ones are empty, while what it is written from is copied.

    With `legacy` the families of GIE v0.5 are on it too.
    """
    page = ExpositionPage()
    last = (_pools(page, cluster), _scheduler(page, metrics), _log(page, kept))
    for parts in last:
        next(parts)  # has them take what they are about
    series: list[RequestSeries] = []
    with metrics.held():
        for one in metrics.series.values():
            series.append(one.copy())
            if len(series) % PIECE_SERIES == 0:
                yield ""
    oldest = _oldest(page, series) if legacy else iter(())
    for _ in _write(page, series, (oldest, *last), build):
        if page.lines >= PIECE_LINES:
            yield page.take()
    yield page.take()


def _write(page: ExpositionPage, series: list[RequestSeries], last: Iterable[Pauses], build: str) -> Pauses:
    yield from _counters(page, series)
    for name, legacy, about, bounds, which in _HISTOGRAMS:
        yield from _twins(page, (name, legacy), about, bounds, [(s, which(s)) for s in series])
    yield from _token_times(page, series)
    for parts in last:
        yield from parts
    for name in ("llm_d_epp_info", "inference_extension_info"):
        page.family(name, "gauge", "The build.")
        page.sample(name, (("commit", build), ("build_ref", build)), 1)


def _labels(series: RequestSeries) -> Labels:
    return (
        ("model_name", series.model),
        ("target_model_name", series.target),
        ("fairness_id", series.fairness),
        ("priority", series.priority),
    )


def _legacy(series: RequestSeries) -> Labels:
    return (("model_name", series.model), ("target_model_name", series.target))


def _summed_by(samples: Iterable[tuple[Labels, float]]) -> dict[Labels, float]:
    found: dict[Labels, float] = {}
    for labels, value in samples:
        found[labels] = found.get(labels, 0) + value
    return found


def _plain(page: ExpositionPage, name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float]]) -> Pauses:
    """Write a family; no labels are twice among `samples`."""
    page.family(name, kind, about)
    for labels, value in samples:
        page.sample(name, labels, value)
        yield


def _counters(page: ExpositionPage, series: list[RequestSeries]) -> Pauses:
    routed = [s for s in series if s.requests]
    total, running = "Requests that were routed.", "Routed requests without an end yet."
    yield from _plain(page, "llm_d_epp_request_total", "counter", total, ((_labels(s), s.requests) for s in routed))
    summed_up = _summed_by(((*_legacy(s), ("priority", s.priority)), s.requests) for s in routed)
    yield from _plain(page, "inference_objective_request_total", "counter", total, summed_up.items())
    errors = [(s, code, count) for s in series for code, count in sorted(s.errors.items())]
    about = "Requests that failed or were refused."
    for name, of in (("llm_d_epp_request_error_total", _labels), ("inference_objective_request_error_total", _legacy)):
        summed_up = _summed_by(((*of(s), ("error_code", code)), count) for s, code, count in errors)
        yield from _plain(page, name, "counter", about, summed_up.items())
    yield from _plain(page, "llm_d_epp_request_running", "gauge", running, ((_labels(s), s.running) for s in routed))
    summed_up = _summed_by(((("model_name", s.model),), s.running) for s in routed)
    yield from _plain(page, "inference_objective_running_requests", "gauge", running, summed_up.items())


def _twins(
    page: ExpositionPage,
    names: tuple[str, str],
    about: str,
    bounds: tuple[float, ...],
    pairs: list[tuple[RequestSeries, Histogram]],
) -> Pauses:
    name, legacy = names
    counted = [(s, h) for s, h in pairs if any(h.counts)]
    page.family(f"llm_d_epp_{name}", "histogram", about)
    for one, histogram in counted:
        page.histogram(f"llm_d_epp_{name}", _labels(one), histogram, bounds)
        yield
    yield from _older(page, f"inference_objective_{legacy}", about, bounds, counted)


def _older(
    page: ExpositionPage, name: str, about: str, bounds: tuple[float, ...], pairs: list[tuple[RequestSeries, Histogram]]
) -> Pauses:
    grouped: dict[Labels, list[Histogram]] = {}
    for one, histogram in pairs:
        grouped.setdefault(_legacy(one), []).append(histogram)
    page.family(name, "histogram", about)
    for labels, histograms in grouped.items():
        page.histogram(name, labels, summed(histograms, histograms[0].bounds), bounds)
        yield


def _oldest(page: ExpositionPage, series: list[RequestSeries]) -> Pauses:
    """Write what GIE called `inference_model_` up to v0.5, and dashboards of v1.0 still do."""
    total, failed, running = "Requests that were routed.", "Requests that failed or were refused.", "Requests open."
    routed = [s for s in series if s.requests]
    samples = _summed_by((_legacy(s), s.requests) for s in routed)
    yield from _plain(page, "inference_model_request_total", "counter", total, samples.items())
    errors = [((*_legacy(s), ("error_code", code)), n) for s in series for code, n in sorted(s.errors.items())]
    samples = _summed_by(errors)
    yield from _plain(page, "inference_model_request_error_total", "counter", failed, samples.items())
    samples = _summed_by(((("model_name", s.model),), s.running) for s in routed)
    yield from _plain(page, "inference_model_running_requests", "gauge", running, samples.items())
    for _, name, about, bounds, which in _HISTOGRAMS:
        if name == "prompt_cached_tokens":
            continue  # it came with v1.0
        counted = [(s, which(s)) for s in series if any(which(s).counts)]
        yield from _older(page, f"inference_model_{name}", about, bounds, counted)


def _token_times(page: ExpositionPage, series: list[RequestSeries]) -> Pauses:
    about = "Time until the first content of a streamed reply."
    page.family("llm_d_epp_request_ttft_seconds", "histogram", about)
    firsts = [(s, s.first_token) for s in series if any(s.first_token.counts)]
    for one, histogram in firsts:
        page.histogram("llm_d_epp_request_ttft_seconds", (*_labels(one), ("streaming", "true")), histogram, FIRST_TOKEN)
        yield
    yield from _older(page, "inference_objective_request_ttft_seconds", about, LATENCY, firsts)
    about = "Time between tokens of a streamed reply, on average."
    times = [(s, s.token_time) for s in series if any(s.token_time.counts)]
    page.family("llm_d_epp_request_streaming_tpot_seconds", "histogram", about)
    for one, histogram in times:
        page.histogram("llm_d_epp_request_streaming_tpot_seconds", _labels(one), histogram, STREAMING_TOKEN_TIME)
        yield
    yield from _older(page, "inference_objective_request_tpot_seconds", about, TOKEN_TIME, times)


def _pools(page: ExpositionPage, cluster: ClusterState) -> Pauses:
    """Write what is of pools; what it is about is taken up to the first pause."""
    figures: dict[str, list[tuple[Labels, float]]] = {}
    queues: dict[tuple[str, str], int] = {}
    queues_of_pods: dict[tuple[str, str], int] = {}
    for pool in sorted(cluster.pools):
        name = pool.rpartition("/")[2]
        slots = cluster.ready(pool)
        for what, column in (
            ("kv_cache_utilization", cluster.kv_cache),
            ("queue_size", cluster.waiting),
            ("running_requests", cluster.running),
        ):
            values = np.asarray(column[slots], dtype=np.float64)
            average = float(values.mean()) if len(values) else 0.0
            deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            figures.setdefault(f"average_{what}", []).append(((("name", name),), round(average, 2)))
            figures.setdefault(f"std_dev_{what}", []).append(((("name", name),), round(deviation, 2)))
        figures.setdefault("ready_endpoints", []).append(((("name", name),), len(slots)))
        read = slots[np.isfinite(cluster.age[slots])]
        for slot, waiting in zip(read.tolist(), cluster.waiting[read].tolist(), strict=True):
            if (member := cluster.by_slot[slot]) is not None:
                for one, sizes in ((member.full_name, queues), (member.name, queues_of_pods)):
                    sizes[name, one] = sizes.get((name, one), 0) + int(waiting)
    yield
    about = "Of the ready endpoints of a pool."
    for what, samples in figures.items():
        values_by_name = _summed_by(samples)  # pools of two namespaces may share a name
        yield from _plain(page, f"llm_d_epp_{what}", "gauge", about, values_by_name.items())
        if what == "ready_endpoints":
            yield from _plain(page, "inference_pool_ready_pods", "gauge", about, values_by_name.items())
        elif what.startswith("average_"):
            yield from _plain(page, f"inference_pool_{what}", "gauge", about, values_by_name.items())
    for family, label, of, lengths in (
        ("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint", "an endpoint", queues),
        ("inference_pool_per_pod_queue_size", "model_server_pod", "a pod, over its ports", queues_of_pods),
    ):
        lines = (((("name", pool), (label, one)), size) for (pool, one), size in lengths.items())
        yield from _plain(page, family, "gauge", f"Requests in the queue of {of}.", lines)


def _log(page: ExpositionPage, kept: Kept | None) -> Pauses:
    """Write what the log takes, once it was looked at."""
    yield
    if kept is None:
        return
    space = kept.space
    for name, about, value in (
        ("bytes", "Bytes of the log, its archive and its read model.", space.size),
        ("limit_bytes", "Bytes that they may take; 0 is no limit.", kept.keep.size),
        ("growth_bytes_per_day", "Bytes by which they grow in a day, over what is kept.", round(space.growth)),
        ("kept_since_timestamp_seconds", "Time at which what is kept begins.", space.since),
        ("disk_free_bytes", "Bytes that the log's disk has left.", kept.free),
    ):
        yield from _plain(page, f"pointsman_log_{name}", "gauge", about, [((), value)])


def _scheduler(page: ExpositionPage, metrics: Metrics) -> Pauses:
    """Write what is of the scheduler and of scrapes; what it is about is taken up to the first pause."""
    scheduling, attempts = metrics.scheduling.copy(), list(metrics.attempts.items())
    samples, failed = metrics.samples, metrics.scrapes_failed
    plugins = {where: times.copy() for where, times in sorted(metrics.plugins.items())}
    yield
    about = "Time of a scheduling decision."
    for name in ("llm_d_epp_scheduler_e2e_duration_seconds", "inference_extension_scheduler_e2e_duration_seconds"):
        page.family(name, "histogram", about)
        page.histogram(name, (), scheduling, SCHEDULER)
    about = "Time of a plugin's call, in one decision of some dozens."
    for name in ("llm_d_epp_plugin_duration_seconds", "inference_extension_plugin_duration_seconds"):
        page.family(name, "histogram", about)
        for (point, kind, plugin), times in plugins.items():
            labels = (("extension_point", point), ("plugin_type", kind), ("plugin_name", plugin))
            page.histogram(name, labels, times, SCHEDULER)
            yield
    about = "Scheduling decisions by what came of them."
    for prefix, label, full in (("llm_d_epp", "endpoint_name", True), ("inference_extension", "pod_name", False)):
        counts = ((_attempt(attempt, label, full), count) for attempt, count in attempts)
        yield from _plain(page, f"{prefix}_scheduler_attempts_total", "counter", about, counts)
    about = "Samples of model servers' load that the log took."
    yield from _plain(page, "pointsman_load_samples_total", "counter", about, [((), samples)])
    about = "Scrapes of model servers that failed."
    source = (("source_type", "metrics-data-source"),)
    for prefix in ("llm_d_epp", "llm_d_inference_scheduler"):
        yield from _plain(page, f"{prefix}_datalayer_poll_errors_total", "counter", about, [(source, failed)])


def _attempt(attempt: AttemptLabels, label: str, full: bool) -> Labels:
    name = f"{attempt.endpoint}:{attempt.port}" if full and attempt.port else attempt.endpoint
    return (
        ("status", attempt.status),
        ("target_model_name", attempt.target),
        (label, name),
        ("namespace", attempt.namespace),
        ("port", attempt.port),
    )
