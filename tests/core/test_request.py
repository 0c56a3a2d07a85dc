"""Request facts: what of headers, body, hint and cluster state a decision may depend on."""

from typing import Any

import pytest
from hypothesis import given, strategies as st
from worlds.strategies import folded

from pointsman.core.config.effective import PrefixParameters
from pointsman.core.deciding.request_facts import HttpRequest, RoutingRules, request_facts, subset_slots
from pointsman.core.events import (
    EndpointJoined,
    Event,
    LabelsChanged,
    ObjectiveApplied,
    Origin,
    PoolApplied,
    PrefixBlockSized,
    RequestFacts,
    RequestRouted,
    encode,
)
from pointsman.core.parsers import BadRequest, ParsedRequest
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import unpack

POOL = "default/llama"
PREFIX = RoutingRules(PrefixParameters())


def cluster(*more: Event) -> ClusterState:
    addresses = (("10.0.0.1", 8000), ("10.0.0.1", 8001), ("10.0.0.2", 8000), ("fd00::1", 8000), ("fd00::1", 8001))
    members = [
        EndpointJoined(n, POOL, f"uid-{n}", "default", f"pod-{n}", address, port)
        for n, (address, port) in enumerate(addresses, 1)
    ]
    return folded([PoolApplied(POOL, {}, (8000,)), *members, *more])


def made(
    headers: dict[str, str | bytes] | None = None,
    parsed: ParsedRequest | None = None,
    state: ClusterState | None = None,
    rules: RoutingRules = PREFIX,
) -> RequestFacts:
    body = parsed or ParsedRequest("openai-parser", "completions", "llama", True, prompt=b"x" * 200)
    request = HttpRequest("id", "/v1/completions", headers or {}, 300)
    return request_facts(request, body, POOL, state or cluster(), rules)


@pytest.mark.parametrize(
    ("hint", "slots"),
    [
        (("10.0.0.1:8000",), [0]),
        (("10.0.0.1",), [0, 1]),
        (("10.0.0.2", "10.0.0.1:8001"), [1, 2]),
        (("fd00::1",), [3, 4]),
        (("[fd00::1]",), [3, 4]),
        (("[FD00::1]:8001",), [4]),
        (("fd00::1:8001",), [4]),
        ((), []),
        (("10.0.0.9", ""), []),
        ((5, None, "10.0.0.2", ["10.0.0.1"]), [2]),
        ("10.0.0.2:8000, 10.0.0.1:8000", [0, 2]),
        ("", []),
    ],
)
def test_a_hint_names_endpoints_by_address_and_port(hint: Any, slots: list[int]) -> None:
    assert unpack(subset_slots(hint, POOL, cluster())).tolist() == slots


def test_a_hint_follows_the_members() -> None:
    state = cluster()
    assert unpack(subset_slots("10.0.0.7", POOL, state)).tolist() == []

    state.apply_event(state.position + 1, EndpointJoined(9, POOL, "uid", "default", "pod", "10.0.0.7", 8000))

    assert unpack(subset_slots("10.0.0.7", POOL, state)).tolist() == [5]
    assert subset_slots("10.0.0.7", "default/other", state) == b""


def test_no_hint_allows_all_and_an_empty_one_nobody() -> None:
    body = ParsedRequest("passthrough-parser")

    nobody = request_facts(HttpRequest("id", "/", {}, 0, ()), body, POOL, cluster(), RoutingRules())

    assert (made().subset, nobody.subset) == (None, b"")


@pytest.mark.parametrize("value", ["batch", b"batch"])
def test_the_new_name_of_a_header_wins_even_when_empty(value: str | bytes) -> None:
    state = cluster(ObjectiveApplied(POOL, "batch", -5))
    old, new = "x-gateway-inference-objective", "x-llm-d-inference-objective"

    assert (made({old: value}, state=state).objective, made({old: value}, state=state).priority) == ("batch", -5)
    assert made({new: value, old: "chat"}, state=state).priority == -5
    assert (made({new: "", old: value}, state=state).objective, made({new: "", old: value}, state=state).priority) == (
        "",
        0,
    )


def test_a_request_without_a_fairness_id_is_of_the_default_flow() -> None:
    assert made().fairness_id == "default-flow"
    assert made({"x-gateway-inference-fairness-id": "tenant"}).fairness_id == "tenant"


@given(st.binary(max_size=20) | st.text(st.characters(codec=None), max_size=20))
def test_no_header_value_breaks_anything(value: str | bytes) -> None:
    names = ("x-llm-d-inference-objective", "x-llm-d-inference-fairness-id", "x-llm-d-model-name-rewrite", "x-a")
    facts = made(dict.fromkeys(names, value), rules=RoutingRules(PrefixParameters(), frozenset(("x-a", "x-b"))))

    assert encode_facts(facts)
    assert set(facts.headers) == {"x-a"}


def encode_facts(facts: RequestFacts) -> bytes:
    return encode(RequestRouted(Origin("p", 1, 1, 1), 0.0, facts, (1,)))


def test_a_header_that_is_not_utf8_is_told_escaped() -> None:
    assert made({"x-llm-d-inference-fairness-id": b"a\xff"}).fairness_id == r"a\xff"
    assert made({"x-llm-d-inference-fairness-id": "a\udcff"}).fairness_id == r"a\udcff"


def test_a_model_must_be_named_by_body_or_header() -> None:
    nameless = ParsedRequest("openai-parser", "completions", "", True)

    with pytest.raises(BadRequest, match=r"^model not found in request body$"):
        made(parsed=nameless)
    assert made({"x-llm-d-model-name-rewrite": "new"}, nameless).target_model == "new"
    assert made(parsed=ParsedRequest("passthrough-parser")).model == ""


def test_prefixes_are_those_of_the_model_that_the_server_sees() -> None:
    renamed = made({"x-gateway-model-name-rewrite": "other"})

    assert (renamed.model, renamed.target_model) == ("llama", "other")
    assert renamed.prefix != made().prefix
    assert made({"x-gateway-model-name-rewrite": "llama"}).target_model == ""


@pytest.mark.parametrize(("tokens", "size"), [(1, 64), (16, 64), (32, 128)])
def test_blocks_are_those_that_are_held_for_the_pool(tokens: int, size: int) -> None:
    facts = made(state=cluster(LabelsChanged(1, cache_block_tokens=8), PrefixBlockSized(POOL, tokens)))

    assert facts.prefix_block_bytes == size
    assert len(facts.prefix) == 8 * (200 // size)
    assert made(state=cluster(PrefixBlockSized("default/other", 32))).prefix_block_bytes == 64


def test_blocks_that_are_not_tuned_are_the_configured_ones() -> None:
    rules = RoutingRules(PrefixParameters(block_bytes=20, blocks_max=4, auto_tune=False))

    facts = made(state=cluster(PrefixBlockSized(POOL, 32)), rules=rules)

    assert (facts.prefix_block_bytes, len(facts.prefix)) == (20, 32)
    assert made(rules=RoutingRules()).prefix == b""
