"""What is told of a decision."""

from typing import Any

import pytest
from worlds.strategies import POOL, Readings, folded, ints, pool_of

from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.explanation import Explanation, explain
from pointsman.core.deciding.profile import compile_profile
from pointsman.core.deciding.scheduler import schedule
from pointsman.core.events import EndpointJoined, Event, RequestFacts
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import pack

REQUEST = RequestFacts("id-1", POOL, model="llama", prefix=bytes(8 * 100), prefix_block_bytes=64)
SCORERS = (
    {"type": "queue-scorer", "weight": 2},
    {"type": "kv-cache-utilization-scorer", "weight": 2},
    {"type": "prefix-cache-scorer", "weight": 4},
)


def named(*names: str) -> list[Event]:
    """Endpoints of these names, the first with the longest queue."""
    events = pool_of([len(names) - i for i in range(len(names))])
    given = iter(names)
    return [
        EndpointJoined(e.endpoint, e.pool, e.uid, e.namespace, next(given), e.address, e.port)
        if isinstance(e, EndpointJoined)
        else e
        for e in events
    ]


def explained(
    events: list[Event], *plugins: dict[str, Any], traffic: Readings | None = None, request: RequestFacts = REQUEST
) -> Explanation:
    declared = [{k: v for k, v in plugin.items() if k != "weight"} for plugin in plugins]
    placed = [{"pluginRef": p["type"], **({"weight": p["weight"]} if "weight" in p else {})} for p in plugins]
    head = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    profiles = [{"name": "default", "plugins": placed}]
    config = parse_config({**head, "plugins": declared, "schedulingProfiles": profiles}, {}, PickingFlags())
    found = explain(folded(events), traffic or Readings(), compile_profile(config), request, Draws("picker-1", 1, 1))
    same = schedule(folded(events), traffic or Readings(), compile_profile(config), request, Draws("picker-1", 1, 1))
    assert found.digest == same.digest
    return found


def test_every_score_is_told_with_its_weight_and_what_it_rests_on() -> None:
    found = explained(
        pool_of([3, 143], [1, 2], [0.25, 0.5]), *SCORERS, traffic=Readings({Column.PREFIX_BLOCKS: {1: 94}})
    )

    first, second = found.candidates
    assert first.scored is not None
    assert second.scored is not None
    assert [(s.plugin, s.raw, s.weight, s.weighted) for s in second.scored.scores] == [
        ("queue-scorer", 0.0, 2.0, 0.0),
        ("kv-cache-utilization-scorer", 0.5, 2.0, 1.0),
        ("prefix-cache-scorer", 0.94, 4.0, 3.76),
    ]
    assert [s.words for s in second.scored.scores] == [
        "it had 143 requests waiting",
        "its KV cache was 50 % used",
        "it already held 94 % of the prompt's prefix",
    ]
    assert (second.scored.rank, second.scored.chosen, second.scored.probability) == (1, 1, 1.0)
    assert (first.scored.rank, first.scored.chosen, first.scored.probability) == (2, 0, 0.0)
    assert (second.waiting, second.running, second.kv_cache, second.prefix_blocks) == (143, 2, 0.5, 94)
    assert second.in_flight is None  # the decision did not read it
    assert (found.best_sum, found.picker, found.draws) == (8.0, "max-score-picker", 0)


def test_every_rejection_is_told_in_words() -> None:
    found = explained(pool_of([3, 143, 1]), {"type": "low-queue-filter"}, *SCORERS)

    told = [c.rejection for c in found.candidates]
    assert told[0] is None
    assert told[2] is None
    assert told[1] is not None
    assert (told[1].plugin, told[1].reason) == ("low-queue-filter", "long-queue")
    assert told[1].words == "143 waiting, wanted at most 128"
    assert found.candidates[1].scored is None


def test_words_of_a_tree_come_from_the_filter_that_rejected() -> None:
    tree = {
        "current": {"pluginRef": "low-queue-filter"},
        "nextOnSuccess": {"decisionTree": {"current": {"pluginRef": "least-queue-filter"}}},
    }
    events = pool_of([0, 40, 900])
    document = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            {"type": "low-queue-filter"},
            {"type": "least-queue-filter"},
            {"type": "decision-tree-filter", "parameters": tree},
        ],
        "schedulingProfiles": [{"name": "p", "plugins": [{"pluginRef": "decision-tree-filter"}]}],
    }
    profile = compile_profile(parse_config(document, {}, PickingFlags()))

    found = explain(folded(events), Readings(), profile, REQUEST, Draws("picker-1", 1, 1))

    assert [c.rejection and c.rejection.words for c in found.candidates] == [
        None,
        "least-queue-filter: 40 waiting, the shortest queues had at most 20",
        "low-queue-filter: 900 waiting, wanted at most 128",
    ]


def test_ties_and_probabilities_are_told() -> None:
    found = explained(pool_of([0, 0, 9]), {"type": "queue-scorer"})

    assert [(c.scored.rank, c.scored.tied, c.scored.probability) for c in found.candidates if c.scored] == [
        (1, True, 0.5),
        (1, True, 0.5),
        (3, False, 0.0),
    ]
    assert found.draws == 1


@pytest.mark.parametrize(
    ("prefix_blocks", "sentence"),
    [
        (
            {0: 94},
            (
                "It already held 94 % of the prompt's prefix, which was worth more than the shorter queue of q8lm."
                " Margin to the runner-up: 1.76 of 8."
            ),
        ),
        (
            {1: 94},
            (
                "It already held 94 % of the prompt's prefix, and no scorer preferred x2b9d."
                " Margin to the runner-up: 5.76 of 8."
            ),
        ),
        ({0: 50}, "Its sum of 4.00 was equal to that of q8lm, and it was drawn among them."),
    ],
)
def test_the_reason_is_a_sentence_of_the_decisions_own_numbers(prefix_blocks: dict[int, int], sentence: str) -> None:
    traffic = Readings({Column.PREFIX_BLOCKS: prefix_blocks})

    found = explained(named("llama-6f7c-x2b9d", "llama-6f7c-q8lm"), *SCORERS, traffic=traffic)

    assert found.why == sentence


@pytest.mark.parametrize(
    ("waiting", "kv_cache", "weights", "sentence"),
    [
        (
            [1, 7],
            [0.5, 0.5],
            (-2, 1),
            (
                "It had 7 requests waiting (in its favour, as the weight of queue-scorer is negative),"
                " and no scorer preferred 0001. Margin to the runner-up: 2.00 of 1."
            ),
        ),
        (
            [1, 7],
            [0.75, 0.0],
            (2, 1),
            (
                "It had 1 request waiting, which was worth more than the freer KV cache of 0002."
                " Margin to the runner-up: 1.25 of 3."
            ),
        ),
        (
            [1, 7],
            [0.5, 0.75],
            (-1, 8),
            (
                "Its KV cache was 50 % used, which was worth more than the shorter queue that counted against it,"
                " as the weight of queue-scorer is negative. Margin to the runner-up: 1.00 of 8."
            ),
        ),
        (
            [1, 7],
            [0.5, 0.5],
            (-2, -1),
            (
                "It had 7 requests waiting (in its favour, as the weight of queue-scorer is negative),"
                " and no scorer preferred 0001. Margin to the runner-up: 2.00."
            ),
        ),
    ],
)
def test_what_a_negative_weight_turns_round_is_told_to_be_so(
    waiting: list[int], kv_cache: list[float], weights: tuple[int, int], sentence: str
) -> None:
    scorers = [
        {"type": "queue-scorer", "weight": weights[0]},
        {"type": "kv-cache-utilization-scorer", "weight": weights[1]},
    ]

    assert explained(pool_of(waiting, kv_cache=kv_cache), *scorers).why == sentence


@pytest.mark.parametrize(
    ("events", "plugins", "traffic", "request_facts", "sentence"),
    [
        (pool_of([]), (), Readings(), REQUEST, "No endpoint of default/llama was ready (0 known)."),
        (pool_of([0]), (), Readings(), REQUEST, "It was the only candidate."),
        (
            pool_of([0, 200, 300]),
            ({"type": "low-queue-filter"},),
            Readings(),
            REQUEST,
            "It was the only one of 3 candidates that filters kept.",
        ),
        (
            pool_of([200, 300]),
            ({"type": "low-queue-filter"},),
            Readings(),
            REQUEST,
            "Filters rejected all 2 candidates: 2 for low-queue-filter: long-queue.",
        ),
        (
            pool_of([5, 10]),
            (),
            Readings(),
            RequestFacts("id", POOL, priority=-2),
            "Saturation was 1.50, and from 1.00 on requests below priority 0 are refused; this one's priority is -2.",
        ),
        (
            pool_of([0, 0]),
            (),
            Readings(out=(0, 1)),
            REQUEST,
            "Every candidate (2 of 2 ready ones) was about to leave the pool.",
        ),
        (
            pool_of([0, 0]),
            (),
            Readings(),
            RequestFacts("id", POOL, subset=pack(ints(7))),
            "None of the 2 ready endpoints of default/llama was in the subset hint.",
        ),
        (
            pool_of([0]),
            (),
            Readings(),
            RequestFacts("id", POOL, subset=pack(ints(7))),
            "The only ready endpoint of default/llama was not in the subset hint.",
        ),
        (
            pool_of([0]),
            (),
            Readings(out=(0,)),
            REQUEST,
            "Every candidate (1 of 1 ready one) was about to leave the pool.",
        ),
        (
            pool_of([200]),
            ({"type": "low-queue-filter"},),
            Readings(),
            REQUEST,
            "Filters rejected the only candidate: 1 for low-queue-filter: long-queue.",
        ),
        (
            pool_of([0, 0, 0]),
            (),
            Readings({Column.IN_FLIGHT: {0: 3, 1: 3, 2: 2}}, degraded=True),
            REQUEST,
            "The feed was lost, so the fewest requests in flight came first: it had 2.",
        ),
        (
            pool_of([0, 0, 0]),
            ({"type": "random-picker"},),
            Readings(),
            REQUEST,
            "It was drawn at random among 3 candidates.",
        ),
    ],
)
def test_what_is_no_comparison_is_told_too(
    events: list[Event],
    plugins: tuple[dict[str, Any], ...],
    traffic: Readings,
    request_facts: RequestFacts,
    sentence: str,
) -> None:
    assert explained(events, *plugins, traffic=traffic, request=request_facts).why == sentence


def test_ports_of_one_pod_are_told_apart_by_the_name_that_is_used_everywhere() -> None:
    joined = pool_of([0, 1])
    both = [
        EndpointJoined(e.endpoint, e.pool, e.uid, e.namespace, "vllm-0", e.address, 8000 + e.endpoint)
        if isinstance(e, EndpointJoined)
        else e
        for e in joined
    ]

    found = explained(both, *SCORERS)

    members = [e for e in both if isinstance(e, EndpointJoined)]
    assert [c.name for c in found.candidates] == [f"vllm-0:{m.port}" for m in members]
    assert len({c.name for c in found.candidates}) == len(members) == 2
    state = folded(both)
    assert {m.full_name for m in state.endpoints.values()} == {c.name for c in found.candidates}
