"""Verifying decisions: what is the same, and every way in which something may be another."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st
from worlds.decisions import decided
from worlds.strategies import (
    EPOCH,
    PICKER,
    POOL,
    Readings,
    cluster_events,
    config_documents,
    configs,
    folded,
    in_force,
    ints,
    pool_of,
    readings,
    requests,
    started,
)

from pointsman.core.config.effective import EffectiveConfig
from pointsman.core.config.parse import DEFAULT_CONFIG, PickingFlags, parse_config
from pointsman.core.deciding.scheduler import profile_in_force, schedule
from pointsman.core.deciding.verdict import explain_decision, verify_decision
from pointsman.core.events import (
    EndpointJoined,
    Event,
    LabelsChanged,
    LoadSampled,
    Origin,
    Read,
    RequestFacts,
    RequestRefused,
    RequestRouted,
    ScrapePaced,
)
from pointsman.core.plugin.register import REGISTER
from pointsman.core.plugin.view import UNKNOWN_AFTER
from pointsman.core.state.membership import Epoch
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack, pack_floats, unpack, unpack_floats

REQUEST = RequestFacts("id-1", POOL, model="llama", prefix=bytes(64), prefix_block_bytes=64)
TRAFFIC = Readings({Column.PREFIX_BLOCKS: {0: 3, 1: 5, 2: 1, 3: 0}})


def pool() -> list[Event]:
    """Four endpoints, no two alike."""
    sampled = pool_of([3, 0, 7, 5], [1, 2, 0, 4], [0.25, 0.5, 0.125, 0.75])
    return [started(), *sampled, LabelsChanged(1, ("llama",), (), 2)]


@given(cluster_events(), configs(), requests(), readings(), st.integers(1, 50))
def test_every_decision_verifies(
    events: list[Event], config: EffectiveConfig, request: RequestFacts, traffic: Readings, n: int
) -> None:
    cluster = folded([*events, in_force(config)])

    assert verify_decision(cluster, decided(cluster, traffic, request, n)).kind == "ok"


@given(cluster_events(), config_documents(), requests(), readings(), st.data())
def test_any_changed_value_of_a_column_that_a_decision_read_is_reported(
    events: list[Event], document: dict[str, Any], request: RequestFacts, traffic: Readings, data: st.DataObject
) -> None:
    first = [{"type": type, "name": f"first-{type}"} for type in sorted(READ_BY)]
    document["plugins"] += first
    document["schedulingProfiles"][0]["plugins"] += [{"pluginRef": plugin["name"]} for plugin in first]
    cluster = folded([*events, in_force(parse_config(document, {}, PickingFlags()))])
    decision = schedule(cluster, traffic, profile_in_force(cluster, POOL), request, Draws(PICKER, EPOCH, 5))
    event = decided(cluster, traffic, request)
    if not len(decision.scored) or event.degraded:
        return  # it read none
    sampled = [slot for slot in decision.scored.tolist() if cluster.age[slot] <= UNKNOWN_AFTER]
    if not sampled:
        return  # load that nobody knows is read as nothing
    slot = data.draw(st.sampled_from(sampled))
    column = getattr(cluster, READ_BY[data.draw(st.sampled_from(sorted(READ_BY)))])

    column[slot] += 1

    assert verify_decision(cluster, event).kind == "differs"


READ_BY = {"queue-scorer": "waiting", "running-requests-size-scorer": "running", "kv-cache-scorer": "kv_cache"}


@given(cluster_events(), configs(), requests(), readings(), st.data())
def test_any_recorded_traffic_value_that_changed_is_reported(
    events: list[Event], config: EffectiveConfig, request: RequestFacts, traffic: Readings, data: st.DataObject
) -> None:
    cluster = folded([*events, in_force(config)])
    event = decided(cluster, traffic, request)
    if not event.reads:
        return
    at = data.draw(st.integers(0, len(event.reads) - 1))
    values = unpack(event.reads[at].values).copy()
    values[data.draw(st.integers(0, len(values) - 1))] += 1
    reads = list(event.reads)
    reads[at] = Read(reads[at].column, pack(values))

    assert verify_decision(cluster, msgspec.structs.replace(event, reads=tuple(reads))).kind == "differs"


def routed() -> tuple[ClusterState, RequestRouted]:
    cluster = folded(pool())
    event = decided(cluster, TRAFFIC, REQUEST)
    assert isinstance(event, RequestRouted)
    assert verify_decision(cluster, event).kind == "ok"
    return cluster, event


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"endpoints": (1,)}, "endpoints"),
        ({"endpoints": (2, 1)}, "endpoints"),
        ({"best": ((2, 9.0),)}, "best"),
        ({"rejections": (("low-queue-filter: long-queue", 1),)}, "rejections"),
        ({"avoided": pack(ints(3))}, "reads"),
        ({"avoided": pack(ints(9))}, "avoided"),
        ({"degraded": True}, "reads"),
        ({"reads": ()}, "reads"),
        ({"reads": (Read(2, pack(ints(3, 5, 1))),)}, "reads"),
        ({"reads": (Read(2, b"\xff"),)}, "entry"),
        ({"digest": bytes(8)}, "digest"),
        ({"digest": b""}, "digest"),
    ],
)
def test_a_changed_field_of_the_entry_is_named(changed: dict[str, Any], field: str) -> None:
    cluster, event = routed()

    verdict = verify_decision(cluster, msgspec.structs.replace(event, **changed))

    assert (verdict.kind, verdict.field) == ("differs", field)
    assert verdict.recorded != verdict.computed


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "other"},
        {"target_model": "other"},
        {"priority": 1},
        {"prefix": bytes(72)},
        {"prefix_block_bytes": 128},
        {"subset": pack(ints(0, 1, 2, 3))},
    ],
)
def test_changed_request_facts_are_reported(changed: dict[str, Any]) -> None:
    cluster, event = routed()
    request = msgspec.structs.replace(event.request, **changed)

    assert verify_decision(cluster, msgspec.structs.replace(event, request=request)).kind == "differs"


@pytest.mark.parametrize("changed", [{"n": 6}, {"epoch": 8}, {"picker": "picker-2"}, {"applied": 3}])
def test_a_changed_origin_is_reported(changed: dict[str, Any]) -> None:
    cluster, event = routed()
    origin = msgspec.structs.replace(event.origin, **changed)

    assert verify_decision(cluster, msgspec.structs.replace(event, origin=origin)).kind == "differs"


def resampled(event: LoadSampled, field: str) -> LoadSampled:
    """The sample with its first value changed."""
    if field == "kv_cache":
        shares = unpack_floats(event.kv_cache).copy()
        shares[0] = np.float32(shares[0]) + np.float32(1 / 1024)
        return msgspec.structs.replace(event, kv_cache=pack_floats(shares))
    values = unpack(getattr(event, field)).copy()
    values[0] += 1
    return msgspec.structs.replace(event, **{field: pack(values)})


@pytest.mark.parametrize("field", ["waiting", "kv_cache"])
def test_a_changed_sample_is_reported(field: str) -> None:
    _, event = routed()
    log = [resampled(e, field) if isinstance(e, LoadSampled) else e for e in pool()]

    assert verify_decision(folded(log), event).kind == "differs"


@pytest.mark.parametrize(
    "changed", [{"ready": False}, {"pool": "default/other"}, {"endpoint": 9}, {"address": "10.9.9.9"}, {"port": 1}]
)
def test_a_changed_membership_of_the_chosen_endpoint_is_reported(changed: dict[str, Any]) -> None:
    _, event = routed()
    chosen = event.endpoints[0]
    log = [
        msgspec.structs.replace(e, **changed) if isinstance(e, EndpointJoined) and e.endpoint == chosen else e
        for e in pool()
    ]

    assert verify_decision(folded(log), event).kind == "differs"


def test_the_threshold_that_saturation_rested_on_is_reported() -> None:
    request = RequestFacts("id", POOL, priority=-1)
    log = [*pool(), ScrapePaced(0.05, 0.2)]
    cluster = folded(log)
    event = decided(cluster, Readings(), request)
    assert verify_decision(cluster, event).kind == "ok"

    cluster.age[2] = 0.1

    assert verify_decision(cluster, event).field == "digest"


# --- formulas and versions --------------------------------------------------------------------------


def halved(old: Callable[..., Any]) -> Callable[..., Any]:
    def formula(*arguments: Any) -> Any:
        found = old(*arguments)
        return found / 2 if found.dtype == np.float64 else 1 - found

    return formula


@pytest.mark.parametrize(
    ("type", "method"),
    [
        ("queue-scorer", "score"),
        ("running-requests-size-scorer", "score"),
        ("kv-cache-utilization-scorer", "score"),
        ("lora-affinity-scorer", "score"),
        ("prefix-cache-scorer", "score"),
        ("low-queue-filter", "reject"),
        ("least-queue-filter", "reject"),
        ("least-kv-cache-filter", "reject"),
    ],
)
def test_a_changed_formula_with_the_old_version_is_reported(
    type: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": [{"type": type}]}
    cluster = folded([*pool(), in_force(parse_config(document, {}, PickingFlags()))])
    event = decided(cluster, TRAFFIC, REQUEST)
    assert verify_decision(cluster, event).kind == "ok"
    struct = REGISTER[type].struct

    monkeypatch.setattr(struct, method, halved(getattr(struct, method)))

    assert verify_decision(cluster, event).kind == "differs"


@pytest.mark.parametrize(
    ("first", "cause"),
    [
        (started(queue_scorer=2), "version 2 of queue-scorer"),
        (started(max_score_picker=7), "version 7 of max-score-picker"),
        (started(utilization_detector=2), "version 2 of utilization-detector"),
        (started(scheduler=99), "version 99 of the scheduler"),
    ],
)
def test_a_decision_of_other_versions_is_reported_as_made_by_them(first: Event, cause: str) -> None:
    cluster = folded([first, *pool()[1:]])

    verdict = verify_decision(cluster, decided(cluster, TRAFFIC, REQUEST))

    assert verdict.kind == "other-version"
    assert cause in verdict.cause


def test_the_version_of_a_plugin_that_took_no_part_does_not_matter() -> None:
    cluster = folded([started(random_picker=7), *pool()[1:]])

    assert verify_decision(cluster, decided(cluster, TRAFFIC, REQUEST)).kind == "ok"


def test_an_epoch_that_the_state_does_not_know_yet_may_be_told() -> None:
    cluster = folded(pool()[1:])
    event = decided(cluster, TRAFFIC, REQUEST)

    assert verify_decision(cluster, event).kind == "ok"
    assert verify_decision(cluster, event, Epoch(PICKER, EPOCH, 1, "", 99, {})).kind == "other-version"


def test_a_configuration_of_another_build_is_not_taken_for_a_difference() -> None:
    unknown = DEFAULT_CONFIG.encode().replace(b'"type":"queue-scorer"', b'"type":"future-scorer"')
    accepted = msgspec.structs.replace(in_force(DEFAULT_CONFIG), config=unknown)
    cluster = folded(pool())
    event = decided(cluster, TRAFFIC, REQUEST)

    verdict = verify_decision(folded([accepted, *pool()[1:]]), event)

    assert verdict.kind == "other-version"
    assert "future-scorer" in verdict.cause


@pytest.mark.parametrize("reason", ["bad-request", "body-too-large", "too-many-streams", "not-ready"])
def test_refusals_before_scheduling_are_told_apart(reason: str) -> None:
    cluster = folded(pool())
    event = RequestRefused(Origin(PICKER, EPOCH, 5, cluster.position), 1.0, REQUEST, reason, 400, "no")

    assert verify_decision(cluster, event).kind == "not-scheduled"
    assert verify_decision(cluster, msgspec.structs.replace(event, digest=bytes(8))).kind == "differs"


def test_a_changed_refusal_is_reported() -> None:
    cluster = folded([started(), *pool_of([])])
    event = decided(cluster, Readings(), REQUEST)
    assert isinstance(event, RequestRefused)

    assert verify_decision(cluster, event).kind == "ok"
    for changed in ({"reason": "filtered"}, {"status": 500}, {"message": "gone"}):
        assert verify_decision(cluster, msgspec.structs.replace(event, **changed)).field == "outcome"


@given(cluster_events(), config_documents(), requests(), readings())
def test_an_explanation_is_of_the_decision_that_was_recorded(
    events: list[Event], document: dict[str, Any], request: RequestFacts, traffic: Readings
) -> None:
    cluster = folded([*events, in_force(parse_config(document, {}, PickingFlags()))])
    event = decided(cluster, traffic, request)

    explanation = explain_decision(cluster, event)

    assert explanation is not None
    assert explanation.digest == event.digest
    rejected = sum(1 for candidate in explanation.candidates if candidate.rejection is not None)
    assert rejected == sum(count for _, count in event.rejections)
    chosen = sorted((c.scored.chosen, c.endpoint) for c in explanation.candidates if c.scored and c.scored.chosen)
    assert [endpoint for _, endpoint in chosen] == list(event.endpoints if isinstance(event, RequestRouted) else ())
    for candidate in explanation.candidates:
        if candidate.rejection is not None:
            assert candidate.rejection.words
        if candidate.scored is not None:
            assert candidate.scored.rank >= 1
            assert all(0.0 <= score.raw <= 1.0 for score in candidate.scored.scores)
    assert explanation.why.endswith(".")
