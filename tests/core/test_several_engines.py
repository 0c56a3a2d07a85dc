"""A page is about a server, however many engines, ranks, models and processes it is made of."""

import random

import pytest
from hypothesis import given, strategies as st

from pointsman.core.parsers.metrics.engines import ENGINES, EngineNames, PageSeries
from pointsman.core.parsers.metrics.server_metrics import Lora, Reading, extract

VLLM = ENGINES["vllm"]
NOW = 1.8e9


def read(page: bytes, engine: EngineNames) -> Reading:
    return extract(page, engine, NOW)


def test_requests_of_all_engines_are_added_and_the_share_of_their_caches_is_the_mean() -> None:
    page = b"""\
vllm:num_requests_waiting{engine="0",model_name="m"} 0
vllm:num_requests_running{engine="0",model_name="m"} 0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.02
vllm:num_requests_waiting{engine="1",model_name="m"} 25
vllm:num_requests_running{engine="1",model_name="m"} 40
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.98
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="50"} 1.0
"""

    assert read(page, VLLM) == Reading(25, 40, 0.5, None, 16, 150)


def test_ranks_of_data_parallelism_are_added_and_those_of_tensors_and_pipelines_are_not() -> None:
    page = b"".join(
        b'sglang:num_running_reqs{dp_rank="%d",engine_type="unified",model_name="d",moe_ep_rank="%d",'
        b'pp_rank="%d",tp_rank="%d"} %d\n' % (dp, tp, pp, 4 * dp + tp, 1 + 30 * dp)
        for dp in range(2)
        for pp in range(2)
        for tp in range(4)
    )

    assert read(page, ENGINES["sglang"]).running == 32


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=8),
    st.integers(1, 4),
    st.sampled_from(["tp_rank", "pp_rank", "moe_ep_rank"]),
    st.randoms(),
)
def test_every_engine_counts_once_however_many_ranks_repeat_it_and_in_whatever_order(
    engines: list[tuple[int, float]], ranks: int, rank: str, order: random.Random
) -> None:
    written = [
        f'{name}{{dp_rank="{engine}",{rank}="{which}"}} {value!r}'
        for engine, (running, used) in enumerate(engines)
        for which in range(ranks)
        for name, value in (("sglang:num_running_reqs", running), ("sglang:token_usage", used))
    ]
    order.shuffle(written)
    reading = read("\n".join(written).encode(), ENGINES["sglang"])

    assert reading.running == sum(running for running, _ in engines)
    assert reading.kv_cache == pytest.approx(sum(used for _, used in engines) / len(engines))


def test_of_several_times_the_latest_counts_and_what_is_a_minute_behind_is_of_a_process_that_is_gone() -> None:
    latest = b"vllm:num_requests_waiting 1 100\nvllm:num_requests_waiting 2 300\nvllm:num_requests_waiting 3 200\n"
    gone = b'vllm:num_requests_waiting{engine="0"} 9 1000\nvllm:num_requests_waiting{engine="1"} 2 62000\n'
    both = b'vllm:num_requests_waiting{engine="0"} 9 2000\nvllm:num_requests_waiting{engine="1"} 2 62000\n'

    assert read(latest, VLLM).waiting == 2
    assert read(gone, VLLM).waiting == 2
    assert read(both, VLLM).waiting == 11


def test_series_of_an_engine_of_ones_own_are_added_where_the_configuration_does_not_choose_among_them() -> None:
    engine = EngineNames((PageSeries("q", (("kind", "w"),)),), (PageSeries("r"),))
    page = (
        b'q{kind="w",model="a"} 1\nq{kind="w",model="b"} 2\nq{kind="x",model="a"} 9\nr{model="a"} 3\nr{model="b"} 4\n'
    )

    assert read(page, engine) == Reading(3, 7)


def lora(running: str, at: float, more: str = "") -> str:
    labels = f'max_lora="4",running_lora_adapters="{running}",waiting_lora_adapters=""{more}'
    return f"vllm:lora_requests_info{{{labels}}} {at!r}\n"


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_times_that_several_processes_added_up_do_not_hide_the_adapter_that_runs(processes: int) -> None:
    page = lora("", processes * (NOW - 3600)) + lora("food", NOW) + lora("ski", NOW - 7200)

    assert read(page.encode(), VLLM).lora == Lora(("food",), (), 4)
    assert read(lora("", processes * NOW).encode(), VLLM).lora == Lora((), (), 4)


def test_the_adapters_of_all_engines_are_united() -> None:
    page = (
        lora("food,ski", NOW, ',engine="0"') + lora("ski,tax", NOW - 1, ',engine="1"') + lora("old", 1, ',engine="1"')
    )

    assert read(page.encode(), VLLM).lora == Lora(("food", "ski", "tax"), (), 4)
