"""The metrics page against the facts it is made of."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from pointsman.core.events import (
    Class,
    EndpointJoined,
    EndpointLeft,
    Entry,
    Event,
    LoadSampled,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PoolApplied,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ScrapeFailed,
    class_of,
    encode,
)
from pointsman.core.state.marks import skim
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import pack, pack_floats
from pointsman.web.metrics.counting import (
    LABEL_BYTES_MAX,
    LABEL_VALUES_MAX,
    LATENCY,
    PENDING,
    SERIES_MAX,
    Metrics,
)
from pointsman.web.metrics.exposition import MANY, Bounded, ExpositionPage, Histogram
from pointsman.web.metrics.metrics_text import PIECE_LINES, PIECE_SERIES, metrics_page

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)*)\})? (\S+)')


def entry(position: int, event: Event) -> Entry:
    return Entry(position, 0.0, int(class_of(event)), encode(event))


def origin(n: int) -> Origin:
    return Origin("p", 7, n, 0)


def routed(n: int, model: str = "m", **facts: object) -> RequestRouted:
    return RequestRouted(origin(n), 0.0, RequestFacts("r", "ns/pool", model, **facts), (1,), took=30)  # type: ignore[arg-type]


def finished(n: int, of: int, **told: object) -> RequestFinished:
    fields: dict[str, object] = {"cause": "complete", "status": 200, "duration": 0.3, **told}
    return RequestFinished(origin(n), of, **fields)  # type: ignore[arg-type]


def folded(*events: Event) -> tuple[Metrics, ClusterState]:
    metrics, state = Metrics(), ClusterState()
    for position, event in enumerate(events, 1):
        one = entry(position, event)
        state.apply(one)
        metrics.follow([skim(one.kind, one.body)], state)
    return metrics, state


def samples(text: str) -> dict[str, float]:
    """Every sample of a page, whose lines must all be of the text format."""
    found: dict[str, float] = {}
    for line in text.split("\n")[:-1]:
        if line.startswith("# "):
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, f"not of the text format: {line}"
        key = match[1] + (f"{{{match[2]}}}" if match[2] else "")
        assert key not in found, f"twice on one page: {key}"
        found[key] = float(match[3])
    return found


def page_text(metrics: Metrics, cluster: ClusterState, build: str) -> str:
    return "".join(metrics_page(metrics, cluster, build))


POOL: tuple[Event, ...] = (
    PoolApplied("ns/pool", {}, (8000,)),
    EndpointJoined(1, "ns/pool", "u", "ns", "pod-0", "10.0.0.1", 8000),
)
LABELS = 'model_name="m",target_model_name="m",fairness_id="",priority="0"'


def test_requests_are_counted_under_both_names() -> None:
    metrics, state = folded(*POOL, routed(1, body_bytes=100), routed(2), finished(3, 1, response_bytes=10))
    page = samples(page_text(metrics, state, "b"))

    assert page[f"llm_d_epp_request_total{{{LABELS}}}"] == 2
    assert page['inference_objective_request_total{model_name="m",target_model_name="m",priority="0"}'] == 2
    assert page[f"llm_d_epp_request_running{{{LABELS}}}"] == 1
    assert page['inference_objective_running_requests{model_name="m"}'] == 1
    assert page[f"llm_d_epp_request_duration_seconds_count{{{LABELS}}}"] == 1
    assert (
        page['inference_objective_request_duration_seconds_bucket{model_name="m",target_model_name="m",le="0.4"}'] == 1
    )
    assert (
        page['inference_objective_request_duration_seconds_bucket{model_name="m",target_model_name="m",le="0.2"}'] == 0
    )
    attempts = 'status="success",target_model_name="m",endpoint_name="pod-0:8000",namespace="ns",port="8000"'
    assert page[f"llm_d_epp_scheduler_attempts_total{{{attempts}}}"] == 2


def test_errors_have_the_codes_of_the_field() -> None:
    refusals = [
        RequestRefused(origin(n), 0.0, RequestFacts("r", "ns/pool", "m"), reason, 503)
        for n, reason in enumerate(("saturated", "no-endpoints", "bad-request"), 2)
    ]
    metrics, state = folded(*POOL, routed(1), *refusals, finished(5, 1, status=500))
    page = samples(page_text(metrics, state, "b"))

    for code in ("InferencePoolResourceExhausted", "ServiceUnavailable", "BadRequest", "ModelServerError"):
        assert page[f'llm_d_epp_request_error_total{{{LABELS},error_code="{code}"}}'] == 1


def test_a_picker_that_ended_leaves_no_request_running() -> None:
    metrics, state = folded(*POOL, routed(1), routed(2), PickerEnded("p", 7, "signal SIGKILL", 2))
    page = samples(page_text(metrics, state, "b"))

    assert page[f"llm_d_epp_request_running{{{LABELS}}}"] == 0
    assert page[f'llm_d_epp_request_error_total{{{LABELS},error_code="Internal"}}'] == 2


def test_times_to_and_between_tokens_are_of_streams_only_and_the_normalized_time_is_of_all() -> None:
    done = {"completion_tokens": 11, "first_token": 0.1, "duration": 1.1}
    page = page_of(("complete", True, done), ("complete", False, done))

    assert page[f"llm_d_epp_request_streaming_tpot_seconds_count{{{LABELS}}}"] == 1
    assert abs(page[f"llm_d_epp_request_streaming_tpot_seconds_sum{{{LABELS}}}"] - 0.1) < 1e-9
    assert [v for k, v in page.items() if k.startswith("llm_d_epp_request_ttft_seconds_count")] == [1]
    assert page[f'llm_d_epp_request_ttft_seconds_count{{{LABELS},streaming="true"}}'] == 1
    assert page[f"llm_d_epp_request_ntpot_seconds_count{{{LABELS}}}"] == 2
    legacy = 'model_name="m",target_model_name="m"'
    assert page[f"inference_objective_normalized_time_per_output_token_seconds_count{{{legacy}}}"] == 2
    assert abs(page[f"inference_objective_normalized_time_per_output_token_seconds_sum{{{legacy}}}"] - 0.2) < 1e-9


@pytest.mark.parametrize("many", [1, 3 * MANY])
@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"status": 200, "error": "CUDA out of memory"}, "ModelServerError"),
        ({"status": 404}, "ModelServerError"),
        ({"status": 503}, "ModelServerError"),
        ({"status": 503, "unanswered": True}, "ServiceUnavailable"),
    ],
)
def test_an_answer_that_is_no_success_is_an_error_and_one_of_an_error_status_has_no_first_token(
    many: int, told: dict[str, Any], code: str
) -> None:
    page = page_of(*[("complete", True, {"first_token": 0.1, **told})] * many)

    assert page[f'llm_d_epp_request_error_total{{{LABELS},error_code="{code}"}}'] == many
    first = f'llm_d_epp_request_ttft_seconds_count{{{LABELS},streaming="true"}}'
    assert page.get(first, 0) == (many if told["status"] < 400 else 0)


def test_the_names_of_older_dashboards_are_there_when_asked_for_and_in_the_documents() -> None:
    told = {"prompt_tokens": 5, "completion_tokens": 2, "response_bytes": 9}
    metrics, state = folded(
        *POOL, routed(1, body_bytes=7), finished(2, 1, **told), routed(3), finished(4, 3, status=500)
    )
    page = samples("".join(metrics_page(metrics, state, "b", legacy=True)))
    labels = 'model_name="m",target_model_name="m"'

    assert page[f"inference_model_request_total{{{labels}}}"] == 2
    assert page[f'inference_model_request_error_total{{{labels},error_code="ModelServerError"}}'] == 1
    for name, total in (
        ("request_duration_seconds", 0.6),
        ("request_sizes", 7),
        ("response_sizes", 9),
        ("input_tokens", 5),
        ("output_tokens", 2),
    ):
        assert page[f"inference_model_{name}_sum{{{labels}}}"] == total
    documents = (Path(__file__).parents[2] / "docs/compatibility.md").read_text()
    families = {name.partition("{")[0] for name in page if name.startswith("inference_model_")}
    plain = {re.sub("_(bucket|sum|count)$", "", name) for name in families}
    assert plain == set(re.findall(r"^\| `(inference_model_\w+)`", documents, re.MULTILINE))
    mapped = re.findall(r"^\| `inference_model_\w+` \| `(\w+)` \| `(\w+)` \|$", documents, re.MULTILINE)
    assert all(any(key.startswith(name) for key in page) for names in mapped for name in names)
    assert not any(name.startswith("inference_model_") for name in samples(page_text(metrics, state, "b")))


def page_of(*ends: tuple[str, bool, dict[str, Any]]) -> dict[str, float]:
    """The page after requests of one series, each with its cause, whether it was streamed, and what else is told."""
    events: list[Event] = [*POOL]
    for n, (cause, streamed, told) in enumerate(ends, 1):
        events += [routed(2 * n - 1), finished(2 * n, 2 * n - 1, cause=cause, streamed=streamed, **told)]
    metrics, state = folded(*events)
    return samples(page_text(metrics, state, "b"))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20))
def test_whatever_a_client_calls_its_model_the_page_stays_readable(models: list[str]) -> None:
    metrics, state = folded(*POOL, *(routed(n, model, body_bytes=1) for n, model in enumerate(models, 1)))
    text = page_text(metrics, state, "b")

    text.encode()
    total = sum(v for k, v in samples(text).items() if k.startswith("llm_d_epp_request_total"))
    assert total == len(models)


def test_label_values_are_bounded() -> None:
    count = LABEL_VALUES_MAX + 50
    metrics, state = folded(*POOL, *(routed(n, f"model-{n}") for n in range(1, count + 1)))
    page = samples(page_text(metrics, state, "b"))

    totals = {k: v for k, v in page.items() if k.startswith("llm_d_epp_request_total")}
    assert len(totals) == LABEL_VALUES_MAX + 1
    assert (
        totals['llm_d_epp_request_total{model_name="other",target_model_name="other",fairness_id="",priority="0"}']
        == 50
    )


def full(count: int) -> tuple[Metrics, ClusterState]:
    """As many series as asked for, with the longest labels, each with all that is ever counted."""
    events: list[Event] = [*POOL]
    for n in range(1, 3 * count, 3):
        name, flow = f"{n}".rjust(LABEL_BYTES_MAX, "m"), f"{n}".rjust(LABEL_BYTES_MAX, "f")
        events.append(routed(n, name, target_model=name, fairness_id=flow, body_bytes=1))
        told = {"first_token": 0.1, "prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 1, "response_bytes": 1}
        events += [finished(n + 1, n, streamed=True, **told)]
        events.append(RequestRefused(origin(n + 2), 0.0, RequestFacts("r", "ns/pool", name), "saturated", 429))
    return folded(*events)


def test_a_page_at_its_caps_is_made_in_small_pieces_and_bounded() -> None:
    metrics, state = full(SERIES_MAX + 100)

    largest = lines = size = 0
    for piece in metrics_page(metrics, state, "b"):
        largest = max(largest, piece.count("\n"))
        lines += piece.count("\n")
        size += len(piece)

    assert len(metrics.series) <= SERIES_MAX + 1
    assert largest < PIECE_LINES + 100
    assert lines < 550 * SERIES_MAX
    assert size < 300e6


def test_a_page_is_of_one_moment_whatever_is_counted_while_it_is_made() -> None:
    metrics, state = full(2 * PIECE_SERIES)
    expected = page_text(metrics, state, "b")

    pieces = metrics_page(metrics, state, "b")
    begun = next(pieces)
    assert begun == "", "half of the series are copied"
    more: list[Event] = [routed(n, f"{n % 9}", body_bytes=5) for n in range(1000, 1000 + 2 * PENDING)]
    more += [finished(9999, n, status=500) for n in range(1000, 1000 + PENDING)]
    metrics.follow([skim(Class.TRAFFIC, encode(event)) for event in more], state)
    state.apply_event(state.position + 1, EndpointJoined(2, "ns/pool", "v", "ns", "pod-1", "10.0.0.2", 8000))

    assert begun + "".join(pieces) == expected
    after = samples(page_text(metrics, state, "b"))
    assert sum(v for k, v in after.items() if k.startswith("llm_d_epp_request_total")) == 2 * (PIECE_SERIES + PENDING)


def test_a_name_that_is_too_long_for_a_label_is_other() -> None:
    bounded = Bounded(5, 10)

    assert [bounded.name(n) for n in ("a" * 10, "a" * 11, "ü" * 5, "ü" * 6, '"' * 6)] == [
        *("a" * 10, "other", "ü" * 5, "other", "other")
    ]


def test_requests_without_a_body_are_no_inference_requests() -> None:
    metrics, state = folded(*POOL, routed(1, ""), routed(2, body_bytes=9), finished(3, 1, status=404))
    page = samples(page_text(metrics, state, "b"))

    assert [k for k in page if k.startswith("inference_objective_request_total")] == [
        'inference_objective_request_total{model_name="m",target_model_name="m",priority="0"}'
    ]
    assert not [k for k in page if "error" in k and "poll" not in k]
    assert sum(v for k, v in page.items() if k.startswith("llm_d_epp_scheduler_attempts_total")) == 2


def test_the_first_so_many_names_are_kept() -> None:
    bounded = Bounded(2, 10)

    assert [bounded.name(n) for n in ("a", "b", "c", "a", "c")] == ["a", "b", "other", "a", "other"]


@given(st.lists(st.floats(0, 5000)), st.sets(st.sampled_from(LATENCY)))
def test_a_histogram_shown_with_fewer_bounds_counts_the_same(values: list[float], chosen: set[float]) -> None:
    histogram, bounds = Histogram(LATENCY), sorted(chosen)
    for value in values:
        histogram.observe(value)
    shown = histogram.cumulative(bounds)

    assert shown == [*(sum(v <= bound for v in values) for bound in bounds), len(values)]


@given(st.lists(st.one_of(st.floats(0, 5000), st.integers(0, 1 << 40)), max_size=3 * MANY))
def test_values_counted_together_count_as_one_after_the_other(values: list[float]) -> None:
    singly, together = Histogram(LATENCY), Histogram(LATENCY)
    for value in values:
        singly.observe(value)
    together.observe_all(values)

    assert (together.counts, together.total) == (singly.counts, singly.total)


def traffic(seed: int) -> list[Event]:
    """Decisions, refusals and ends of a picker's life, many more of a model than are counted one by one."""
    source = random.Random(seed)
    events: list[Event] = [*POOL]
    running: list[int] = []
    for n in range(1, 10 * MANY):
        what = source.choice(["route"] * 10 + ["finish"] * 8 + ["refuse", "lose"])
        if what == "finish" and running:
            told: dict[str, object] = {
                "cause": source.choice(["complete", "complete", "client-closed"]),
                "status": source.choice([200, 200, 503]),
                "duration": source.expovariate(1),
                "first_token": source.choice([None, source.expovariate(1)]),
                "streamed": source.random() < 0.5,
                **{
                    f"{name}_tokens": source.choice([None, 0, 1, 2, 700]) for name in ("prompt", "completion", "cached")
                },
            }
            events.append(finished(n, running.pop(source.randrange(len(running))), **told))
        elif what == "refuse":
            events.append(RequestRefused(origin(n), 0.0, RequestFacts("r", "ns/pool", "m"), "saturated", 429))
        elif what == "lose":
            running = running[: len(running) * 3 // 4]
            events.append(OpenRequestsListed(origin(n), pack(np.array(running, dtype=np.int64))))
        else:
            running.append(n)
            events.append(routed(n, source.choice(["m", "m", "m", "o"]), body_bytes=n))
    return events


@given(st.integers())
@settings(max_examples=20, deadline=None)
def test_a_page_does_not_depend_on_how_many_entries_were_counted_together(seed: int) -> None:
    state, together, singly = ClusterState(), Metrics(), Metrics()
    for position, event in enumerate(traffic(seed), 1):
        one = entry(position, event)
        state.apply(one)
        for metrics in (together, singly):
            metrics.follow([skim(one.kind, one.body)], state)
        assert singly.samples == 0  # asked, it has counted everything

    assert page_text(together, state, "b") == page_text(singly, state, "b")


def test_an_endpoint_that_has_left_since_is_counted_by_its_name() -> None:
    metrics, state = folded(*POOL, routed(1), EndpointLeft(1, "deleted"))
    page = samples(page_text(metrics, state, "b"))

    attempts = 'status="success",target_model_name="m",endpoint_name="pod-0:8000",namespace="ns",port="8000"'
    assert page[f"llm_d_epp_scheduler_attempts_total{{{attempts}}}"] == 1


def test_what_waits_to_be_counted_is_bounded() -> None:
    metrics, state = folded(*POOL, routed(1))
    [series] = metrics.series.values()
    for first in range(2, 3 * PENDING, 100):
        decided = [routed(n) for n in range(first, first + 100)]
        metrics.follow([skim(Class.TRAFFIC, encode(event)) for event in decided], state)

        assert first + 99 - series.requests < PENDING


def test_entries_of_other_classes_change_nothing() -> None:
    metrics, state = folded(*POOL)

    assert metrics.series == {}
    assert Counter(e.kind for e in [entry(1, POOL[0])]) == {int(Class.MEMBERSHIP): 1}
    assert samples(page_text(metrics, state, "b"))['inference_pool_ready_pods{name="pool"}'] == 1


def test_an_empty_page_has_its_families() -> None:
    page = ExpositionPage()
    page.family("a_total", "counter", "Things\nin two lines.")

    assert page.take() == "# HELP a_total Things\\nin two lines.\n# TYPE a_total counter\n"


def test_samples_and_failed_scrapes_are_counted_by_endpoint() -> None:
    numbers, nothing = pack(np.array([1, 2])), pack(np.zeros(2, dtype=np.int64))
    sampled = LoadSampled(numbers, 1.0, nothing, nothing, nothing, pack_floats(np.zeros(2)))
    failed = ScrapeFailed(pack(np.array([1])), pack(np.array([70])), ((1, "timed out"),))
    second = EndpointJoined(2, "ns/pool", "v", "ns", "pod-1", "10.0.0.2", 8000)

    page = samples(page_text(*folded(*POOL, second, sampled, sampled, failed), "test"))

    assert page["pointsman_load_samples_total"] == 4
    assert page['llm_d_epp_datalayer_poll_errors_total{source_type="metrics-data-source"}'] == 1


def test_queues_of_a_pods_ports_are_apart_by_endpoint_and_added_by_pod() -> None:
    numbers, nothing = pack(np.array([1, 2])), pack(np.zeros(2, dtype=np.int64))
    second = EndpointJoined(2, "ns/pool", "u", "ns", "pod-0", "10.0.0.1", 8001)
    sampled = LoadSampled(numbers, 1.0, nothing, pack(np.array([3, 4])), nothing, pack_floats(np.zeros(2)))
    page = samples(page_text(*folded(*POOL, second, sampled), "test"))

    for port, waiting in ((8000, 3), (8001, 4)):
        labels = f'name="pool",model_server_endpoint="pod-0:{port}"'
        assert page[f"llm_d_epp_per_endpoint_queue_size{{{labels}}}"] == waiting
    assert page['inference_pool_per_pod_queue_size{name="pool",model_server_pod="pod-0"}'] == 7
