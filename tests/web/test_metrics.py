"""The metrics page against the facts it is made of."""

import random
from collections import Counter

import numpy as np
from hypothesis import given, settings, strategies as st
from worlds.metrics_page import (
    LABELS,
    POOL,
    entry,
    finished,
    folded,
    origin,
    page_text,
    routed,
    samples,
)

from pointsman.core.events import (
    Class,
    EndpointJoined,
    EndpointLeft,
    Event,
    LoadSampled,
    OpenRequestsListed,
    PickerEnded,
    RequestFacts,
    RequestRefused,
    ScrapeFailed,
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
