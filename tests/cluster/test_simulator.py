"""The simulated model server speaks and behaves like vLLM, over real HTTP on loopback."""

import re

import pytest
import trio
from worlds.simulated import FOOD, LLAMA, ask, completion, metric, simulated
from worlds.waiting import HUNG

from pointsman.cluster.simulator.engine.batching import ServerModel


def test_the_requests_of_the_guides_get_their_replies() -> None:
    async def check(server: str) -> None:
        got = await ask(server, "/v1/completions", completion(max_tokens=100))
        reply = got.json()
        assert (got.status, reply["object"], reply["model"]) == (200, "text_completion", FOOD)
        assert reply["usage"] == {
            "prompt_tokens": 11,
            "completion_tokens": 100,
            "total_tokens": 111,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        messages = [
            {"role": "developer", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Linux is said to be an open source kernel because "},
        ]
        chat = {"model": LLAMA, "max_tokens": 100, "temperature": 0, "messages": messages}
        reply = (await ask(server, "/v1/chat/completions", chat)).json()
        assert reply["object"] == "chat.completion"
        message = reply["choices"][0]["message"]  # type: ignore[index]
        assert message["role"] == "assistant"
        assert len(message["content"].split()) == 100

    simulated(check)


def test_a_stream_has_an_event_a_token_then_usage_then_done() -> None:
    async def check(server: str) -> None:
        got = await ask(server, "/v1/completions", completion(stream=True, stream_options={"include_usage": True}))
        assert got.headers["content-type"].startswith("text/event-stream")
        *tokens, usage = got.events()
        assert len(tokens) == 10
        assert [t["choices"][0]["finish_reason"] for t in tokens] == [None] * 9 + ["length"]  # type: ignore[index]
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 10  # type: ignore[index]
        assert got.first < 1
        chat = {"model": LLAMA, "stream": True, "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
        role, *tokens = (await ask(server, "/v1/chat/completions", chat)).events()
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}  # type: ignore[index]
        assert len(tokens) == 3

    simulated(check)


def test_prompts_may_be_texts_or_token_ids_one_or_many() -> None:
    async def check(server: str) -> None:
        for prompt, choices, tokens in (
            ("", 1, 1),
            (["one", "two two"], 2, 3),
            ([1, 2, 3], 1, 3),
            ([[1, 2], [3]], 2, 3),
        ):
            reply = (await ask(server, "/v1/completions", completion(prompt=prompt))).json()  # type: ignore[arg-type]
            assert len(reply["choices"]) == choices  # type: ignore[arg-type]
            assert reply["usage"]["prompt_tokens"] == tokens  # type: ignore[index]
        got = await ask(server, "/v1/completions", completion(n=2, stream=True))
        assert sorted(e["choices"][0]["index"] for e in got.events()) == [0] * 10 + [1] * 10  # type: ignore[index]

    simulated(check)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (completion(model="gpt-5"), 404, "The model `gpt-5` does not exist."),
        (b"{", 400, "JSON decode error"),
        (b"[1]", 400, "valid dictionary"),
        (completion(prompt=None), 400, "prompt"),  # type: ignore[arg-type]
        (completion(prompt=[]), 400, "prompt"),  # type: ignore[arg-type]
        (completion(max_tokens=0), 400, "max_tokens must be at least 1, got 0."),
        (completion(max_tokens="many"), 400, "valid integer"),
        (completion(max_tokens=9_000), 400, "maximum context length is 8192 tokens"),
        (completion(prompt="x" * 40_000), 400, "maximum context length is 8192 tokens"),
        (completion(stream_options={}), 400, "stream=True"),
        (completion(stream="yes"), 400, "valid boolean"),
        (completion(n=100), 400, "1 to 64"),
        (b"[" * 100_000, 400, "JSON decode error"),
    ],
)
def test_bad_requests_get_errors_in_the_form_of_vllm(body: object, status: int, words: str) -> None:
    async def check(server: str) -> None:
        got = await ask(server, "/v1/completions", body)
        error = got.json()["error"]
        assert isinstance(error, dict)
        assert (got.status, error["code"]) == (status, status)
        assert words in str(error["message"])
        assert (await ask(server, "/health")).status == 200

    simulated(check)


def test_paths_and_methods_that_are_not_there() -> None:
    async def check(server: str) -> None:
        assert (await ask(server, "/nothing")).status == 404
        assert (await ask(server, "/v1/completions")).status == 405
        assert (await ask(server, "/health", method="HEAD")).status == 200
        models = (await ask(server, "/v1/models")).json()["data"]
        assert [m["id"] for m in models] == [LLAMA, FOOD, "second", "third"]  # type: ignore[attr-defined]

    simulated(check)


def test_the_metrics_page_has_the_families_and_the_size_of_vllms() -> None:
    async def check(server: str) -> None:
        await ask(server, "/v1/completions", completion())
        page = (await ask(server, "/metrics")).body.decode()
        assert 12_000 < len(page) < 30_000
        for line in page.splitlines():
            assert line.startswith("# ") or re.fullmatch(r"[a-zA-Z0-9_:]+(\{[^}]*\})? [-+.0-9e]+", line), line
        families = set(re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE))
        assert families >= {
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
            "vllm:lora_requests_info",
            "vllm:cache_config_info",
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
            "vllm:request_success_total",
            "vllm:time_to_first_token_seconds",
            "vllm:e2e_request_latency_seconds",
        }
        assert await metric(server, "generation_tokens_total") == 10
        assert await metric(server, "time_to_first_token_seconds_count") == 1
        assert 'block_size="16"' in page
        assert 'num_gpu_blocks="2048"' in page

    simulated(check)


async def first_tokens(server: str, count: int, tokens: int) -> list[float]:
    """Ask `count` times at once and return when each first token came, in order of arrival."""
    found: list[float] = []

    async def one(number: int) -> None:
        body = completion(f"{number} is the number", model=LLAMA, stream=True, max_tokens=tokens, ignore_eos=True)
        found.append((await ask(server, "/v1/completions", body)).first)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return sorted(found)


def test_twice_the_batch_queues_and_doubles_the_time_to_the_first_token() -> None:
    model = ServerModel(max_num_seqs=8, decode_step=0.004, decode_sequence=0.0002, prefill_token=0.0001)
    waiting: list[float] = []

    async def check(server: str) -> None:
        alone = await first_tokens(server, 8, 30)
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while True:
                    waiting.append(await metric(server, "num_requests_waiting"))
                    await trio.sleep(0.01)

            nursery.start_soon(watch)
            crowded = await first_tokens(server, 16, 30)
            nursery.cancel_scope.cancel()

        assert max(waiting) > 0
        assert sum(crowded) / len(crowded) > 2 * sum(alone) / len(alone)
        assert await metric(server, "num_requests_waiting") == 0

    simulated(check, model)


def test_a_prefix_that_was_seen_halves_the_time_to_the_first_token() -> None:
    model = ServerModel(decode_step=0.002, decode_sequence=0.0, prefill_token=0.0001)

    async def check(server: str) -> None:
        prefix = "".join(f"{n:07d} " for n in range(1_000))  # 8,000 bytes are 2,000 tokens
        times = []
        for question in ("first question", "another question"):
            body = completion(prefix + question, model=LLAMA, stream=True, max_tokens=2)
            times.append((await ask(server, "/v1/completions", body)).first)

        assert times[1] < times[0] / 2
        assert await metric(server, "prefix_cache_hits_total") == 2_000

    simulated(check, model)


def test_the_kv_cache_is_used_while_requests_run_and_free_when_idle() -> None:
    async def check(server: str) -> None:
        async with trio.open_nursery() as nursery:
            body = completion("x" * 16_000, model=LLAMA, max_tokens=100, ignore_eos=True)
            nursery.start_soon(ask, server, "/v1/completions", body)
            while not (used := await metric(server, "kv_cache_usage_perc")):
                await trio.sleep(0.005)
            assert await metric(server, "num_requests_running") == 1
            assert 4_000 / 16 / 2_048 <= used < 4_200 / 16 / 2_048

        assert await metric(server, "kv_cache_usage_perc") == 0
        assert await metric(server, "num_requests_running") == 0

    simulated(check)


async def newest_adapters(server: str) -> str:
    """The labels of the LoRA series with the highest timestamp, but nothing before an adapter runs."""
    page = (await ask(server, "/metrics")).body.decode()
    series = re.findall(r"^vllm:lora_requests_info{(.*)} (\S+)$", page, re.MULTILINE)
    newest: str = max(series, key=lambda pair: float(pair[1]))[0]
    return "" if 'running_lora_adapters=""' in newest else newest


def test_adapters_wait_until_they_are_loaded_and_while_the_batch_has_no_room() -> None:
    model = ServerModel(max_loras=1, decode_step=0.002, decode_sequence=0.0, prefill_token=0.0, lora_load=0.1)

    async def check(server: str) -> None:
        body = completion(max_tokens=100, ignore_eos=True)
        cold = await ask(server, "/v1/completions", completion(max_tokens=1, stream=True))
        warm = await ask(server, "/v1/completions", completion(max_tokens=1, stream=True))
        assert warm.first < 0.1 <= cold.first
        async with trio.open_nursery() as nursery:
            for name in (FOOD, "second"):
                nursery.start_soon(ask, server, "/v1/completions", {**body, "model": name})
                with trio.fail_after(HUNG):
                    while name not in (newest := await newest_adapters(server)):
                        await trio.sleep(0.005)
            assert newest == f'max_lora="1",running_lora_adapters="{FOOD}",waiting_lora_adapters="second"'

    simulated(check, model)


def test_adapters_can_be_loaded_and_unloaded() -> None:
    async def check(server: str) -> None:
        body = completion(model="fourth", max_tokens=1)
        assert (await ask(server, "/v1/completions", body)).status == 404
        order = {"lora_name": "fourth", "lora_path": "/adapters/fourth"}
        assert (await ask(server, "/v1/load_lora_adapter", order)).status == 200
        assert (await ask(server, "/v1/load_lora_adapter", order)).status == 400
        assert (await ask(server, "/v1/completions", body)).status == 200
        assert (await ask(server, "/v1/unload_lora_adapter", {"lora_name": "fourth"})).status == 200
        assert (await ask(server, "/v1/unload_lora_adapter", {"lora_name": "fourth"})).status == 404
        assert (await ask(server, "/v1/completions", body)).status == 404

    simulated(check)
