"""`schedule` as a whole."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from worlds.strategies import (
    EPOCH,
    PICKER,
    POOL,
    Readings,
    cluster_events,
    configs,
    folded,
    in_force,
    ints,
    pool_of,
    readings,
    requests,
    sampled,
)

from pointsman.core.config.effective import EffectiveConfig
from pointsman.core.config.parse import DEFAULT_CONFIG, PickingFlags, parse_config
from pointsman.core.deciding.scheduler import Profile, compile_profile, profile_for, profile_in_force, schedule, trace
from pointsman.core.events import (
    EndpointChanged,
    Event,
    LabelsChanged,
    Origin,
    RequestFacts,
    RequestRefused,
    RequestRouted,
    ScrapeFailed,
    ScrapePaced,
)
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack, unpack

DEFAULT = compile_profile(DEFAULT_CONFIG)
REQUEST = RequestFacts("id-1", POOL, model="llama", prefix=bytes(64), prefix_block_bytes=64)
SHEDDABLE = RequestFacts("id-2", POOL, model="llama", priority=-1)


def draws(n: int = 5) -> Draws:
    return Draws(PICKER, EPOCH, n)


def profile_of(*plugins: dict[str, Any], flags: PickingFlags | None = None) -> Profile:
    """A profile of these plugins in their order; `weight` stands beside `type`."""
    declared = [{k: v for k, v in plugin.items() if k != "weight"} for plugin in plugins]
    placed = [
        {"pluginRef": p.get("name", p["type"]), **({"weight": p["weight"]} if "weight" in p else {})} for p in plugins
    ]
    document = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": declared,
        "schedulingProfiles": [{"name": "default", "plugins": placed}],
    }
    return compile_profile(parse_config(document, {}, flags or PickingFlags()))


@given(cluster_events(), configs(), requests(), readings(), st.integers(1, 50))
def test_only_ready_endpoints_that_nothing_excludes_are_chosen(
    events: list[Event], config: EffectiveConfig, request: RequestFacts, traffic: Readings, n: int
) -> None:
    cluster = folded(events)

    decision = schedule(cluster, traffic, compile_profile(config), request, draws(n))

    for number in decision.endpoints:
        member = cluster.endpoints[number]
        assert member.ready
        assert member.slot not in traffic.out
        assert request.subset is None or member.slot in unpack(request.subset).tolist()
    assert len(set(decision.endpoints)) == len(decision.endpoints)
    assert (decision.reason is None) == bool(decision.endpoints)
    assert len(decision.best) == min(3, len(decision.scored))
    assert len(decision.digest) == 8


@given(cluster_events(), configs(), requests(), readings(), st.integers(1, 50))
def test_same_arguments_give_the_same_decision(
    events: list[Event], config: EffectiveConfig, request: RequestFacts, traffic: Readings, n: int
) -> None:
    first = schedule(folded(events), traffic, compile_profile(config), request, draws(n))
    again = schedule(folded(events), traffic, profile_for(config.encode()), request, draws(n))

    origin = Origin(PICKER, EPOCH, n, len(events))
    assert first.to_event(origin, 0.0, request, 0) == again.to_event(origin, 0.0, request, 0)


@given(cluster_events(), configs(), requests(), readings())
def test_as_many_are_chosen_as_the_picker_may_give(
    events: list[Event], config: EffectiveConfig, request: RequestFacts, traffic: Readings
) -> None:
    profile = compile_profile(config)
    decision = schedule(folded(events), traffic, profile, request, draws())

    if decision.reason is None:
        assert len(decision.endpoints) == min(profile.endpoints_max, len(decision.scored))


def test_weighted_scores_are_summed_in_the_order_of_the_configuration() -> None:
    cluster = folded(pool_of([0, 10, 5], kv_cache=[1.0, 0.5, 0.25]))
    traffic = Readings({Column.PREFIX_BLOCKS: {0: 0, 1: 8, 2: 4}})

    decision = schedule(cluster, traffic, DEFAULT, REQUEST, draws())

    assert decision.sums.tolist() == [2.0 + 0.0 + 0.0, 0.0 + 1.0 + 3.0, 1.0 + 1.5 + 1.5]
    assert set(decision.endpoints) <= {2, 3}  # 4.0 each
    assert decision.best == ((2, 4.0), (3, 4.0), (1, 2.0))
    assert decision.endpoint_scores(cluster) == [("10.0.0.1:8000", 2.0), ("10.0.0.2:8000", 4.0), ("10.0.0.3:8000", 4.0)]


def test_order_of_filters_is_that_of_the_configuration() -> None:
    # From (0, 0.9) and (8, 0.0), (9, 0.1): whoever filters first leaves its own favourite.
    cluster = folded(pool_of([0, 8, 9], kv_cache=[0.9, 0.0, 0.1]))
    queue, kv = {"type": "least-queue-filter"}, {"type": "least-kv-cache-filter"}

    by_queue = schedule(cluster, Readings(), profile_of(queue, kv), REQUEST, draws())
    by_kv = schedule(cluster, Readings(), profile_of(kv, queue), REQUEST, draws())

    assert by_queue.endpoints == (1,)
    assert by_kv.endpoints == (2,)


def test_scores_outside_zero_to_one_are_clamped() -> None:
    cluster = folded(pool_of([0, 0], kv_cache=[2.0, -1.0]))

    decision = schedule(cluster, Readings(), profile_of({"type": "kv-cache-scorer", "weight": 2}), REQUEST, draws())

    assert decision.sums.tolist() == [0.0, 2.0]


def test_a_score_that_is_no_number_counts_as_zero() -> None:
    cluster = folded(pool_of([0, 0], kv_cache=[float("nan"), 0.5]))

    decision = schedule(cluster, Readings(), profile_of({"type": "kv-cache-scorer"}), REQUEST, draws())

    assert decision.sums.tolist() == [0.0, 0.5]


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_facts", [REQUEST, SHEDDABLE])
def test_no_candidates_is_503_for_any_priority(request_facts: RequestFacts) -> None:
    decision = schedule(folded(pool_of([])), Readings(), DEFAULT, request_facts, draws())

    assert (decision.reason, decision.status) == ("no-endpoints", 503)
    assert decision.message == "failed to find endpoint candidates for serving the request"


def test_avoided_endpoints_are_no_candidates_and_recorded() -> None:
    cluster = folded(pool_of([0, 0, 0]))

    decision = schedule(cluster, Readings(out=(0, 2, 9)), DEFAULT, REQUEST, draws())
    nobody = schedule(cluster, Readings(out=(0, 1, 2)), DEFAULT, REQUEST, draws())

    assert decision.endpoints == (2,)
    assert unpack(decision.avoided).tolist() == [0, 2]
    assert nobody.reason == "no-endpoints"


def test_subset_is_ignored_only_where_the_flag_says_so() -> None:
    cluster = folded(pool_of([0, 9]))
    request = RequestFacts("id-1", POOL, subset=pack(ints(1)))
    whole = profile_of({"type": "queue-scorer"}, flags=PickingFlags(disable_endpoint_subset_filter=True))

    assert schedule(cluster, Readings(), profile_of({"type": "queue-scorer"}), request, draws()).endpoints == (2,)
    assert schedule(cluster, Readings(), whole, request, draws()).endpoints == (1,)


def test_an_empty_subset_leaves_nobody() -> None:
    request = RequestFacts("id-1", POOL, subset=b"")

    assert schedule(folded(pool_of([0])), Readings(), DEFAULT, request, draws()).reason == "no-endpoints"


def test_saturation_refuses_only_requests_below_priority_zero() -> None:
    cluster = folded(pool_of([5, 5]))

    shed = schedule(cluster, Readings(), DEFAULT, SHEDDABLE, draws())

    assert (shed.reason, shed.status) == ("saturated", 429)
    assert shed.message == "system saturated, sheddable request dropped"
    assert schedule(cluster, Readings(), DEFAULT, REQUEST, draws()).reason is None
    assert schedule(folded(pool_of([5, 4])), Readings(), DEFAULT, SHEDDABLE, draws()).reason is None


def test_a_sample_is_stale_by_its_age_and_never_below_the_pace_of_scraping() -> None:
    old = ScrapeFailed(pack(ints(1, 2)), pack(ints(900, 900)))
    idle = pool_of([0, 0])

    stale = folded([*idle, old])
    paced = folded([*idle, ScrapePaced(0.3, 0.9), old])

    assert schedule(stale, Readings(), DEFAULT, SHEDDABLE, draws()).reason == "saturated"
    assert schedule(paced, Readings(), DEFAULT, SHEDDABLE, draws()).reason is None


def test_filters_that_leave_nobody_refuse_with_their_reasons() -> None:
    profile = profile_of({"type": "low-queue-filter", "parameters": {"threshold": 2}})

    decision = schedule(folded(pool_of([3, 4])), Readings(), profile, REQUEST, draws())

    assert (decision.reason, decision.status) == ("filtered", 429)
    assert decision.message == "no endpoints available for the given request"
    assert decision.rejections == (("low-queue-filter: long-queue", 2),)


# --- degraded ---------------------------------------------------------------------------------------


def test_while_the_feed_is_lost_the_fewest_in_flight_come_first() -> None:
    cluster = folded(pool_of([0, 500, 500], kv_cache=[0.0, 1.0, 1.0]))
    traffic = Readings({Column.IN_FLIGHT: {0: 2, 1: 1, 2: 1}, Column.PREFIX_BLOCKS: {2: 8}}, degraded=True)
    profile = profile_of(
        {"type": "low-queue-filter"},
        {"type": "queue-scorer"},
        {"type": "prefix-cache-scorer"},
        {"type": "max-score-picker", "parameters": {"maxNumOfEndpoints": 3}},
    )

    decision = schedule(cluster, traffic, profile, REQUEST, draws())

    assert decision.degraded
    assert decision.endpoints == (3, 2, 1)  # of the two with one in flight, the one that holds the prefix
    assert decision.rejections == ()
    assert [read.column for read in decision.reads] == [Column.PREFIX_BLOCKS, Column.IN_FLIGHT]


def test_while_the_feed_is_lost_saturation_admits() -> None:
    cluster = folded(pool_of([50, 50]))

    assert schedule(cluster, Readings(degraded=True), DEFAULT, SHEDDABLE, draws()).reason is None


def test_while_the_feed_is_lost_no_adapter_refuses() -> None:
    cluster = folded([*pool_of([0]), LabelsChanged(1, ("other",), (), 1)])
    profile = profile_of({"type": "lora-affinity-filter"})

    assert schedule(cluster, Readings(), profile, REQUEST, draws()).reason == "filtered"
    assert schedule(cluster, Readings(degraded=True), profile, REQUEST, draws()).reason is None


# --- what is recorded -------------------------------------------------------------------------------


def test_traffic_columns_are_recorded_over_all_candidates_before_filtering() -> None:
    cluster = folded(pool_of([0, 900, 0]))
    traffic = Readings({Column.PREFIX_BLOCKS: {0: 1, 1: 7, 2: 2}})
    profile = profile_of({"type": "low-queue-filter"}, {"type": "prefix-cache-scorer"})

    decision = schedule(cluster, traffic, profile, REQUEST, draws())

    assert [(read.column, unpack(read.values).tolist()) for read in decision.reads] == [
        (Column.PREFIX_BLOCKS, [1, 7, 2])
    ]
    assert decision.sums.tolist() == [1 / 8, 2 / 8]


def test_a_decision_becomes_its_event() -> None:
    cluster = folded(pool_of([1, 0]))
    origin = Origin(PICKER, EPOCH, 5, cluster.position)

    routed = schedule(cluster, Readings(), DEFAULT, REQUEST, draws()).to_event(origin, 1.5, REQUEST, 20)
    refused = schedule(folded(pool_of([])), Readings(), DEFAULT, REQUEST, draws()).to_event(origin, 1.5, REQUEST, 20)

    assert isinstance(routed, RequestRouted)
    assert (routed.endpoints, routed.took, routed.decided_at) == ((2,), 20, 1.5)
    assert isinstance(refused, RequestRefused)
    assert (refused.reason, refused.status, len(refused.digest)) == ("no-endpoints", 503, 8)


def test_a_decision_of_a_hundred_candidates_takes_at_most_400_bytes_beside_prefix_and_columns() -> None:
    from pointsman.core.events import encode

    cluster = folded(pool_of([i % 7 for i in range(100)], kv_cache=[i / 100 for i in range(100)]))
    request = RequestFacts("0123456789abcdef0123456789abcdef", POOL, model="llama", path="/v1/chat/completions")
    origin = Origin("picker-1", EPOCH, 1 << 20, 1 << 30)

    decision = schedule(cluster, Readings(), DEFAULT, request, draws())

    assert len(encode(decision.to_event(origin, 1.7e9, request, 25))) <= 400


def test_the_configuration_in_force_is_the_pools_own_then_the_default() -> None:
    random = profile_of({"type": "random-picker"}).config

    assert profile_in_force(folded(pool_of([0])), POOL).config == DEFAULT_CONFIG
    assert profile_in_force(folded([in_force(random)]), POOL).config == random


def test_not_ready_endpoints_are_no_candidates() -> None:
    cluster = folded([*pool_of([0, 9]), EndpointChanged(1, ready=False)])

    assert schedule(cluster, Readings(), DEFAULT, REQUEST, draws()).endpoints == (2,)


# --- the same on every machine ------------------------------------------------------------------------


def some_cluster(draw: Draws, count: int) -> ClusterState:
    waiting = [int(draw(i) * 20) for i in range(count)]
    running = [int(draw(1000 + i) * 20) for i in range(count)]
    events = pool_of(waiting, running, [draw(2000 + i) for i in range(count)])
    labelled = [LabelsChanged(i, ("llama",) if draw(3000 + i) < 0.5 else (), (), 2) for i in range(1, count + 1)]
    return folded([*events, *labelled])


ALL = profile_of(
    {"type": "low-queue-filter", "parameters": {"threshold": 15}},
    {"type": "lora-affinity-filter", "parameters": {"threshold": 0.7}},
    {"type": "least-kv-cache-filter", "name": "unused"} | {"type": "utilization-detector"},
    {"type": "queue-scorer", "weight": 0.7},
    {"type": "running-requests-size-scorer", "weight": 1.3},
    {"type": "kv-cache-utilization-scorer", "weight": 2.1},
    {"type": "lora-affinity-scorer", "weight": 0.3},
    {"type": "prefix-cache-scorer", "weight": 3, "parameters": {"matchLengthWeight": 0.4}},
    {"type": "weighted-random-picker", "parameters": {"maxNumOfEndpoints": 3}},
)


def test_decisions_are_bitwise_those_of_every_other_machine() -> None:
    decisions, digests = hashlib.sha256(), hashlib.sha256()
    for count in (1, 2, 5, 17, 100, 333):
        for n in range(20):
            draw = Draws("golden", count, n)
            cluster = some_cluster(draw, count)
            held = {slot: int(draw(4000 + slot) * 9) for slot in range(count)}
            traffic = Readings({Column.PREFIX_BLOCKS: held}, degraded=n == 7)
            request = RequestFacts("id", POOL, "llama", prefix=bytes(64), prefix_block_bytes=64, priority=-(n % 2))
            for profile in (DEFAULT, ALL):
                decision = schedule(cluster, traffic, profile, request, Draws("golden", count, n))
                decisions.update(repr((decision.endpoints, decision.best, decision.rejections)).encode())
                decisions.update(decision.sums.tobytes() + repr(decision.reads).encode())
                digests.update(decision.digest)

    assert decisions.hexdigest() == "36bd8b1613f452475743cc6a19af3099eaa7f9c3e1acfd271a240f3e52c18bc8"
    assert digests.hexdigest() == "2ee58c3a6f282f2a3701915ded9fe9960953f2e54af596a351f806c4c7794479"


@settings(max_examples=30)
@given(st.integers(1, 300))
def test_the_best_three_do_not_depend_on_how_they_are_found(count: int) -> None:
    cluster = folded(pool_of([i * 7919 % 13 for i in range(count)]))

    decision = schedule(cluster, Readings(), DEFAULT, SHEDDABLE if count < 0 else REQUEST, draws())

    totals = decision.sums.tolist()
    order = sorted(range(count), key=lambda i: (-totals[i], i))[:3]
    assert decision.best == tuple((i + 1, totals[i]) for i in order)


@given(
    cluster_events(), configs(), st.lists(st.tuples(requests(), readings(), st.integers(0, 9)), min_size=2, max_size=8)
)
def test_kept_scores_change_no_decision(
    events: list[Event], config: EffectiveConfig, steps: list[tuple[RequestFacts, Readings, int]]
) -> None:
    cluster, keeping = folded(events), compile_profile(config)
    for n, (request, traffic, waiting) in enumerate(steps):
        kept = schedule(cluster, traffic, keeping, request, draws(n))
        fresh = trace(cluster, traffic, compile_profile(config), request, draws(n))[0]

        origin = Origin(PICKER, EPOCH, n, cluster.position)
        assert kept.to_event(origin, 0.0, request, 0) == fresh.to_event(origin, 0.0, request, 0)
        assert kept.sums.tobytes() == fresh.sums.tobytes()
        if waiting > 4 and cluster.endpoints:
            number = min(cluster.endpoints)
            cluster.apply_event(cluster.position + 1, sampled([number], [waiting], [n], [waiting / 10]))
        elif waiting == 1 and cluster.endpoints:
            number = min(cluster.endpoints)
            ready = not cluster.endpoints[number].ready
            cluster.apply_event(cluster.position + 1, EndpointChanged(number, ready))
