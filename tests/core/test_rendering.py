"""Whatever a server may render into a prompt is hashed, in one form however it is spelled, in every API."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from pointsman.core.parsers import parse_request

Document = dict[str, Any]
CHAT, RESPONSES, ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"

TALKS: dict[str, tuple[str, Callable[[list[Any]], Document]]] = {
    "chat": (CHAT, lambda messages: {"messages": messages}),
    "render": ("/v1/chat/completions/render", lambda messages: {"messages": messages}),
    "responses": (RESPONSES, lambda messages: {"input": messages}),
    "conversations": ("/v1/conversations", lambda messages: {"items": messages}),
    "embeddings": ("/v1/embeddings", lambda messages: {"messages": messages}),
    "anthropic": (ANTHROPIC, lambda messages: {"messages": messages}),
}
"""By API: its path, and a body that holds these messages."""

TEXTS = st.text(max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
).filter(bool)
"""Members without a value are as good as absent."""
NAMES = st.sampled_from(
    (
        "name",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
        "reasoning",
        "refusal",
        "function_call",
        "arguments",
        "output",
        "call_id",
        "summary",
        "what nobody thought of",
    )
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(("text", "tool_use", "thinking", "other"))}
) | st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS})
MESSAGES = st.builds(
    lambda role, content, members: {"role": role, **({} if content is None else {"content": content}), **members},
    st.sampled_from(("system", "user", "assistant", "tool")),
    st.none()
    | TEXTS
    | st.lists(
        st.builds(lambda part, members: part | members, PARTS, st.dictionaries(NAMES, VALUES, max_size=2)), max_size=3
    ),
    st.dictionaries(NAMES, VALUES, max_size=3),
)


def prompt(talk: str, messages: list[Any], **members: Any) -> bytes:
    path, document = TALKS[talk]
    return parse_request(path, json.dumps({"model": "m"} | document(messages) | members).encode()).prompt


@pytest.mark.parametrize(
    "told",
    [
        {
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "write", "arguments": json.dumps({"text": "X" * 4000})},
                }
            ],
        },
        {"content": "ok", "reasoning_content": "X" * 4000},
        {"content": "ok", "reasoning": "X" * 4000},
        {"content": None, "refusal": "X" * 4000},
        {"content": None, "function_call": {"name": "write", "arguments": "X" * 4000}},
    ],
    ids=lambda told: list(told)[-1],
)
@pytest.mark.parametrize("talk", TALKS)
def test_conversations_that_differ_in_what_an_agent_did_are_told_apart(talk: str, told: Document) -> None:
    def conversation(letter: str) -> list[Any]:
        did = json.loads(json.dumps(told).replace("X", letter))
        return [
            {"role": "user", "content": "build it"},
            {"role": "assistant"} | did,
            {"role": "tool", "tool_call_id": "c1", "content": "written"},
            {"role": "user", "content": "go on " * 40},
        ]

    one, other = prompt(talk, conversation("A")), prompt(talk, conversation("B"))

    assert len(one) == len(other) > 4000
    assert one[:60] != other[:200]
    assert sum(a != b for a, b in zip(one, other, strict=True)) == 4000


@pytest.mark.parametrize("talk", TALKS)
@settings(max_examples=25)
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3),
    at=st.integers(0, 2),
    name=NAMES,
    values=st.tuples(VALUES, VALUES),
)
def test_any_member_of_a_message_changes_the_prompt(
    talk: str, messages: list[Document], at: int, name: str, values: tuple[Any, Any]
) -> None:
    assume(json.dumps(values[0], sort_keys=True) != json.dumps(values[1], sort_keys=True))
    message = messages[at % len(messages)]
    one, other, none = (
        prompt(talk, [{**m, **more} if m is message else m for m in messages])
        for more in ({name: values[0]}, {name: values[1]}, {name: None})
    )

    assert len({one, other, none}) == 3


@pytest.mark.parametrize("talk", TALKS)
@settings(max_examples=25)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=3), part=PARTS, name=NAMES, values=st.tuples(VALUES, VALUES))
def test_any_member_of_a_part_changes_the_prompt(
    talk: str, messages: list[Document], part: Document, name: str, values: tuple[Any, Any]
) -> None:
    assume(json.dumps(values[0], sort_keys=True) != json.dumps(values[1], sort_keys=True))

    def said(more: Document) -> bytes:
        return prompt(talk, [*messages, {"role": "user", "content": [{"type": "text", "text": "a"}, {**part, **more}]}])

    assert len({said({name: values[0]}), said({name: values[1]}), said({name: None})}) == 3


@pytest.mark.parametrize("name", ["cache_control", "annotations", "logprobs", "signature", "status", "citations"])
@pytest.mark.parametrize("talk", TALKS)
def test_marks_that_no_template_renders_change_nothing(talk: str, name: str) -> None:
    def said(more: Document) -> bytes:
        inner = [{"type": "text", "text": "b"} | more]
        parts = [
            {"type": "text", "text": "a"} | more,
            {"type": "tool_result", "tool_use_id": "t", "content": inner} | more,
        ]
        return prompt(talk, [{"role": "user", "content": parts} | more, {"role": "user", "content": "go on"} | more])

    assert said({}) == said({name: {"type": "ephemeral"}}) == said({name: "x"})


def spelled(value: Any, chance: random.Random) -> str:
    """JSON of a value with its keys in any order, spaces anywhere, and characters escaped or not."""
    space = chance.choice(("", " ", "\n\t"))
    if isinstance(value, dict):
        members = [f"{spelled(k, chance)}{space}:{space}{spelled(v, chance)}" for k, v in value.items()]
        chance.shuffle(members)
        return "{" + space + f"{space},".join(members) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(spelled(one, chance) for one in value) + space + "]"
    if isinstance(value, str):
        return (
            '"'
            + "".join(
                json.dumps(c)[1:-1] if chance.random() < 0.7 or ord(c) > 0xFFFF else f"\\u{ord(c):04X}" for c in value
            )
            + '"'
        )
    return json.dumps(value)


@pytest.mark.parametrize("talk", TALKS)
@settings(max_examples=25)
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3), tools=st.lists(VALUES, max_size=2), seed=st.integers(0, 2**32)
)
def test_neither_order_nor_spelling_changes_the_prompt(
    talk: str, messages: list[Document], tools: list[Any], seed: int
) -> None:
    path, document = TALKS[talk]
    whole = {"model": "m", "tools": tools} | document(messages)

    told = parse_request(path, spelled(whole, random.Random(seed)).encode())

    assert told.prompt == parse_request(path, json.dumps(whole).encode()).prompt


@given(messages=st.lists(MESSAGES, min_size=1, max_size=3), tools=st.lists(VALUES, max_size=2))
def test_the_tolerant_way_reads_the_same_prompt_as_the_fast_one(messages: list[Document], tools: list[Any]) -> None:
    fast = prompt("chat", messages, tools=tools)
    body = json.dumps({"model": "m", "messages": messages, "tools": tools}).encode()

    assert prompt("chat", messages, tools=tools, cache_salt=5) == fast  # a salt that is no text
    assert parse_request(CHAT, body[:-1] + b',"model":"\xff"}').prompt == fast
    assert parse_request(CHAT, body[:-1] + b',"user":"\\ud800"}').prompt == fast
    assert parse_request(CHAT, body[:-1] + b',"logit_bias":[%s]}' % b",".join([b"{}"] * 5000)).prompt == fast


def test_one_message_that_cannot_be_decoded_changes_none_before_it() -> None:
    good = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi", "name": "n"}]
    body = json.dumps({"model": "m", "messages": [*good, {"role": "user", "n": "HUGE"}]}).replace('"HUGE"', "1e999")

    told = parse_request(CHAT, body.encode()).prompt

    assert told.startswith(prompt("chat", good))
    assert told.endswith(b'"n": 1e999}')


@pytest.mark.parametrize("talk", TALKS)
@settings(max_examples=25)
@given(messages=st.lists(MESSAGES, min_size=2, max_size=5), tools=st.lists(VALUES, max_size=2))
def test_a_conversation_begins_as_it_did_the_turn_before(talk: str, messages: list[Document], tools: list[Any]) -> None:
    assert prompt(talk, messages, tools=tools).startswith(prompt(talk, messages[:-1], tools=tools))


# --- what stands beside messages ------------------------------------------------------------------

BODIES: dict[str, tuple[str, Document]] = {
    **{talk: (path, document([{"role": "user", "content": "x"}])) for talk, (path, document) in TALKS.items()},
    "response text": (RESPONSES, {"input": "x"}),
    "completions": ("/v1/completions", {"prompt": "x"}),
    "completion tokens": ("/v1/completions", {"prompt": [1, 2]}),
    "embedding text": ("/v1/embeddings", {"input": "x"}),
}
SETTINGS: list[Document] = [
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"tools": [{"type": "function", "function": {"name": "g"}}]},
    {"functions": [{"name": "f"}]},
    {"documents": [{"text": "d"}]},
    {"chat_template": "{{ messages }}"},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"reasoning_effort": "high"},
    {"reasoning": {"effort": "low"}},
    {"previous_response_id": "r1"},
    {"conversation": "c1"},
    {"mm_processor_kwargs": {"size": 1}},
    {"lora_path": "a"},
    {"extra_key": "k"},
]


@pytest.mark.parametrize("body", BODIES)
def test_members_of_the_request_that_change_the_prompt_or_part_caches_are_told_apart(body: str) -> None:
    path, document = BODIES[body]

    told = [
        parse_request(path, json.dumps({"model": "m"} | document | more).encode()).prompt for more in [{}, *SETTINGS]
    ]

    assert len(set(told)) == len(told)
    assert all(text.endswith(told[0]) for text in told), "they stand before what is said"


@pytest.mark.parametrize("body", BODIES)
def test_members_of_the_request_that_are_no_part_of_the_prompt_change_nothing(body: str) -> None:
    path, document = BODIES[body]
    others = {
        "temperature": 0.1,
        "seed": 5,
        "user": "u",
        "metadata": {"id": "1"},
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "json_object"},
        "stream_options": {"include_usage": True},
        "tools": [],
        "documents": None,
    }

    plain, more = (parse_request(path, json.dumps({"model": "m"} | document | o).encode()) for o in ({}, others))

    assert plain.prompt == more.prompt


@pytest.mark.parametrize("body", [*BODIES, "tokens"])
def test_a_salt_parts_caches_in_every_api(body: str) -> None:
    path, document = {**BODIES, "tokens": ("/inference/v1/generate", {"token_ids": [1]})}[body]

    assert parse_request(path, json.dumps({"model": "m", "cache_salt": "s"} | document).encode()).salt == "s"


def test_the_system_text_is_the_same_wherever_an_api_has_it() -> None:
    system, user = {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}

    told = {
        prompt("chat", [system, user]),
        prompt("anthropic", [user], system="be brief"),
        prompt("anthropic", [user], system=[{"type": "text", "text": "be brief", "cache_control": {"type": "x"}}]),
        prompt("responses", [user], instructions="be brief"),
        parse_request(RESPONSES, b'{"input":"hi","instructions":"be brief"}').prompt,
    }

    assert len(told) == 1


def test_a_result_is_told_apart_from_another_in_responses_and_their_names_are_not() -> None:
    def said(output: str, name: str) -> bytes:
        call = {
            "type": "function_call",
            "id": name,
            "call_id": "c",
            "name": "f",
            "arguments": "{}",
            "status": "completed",
        }
        return prompt("responses", [call, {"type": "function_call_output", "call_id": "c", "output": output}])

    assert said("a", "fc_1") == said("a", "fc_2") != said("b", "fc_1")


def test_pictures_behind_the_same_tokens_are_told_apart_from_where_they_stand() -> None:
    def said(name: str) -> bytes:
        features = {"mm_hashes": {"image": [name]}, "mm_placeholders": {"image": [{"offset": 5, "length": 3}]}}
        body = {"model": "m", "token_ids": list(range(20)), "features": features | {"kwargs_data": None}}
        return parse_request("/inference/v1/generate", json.dumps(body).encode()).prompt

    one, other = said("a"), said("b")

    assert len(one) == len(other) == 80
    assert (one[:20], one[24:]) == (other[:20], other[24:])
    assert one[20:24] != other[20:24]


@pytest.mark.parametrize("name", ["image_url", "video_url", "audio_url", "input_audio", "source", "file"])
@pytest.mark.parametrize("talk", TALKS)
def test_media_are_told_apart_and_as_long_as_their_tokens(talk: str, name: str) -> None:
    def said(data: str) -> bytes:
        return prompt(talk, [{"role": "user", "content": [{"type": name, name: {"data": data * 1000}}]}])

    assert len(said("a")) > 900
    assert said("a") == said("a") != said("b")
