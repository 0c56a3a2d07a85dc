"""What would have changed a decision: each is true of the scheduler, and nothing nearer is."""

import random

import msgspec
import numpy as np
from hypothesis import given, settings, strategies as st
from worlds.strategies import POOL, Readings, configs, folded, in_force as accepted, pool_of

from pointsman.core.config.effective import EffectiveConfig, Placed
from pointsman.core.deciding.profile import Profile, profile_in_force
from pointsman.core.deciding.scheduler import trace
from pointsman.core.deciding.telling.flips import Flip, flips
from pointsman.core.deciding.telling.in_force import in_force
from pointsman.core.deciding.telling.why import briefly
from pointsman.core.deciding.verdict import brief_reason, flips_of, verify_decision
from pointsman.core.events import (
    BackendRef,
    Event,
    Origin,
    RequestFacts,
    RequestRefused,
    RequestRouted,
    RouteObserved,
    RouteRule,
    ScrapeFailed,
)
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack

REQUEST = RequestFacts("id-1", POOL, model="llama", prefix=bytes(8 * 100), prefix_block_bytes=64)


def decided(
    state: ClusterState, profile: Profile, traffic: Readings, request: RequestFacts = REQUEST
) -> RequestRouted | RequestRefused:
    decision, _ = trace(state, traffic, profile, request, Draws("picker-1", 1, 1))
    event = decision.to_event(Origin("picker-1", 1, 1, state.position), 1.0, request, 0)
    assert isinstance(event, RequestRouted | RequestRefused)
    return event


def default_flips(events: list[Event], traffic: Readings | None = None) -> dict[str, Flip]:
    state = folded(events)
    event = decided(state, profile_in_force(state, POOL), traffic or Readings())
    return {flip.what: flip for flip in flips_of(state, event)}


def test_a_longer_queue_would_have_changed_it() -> None:
    found = default_flips(pool_of([1, 3, 9], [1, 1, 1], [0.1, 0.1, 0.1]))

    assert found["requests waiting at it"].was == 1
    assert found["requests waiting at it"].needed in (3, 4)
    assert found["requests waiting at it"].outcome == "llama-0002"


def test_less_of_the_prefix_would_have_changed_it() -> None:
    found = default_flips(pool_of([3, 3, 3]), Readings({Column.PREFIX_BLOCKS: {0: 10, 1: 90}}))

    assert found["prompt's beginning that it held"].was_words == "90 blocks"
    assert found["prompt's beginning that it held"].needed_words in ("10 blocks", "9 blocks")
    assert found["prompt's beginning that it held"].outcome == "llama-0001"


def test_a_higher_priority_would_have_routed_it() -> None:
    state = folded(pool_of([90, 90], [1, 1], [0.99, 0.99]))
    request = msgspec.structs.replace(REQUEST, priority=-1)
    event = decided(state, profile_in_force(state, POOL), Readings(), request)

    assert isinstance(event, RequestRefused)
    [flip] = flips_of(state, event)
    assert (flip.what, flip.was_words, flip.needed_words) == ("priority", "-1", "0 or above")


@given(configs(), st.integers(0, 2**32), st.integers(2, 8))
@settings(max_examples=100, deadline=None)
def test_what_is_told_is_true_of_the_scheduler_and_nothing_is_left_changed(
    config: EffectiveConfig, seed: int, size: int
) -> None:
    source = random.Random(seed)
    events = pool_of(
        [source.randrange(20) for _ in range(size)],
        [source.randrange(20) for _ in range(size)],
        [source.random() for _ in range(size)],
    )
    state = folded([*events, accepted(config)])
    profile = profile_in_force(state, POOL)
    traffic = Readings({Column.PREFIX_BLOCKS: {i: source.randrange(100) for i in range(size)}})
    event = decided(state, profile, traffic)
    before = (state.waiting.tobytes(), state.kv_cache.tobytes())

    for flip in flips(state, profile, event):
        assert flip.was != flip.needed
        if flip.what.startswith("weight of "):
            name, needed = flip.what.removeprefix("weight of "), float(flip.needed)
            first = profile.config.profiles[0]
            placed = tuple(Placed(p.plugin, needed) if p.plugin == name else p for p in first.plugins)
            changed = msgspec.structs.replace(
                profile.config, profiles=(msgspec.structs.replace(first, plugins=placed), *profile.config.profiles[1:])
            )
            other, run = trace(state, traffic, Profile(changed), REQUEST, Draws("picker-1", 1, 1))
            assert isinstance(event, RequestRouted)
            assert other.endpoints[0] != event.endpoints[0]
            assert state.endpoints[other.endpoints[0]].name == flip.outcome
            assert run.picks
    assert (state.waiting.tobytes(), state.kv_cache.tobytes()) == before
    assert verify_decision(state, event).kind.value in ("ok", "other-version")


@given(configs(), st.integers(0, 2**32), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_the_brief_reason_is_a_few_words_for_any_decision(config: EffectiveConfig, seed: int, size: int) -> None:
    source = random.Random(seed)
    events = pool_of([source.randrange(20) for _ in range(size)])
    state = folded([*events, accepted(config)])
    profile = profile_in_force(state, POOL)
    event = decided(state, profile, Readings())
    decision, run = trace(state, Readings(), profile, REQUEST, Draws("picker-1", 1, 1))

    assert briefly(run, profile, decision) == brief_reason(state, event)
    assert 1 <= len(brief_reason(state, event).split()) <= 6


def test_what_was_in_force_is_that_of_the_position() -> None:
    rule = RouteRule((), (BackendRef(POOL, 90), BackendRef("test/other", 10)))
    events: list[Event] = [*pool_of([1, 2]), RouteObserved("test/route", (rule,), source="r.yaml", version="1")]
    state = folded(events)
    event = decided(state, profile_in_force(state, POOL), Readings())
    found = in_force(state, event)

    assert [(w.route, w.rule, w.weight, w.total) for w in found.weights] == [("test/route", 0, 90, 100)]
    assert (found.position, found.ready, found.unknown) == (state.position, 2, 0)
    old = folded([*events, ScrapeFailed(pack(np.array([1, 2])), pack(np.array([9000, 9000])))])
    assert in_force(old, decided(old, profile_in_force(old, POOL), Readings())).unknown == 2
