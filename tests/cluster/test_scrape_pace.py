"""How often endpoints are scraped, and what of it goes into the log."""

import math
from collections.abc import Awaitable, Callable

import msgspec
import numpy as np
import trio
from hypothesis import given, strategies as st

from pointsman.cluster.scraping.pace import IDLE_FACTOR, INTERVAL_MIN, Pace, pace
from pointsman.cluster.scraping.samples import Samples
from pointsman.core.events import (
    NEVER_SAMPLED,
    EndpointJoined,
    LoadSampled,
    ScrapeFailed,
    ScrapePaced,
)
from pointsman.core.parsers.metrics.server_metrics import Lora, Reading
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import unpack, unpack_floats

POOL = "default/llama"
Handler = Callable[[trio.SocketStream], Awaitable[None]]
from worlds.scraped_world import World, ok, page, scraped


def test_without_traffic_it_is_slower_and_says_so() -> None:
    async def body(world: World) -> None:
        await world.server(ok(page()))
        await world.until(lambda: len(world.told(LoadSampled)) >= 2)

        assert world.told(ScrapePaced) == [ScrapePaced(0.05, 0.2)]
        world.last_request = -math.inf
        await world.until(lambda: len(world.told(ScrapePaced)) == 2)

        assert (world.state.interval, world.state.threshold) == (0.2, 0.6)
        world.events.clear()
        await trio.sleep(1.0)

        assert 3 <= len(world.told(LoadSampled)) <= 7
        world.last_request = math.inf
        await world.until(lambda: world.state.interval == 0.05, 0.5)

    scraped(body)


@given(st.integers(0, 5000), st.floats(1e-6, 1e-2), st.booleans(), st.floats(0.001, 10))
def test_the_threshold_is_three_intervals_at_least_and_cpu_keeps_its_budget(
    endpoints: int, cost: float, idle: bool, threshold: float
) -> None:
    found = pace(endpoints, cost, idle, threshold, None)

    assert found.interval >= INTERVAL_MIN * (IDLE_FACTOR if idle else 1)
    assert found.threshold >= max(3 * found.interval, threshold) - 0.001
    assert endpoints * cost / found.interval <= 0.3 * 1.01


@given(st.integers(1, 3000), st.floats(50e-6, 200e-6), st.lists(st.floats(0.93, 1.07), max_size=20))
def test_a_cost_that_wavers_is_no_new_pace(endpoints: int, cost: float, wavers: list[float]) -> None:
    found = pace(endpoints, cost * 1.1, False, 0.2, None)

    for waver in wavers:
        assert pace(endpoints, cost * waver, False, 0.2, found) == found


def test_a_thousand_endpoints_are_scraped_every_third_of_a_second() -> None:
    assert pace(1000, 100e-6, False, 0.2, None) == Pace(0.34, 1.02)


# --- gathering --------------------------------------------------------------------------------------

RESULTS = st.lists(
    st.tuples(st.integers(1, 4), st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 3)),
    max_size=30,
)


@given(RESULTS)
def test_the_fold_of_what_is_told_is_what_each_server_said_last(
    results: list[tuple[int, tuple[int, int] | None, int]],
) -> None:
    state, samples = ClusterState(), Samples()
    for number in range(1, 5):
        state.apply_event(state.position + 1, EndpointJoined(number, POOL, str(number), "d", str(number), "::1", 1))
        samples.follow(number, state)
    model = dict.fromkeys(range(1, 5), (0, 0, math.inf, ""))  # waiting, running, age, cause
    success: dict[int, float] = {}
    causes: dict[int, str] = {}
    now = 100.0
    for number, answer, drain in results:
        now += 1
        waiting, running, _, _ = model[number]
        if answer is None:
            cause = "timed out" if drain % 2 else "status 500"
            samples.failed(number, cause, now)
            model[number] = (waiting, running, now - success[number] if number in success else math.inf, cause)
        else:
            lora = Lora((f"a{answer[0] % 2}",), (), 4)
            samples.succeeded(number, Reading(*answer, None, lora), now, 1e9 + now)
            success[number] = now
            model[number] = (*answer, 0.0, "")
        if drain == 0:
            for event in samples.drain():
                state.apply_event(state.position + 1, event)
                if isinstance(event, ScrapeFailed):
                    causes.update(event.causes)
    for event in samples.drain():
        state.apply_event(state.position + 1, event)
        if isinstance(event, ScrapeFailed):
            causes.update(event.causes)

    assert not samples.pending
    for number, (waiting, running, age, cause) in model.items():
        slot = state.endpoints[number].slot
        assert (state.waiting[slot], state.running[slot], state.age[slot]) == (waiting, running, age)
        assert not cause or causes[number] == cause


def test_samples_are_columns_in_the_order_of_numbers() -> None:
    state, samples = ClusterState(), Samples()
    for number in (1, 2, 3):
        state.apply_event(number, EndpointJoined(number, POOL, str(number), "d", str(number), "::1", 1))
        samples.follow(number, state)
    samples.succeeded(3, Reading(30, 31, 0.5), 10.0, 1000.0)
    samples.succeeded(1, Reading(10, 11, 0.25), 10.25, 1000.25)
    samples.failed(2, "timed out", 10.5)
    sampled, failed = samples.drain()

    assert isinstance(sampled, LoadSampled)
    assert unpack(sampled.endpoints).tolist() == [1, 3]
    assert (sampled.sampled_at, unpack(sampled.earlier).tolist()) == (1000.25, [0, 250])
    assert (unpack(sampled.waiting).tolist(), unpack(sampled.running).tolist()) == ([10, 30], [11, 31])
    assert unpack_floats(sampled.kv_cache).tolist() == [0.25, 0.5]
    assert isinstance(failed, ScrapeFailed)
    assert (unpack(failed.endpoints).tolist(), unpack(failed.ages).tolist()) == ([2], [NEVER_SAMPLED])
    assert failed.causes == ((2, "timed out"),)
    assert samples.drain() == []


def test_a_sample_of_many_endpoints_takes_twelve_bytes_at_most() -> None:
    state, samples = ClusterState(), Samples()
    generator = np.random.default_rng(1)
    for number in range(1, 101):
        state.apply_event(number, EndpointJoined(number, POOL, str(number), "d", str(number), "::1", 1))
        samples.follow(number, state)
        waiting, running = (int(n) for n in generator.integers(0, 300, 2))
        samples.succeeded(number, Reading(waiting, running, float(generator.random())), 1.0, 1e9 + number / 1000)
    (event,) = samples.drain()

    assert len(msgspec.msgpack.encode(event)) <= 12 * 100
