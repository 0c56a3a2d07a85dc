"""What `/metrics` says of how requests ended, and under which names."""

import re
from pathlib import Path
from typing import Any

import pytest
from worlds.metrics_page import LABELS, POOL, finished, folded, page_text, routed, samples

from pointsman.core.events import Event
from pointsman.web.metrics.exposition import MANY
from pointsman.web.metrics.metrics_text import metrics_page


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
