"""Hypothesis strategies for states, configurations, requests and decisions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pointsman.core.config.effective import EffectiveConfig
from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION
from pointsman.core.events import (
    NEVER_SAMPLED,
    ConfigAccepted,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    LabelsChanged,
    LoadSampled,
    Origin,
    PickerStarted,
    PoolApplied,
    RequestFacts,
    ScrapeFailed,
    ScrapePaced,
)
from pointsman.core.state.membership import Slots
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column
from pointsman.core.values.packing import Ints, pack, pack_floats

POOL = "default/llama"
MODELS = ("llama", "food-review", "tweets")
PICKER, EPOCH = "picker-1", 2**63 + 7


def ints(*values: int) -> Ints:
    """A column of these values."""
    return np.array(values, dtype=np.int64)


def folded(events: list[Event]) -> ClusterState:
    """The cluster state of a log of these events."""
    cluster = ClusterState()
    for position, event in enumerate(events, 1):
        cluster.apply_event(position, event)
    return cluster


def sampled(numbers: list[int], waiting: list[int], running: list[int], kv_cache: list[float]) -> LoadSampled:
    """One entry in which all these endpoints answered at once."""
    return LoadSampled(
        pack(ints(*numbers)),
        1.7e9,
        pack(ints(*(0 for _ in numbers))),
        pack(ints(*waiting)),
        pack(ints(*running)),
        pack_floats(np.array(kv_cache)),
    )


def pool_of(waiting: list[int], running: list[int] | None = None, kv_cache: list[float] | None = None) -> list[Event]:
    """The events of a pool with one ready endpoint for each value, numbered from 1, and their samples."""
    numbers = list(range(1, len(waiting) + 1))
    joined = [EndpointJoined(i, POOL, f"uid-{i}", "default", f"llama-{i:04}", f"10.0.0.{i}", 8000) for i in numbers]
    sample = sampled(numbers, waiting, running or [0] * len(numbers), kv_cache or [0.0] * len(numbers))
    return [PoolApplied(POOL, {"app": "llama"}, (8000,)), *joined, *([sample] if numbers else [])]


def started(scheduler: int = SCHEDULER_VERSION, **versions: int) -> PickerStarted:
    """The first entry of the picker process that the tests decide as."""
    changed = {name.replace("_", "-"): version for name, version in versions.items()}
    return PickerStarted(Origin(PICKER, EPOCH, 1, 0), "test", scheduler, PLUGIN_VERSIONS | changed)


@dataclass
class Readings:
    """A traffic state of given values by slot, 0 where none is given."""

    columns: dict[Column, dict[int, int]] = field(default_factory=dict)
    degraded: bool = False
    out: tuple[int, ...] = ()

    def avoided(self) -> Slots:
        return ints(*sorted(self.out))

    def failing_among(self, slots: Slots) -> bool:
        failing = self.columns.get(Column.FAILING, {})
        return any(slot in failing for slot in slots.tolist())

    def column(self, column: Column, request: RequestFacts, slots: Slots) -> Ints:
        values = self.columns.get(column, {})
        return ints(*(values.get(slot, 0) for slot in slots.tolist()))


@st.composite
def cluster_events(draw: st.DrawFn, endpoints_max: int = 12) -> list[Event]:
    """A log of one pool: joins, leaves, readiness, samples, failed scrapes, adapters."""
    count = draw(st.integers(0, endpoints_max))
    events: list[Event] = [started(), PoolApplied(POOL, {"app": "llama"}, (8000,)), ScrapePaced(0.05, 0.2)]
    for i in range(1, count + 1):
        ready = draw(st.sampled_from([True, True, True, False]))
        events.append(EndpointJoined(i, POOL, f"uid-{i}", "default", f"llama-{i:04}", f"10.0.0.{i}", 8000, ready=ready))
    numbers = list(range(1, count + 1))
    small = st.sampled_from([0, 0, 1, 2, 3, 7, 128, 129, 5000])
    if numbers:
        share = st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]) | st.floats(0, 1, width=32)
        events.append(
            sampled(
                numbers,
                draw(st.lists(small, min_size=count, max_size=count)),
                draw(st.lists(small, min_size=count, max_size=count)),
                draw(st.lists(share, min_size=count, max_size=count)),
            )
        )
        failed = sorted(draw(st.sets(st.sampled_from(numbers))))
        ages = [draw(st.sampled_from([100, 900, 5000, NEVER_SAMPLED])) for _ in failed]
        if failed:
            answered = sorted(draw(st.sets(st.sampled_from(failed))))
            events.append(
                ScrapeFailed(
                    pack(ints(*failed)), pack(ints(*ages)), unreadable=pack(ints(*answered)) if answered else b""
                )
            )
        for number in draw(st.sets(st.sampled_from(numbers))):
            running, waiting = draw(st.sets(st.sampled_from(MODELS))), draw(st.sets(st.sampled_from(MODELS)))
            events.append(LabelsChanged(number, tuple(running), tuple(waiting), draw(st.integers(0, 4))))
        for number in draw(st.sets(st.sampled_from(numbers), max_size=3)):
            events.append(EndpointLeft(number) if draw(st.booleans()) else EndpointChanged(number, draw(st.booleans())))
    return events


@st.composite
def requests(draw: st.DrawFn, slots: int = 12) -> RequestFacts:
    """Request facts for the pool."""
    blocks = draw(st.sampled_from([0, 0, 1, 3, 64]))
    subset = draw(st.none() | st.sets(st.integers(0, slots + 2)).map(lambda found: pack(ints(*sorted(found)))))
    return RequestFacts(
        "id-1",
        POOL,
        model=draw(st.sampled_from(MODELS)),
        target_model=draw(st.sampled_from(["", *MODELS])),
        priority=draw(st.sampled_from([0, 0, 10, -1, -5])),
        prefix=bytes(range(8)) * blocks,
        prefix_block_bytes=64 if blocks else 0,
        subset=subset,
    )


@st.composite
def readings(draw: st.DrawFn, slots: int = 12) -> Readings:
    """A traffic state over that many slots."""

    def column(highest: int) -> dict[int, int]:
        return {slot: draw(st.integers(0, highest)) for slot in range(slots)}

    return Readings(
        {Column.IN_FLIGHT: column(3), Column.PREFIX_BLOCKS: column(3)},
        draw(st.sampled_from([False, False, False, True])),
        tuple(draw(st.sampled_from([set(), set(), {0}, {1, 3}, {0, 1, 2, 20}]))),
    )


FILTERS: tuple[dict[str, Any], ...] = (
    {"type": "low-queue-filter"},
    {"type": "low-queue-filter", "name": "lower-queue-filter", "parameters": {"threshold": 1}},
    {"type": "lora-affinity-filter"},
    {"type": "lora-affinity-filter", "name": "exploring-filter", "parameters": {"threshold": 0.5}},
    {"type": "least-queue-filter"},
    {"type": "least-kv-cache-filter"},
    {"type": "utilization-detector", "parameters": {"queueDepthThreshold": 3, "headroom": 0.5}},
)
SCORERS: tuple[dict[str, Any], ...] = (
    {"type": "queue-scorer"},
    {"type": "kv-cache-utilization-scorer"},
    {"type": "kv-cache-scorer"},
    {"type": "running-requests-size-scorer"},
    {"type": "lora-affinity-scorer"},
    {"type": "prefix-cache-scorer"},
    {"type": "prefix-cache-scorer", "name": "length-scorer", "parameters": {"matchLengthWeight": 0.3}},
)
PICKERS = ("max-score-picker", "random-picker", "weighted-random-picker")


@st.composite
def config_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid EndpointPickerConfig of some of everything."""
    filters = draw(st.permutations(FILTERS).flatmap(lambda p: st.integers(0, 3).map(lambda n: list(p[:n]))))
    scorers = draw(st.permutations(SCORERS).flatmap(lambda p: st.integers(0, 4).map(lambda n: list(p[:n]))))
    picker = {
        "type": draw(st.sampled_from(PICKERS)),
        "parameters": {"maxNumOfEndpoints": draw(st.sampled_from([1, 1, 2, 3, 20]))},
    }
    plugins = [*filters, *scorers, picker]
    names = [plugin.get("name", plugin["type"]) for plugin in filters]
    if len(names) >= 2 and draw(st.booleans()):
        tree: dict[str, Any] = {"current": {"pluginRef": names[0]}}
        then = {"decisionTree": {"current": {"pluginRef": names[1]}}}
        tree[draw(st.sampled_from(["nextOnSuccess", "nextOnFailure", "nextOnSuccessOrFailure"]))] = then
        plugins.append({"type": "decision-tree-filter", "name": "tree", "parameters": tree})
        names = ["tree", *names[2:]]
    weights = st.sampled_from([1, 2, 3, 0, -1, 0.5, 0.1])
    placed: list[dict[str, Any]] = [{"pluginRef": name} for name in names]
    placed += [{"pluginRef": s.get("name", s["type"]), "weight": draw(weights)} for s in scorers]
    placed.append({"pluginRef": picker["type"]})
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": plugins,
        "schedulingProfiles": [{"name": "default", "plugins": placed}],
    }


def configs() -> st.SearchStrategy[EffectiveConfig]:
    """An effective configuration."""
    return config_documents().map(lambda value: parse_config(value, {}, PickingFlags()))


def in_force(config: EffectiveConfig) -> ConfigAccepted:
    """The event that puts `config` in force for all pools."""
    return ConfigAccepted("*", config.encode(), "test")
