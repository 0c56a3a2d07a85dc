"""Which server a request goes to, for pages as servers write them, scraped from real sockets."""

import time
from collections import Counter

import trio
from worlds.scraped_world import POOL, World, ok, scraped

from pointsman.cluster.scraping.scraper import ScrapeSettings
from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.scheduler import compile_profile, schedule
from pointsman.core.events import LabelsChanged, LoadSampled, RequestFacts
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


def chosen(world: World, count: int, model: str, **weights: float) -> Counter[int]:
    """Which endpoints `count` requests go to, with these scorers; no request ends."""
    document = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": f"{name.replace('_', '-')}-scorer"} for name in weights],
        "schedulingProfiles": [
            {
                "name": "default",
                "plugins": [
                    {"pluginRef": f"{name.replace('_', '-')}-scorer", "weight": weight}
                    for name, weight in weights.items()
                ],
            }
        ],
    }
    profile = compile_profile(parse_config(document, {}, PickingFlags()))
    traffic, found = TrafficState(), Counter[int]()
    for n in range(count):
        request = RequestFacts(f"r{n}", POOL, model=model)
        found.update(schedule(world.state, traffic, profile, request, Draws("p", 1, n)).endpoints[:1])
    return found


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
