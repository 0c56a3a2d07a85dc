"""The metrics page of a few facts, and its samples."""

import re

from pointsman.core.events import (
    EndpointJoined,
    Entry,
    Event,
    Origin,
    PoolApplied,
    RequestFacts,
    RequestFinished,
    RequestRouted,
    class_of,
    encode,
)
from pointsman.core.state.marks import skim
from pointsman.core.state.projection import ClusterState
from pointsman.web.metrics.counting import Metrics
from pointsman.web.metrics.metrics_text import metrics_page

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
