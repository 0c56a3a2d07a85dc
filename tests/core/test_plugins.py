"""Each plugin by its formula, and what all plugins have in common."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, strategies as st
from worlds.strategies import POOL, Readings, cluster_events, folded, ints, pool_of, readings, requests

from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.scheduler import compile_profile, schedule
from pointsman.core.events import Event, LabelsChanged, RequestFacts, ScrapeFailed
from pointsman.core.plugin.register import REGISTER
from pointsman.core.plugin.shapes import HasPick, HasReject
from pointsman.core.plugin.view import Cycle, View
from pointsman.core.plugins.least_kv_cache_filter import LeastKvCacheFilter
from pointsman.core.plugins.least_queue_filter import LeastQueueFilter
from pointsman.core.plugins.lora_affinity_filter import LoraAffinityFilter
from pointsman.core.plugins.lora_affinity_scorer import LoraAffinityScorer
from pointsman.core.plugins.low_queue_filter import LowQueueFilter
from pointsman.core.plugins.max_score_picker import MaxScorePicker
from pointsman.core.plugins.prefix_cache_scorer import PrefixCacheScorer
from pointsman.core.plugins.queue_scorer import QueueScorer
from pointsman.core.plugins.random_picker import RandomPicker
from pointsman.core.plugins.utilization_detector import UtilizationDetector
from pointsman.core.plugins.weighted_random_picker import WeightedRandomPicker
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack
from pointsman.core.values.quantities import Duration

ROOT = Path(__file__).parents[2]
REQUEST = RequestFacts("id-1", POOL, model="llama", prefix=bytes(8 * 10), prefix_block_bytes=64)


def view_of(
    cluster: ClusterState, traffic: Readings | None = None, request: RequestFacts = REQUEST, n: int = 1
) -> View:
    cycle = Cycle(cluster, traffic or Readings(), request, Draws("p", 1, n), cluster.ready(POOL))
    return View(cycle, cycle.candidates, None)


def built(type: str) -> Any:
    required: dict[str, dict[str, Any]] = {
        "decision-tree-filter": {"current": {"pluginRef": "low-queue-filter"}},
        "file-discovery": {"path": "endpoints.yaml"},
    }
    found: Any = msgspec.convert(required.get(type, {}), REGISTER[type].struct)
    return found.bind({"low-queue-filter": LowQueueFilter()}) if "filter" in REGISTER[type].kinds else found


TYPES = sorted(REGISTER)
SCORERS = [type for type in TYPES if "scorer" in REGISTER[type].kinds]
FILTERS = [type for type in TYPES if "filter" in REGISTER[type].kinds]
PICKERS = [type for type in TYPES if "picker" in REGISTER[type].kinds]


# --- what all have in common ------------------------------------------------------------------------


@pytest.mark.parametrize("type", SCORERS)
@given(events=cluster_events(), request_facts=requests(), traffic=readings())
def test_scores_are_zero_to_one(type: str, events: list[Event], request_facts: RequestFacts, traffic: Readings) -> None:
    traffic.columns[Column.PREFIX_BLOCKS] = {
        slot: min(blocks, len(request_facts.prefix) // 8)
        for slot, blocks in traffic.columns[Column.PREFIX_BLOCKS].items()
    }
    view = view_of(folded(events), traffic, request_facts)
    if not view.size:
        return  # scorers are not asked about nobody

    scores = built(type).score(request_facts, view)

    assert scores.dtype == np.float64
    assert len(scores) == view.size
    assert all(0.0 <= score <= 1.0 for score in scores.tolist())


BOUNDED = [scorer for scorer in map(built, SCORERS) if scorer.bounded] + [PrefixCacheScorer(match_length_weight=0.3)]


@pytest.mark.parametrize("scorer", BOUNDED, ids=lambda scorer: type(scorer).__name__)
@given(events=cluster_events(), request_facts=requests(), traffic=readings())
def test_bounded_scores_are_zero_to_one_whatever_was_read(
    scorer: Any, events: list[Event], request_facts: RequestFacts, traffic: Readings
) -> None:
    view = view_of(folded(events), traffic, request_facts)
    if not view.size:
        return

    scores = scorer.score(request_facts, view)

    assert all(0.0 <= score <= 1.0 for score in scores.tolist())
    assert not np.signbit(scores).any()


@pytest.mark.parametrize("type", FILTERS)
@given(events=cluster_events(), request_facts=requests())
def test_filters_give_reasons_of_their_own_list(type: str, events: list[Event], request_facts: RequestFacts) -> None:
    view = view_of(folded(events), None, request_facts)
    if not view.size:
        return  # filters are not asked about nobody
    filter = built(type)

    codes = filter.reject(request_facts, view)

    assert codes.dtype == np.int16
    assert len(codes) == view.size
    for index, code in enumerate(codes.tolist()):
        assert 0 <= code <= len(filter.reasons)
        assert code == 0 or filter.words(code, request_facts, view.rewound(), index)


@pytest.mark.parametrize("type", PICKERS)
@given(
    sums=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 7.0]) | st.floats(-5, 5), min_size=1, max_size=20),
    count=st.integers(1, 25),
    n=st.integers(1, 1000),
)
def test_pickers_choose_each_candidate_at_most_once(type: str, sums: list[float], count: int, n: int) -> None:
    view = view_of(folded(pool_of([0] * len(sums))), n=n)

    chosen = built(type).pick(np.array(sums), view, count)
    chances = built(type).chances(np.array(sums), view)

    assert len(chosen) == len(set(chosen)) == min(count, len(sums))
    assert set(chosen) <= set(range(len(sums)))
    assert abs(sum(chances) - 1.0) < 1e-9
    assert chances[chosen[0]] > 0.0


@pytest.mark.parametrize("type", TYPES)
def test_every_registered_type_has_its_section_in_the_documentation(type: str) -> None:
    sections = re.findall(r"^### (.*)$", (ROOT / "docs/plugins.md").read_text(), re.MULTILINE)
    named = {name for heading in sections for name in re.findall(r"`([a-z0-9-]+)`", heading)}

    assert type in named


@pytest.mark.parametrize("type", TYPES)
def test_every_parameter_stands_in_its_section_of_the_documentation(type: str) -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    section = next(
        part for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:] if f"`{type}`" in part.split("\n")[0]
    )

    for field in msgspec.structs.fields(REGISTER[type].struct):
        assert f"`{field.encode_name}`" in section


def test_no_plugin_computes_what_machines_round_differently() -> None:
    for module in (ROOT / "core/plugins").glob("*.py"):
        text = module.read_text()
        found = re.findall(
            r"\*\*|np\.(?:sum|mean|exp|log|sqrt|power|dot|prod|var|std)|math\.(?:pow|exp|log|sqrt)", text
        )
        assert found == [], module.name


# --- scorers ----------------------------------------------------------------------------------------


def test_queue_scorer_is_linear_between_longest_and_shortest() -> None:
    assert QueueScorer().score(REQUEST, view_of(folded(pool_of([4, 0, 8, 1])))).tolist() == [0.5, 1.0, 0.0, 0.875]
    assert QueueScorer().score(REQUEST, view_of(folded(pool_of([4, 4])))).tolist() == [1.0, 1.0]


def adapters() -> ClusterState:
    """Runs it; room and waits; room; full and waits; full."""
    labels = [
        LabelsChanged(1, ("llama", "a"), (), 2),
        LabelsChanged(2, ("a",), ("llama",), 3),
        LabelsChanged(3, ("a",), (), 2),
        LabelsChanged(4, ("a",), ("llama",), 2),
        LabelsChanged(5, ("a",), ("b",), 2),
    ]
    return folded([*pool_of([0] * 5), *labels])


def test_lora_affinity_scorer_tests_in_the_order_of_the_original() -> None:
    assert LoraAffinityScorer().score(REQUEST, view_of(adapters())).tolist() == [1.0, 0.8, 0.8, 0.6, 0.0]


# --- filters ----------------------------------------------------------------------------------------


def kept(filter: HasReject, view: View) -> list[int]:
    return [index for index, code in enumerate(filter.reject(REQUEST, view).tolist()) if code == 0]


def test_low_queue_filter_says_what_it_found_and_wanted() -> None:
    view = view_of(folded(pool_of([128, 143])))

    assert kept(LowQueueFilter(), view) == [0]
    assert LowQueueFilter().words(1, REQUEST, view, 1) == "143 waiting, wanted at most 128"


def test_least_filters_keep_the_first_nth_of_the_range() -> None:
    view = view_of(folded(pool_of([1, 3, 4, 10], kv_cache=[0.0, 0.25, 0.5, 1.0])))

    assert kept(LeastQueueFilter(), view) == [0, 1]  # 1 + 9 // 4 = 3
    assert kept(LeastKvCacheFilter(), view) == [0, 1]  # 0 + 1 / 4


def test_lora_affinity_filter_keeps_those_with_the_adapter_or_by_a_draw_those_with_room() -> None:
    cluster = adapters()

    assert kept(LoraAffinityFilter(1.0), view_of(cluster)) == [0, 1, 3]
    assert kept(LoraAffinityFilter(0.0), view_of(cluster)) == [2]
    often = sum(kept(LoraAffinityFilter(0.75), view_of(cluster, n=n)) == [0, 1, 3] for n in range(1000))
    assert 700 <= often <= 800


def test_lora_affinity_filter_keeps_the_one_group_there_is() -> None:
    request = RequestFacts("id", POOL, model="unknown")
    view = view_of(adapters(), None, request)

    codes = LoraAffinityFilter().reject(request, view)

    assert codes.tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("waiting", "kv_cache", "saturation"),
    [([0], [0.0], 0.0), ([5], [0.0], 1.0), ([10, 0], [0.0, 0.4], 1.25), ([0, 0], [0.8, 0.8], 1.0)],
)
def test_saturation_is_the_mean_of_the_worse_of_queue_and_cache(
    waiting: list[int], kv_cache: list[float], saturation: float
) -> None:
    view = view_of(folded(pool_of(waiting, kv_cache=kv_cache)))

    assert UtilizationDetector().saturation(REQUEST, view) == pytest.approx(saturation)


def test_utilization_detector_filters_strictly_below_its_thresholds() -> None:
    stale = ScrapeFailed(pack(ints(4)), pack(ints(5000)))
    view = view_of(folded([*pool_of([4, 5, 0, 0], kv_cache=[0.0, 0.0, 0.8125, 0.0]), stale]))

    assert UtilizationDetector().reject(REQUEST, view).tolist() == [0, 2, 3, 1]
    assert UtilizationDetector(headroom=0.25).reject(REQUEST, view).tolist() == [0, 0, 0, 1]
    patient = UtilizationDetector(metrics_staleness_threshold=Duration(1.0))
    late = ScrapeFailed(pack(ints(4)), pack(ints(900)))
    lately = view_of(folded([*pool_of([4, 5, 0, 0], kv_cache=[0.0, 0.0, 0.8125, 0.0]), late]))
    assert patient.reject(REQUEST, lately).tolist() == [0, 2, 3, 0]
    words = [UtilizationDetector().words(code, REQUEST, view, index) for index, code in ((1, 2), (2, 3), (3, 1))]
    assert words == [
        "5 waiting, wanted below 5",
        "KV cache 81.2 % used, wanted below 80.0 %",
        "its sample is 5 s old, wanted at most 0.2 s",
    ]


def test_utilization_detector_that_would_leave_nobody_leaves_all() -> None:
    view = view_of(folded(pool_of([9, 9])))

    assert UtilizationDetector().reject(REQUEST, view).tolist() == [0, 0]


# --- the decision tree of the rollout guide -----------------------------------------------------------


GUIDE = yaml.safe_load((Path(__file__).parent / "rollout-guide/default-plugins.yaml").read_text())


def guided(cluster: ClusterState, n: int = 1) -> tuple[list[int], tuple[tuple[str, int], ...]]:
    """The endpoints that the guide's filters keep, and whom they reject."""
    profile = compile_profile(parse_config(GUIDE, {}, PickingFlags()))
    decision = schedule(cluster, Readings(), profile, REQUEST, Draws("p", 1, n))
    return (decision.scored + 1).tolist(), decision.rejections


def test_tree_goes_on_with_those_it_kept_on_success() -> None:
    events = pool_of([0, 0, 100, 129], kv_cache=[0.5, 0.0, 0.0, 0.0])

    # the queue is short at 1 to 3, all have room, 1 and 2 have the shortest, and 2 the emptier cache
    found = guided(folded([*events, *(LabelsChanged(i, (), (), 1) for i in range(1, 5))]))

    assert found == (
        [2],
        (
            ("low-latency-filter: low-queue-filter: long-queue", 1),
            ("low-latency-filter: least-queue-filter: longer-queue", 1),
            ("low-latency-filter: least-kv-cache-filter: fuller-kv-cache", 1),
        ),
    )


def test_tree_goes_on_with_those_it_was_given_on_failure() -> None:
    events = pool_of([200, 210, 900], kv_cache=[0.5, 0.0, 0.0])

    # all queues are long: the shortest, of these the one with the adapter
    found = guided(folded([*events, LabelsChanged(1, ("llama",), (), 1), LabelsChanged(2, (), (), 1)]))

    assert found == (
        [1],
        (
            ("low-latency-filter: least-queue-filter: longer-queue", 1),
            ("low-latency-filter: lora-affinity-filter: no-adapter", 1),
        ),
    )


def test_tree_tries_what_follows_even_where_nobody_has_the_adapter_or_room() -> None:
    kept_ones, rejections = guided(folded(pool_of([0, 0], kv_cache=[0.5, 0.25])))

    assert kept_ones == [2]
    assert rejections == (("low-latency-filter: least-kv-cache-filter: fuller-kv-cache", 1),)


def test_random_picker_of_the_guide_reaches_everybody_alike() -> None:
    profile = compile_profile(parse_config(GUIDE, {}, PickingFlags()))
    cluster = folded(pool_of([0, 0, 0]))

    chosen = Counter(
        schedule(cluster, Readings(), profile, REQUEST, Draws("p", 1, n)).endpoints[0] for n in range(3000)
    )

    assert set(chosen) == {1, 2, 3}
    assert all(900 <= count <= 1100 for count in chosen.values())


# --- pickers ----------------------------------------------------------------------------------------


def frequencies(picker: HasPick, sums: list[float], count: int = 1) -> Counter[tuple[int, ...]]:
    cluster = folded(pool_of([0] * len(sums)))
    return Counter(tuple(picker.pick(np.array(sums), view_of(cluster, n=n), count)) for n in range(4000))


def test_max_score_picker_breaks_ties_evenly() -> None:
    found = frequencies(MaxScorePicker(), [1.0, 2.0, 2.0, 0.0], 3)

    assert set(found) == {(1, 2, 0), (2, 1, 0)}
    assert all(1850 <= count <= 2150 for count in found.values())


def test_random_picker_draws_every_order_alike() -> None:
    found = frequencies(RandomPicker(), [1.0, 0.0, 5.0], 2)

    assert len(found) == 6
    assert all(570 <= count <= 770 for count in found.values())


def test_weighted_random_picker_draws_in_proportion() -> None:
    found = frequencies(WeightedRandomPicker(), [1.0, 3.0, 0.0, -2.0])

    assert set(found) == {(0,), (1,)}
    assert 900 <= found[(0,)] <= 1100


def test_weighted_random_picker_draws_the_second_without_the_first() -> None:
    found = frequencies(WeightedRandomPicker(), [1.0, 2.0, 1.0], 2)

    # 1/4 * 2/3 of the first order, 1/2 * 1/2 of the second
    assert 590 <= found[(0, 1)] <= 740
    assert 920 <= found[(1, 0)] <= 1080


def test_weighted_random_picker_fills_the_tail_with_those_that_have_no_chance() -> None:
    found = frequencies(WeightedRandomPicker(), [0.0, 3.0, 0.0], 3)

    assert set(found) == {(1, 0, 2), (1, 2, 0)}
    assert all(1850 <= count <= 2150 for count in found.values())
    assert set(frequencies(WeightedRandomPicker(), [0.0, 0.0])) == {(0,), (1,)}
