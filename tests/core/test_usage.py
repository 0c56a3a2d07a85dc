"""Token counts are read from whatever servers send, however it is cut."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pointsman.core.parsers.usage import Usage, UsageReader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("12"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ("prompt_tokens", "input_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "usage")
)


def read(body: bytes, streaming: bool, cuts: list[int] | None = None) -> Usage:
    reader = UsageReader(streaming)
    last = 0
    for cut in sorted({cut % (len(body) + 1) for cut in cuts or ()}):
        reader.feed(body[last:cut])
        last = cut
    reader.feed(body[last:])
    return reader.usage()


def document(usage: Any) -> bytes:
    return json.dumps({"id": "1", "choices": [{"text": 'said "usage": {}'}], "usage": usage}).encode()


OPENAI = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        (OPENAI, Usage(10, 3, 8)),
        ({"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 1}}, Usage(5, 6, 1)),
        ({"prompt_tokens": "12", "completion_tokens": 3.0, "prompt_tokens_details": None}, Usage(12, 3, None)),
        ({"prompt_tokens": -1, "completion_tokens": None}, Usage()),
        ({"prompt_tokens": 10**40, "completion_tokens": True}, Usage()),
        ({"prompt_tokens": [1], "completion_tokens": {}, "prompt_tokens_details": [1]}, Usage()),
        ("twelve", Usage()),
        (None, Usage()),
        ([1, 2], Usage()),
        (7, Usage()),
    ],
)
def test_odd_usage_fields_are_no_counts(usage: Any, wanted: Usage) -> None:
    assert read(document(usage), streaming=False) == wanted
    assert read(b"data: " + document(usage) + b"\n\n", streaming=True) == wanted


@given(st.dictionaries(NAMES, VALUES), st.booleans(), st.lists(st.integers(0, 10_000)))
def test_any_usage_is_read_without_an_error(usage: dict[str, Any], streaming: bool, cuts: list[int]) -> None:
    body = b"data: " * streaming + document(usage) + b"\n\n" * streaming

    counts = read(body, streaming, cuts)

    assert all(count is None or 0 <= count < 2**63 for count in (counts.prompt_tokens, counts.completion_tokens))


@given(st.binary(max_size=200), st.booleans(), st.lists(st.integers(0, 200)))
def test_any_bytes_are_read_without_an_error(body: bytes, streaming: bool, cuts: list[int]) -> None:
    assert read(body, streaming, cuts) == read(body, streaming)


def stream(end: str, blank: str, *events: Any) -> bytes:
    return "".join(f"data:{blank}{e if isinstance(e, str) else json.dumps(e)}{end}{end}" for e in events).encode()


@given(
    st.lists(st.integers(0, 2000)),
    st.sampled_from(("\n", "\r\n", "\r")),
    st.sampled_from((" ", "")),
    st.sampled_from(("[DONE]", ": ping")),
)
def test_events_may_be_cut_anywhere(cuts: list[int], end: str, blank: str, last: str) -> None:
    chunks = [{"choices": [{"delta": {"content": 'a "usage": {'}}], "usage": None}] * 3
    body = stream(end, blank, *chunks, {"choices": [], "usage": OPENAI}, last)

    assert read(body, True, cuts) == Usage(10, 3, 8)


@given(st.lists(st.integers(0, 2000)))
def test_of_continuous_usage_the_last_values_stay(cuts: list[int]) -> None:
    events = [{"usage": {"prompt_tokens": 10, "completion_tokens": n}} for n in range(1, 8)]

    assert read(stream("\n", " ", *events, {"usage": None}), True, cuts) == Usage(10, 7, None)


@given(st.lists(st.integers(0, 2000)))
def test_the_messages_api_tells_its_counts_in_two_events(cuts: list[int]) -> None:
    begin = {"input_tokens": 20, "cache_read_input_tokens": 16, "output_tokens": 1}
    body = b"event: message_start\n" + stream(
        "\n",
        " ",
        {"type": "message_start", "message": {"id": "m", "usage": begin}},
        {"type": "message_delta", "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    )

    assert read(body, True, cuts) == Usage(20, 9, 16)


def test_the_responses_api_tells_its_counts_with_the_last_response_however_long() -> None:
    usage = {"input_tokens": 4, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 2}}
    for text in ("short", "long " * 100_000):
        done = {"type": "response.completed", "response": {"output": text, "usage": usage, "metadata": {}}}
        body = stream("\n", " ", {"type": "response.created", "response": {"usage": None}}, done)

        assert read(body, True, list(range(0, len(body), 1000))) == Usage(4, 5, 2)


def test_a_long_document_has_its_usage_at_the_end() -> None:
    body = json.dumps({"data": ["x" * 3_000_000], "usage": {"prompt_tokens": 77}}).encode()

    assert read(body, False, list(range(0, len(body), 5000))) == Usage(77, None, None)


@pytest.mark.parametrize("streaming", [False, True])
def test_memory_stays_bounded_while_nothing_ends(streaming: bool) -> None:
    reader = UsageReader(streaming)
    for _ in range(500):
        reader.feed(b'"usage":{' * 1000)

    assert reader.usage() == Usage()
    assert len(reader._kept) <= 1 << 20


U = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + stream("\n", " ", {"choices": [], "usage": U}),
        stream("\n", " ", {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": U}]}, "[DONE]"),
        stream("\n", " ", {"choices": [], "x_groq": {"usage": U}}),
    ],
    ids=["behind a byte order mark", "inside the choice", "under a vendor's member"],
)
def test_usage_is_found_where_servers_and_proxies_put_it(body: bytes) -> None:
    assert read(body, True) == Usage(11, 7, None)
    assert read(body, True, list(range(len(body)))) == Usage(11, 7, None)
    assert read(body.replace(b"data: ", b""), False) == Usage(11, 7, None) or body.endswith(b"[DONE]\n\n")


@given(
    st.text(min_size=1, max_size=12).filter(lambda name: name not in ("usage", "choices", "error")),
    st.sampled_from(("top", "member", "choice")),
    st.booleans(),
    st.lists(st.integers(0, 2000)),
)
def test_usage_counts_at_the_top_in_any_member_and_in_a_choice(
    name: str, place: str, streaming: bool, cuts: list[int]
) -> None:
    held = {"a": 1, "usage": U}
    document = {"top": held, "member": {name: held}, "choice": {"choices": [{"delta": {}}, held]}}[place]
    text = json.dumps(document).encode()

    assert read(b"data: " + text + b"\n\n" if streaming else text, streaming, cuts) == Usage(11, 7, None)


@given(st.sampled_from(("content", "arguments", "usage")), st.booleans(), st.lists(st.integers(0, 2000)))
def test_usage_within_a_text_or_a_tools_input_counts_for_nothing(name: str, streaming: bool, cuts: list[int]) -> None:
    said = {name: json.dumps({"usage": U}), "tool_calls": [{"input": {"usage": U}}]}
    tool = [{"type": "tool_use", "input": {"usage": U}}]
    for document in ({"choices": [{"message": said, "delta": said}]}, {"content": tool}, {"output": tool}):
        text = json.dumps(document).encode()

        assert read(b"data: " + text + b"\n\n" if streaming else text, streaming, cuts) == Usage()


def test_comments_and_other_fields_of_events_are_no_counts() -> None:
    body = b': {"usage":{"prompt_tokens":1}}\nevent: {"usage":{"prompt_tokens":2}}\n\n'

    assert read(body, True) == Usage()
