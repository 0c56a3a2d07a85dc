"""What a streamed answer's events are: its first content and its errors are told from everything else."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pointsman.core.parsers.stream_events import error_in, has_content
from pointsman.core.parsers.usage import UsageReader


def chat(**delta: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


NO_CONTENT: tuple[Any, ...] = (
    "[DONE]",
    "",
    " null ",
    {},
    chat(role="assistant", content=""),
    chat(role="assistant", content=None, tool_calls=[]),
    chat(),
    {"choices": [], "usage": {"prompt_tokens": 1}},
    {"choices": [{"index": 0, "text": "", "finish_reason": None}]},
    {"choices": [{"index": 0, "token_ids": []}]},
    {"type": "ping"},
    {"type": "message_start", "message": {"content": [], "model": "m"}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
    {"type": "response.created", "response": {"status": "in_progress", "error": None}},
    {"type": "response.in_progress", "response": {"error": None}},
    {"type": "response.output_item.added", "item": {"type": "message", "content": []}},
    {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
    {"type": "keep-alive"},
)
CONTENT: tuple[Any, ...] = (
    chat(content="Hi"),
    chat(role="assistant", content="Hi"),
    chat(reasoning_content="Hm"),
    chat(reasoning="Hm"),
    chat(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]),
    {"choices": [{"index": 0, "text": "Hi"}]},
    {"choices": [{"index": 0, "token_ids": [1]}]},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "response.output_text.delta", "delta": "Hi"},
    {"type": "response.reasoning_text.delta", "delta": "Hm"},
    {"type": "response.function_call_arguments.delta", "delta": "{"},
    {"type": "image_generation.partial_image", "b64_json": "QUJD"},
    {"token": {"id": 1, "text": "Hi"}, "generated_text": None},
    {"text": "Hi", "meta_info": {}},
    {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]},
    "plain text",
)
ERRORS: tuple[tuple[Any, str], ...] = (
    ({"error": {"message": "CUDA out of memory", "code": 500}}, "CUDA out of memory"),
    ({"error": "overloaded", "error_type": "overloaded"}, "overloaded"),
    ({"error": {"code": 500}}, '{"code": 500}'),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded"),
    ({"type": "error", "code": "server_error", "message": "no"}, "no"),
    ({"object": "error", "message": "too long", "code": 400}, "too long"),
    ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "no"}}}, "no"),
    ({"choices": [{"delta": {}, "finish_reason": "error"}]}, "error"),
    ({"error": {"message": "x" * 5000}}, "x" * 200),
)


def data(event: Any) -> bytes:
    return event.encode() if isinstance(event, str) else json.dumps(event).encode()


def read(chunks: list[bytes]) -> UsageReader:
    reader = UsageReader(True)
    for chunk in chunks:
        reader.feed(chunk)
    reader.usage()
    return reader


def lines(*events: Any) -> bytes:
    return b"".join(b"data: " + data(event) + b"\n\n" for event in events)


@pytest.mark.parametrize("event", NO_CONTENT, ids=lambda e: data(e).decode()[:40])
def test_what_only_frames_an_answer_is_no_content(event: Any) -> None:
    assert not has_content(data(event))
    assert error_in(data(event)) == ""


@pytest.mark.parametrize("event", CONTENT, ids=lambda e: data(e).decode()[:40])
def test_what_a_model_said_is_content_in_every_api(event: Any) -> None:
    assert has_content(data(event))
    assert error_in(data(event)) == ""


@pytest.mark.parametrize(("event", "words"), ERRORS)
def test_an_error_is_told_in_the_servers_words_and_is_no_content(event: Any, words: str) -> None:
    assert error_in(data(event)) == words
    assert not has_content(data(event))


@given(
    st.lists(st.sampled_from((*NO_CONTENT, ": PROCESSING")), max_size=5),
    st.lists(st.sampled_from(CONTENT), max_size=3),
    st.none() | st.sampled_from(ERRORS),
    st.lists(st.integers(0, 2000), max_size=8),
    st.tuples(st.sampled_from((b"", b"\xef\xbb\xbf")), st.sampled_from((b"\n", b"\r\n", b"\r"))),
)
def test_content_and_errors_are_found_however_a_stream_is_cut(
    before: list[Any], said: list[Any], error: tuple[Any, str] | None, cuts: list[int], form: tuple[bytes, bytes]
) -> None:
    events = [one for one in (*before, *said, *([error[0]] if error else [])) if one != ""]
    mark, end = form
    body = mark + b"".join(
        (data(one) if one == ": PROCESSING" else b"data: " + data(one)) + end + end for one in events
    )
    places = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]

    reader = read([body[a:b] for a, b in pairwise(places)])

    assert reader.begun == bool(said)
    assert reader.error == (error[1] if error else "")


@given(st.binary(max_size=100) | st.text(max_size=60).map(lambda text: f'{{"error":{text}'.encode()))
def test_any_event_is_looked_at_without_an_error(event: bytes) -> None:
    assert isinstance(has_content(event), bool)
    assert isinstance(error_in(event), str)
    read([b"data: " + event + b"\n"])


def test_the_name_of_an_event_tells_an_error_whose_data_does_not() -> None:
    assert read([b"event: error\ndata: it broke\n\n"]).error == "error"
    assert read([b"event: error\n", b'data: {"error":{"message":"it broke"}}\n\n']).error == "it broke"


def test_words_about_errors_are_no_error() -> None:
    said = chat(content='{"error": {"message": "x"}} "type": "error"')
    tool = chat(tool_calls=[{"function": {"arguments": '{"error": 1}'}}])

    assert read([lines(said, tool, "[DONE]")]).error == ""


def test_an_answer_in_one_piece_can_be_an_error_too() -> None:
    for document, error in (({"error": {"message": "no"}}, "no"), ({"id": 1, "error": None, "output": []}, "")):
        reader = UsageReader(False)
        reader.feed(json.dumps(document).encode())
        reader.usage()
        assert reader.error == error
