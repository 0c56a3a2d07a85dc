"""A server of which nothing is known is taken neither for an idle one nor for a full one."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, strategies as st
from worlds.strategies import EPOCH, PICKER, POOL, Readings, cluster_events, folded, ints, readings, requests, sampled

from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.explanation import explain
from pointsman.core.deciding.profile import Profile
from pointsman.core.deciding.scheduler import compile_profile, schedule
from pointsman.core.events import (
    NEVER_SAMPLED,
    EndpointJoined,
    Event,
    LabelsChanged,
    PoolApplied,
    RequestFacts,
    ScrapeFailed,
)
from pointsman.core.plugin.register import REGISTER
from pointsman.core.plugin.view import UNKNOWN_AFTER
from pointsman.core.state.membership import Adapters
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack

REQUEST = RequestFacts("id-1", POOL, model="llama")
JUDGES = sorted(
    type
    for type, plugin in REGISTER.items()
    if getattr(plugin.struct, "load", False) and {"scorer", "filter"} & set(plugin.kinds)
)
"""Scorers and filters that judge load."""


def profile_of(*types: str) -> Profile:
    document: dict[str, Any] = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": type} for type in types],
        "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": type} for type in types]}],
    }
    return compile_profile(parse_config(document, {}, PickingFlags()))


LOAD = profile_of("queue-scorer", "kv-cache-utilization-scorer")


def joined(count: int) -> list[Event]:
    return [
        PoolApplied(POOL, {}, (8000,)),
        *(EndpointJoined(i, POOL, f"u{i}", "default", f"llama-{i}", f"10.0.0.{i}", 8000) for i in range(1, count + 1)),
    ]


def failed(number: int, age: int, *, answered: bool) -> ScrapeFailed:
    return ScrapeFailed(pack(ints(number)), pack(ints(age)), unreadable=pack(ints(number)) if answered else b"")


def shares(events: list[Event], profile: Profile, count: int = 30) -> Counter[int]:
    """How many of `count` requests that do not end each endpoint gets."""
    cluster, found = folded(events), Counter[int]()
    for n in range(count):
        in_flight = {member.slot: found[number] for number, member in cluster.endpoints.items()}
        decision = schedule(cluster, Readings({Column.IN_FLIGHT: in_flight}), profile, REQUEST, Draws(PICKER, EPOCH, n))
        found.update(decision.endpoints[:1])
    return found


WELL = sampled([2, 3], [1, 1], [6, 6], [0.4, 0.4])
IDLE = sampled([1], [0], [0], [0.02])


@pytest.mark.parametrize(
    ("history", "most"),
    [
        ([IDLE, failed(1, 10_000, answered=False)], 0),
        ([failed(1, NEVER_SAMPLED, answered=False)], 0),
        ([], 0),
        ([failed(1, NEVER_SAMPLED, answered=True)], 10),
        ([IDLE, failed(1, 8_000, answered=True)], 10),
    ],
    ids=["dead", "refused from the start", "not read yet", "status 500 from the start", "status 500 since a while"],
)
def test_an_unknown_server_gets_nothing_where_it_may_be_dead_and_its_share_where_it_is_alive(
    history: list[Event], most: int
) -> None:
    assert shares([*joined(3), WELL, *history], LOAD)[1] <= most


def test_a_server_comes_back_at_once_when_it_is_read() -> None:
    events = [*joined(3), WELL, failed(1, 10_000, answered=False), IDLE]

    assert shares(events, LOAD)[1] == 30


def test_one_or_two_lost_scrapes_leave_nobody_out() -> None:
    assert shares([*joined(3), WELL, IDLE, failed(1, 1_100, answered=False)], LOAD)[1] == 30


def test_where_nobody_was_read_all_are_candidates() -> None:
    dead = [failed(n, 10_000, answered=False) for n in (1, 2, 3)]

    assert set(shares([*joined(3), WELL, IDLE, *dead], LOAD)) == {1, 2, 3}


def test_an_explanation_says_who_was_left_out_and_never_counts_what_nobody_read() -> None:
    events = [*joined(4), WELL, failed(1, NEVER_SAMPLED, answered=False), failed(4, NEVER_SAMPLED, answered=True)]
    cluster = folded(events)
    told = explain(cluster, Readings(), LOAD, REQUEST, Draws(PICKER, EPOCH, 1))
    decision = schedule(cluster, Readings(), LOAD, REQUEST, Draws(PICKER, EPOCH, 1))

    assert decision.rejections == (("sample: never-sampled", 1),)
    left_out = told.candidates[0].rejection
    assert left_out is not None
    assert (left_out.reason, left_out.words) == ("never-sampled", "never sampled, others were")
    unread = told.candidates[3].scored
    assert unread is not None
    assert {s.words for s in unread.scores} == {"it was never sampled, so it counted as the worst of the others did"}


def test_the_saturation_of_a_pool_is_that_of_the_servers_that_can_be_read() -> None:
    batch = RequestFacts("id-1", POOL, priority=-1)
    idle = sampled([2], [0], [0], [0.0])
    full = sampled([2], [9], [9], [1.0])
    for answered in (False, True):
        unknown = failed(1, NEVER_SAMPLED, answered=answered)
        for load, reason in ((idle, None), (full, "saturated")):
            cluster = folded([*joined(2), load, unknown])

            assert schedule(cluster, Readings(), LOAD, batch, Draws(PICKER, EPOCH, 1)).reason == reason


@st.composite
def half_known(draw: st.DrawFn) -> tuple[list[Event], set[int], set[int]]:
    """A pool some of whose servers can be read: its events, and who is alive without a page, and who is known."""
    states = draw(st.lists(st.sampled_from(["known", "silent", "dead", "unreadable"]), min_size=1, max_size=5))
    numbers = range(1, len(states) + 2)
    events = joined(len(numbers))
    alive, known = set[int](), set[int]()
    for number, state in zip(numbers, ["known", *states], strict=True):
        once = draw(st.booleans())
        if state == "known" or (once and state != "silent"):
            counts = st.integers(0, 9)
            events.append(sampled([number], [draw(counts)], [draw(counts)], [draw(st.floats(0, 1, width=32))]))
            events.append(LabelsChanged(number, draw(st.sampled_from([(), ("llama",)])), (), draw(counts)))
        if state == "known":
            known.add(number)
        elif state != "silent":
            events.append(failed(number, 5_000 if once else NEVER_SAMPLED, answered=state == "unreadable"))
            alive |= {number} if state == "unreadable" else set()
    return events, alive, known


@given(half_known(), st.sampled_from(JUDGES))
def test_whatever_judges_load_gives_an_unknown_server_no_advantage(
    pool: tuple[list[Event], set[int], set[int]], judge: str
) -> None:
    events, alive, known = pool

    found = shares(events, profile_of(judge))

    assert set(found) <= alive | known
    mean = sum(found[number] for number in known) / len(known)
    assert all(found[number] <= mean + 1 for number in alive)


@given(cluster_events(), st.sampled_from(JUDGES), requests(), readings(), st.integers(1, 50))
def test_what_an_unknown_server_said_long_ago_changes_no_decision(
    events: list[Event], judge: str, request: RequestFacts, traffic: Readings, n: int
) -> None:
    if traffic.degraded:
        return  # samples count as they are
    before, after = folded(events), folded(events)
    ready = before.ready(POOL).tolist()
    unknown = [slot for slot in ready if before.age[slot] > UNKNOWN_AFTER]
    for slot in unknown:
        after.waiting[slot], after.running[slot], after.kv_cache[slot] = 10_000, 10_000, 1.0
        if len(unknown) < len(ready) and request.subset is None and not traffic.out:
            after.adapters[slot] = Adapters(frozenset((request.model,)), frozenset(), 9)
    profile = profile_of(judge)

    one, other = (schedule(c, traffic, profile, request, Draws(PICKER, EPOCH, n)) for c in (before, after))

    assert (one.endpoints, one.rejections, one.best, one.digest) == (
        other.endpoints,
        other.rejections,
        other.best,
        other.digest,
    )
