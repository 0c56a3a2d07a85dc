"""How a simulated server spends its time, without any I/O; and which servers a set of Pods is."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies as st

from pointsman.cluster.simulator.engine.batching import ServerModel, SimulatedEngine
from pointsman.cluster.simulator.engine.kv_blocks import KvBlocks, block_hashes
from pointsman.cluster.simulator.engine.sequence import Sequence
from pointsman.cluster.simulator.pods import PodError, specs_from_pods

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


def check(engine: SimulatedEngine) -> None:
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
    engine, now = SimulatedEngine(model), 0.0
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


def test_a_model_that_could_not_work_is_refused() -> None:
    with pytest.raises(ValueError, match="hold no sequence of 8192"):
        ServerModel(num_gpu_blocks=10)
    with pytest.raises(ValueError, match="at least 1"):
        ServerModel(max_num_seqs=0)
    with pytest.raises(ValueError, match="above 0"):
        ServerModel(decode_step=0)


def pod(args: list[str], annotation: str = "{}", address: str = "127.0.1.1") -> dict[str, object]:
    return {
        "kind": "Pod",
        "metadata": {"name": "server", "annotations": {"pointsman.dev/simulated": annotation}},
        "spec": {"containers": [{"args": args, "ports": [{"containerPort": 8000}, {"containerPort": 8001}]}]},
        "status": {"podIP": address},
    }


def test_the_pods_of_the_demo_are_six_servers() -> None:
    text = (Path(__file__).parents[2] / "deploy/demo/pods.yaml").read_text()

    specs = specs_from_pods(yaml.safe_load_all(text))

    assert [s.address for s in specs] == [f"127.0.{pool}.{n}" for pool in (1, 2) for n in (1, 2, 3)]
    assert {(s.port, s.model, s.adapters) for s in specs} == {
        (8000, "meta-llama/Llama-3.1-8B-Instruct", ("food-review-1",))
    }
    assert specs[3].server.decode_step < specs[0].server.decode_step


def test_a_pod_is_simulated_with_the_flags_of_its_container() -> None:
    args = ["--model=base", "--lora-modules", "one=/a", "two=/b", "--max-num-seq", "1024", "--enable-lora"]

    specs = specs_from_pods([{"kind": "Service"}, pod(args, '{"decode_step": 0.5}'), pod([], address="")])

    assert [s.port for s in specs] == [8000, 8001]
    assert (specs[0].model, specs[0].adapters) == ("base", ("one", "two"))
    assert specs[0].server == ServerModel(max_num_seqs=1_024, decode_step=0.5)


@pytest.mark.parametrize(
    ("args", "annotation", "words"),
    [
        (["--max-loras", "many"], "{}", "many"),
        ([], '{"speed": 3}', "unknown field `speed`"),
        ([], "{", "truncated"),
        (["--max-model-len", "1000000"], "{}", "hold no sequence of 1000000"),
    ],
)
def test_a_pod_that_says_nonsense_is_named(args: list[str], annotation: str, words: str) -> None:
    with pytest.raises(PodError, match=f"pod 'server'.*{words}"):
        specs_from_pods([pod(args, annotation)])
