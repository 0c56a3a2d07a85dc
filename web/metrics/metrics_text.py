"""The text of `/metrics`, from the projection and the cluster state."""

import math
import statistics
from collections.abc import Callable, Iterable

import numpy as np

from pointsman.core.state.projection import ClusterState
from pointsman.web.metrics.counting import (
    INPUT_TOKENS,
    LATENCY,
    NORMALIZED,
    OUTPUT_TOKENS,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    SCHEDULER,
    TOKEN_TIME,
    Metrics,
    RequestSeries,
)
from pointsman.web.metrics.exposition import ExpositionPage, Histogram, Labels, summed

FIRST_TOKEN = LATENCY[:24]
STREAMING_TOKEN_TIME = tuple(bound for bound in TOKEN_TIME if bound <= 2 and bound != 1.5)

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
        "Time of a streamed request by its tokens.",
        NORMALIZED,
        lambda s: s.normalized,
    ),
)
"""llm-d-router's name, GIE's, help, bounds, which of a series."""


def metrics_page(metrics: Metrics, cluster: ClusterState, build: str) -> str:
    """The page."""
    page = ExpositionPage()
    series = list(metrics.series.values())
    _counters(page, series)
    for name, legacy, about, bounds, which in _HISTOGRAMS:
        _twins(page, (name, legacy), about, bounds, [(s, which(s)) for s in series])
    _token_times(page, series)
    _pools(page, cluster)
    _scheduler(page, metrics)
    for name in ("llm_d_epp_info", "inference_extension_info"):
        page.family(name, "gauge", "The build.")
        page.sample(name, (("commit", build), ("build_ref", build)), 1)
    return page.text()


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


def _plain(page: ExpositionPage, name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float]]) -> None:
    page.family(name, kind, about)
    for labels, value in _summed_by(samples).items():
        page.sample(name, labels, value)


def _counters(page: ExpositionPage, series: list[RequestSeries]) -> None:
    routed = [s for s in series if s.requests]
    total, running = "Requests that were routed.", "Routed requests without an end yet."
    _plain(page, "llm_d_epp_request_total", "counter", total, [(_labels(s), s.requests) for s in routed])
    _plain(
        page,
        "inference_objective_request_total",
        "counter",
        total,
        [((*_legacy(s), ("priority", s.priority)), s.requests) for s in routed],
    )
    errors = [(s, code, count) for s in series for code, count in sorted(s.errors.items())]
    about = "Requests that failed or were refused."
    for name, of in (("llm_d_epp_request_error_total", _labels), ("inference_objective_request_error_total", _legacy)):
        _plain(page, name, "counter", about, [((*of(s), ("error_code", code)), count) for s, code, count in errors])
    _plain(page, "llm_d_epp_request_running", "gauge", running, [(_labels(s), s.running) for s in routed])
    _plain(
        page,
        "inference_objective_running_requests",
        "gauge",
        running,
        [((("model_name", s.model),), s.running) for s in routed],
    )


def _twins(
    page: ExpositionPage,
    names: tuple[str, str],
    about: str,
    bounds: tuple[float, ...],
    pairs: list[tuple[RequestSeries, Histogram]],
) -> None:
    name, legacy = names
    counted = [(s, h) for s, h in pairs if any(h.counts)]
    page.family(f"llm_d_epp_{name}", "histogram", about)
    for one, histogram in counted:
        page.histogram(f"llm_d_epp_{name}", _labels(one), histogram, bounds)
    _older(page, f"inference_objective_{legacy}", about, bounds, counted)


def _older(
    page: ExpositionPage, name: str, about: str, bounds: tuple[float, ...], pairs: list[tuple[RequestSeries, Histogram]]
) -> None:
    grouped: dict[Labels, list[Histogram]] = {}
    for one, histogram in pairs:
        grouped.setdefault(_legacy(one), []).append(histogram)
    page.family(name, "histogram", about)
    for labels, histograms in grouped.items():
        page.histogram(name, labels, summed(histograms, histograms[0].bounds), bounds)


def _token_times(page: ExpositionPage, series: list[RequestSeries]) -> None:
    about = "Time until the first byte of the reply's body."
    page.family("llm_d_epp_request_ttft_seconds", "histogram", about)
    firsts = [(s, streamed, s.first_token[streamed]) for s in series for streamed in (False, True)]
    counted = [(s, streamed, h) for s, streamed, h in firsts if any(h.counts)]
    for one, streamed, histogram in counted:
        labels = (*_labels(one), ("streaming", str(streamed).lower()))
        page.histogram("llm_d_epp_request_ttft_seconds", labels, histogram, FIRST_TOKEN)
    _older(page, "inference_objective_request_ttft_seconds", about, LATENCY, [(s, h) for s, _, h in counted])
    about = "Time between tokens of a streamed reply, on average."
    times = [(s, s.token_time) for s in series if any(s.token_time.counts)]
    page.family("llm_d_epp_request_streaming_tpot_seconds", "histogram", about)
    for one, histogram in times:
        page.histogram("llm_d_epp_request_streaming_tpot_seconds", _labels(one), histogram, STREAMING_TOKEN_TIME)
    _older(page, "inference_objective_request_tpot_seconds", about, TOKEN_TIME, times)


def _pools(page: ExpositionPage, cluster: ClusterState) -> None:
    figures: dict[str, list[tuple[Labels, float]]] = {}
    queues: list[tuple[str, str, int]] = []
    for pool in sorted(cluster.pools):
        name = pool.rpartition("/")[2]
        slots = cluster.ready(pool)
        for what, column in (
            ("kv_cache_utilization", cluster.kv_cache),
            ("queue_size", cluster.waiting),
            ("running_requests", cluster.running),
        ):
            values = [float(value) for value in np.asarray(column[slots]).tolist()]
            average = statistics.fmean(values) if values else 0.0
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            figures.setdefault(f"average_{what}", []).append(((("name", name),), round(average, 2)))
            figures.setdefault(f"std_dev_{what}", []).append(((("name", name),), round(deviation, 2)))
        figures.setdefault("ready_endpoints", []).append(((("name", name),), len(slots)))
        for member in cluster.members(pool):
            if member.ready and not math.isinf(float(cluster.age[member.slot])):
                queues.append((name, member.name, int(cluster.waiting[member.slot])))
    about = "Of the ready endpoints of a pool."
    for what, samples in figures.items():
        _plain(page, f"llm_d_epp_{what}", "gauge", about, samples)
        if what == "ready_endpoints":
            _plain(page, "inference_pool_ready_pods", "gauge", about, samples)
        elif what.startswith("average_"):
            _plain(page, f"inference_pool_{what}", "gauge", about, samples)
    about = "Requests in the queue of an endpoint."
    for family, label in (
        ("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint"),
        ("inference_pool_per_pod_queue_size", "model_server_pod"),
    ):
        _plain(page, family, "gauge", about, [((("name", pool), (label, name)), size) for pool, name, size in queues])


def _scheduler(page: ExpositionPage, metrics: Metrics) -> None:
    about = "Time of a scheduling decision."
    for name in ("llm_d_epp_scheduler_e2e_duration_seconds", "inference_extension_scheduler_e2e_duration_seconds"):
        page.family(name, "histogram", about)
        page.histogram(name, (), metrics.scheduling, SCHEDULER)
    for prefix, label in (("llm_d_epp", "endpoint_name"), ("inference_extension", "pod_name")):
        _plain(
            page,
            f"{prefix}_scheduler_attempts_total",
            "counter",
            "Scheduling decisions by what came of them.",
            [
                (
                    (
                        ("status", attempt.status),
                        ("target_model_name", attempt.target),
                        (label, attempt.endpoint),
                        ("namespace", attempt.namespace),
                        ("port", attempt.port),
                    ),
                    count,
                )
                for attempt, count in metrics.attempts.items()
            ],
        )
    about = "Samples of model servers' load that the log took."
    _plain(page, "pointsman_load_samples_total", "counter", about, [((), metrics.samples)])
    for prefix in ("llm_d_epp", "llm_d_inference_scheduler"):
        _plain(
            page,
            f"{prefix}_datalayer_poll_errors_total",
            "counter",
            "Scrapes of model servers that failed.",
            [((("source_type", "metrics-data-source"),), metrics.scrapes_failed)],
        )
