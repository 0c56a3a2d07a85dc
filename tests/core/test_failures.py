"""A server that fails at once, or sleeps, does not draw the traffic that the others would have."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from worlds.strategies import EPOCH, PICKER, POOL, Readings, cluster_events, folded, requests, sampled

from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.explanation import explain
from pointsman.core.deciding.scheduler import compile_profile, schedule, trace
from pointsman.core.deciding.verdict import OK, verify_decision
from pointsman.core.events import (
    ConfigAccepted,
    EndpointJoined,
    Event,
    LabelsChanged,
    Origin,
    PoolApplied,
    RequestFacts,
    RequestRouted,
    ServerStarted,
)
from pointsman.core.state.failures import FAILURES, PAUSE, PAUSE_MAX, Failures
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column, TrafficState
from pointsman.core.values.draws import Draws

LOAD = ("queue-scorer", "kv-cache-utilization-scorer")


DOCUMENT = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "plugins": [{"type": name} for name in LOAD],
    "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": name} for name in LOAD]}],
}
CONFIG = parse_config(DOCUMENT, {}, PickingFlags())


def joined(count: int) -> list[Event]:
    numbers = list(range(1, count + 1))
    return [
        PoolApplied(POOL, {}, (8000,)),
        ConfigAccepted(POOL, CONFIG.encode(), "test"),
        *(EndpointJoined(i, POOL, f"u{i}", "default", f"llama-{i}", f"10.0.0.{i}", 8000) for i in numbers),
        sampled(numbers, [0] + [1] * (count - 1), [0] + [4] * (count - 1), [0.0] + [0.4] * (count - 1)),
    ]


class Serving:
    """A pool whose first server is idle, with requests that end as `fails` says."""

    def __init__(self, count: int = 3) -> None:
        self.cluster: ClusterState = folded(joined(count))
        self.traffic = TrafficState()
        self.traffic.follow(self.cluster)
        self.profile = compile_profile(CONFIG)
        self.fails: dict[int, int] = {}
        """Status that an endpoint answers with, where that is not 200."""
        self.n = 0

    def route(self, now: float) -> int:
        """Decide one request."""
        self.n += 1
        self.traffic.now = now
        request = RequestFacts(f"r{self.n}", POOL)
        decision = schedule(self.cluster, self.traffic, self.profile, request, Draws(PICKER, EPOCH, self.n))
        event = decision.to_event(Origin(PICKER, EPOCH, self.n, self.cluster.position), now, request, 1)
        assert isinstance(event, RequestRouted)
        assert verify_decision(self.cluster, event) == OK
        self.traffic.routed(self.n, event, self.cluster)
        return event.endpoints[0]

    def ask(self, now: float, after: float = 0.003, served: str = "") -> int:
        """One request and its answer."""
        number = self.route(now)
        self.traffic.answered(self.n, self.fails.get(number, 200), after, served)
        self.traffic.finished(self.n)
        return number

    def shares(self, start: float, count: int = 30, step: float = 0.01) -> Counter[int]:
        return Counter(self.ask(start + step * n) for n in range(count))


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_fails_within_milliseconds_draws_no_traffic(status: int) -> None:
    pool = Serving()
    assert pool.shares(0) == {1: 30}

    pool.fails[1] = status

    assert pool.shares(1)[1] == FAILURES
    assert pool.shares(1.3)[1] == 0


def test_it_is_tried_now_and_then_and_is_back_at_once_when_one_request_succeeds() -> None:
    pool = Serving()
    pool.fails[1] = 503
    tries = [n for n in range(6000) if pool.ask(n / 100) == 1]

    assert 3 + 7 <= len(tries) <= 3 + 11  # a minute: after 1, 2, 4 and then every 8 seconds
    assert all(later - earlier >= 100 * PAUSE for earlier, later in pairwise(tries[2:]))
    pool.fails.clear()
    back = next(n for n in range(6000, 9000) if pool.ask(n / 100) == 1)

    assert back <= 6000 + 100 * PAUSE_MAX
    assert pool.shares(91) == {1: 30}


def test_one_request_at_a_time_goes_to_a_server_that_fails() -> None:
    pool = Serving()
    pool.fails[1] = 500
    pool.shares(0)

    tried = [pool.route(20.0) for _ in range(20)]  # none of them ends

    assert tried.count(1) == 1


@pytest.mark.parametrize(("status", "after"), [(404, 0.001), (429, 0.001), (400, 0.001), (500, 5.0), (504, 60.0)])
def test_a_clients_error_or_a_slow_one_is_no_failure(status: int, after: float) -> None:
    pool = Serving()
    pool.fails[1] = status

    assert Counter(pool.ask(n / 100, after) for n in range(30)) == {1: 30}


def test_errors_with_answers_between_them_are_the_requests_fault() -> None:
    pool = Serving()
    for n in range(30):
        pool.fails = {1: 500} if n % 3 else {}
        assert pool.ask(n / 100) == 1


def test_a_server_that_a_fallback_answered_for_has_failed() -> None:
    pool = Serving()
    assert Counter(pool.ask(n / 100, served="10.0.0.2:8000") for n in range(FAILURES)) == {1: FAILURES}

    assert pool.shares(0.1)[1] == 0


def test_where_every_server_fails_all_stay() -> None:
    pool = Serving()
    pool.fails = {1: 500, 2: 500, 3: 500}

    assert pool.shares(0, 200)[1] > 100  # as though nothing were known


def test_another_process_at_the_endpoint_is_another_server() -> None:
    pool = Serving()
    pool.cluster.apply_event(pool.cluster.position + 1, ServerStarted(1, 1e9))
    pool.traffic.follow(pool.cluster)
    pool.fails[1] = 500
    pool.shares(0)
    pool.cluster.apply_event(pool.cluster.position + 1, ServerStarted(1, 2e9))
    pool.traffic.follow(pool.cluster)
    pool.fails.clear()

    assert pool.shares(0.5) == {1: 30}


def test_a_server_that_sleeps_gets_nothing_while_others_are_awake() -> None:
    pool = Serving()
    for asleep, numbers in ((True, (1,)), (False, (1,)), (True, (1, 2, 3))):
        for number in numbers:
            pool.cluster.apply_event(pool.cluster.position + 1, LabelsChanged(number, asleep=asleep))
        pool.traffic.follow(pool.cluster)
        expected = 0 if asleep and len(numbers) == 1 else 30
        assert pool.shares(0)[1] == expected


def test_the_reason_stands_in_the_decision_and_in_its_explanation() -> None:
    cluster = folded([*joined(3), LabelsChanged(2, asleep=True)])
    traffic = Readings({Column.FAILING: {0: 1}})
    decision, _ = trace(cluster, traffic, compile_profile(CONFIG), RequestFacts("r", POOL), Draws(PICKER, EPOCH, 1))
    explained = explain(cluster, traffic, compile_profile(CONFIG), RequestFacts("r", POOL), Draws(PICKER, EPOCH, 1))

    assert decision.endpoints == (3,)
    assert decision.rejections == (("serving: asleep", 1), ("serving: failing", 1))
    told = " ".join(str(candidate) for candidate in explained.candidates)
    assert "it sleeps" in told
    assert "its last answers were errors" in told


@given(cluster_events(), requests(), st.sets(st.integers(0, 12)))
def test_whoever_fails_is_left_out_and_never_everybody(
    events: list[Event], request: RequestFacts, failing: set[int]
) -> None:
    cluster, profile, draws = folded(events), compile_profile(CONFIG), Draws(PICKER, EPOCH, 1)
    without = schedule(cluster, Readings(), profile, request, draws)
    decision = schedule(cluster, Readings({Column.FAILING: dict.fromkeys(failing, 1)}), profile, request, draws)

    assert decision.endpoints or not without.endpoints or decision.reason == "saturated"
    left_out = dict(decision.rejections).get("serving: failing", 0)
    if decision.endpoints and left_out:
        assert cluster.endpoints[decision.endpoints[0]].slot not in failing


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 100)), max_size=60))
def test_a_server_fails_when_its_last_answers_were_fast_errors(answers: list[tuple[int, bool, float]]) -> None:
    failures = Failures()
    for slot, failed, now in answers:
        failures.answered(slot, failed=failed, now=now)

    for slot in range(4):
        mine = [failed for one, failed, _ in answers if one == slot]
        last = next((at for at, failed in enumerate(reversed(mine)) if not failed), len(mine))
        assert (slot in failures.failing(range(4))) == (last >= FAILURES)
