"""The simulated model server: its engine alone, and over real HTTP on loopback."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pointsman.cluster.simulator.blocks import KvBlocks, block_hashes
from pointsman.cluster.simulator.engine import Engine, Sequence, ServerModel
from pointsman.cluster.simulator.server import SimulatorSpec, serve_simulators

LLAMA, FOOD = "meta-llama/Llama-3.1-8B-Instruct", "food-review-1"
QUICK = ServerModel(decode_step=0.002, decode_sequence=0.0, prefill_token=0.00001, lora_load=0.05)


# --- the engine -------------------------------------------------------------------------------------

small_models = st.builds(
    ServerModel,
    max_num_seqs=st.integers(1, 4),
    max_num_batched_tokens=st.integers(1, 64),
    max_model_len=st.just(64),
    block_tokens=st.sampled_from((1, 4, 16)),
    num_gpu_blocks=st.integers(64, 100),
    max_loras=st.integers(1, 2),
)
arrivals = st.lists(
    st.tuples(
        st.integers(1, 40), st.integers(1, 20), st.integers(0, 2), st.integers(0, 3), st.sampled_from((0.0, 0.003, 0.5))
    ),
    min_size=1,
    max_size=12,
)


def sequence(model: ServerModel, prompt: int, target: int, kind: int = 0, adapter: str = "") -> Sequence:
    text = bytes([kind]) * (prompt * 4)
    return Sequence(prompt, block_hashes(text, model.block_tokens * 4, adapter), target, "length", adapter)


def check(engine: Engine) -> None:
    """What holds at every moment."""
    model, blocks = engine.model, engine.blocks
    assert len(engine.running) <= model.max_num_seqs
    assert 0 <= blocks.used <= blocks.total
    assert blocks.private == sum(s.private for s in engine.running)
    assert blocks.used == blocks.private + len({b for s in engine.running for b in s.shared})
    assert len(engine.adapters()[0]) <= model.max_loras
    assert math.isinf(engine.next_event) == (not engine.running and not engine.waiting)
    for running in engine.running:
        held = len(running.shared) + running.private
        assert running.left >= 0
        assert held * model.block_tokens >= running.prompt_tokens + running.produced - 1


@given(small_models, arrivals, st.sets(st.integers(0, 11)))
def test_every_sequence_ends_with_its_tokens_and_gives_its_blocks_back(
    model: ServerModel, wanted: list[tuple[int, int, int, int, float]], leavers: set[int]
) -> None:
    engine, now = Engine(model), 0.0
    sequences = []
    for number, (prompt, target, kind, adapter, gap) in enumerate(wanted):
        now += gap
        engine.advance(now)
        sequences.append(sequence(model, prompt, target, kind, f"adapter-{adapter}" if adapter else ""))
        engine.submit(now, sequences[-1])
        check(engine)
        if number in leavers:
            engine.abort(now, sequences[number // 2])
            check(engine)
    left = {id(sequences[n // 2]) for n in leavers if n < len(sequences)}
    for _ in range(20_000):
        if math.isinf(engine.next_event):
            break
        assert engine.next_event >= now
        now = engine.next_event
        engine.advance(now)
        check(engine)

    assert math.isinf(engine.next_event)
    assert engine.blocks.used == 0
    assert all(s.done for s in sequences if id(s) not in left)
    assert engine.figures.counters["generation_tokens"] == sum(s.produced for s in sequences)
    done = sum(1 for s in sequences if s.done)
    assert engine.figures.success["length"] == done
    assert engine.figures.success["abort"] == len(sequences) - done


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=40))
def test_blocks_are_counted_right_whatever_is_shared(actions: list[tuple[int, int]]) -> None:
    blocks = KvBlocks(16)
    held: list[tuple[list[int], int]] = []
    for kind, length in actions:
        hashes = block_hashes(bytes([kind]) * length, 1, "")
        shared = hashes[: blocks.match(hashes)]
        blocks.take_shared(shared)
        if not blocks.take(length - len(shared)):
            blocks.release(shared, 0)
            if held:
                blocks.release(*held.pop(0))
            continue
        fresh = blocks.share(hashes[len(shared) :])
        held.append((shared + fresh, length - len(shared) - len(fresh)))

        assert blocks.used == sum(p for _, p in held) + len({b for s, _ in held for b in s})
        assert blocks.match(hashes) == length
    for shared, private in held:
        blocks.release(shared, private)
    assert blocks.used == 0


# --- over HTTP --------------------------------------------------------------------------------------


class Reply(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes
    first: float
    """Seconds until the first byte of the body."""

    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    def events(self) -> list[dict[str, object]]:
        lines = self.body.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def ask(
    server: str, path: str, body: object = None, method: str = "", headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    host, _, port = server.rpartition(":")
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    http = h11.Connection(h11.CLIENT)
    sent = {"host": server, "content-length": str(len(data)), **(headers or {})}
    request = h11.Request(method=method or ("GET" if body is None else "POST"), target=path, headers=list(sent.items()))
    started, first, parts = time.monotonic(), math.nan, []
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"".join(http.send(e) or b"" for e in (request, h11.Data(data=data), h11.EndOfMessage())))
        response: h11.Response | None = None
        while True:
            match http.next_event():
                case h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65_536))
                case h11.Response() as response:
                    pass
                case h11.Data(data=part):
                    first = time.monotonic() - started if math.isnan(first) else first
                    parts.append(bytes(part))
                case h11.EndOfMessage():
                    break
    assert response is not None
    named = {name.decode(): value.decode() for name, value in response.headers}
    return Reply(response.status_code, named, b"".join(parts), first)


def simulated(
    test: Callable[[str], Awaitable[None]], model: ServerModel = QUICK, log: Path | None = None, within: float = 10.0
) -> None:
    """Run `test` against one server."""

    async def main() -> None:
        with trio.fail_after(within):
            async with trio.open_nursery() as nursery:
                spec = SimulatorSpec("127.0.0.1", 0, LLAMA, (FOOD, "second", "third"), model)
                [server] = await nursery.start(serve_simulators, [spec], log)
                await test(server)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def metric(server: str, name: str) -> float:
    page = (await ask(server, "/metrics")).body.decode()
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE)
    assert found is not None, f"no vllm:{name} in the page"
    return float(found[1])


def completion(prompt: str = "Write as if you were a critic: San Francisco", **more: object) -> dict[str, object]:
    return {"model": FOOD, "prompt": prompt, "max_tokens": 10, "temperature": 0, **more}


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


# --- behaviour --------------------------------------------------------------------------------------


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
                with trio.fail_after(2):
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


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    model = ServerModel(max_num_seqs=1, decode_step=0.01)

    async def check(server: str) -> None:
        for streamed in (True, False):
            with trio.move_on_after(0.1):
                await ask(
                    server,
                    "/v1/completions",
                    completion(model=LLAMA, max_tokens=5_000, ignore_eos=True, stream=streamed),
                )
        started = time.monotonic()
        assert (await ask(server, "/v1/completions", completion(model=LLAMA, max_tokens=1))).status == 200
        assert time.monotonic() - started < 1
        page = (await ask(server, "/metrics")).body.decode()
        assert 'finished_reason="abort"} 2.0' in page

    simulated(check, model, tmp_path / "requests.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [line["ended"] for line in lines] == ["disconnected", "disconnected", "complete"]


def test_the_request_log_has_one_line_a_request(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"

    async def check(server: str) -> None:
        for number in range(20):
            body = completion(model="nobody" if number == 7 else FOOD, stream=number % 2 == 0)
            await ask(server, "/v1/completions", body, headers={"x-request-id": f"id-{number}"})
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["request_id"] for line in lines] == [f"id-{n}" for n in range(20)]
        assert [line["status"] for line in lines] == [404 if n == 7 else 200 for n in range(20)]
        assert {line["server"] for line in lines} == {server}
        assert all(line["completion_tokens"] == 10 for line in lines if line["status"] == 200)

    simulated(check, QUICK, log)


def test_faults_come_when_ordered_and_end_when_told() -> None:
    async def check(server: str) -> None:
        async def fail(fault: str, **more: object) -> Reply:
            return await ask(server, "/v1/completions", {**completion(), **more}, headers={"x-sim-fault": fault})

        assert (await fail("status=503")).status == 503
        assert (await fail("nonsense")).body == b"}} nonsense {{"
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await fail("reset", stream=True)
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await fail("reset")
        with pytest.raises(h11.RemoteProtocolError):
            await fail("garbage")
        with trio.move_on_after(0.2) as patience:
            await fail("hang")
        assert patience.cancelled_caught
        started = time.monotonic()
        assert (await fail("slow=0.2")).status == 200
        assert time.monotonic() - started >= 0.2
        assert (await fail("typo")).status == 400

        assert (await ask(server, "/sim/fault", {"fault": "status=500", "path": "/metrics", "count": 2})).status == 200
        assert [(await ask(server, "/metrics")).status for _ in range(3)] == [500, 500, 200]
        await ask(server, "/sim/fault", {"fault": "status=500"})
        assert [(await ask(server, "/v1/completions", completion())).status for _ in range(3)] == [500] * 3
        await ask(server, "/sim/fault", method="DELETE")
        assert (await ask(server, "/v1/completions", completion())).status == 200

    simulated(check)


def test_bytes_that_are_not_http_end_only_their_connection() -> None:
    async def check(server: str) -> None:
        host, _, port = server.rpartition(":")
        for rubbish in (
            b"\x16\x03\x01\x02\x00",
            b"GET\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        ):
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(rubbish)
                await stream.send_eof()
                with trio.fail_after(2):
                    while await stream.receive_some(1_000):
                        pass
        assert (await ask(server, "/health")).status == 200

    simulated(check)


def test_many_servers_of_one_process_have_states_of_their_own_and_end_at_sigterm(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from pointsman.cluster.simulator.server import SimulatorSpec, run_simulators\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        specs = [SimulatorSpec(f'127.0.1.{n}', 0, f'model-{n}', ()) for n in (1, 2, 3)]\n"
        "        print(*await nursery.start(run_simulators, specs, Path(sys.argv[1])), flush=True)\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-P", "-c", program, str(tmp_path / "requests.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            servers = process.stdout.readline().split()

            async def check() -> None:
                for number, server in enumerate(servers, 1):
                    body = completion(model=f"model-{number}", max_tokens=number)
                    assert (await ask(server, "/v1/completions", body)).status == 200
                    assert await metric(server, "generation_tokens_total") == number
                host, _, port = servers[0].rpartition(":")
                async with await trio.open_tcp_stream(host, int(port)):  # an open connection does not keep it alive
                    os.kill(process.pid, signal.SIGTERM)
                    await trio.to_thread.run_sync(process.wait, 5)

            trio.run(check)
        finally:
            process.kill()
    assert process.returncode == 0
    assert len(servers) == 3
    assert [s.partition(":")[0] for s in servers] == ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [line["server"] for line in lines] == servers


def test_an_address_in_use_is_an_error_before_anything_serves() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = SimulatorSpec("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            trio.run(serve_simulators, [spec])


def test_a_model_that_could_not_work_is_refused() -> None:
    with pytest.raises(ValueError, match="hold no sequence of 8192"):
        ServerModel(num_gpu_blocks=10)
    with pytest.raises(ValueError, match="at least 1"):
        ServerModel(max_num_seqs=0)
    with pytest.raises(ValueError, match="above 0"):
        ServerModel(decode_step=0)
