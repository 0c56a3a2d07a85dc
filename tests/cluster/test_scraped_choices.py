"""Which server a request goes to, for pages as servers write them, scraped from real sockets."""

import time
from collections import Counter

import trio
from worlds.scraped_world import POOL, World, ok, scraped

from pointsman.cluster.scraping.samples import Samples
from pointsman.cluster.scraping.scraper import ScrapeSettings
from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.profile import Profile
from pointsman.core.deciding.scheduler import compile_profile, schedule
from pointsman.core.events import LabelsChanged, LoadSampled, Origin, RequestFacts, RequestRouted, ServerStarted
from pointsman.core.parsers.metrics.server_metrics import Reading
from pointsman.core.plugin.view import UNKNOWN_AFTER
from pointsman.core.prefix.prompt_blocks import prefix_hashes
from pointsman.core.state.traffic import TrafficState
from pointsman.core.values.draws import Draws

SECOND = 2
"""Number of the second server, the one that does better in all cases."""


def page(waiting: int, running: int, used: float) -> str:
    of = '{engine="0",model_name="m"}'
    return (
        f"vllm:num_requests_waiting{of} {waiting}\nvllm:num_requests_running{of} {running}\n"
        f"vllm:kv_cache_usage_perc{of} {used}\n"
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="10000"} 1.0\n'
    )


def lora(at: float, running: str = "") -> str:
    labels = f'max_lora="4",running_lora_adapters="{running}",waiting_lora_adapters=""'
    return f"vllm:lora_requests_info{{{labels}}} {at}\n"


def profile_of(**weights: float) -> Profile:
    """The profile of these scorers, by their types without `-scorer`."""
    types = {f"{name.replace('_', '-')}-scorer": weight for name, weight in weights.items()}
    document = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": name} for name in types],
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": name, "weight": weight} for name, weight in types.items()]}
        ],
    }
    return compile_profile(parse_config(document, {}, PickingFlags()))


def chosen(world: World, count: int, model: str, **weights: float) -> Counter[int]:
    """Which endpoints `count` requests go to, with these scorers; no request ends."""
    profile, traffic, found = profile_of(**weights), TrafficState(), Counter[int]()
    for n in range(count):
        request = RequestFacts(f"r{n}", POOL, model=model)
        found.update(schedule(world.state, traffic, profile, request, Draws("p", 1, n)).endpoints[:1])
    return found


def route(world: World, traffic: TrafficState, profile: Profile, n: int, chat: bytes) -> int:
    """Where a request with these prompt blocks goes, which then ends."""
    traffic.follow(world.state)
    request = RequestFacts(f"r{n}", POOL, model="m", prefix=chat, prefix_block_bytes=64)
    number = schedule(world.state, traffic, profile, request, Draws("p", 1, n)).endpoints[0]
    traffic.routed(n, RequestRouted(Origin("p", 1, n, world.state.position), 0.0, request, (number,)), world.state)
    traffic.finished(n)
    return number


async def both_read(world: World) -> None:
    await world.until(lambda: all(world.state.sampled_at[slot] > 0 for slot in (0, 1)))


def test_a_server_whose_second_engine_is_full_is_not_preferred() -> None:
    async def body(world: World) -> None:
        first = page(0, 0, 0.02) + page(25, 40, 0.98).replace('engine="0"', 'engine="1"')
        second = page(1, 3, 0.1) + page(1, 3, 0.1).replace('engine="0"', 'engine="1"')
        await world.server(ok(first.encode()))
        await world.server(ok(second.encode()))
        await both_read(world)

        assert world.state.waiting[:2].tolist() == [25, 2]
        assert chosen(world, 10, "m", queue=1, kv_cache_utilization=1) == {SECOND: 10}

    scraped(body)


def test_all_ranks_of_data_parallelism_count() -> None:
    def ranks(*values: tuple[int, int, float]) -> str:
        lines = []
        for rank, (running, waiting, used) in enumerate(values):
            of = f'{{dp_rank="{rank}",engine_type="unified",model_name="d",pp_rank="0",tp_rank="{4 * rank}"}}'
            lines += [
                f"sglang:num_running_reqs{of} {running}",
                f"sglang:num_queue_reqs{of} {waiting}",
                f"sglang:token_usage{of} {used}",
            ]
        return "\n".join(lines) + "\n"

    async def body(world: World) -> None:
        await world.server(ok(ranks((1, 0, 0.01), (31, 12, 0.91)).encode()))
        await world.server(ok(ranks((2, 1, 0.1), (2, 1, 0.1)).encode()))
        await both_read(world)

        assert chosen(world, 10, "d", queue=1, kv_cache_utilization=1) == {SECOND: 10}

    scraped(body, ScrapeSettings(default_engine="sglang"))


def test_times_that_two_processes_added_up_do_not_hide_the_adapter_that_runs() -> None:
    async def body(world: World) -> None:
        now = time.time()
        idle = page(0, 0, 0)
        await world.server(ok((idle + lora(2 * now)).encode()))
        await world.server(ok((idle + lora(2 * (now - 3600)) + lora(now, "food")).encode()))
        await world.until(lambda: len(world.told(LabelsChanged)) >= 2)

        assert chosen(world, 12, "food", lora_affinity=1) == {SECOND: 12}

    scraped(body)


def test_an_adapter_does_not_run_where_the_family_of_adapters_is_gone() -> None:
    async def body(world: World) -> None:
        idle, now = page(0, 0, 0), time.time()
        first = await world.server(ok((idle + lora(now, "food")).encode()))
        second = await world.server(ok((idle + lora(now)).encode()))
        await world.until(lambda: len(world.told(LabelsChanged)) >= 2)
        assert chosen(world, 12, "food", lora_affinity=1, queue=0.001) == {1: 12}

        async def closes(stream: trio.SocketStream) -> None:
            await stream.aclose()

        first.answer = closes
        told = len(world.told(LoadSampled))
        await world.until(lambda: world.state.age[0] > 0)
        first.answer = ok(idle.encode())
        second.answer = ok((idle + lora(time.time(), "food")).encode())
        await world.until(lambda: len(world.told(LoadSampled)) > told and len(world.told(LabelsChanged)) >= 4)
        await world.until(lambda: world.state.age[0] == 0)

        assert chosen(world, 12, "food", lora_affinity=1, queue=0.001) == {SECOND: 12}

    scraped(body)


def test_an_adapter_that_is_idle_for_a_moment_keeps_its_server() -> None:
    async def body(world: World) -> None:
        idle = page(0, 0, 0)
        first = await world.server(ok((idle + lora(1, "food")).encode()))
        for _ in range(3):
            await world.server(ok((idle + lora(1)).encode()))
        await world.until(lambda: len(world.told(LabelsChanged)) >= 4)
        assert chosen(world, 8, "food", lora_affinity=1) == {1: 8}

        first.answer = ok((idle + lora(2)).encode())
        await world.until(lambda: not world.state.adapters[0].running)
        assert chosen(world, 20, "food", lora_affinity=1) == {1: 20}

        first.answer = ok((idle + lora(3, "a,b,c,d")).encode())  # all its places are taken by others
        await world.until(lambda: len(world.state.adapters[0].running) == 4)
        assert chosen(world, 20, "food", lora_affinity=1)[1] == 0

    scraped(body)


def test_a_server_that_was_restarted_in_place_has_none_of_its_old_conversations() -> None:
    chat, started = prefix_hashes("m", b"system " * 1200, 64), "process_start_time_seconds {}\n"

    async def body(world: World) -> None:
        servers = [await world.server(ok((page(0, 0, 0) + started.format(1e9)).encode())) for _ in range(2)]
        await both_read(world)
        traffic, profile = TrafficState(), profile_of(prefix_cache=3, queue=2)
        homes = [route(world, traffic, profile, n, chat) for n in range(7)]
        assert len(set(homes[1:])) == 1
        home = homes[-1]
        assert traffic.prefix.held(world.state.endpoints[home].slot) > 0

        servers[home - 1].answer = ok((page(1, 0, 0) + started.format(1000005000)).encode())
        await world.until(lambda: len(world.told(ServerStarted)) == 3)
        await world.until(lambda: world.state.waiting[home - 1] == 1)
        traffic.follow(world.state)

        assert traffic.prefix.held(world.state.endpoints[home].slot) == 0
        other = 3 - home
        assert [route(world, traffic, profile, 10 + n, chat) for n in range(6)] == [other] * 6

    scraped(body)


def test_a_restart_of_the_scraper_is_no_restart_of_the_server() -> None:
    async def body(world: World) -> None:
        await world.server(ok((page(0, 0, 0) + "process_start_time_seconds 1e9\n").encode()))
        await world.until(lambda: len(world.told(ServerStarted)) == 1)
        samples = Samples()
        samples.follow(1, world.state)
        samples.succeeded(1, Reading(0, 0, 0.0, started_at=1e9), 1.0, 1.0)
        assert not any(isinstance(event, ServerStarted) for event in samples.drain())

    scraped(body)


# --- servers of which nothing is known --------------------------------------------------------------

ALL = {"queue": 2.0, "kv_cache_utilization": 2.0, "prefix_cache": 3.0}


def test_a_dead_server_gets_no_request_while_others_can_be_read() -> None:
    async def body(world: World) -> None:
        first = await world.server(ok(page(0, 0, 0.02).encode()))
        for _ in range(2):
            await world.server(ok(page(1, 6, 0.4).encode()))
        await world.until(lambda: bool((world.state.sampled_at[:3] > 0).all()))
        assert chosen(world, 30, "m", **ALL)[1] > 0

        async def closes(stream: trio.SocketStream) -> None:
            await stream.aclose()

        first.answer = closes
        await world.until(lambda: float(world.state.age[0]) > UNKNOWN_AFTER)

        assert chosen(world, 30, "m", **ALL)[1] == 0

    scraped(body)


def test_a_server_without_a_readable_page_gets_no_more_than_its_share() -> None:
    async def body(world: World) -> None:
        no_page = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno"
        first = await world.server(no_page)
        others = [await world.server(ok(page(1, 4, 0.2).encode())) for _ in range(2)]
        await world.until(lambda: bool((world.state.sampled_at[1:3] > 0).all() and world.state.unreadable[0]))
        assert chosen(world, 30, "m", queue=2, kv_cache_utilization=2)[1] <= 10

        first.answer = ok(page(0, 0, 0.01).encode())
        await world.until(lambda: float(world.state.sampled_at[0]) > 0)
        first.answer = no_page
        for other in others:
            other.answer = ok(page(3, 0, 0.5).encode())
        await world.until(lambda: float(world.state.age[0]) > UNKNOWN_AFTER and int(world.state.waiting[1]) == 3)

        assert chosen(world, 30, "m", queue=2, kv_cache_utilization=2)[1] <= 10

    scraped(body)


def test_a_redirected_page_is_read_where_it_is() -> None:
    async def body(world: World) -> None:
        for waiting in (9, 1):
            there = ok(page(waiting, 0, 0).encode())
            away = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /metrics/\r\ncontent-length: 0\r\n\r\n"
            server = await world.server(away)
            server.answers = {b"/metrics/": there}
        await both_read(world)

        assert chosen(world, 12, "m", queue=1, kv_cache_utilization=1) == {SECOND: 12}

    scraped(body)


def test_a_slow_page_of_an_idle_server_saturates_nothing() -> None:
    async def body(world: World) -> None:
        async def slowly(stream: trio.SocketStream) -> None:
            await trio.sleep(0.6)
            await stream.send_all(ok(page(0, 0, 0).encode()))

        await world.server(slowly)
        await world.until(lambda: float(world.state.sampled_at[0]) > 0)
        profile, traffic = profile_of(queue=1), TrafficState()
        for n in range(20):
            traffic.follow(world.state)
            request = RequestFacts(f"r{n}", POOL, model="m", priority=-1)
            assert schedule(world.state, traffic, profile, request, Draws("p", 1, n)).endpoints == (1,)
            await trio.sleep(0.2)

    scraped(body)
