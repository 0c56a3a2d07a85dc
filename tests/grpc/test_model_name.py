"""The client's model name is put back in the envelope of an answer, and nowhere else, however it is cut."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from pointsman.grpc.ext_proc.model_name import NameRestorer

SENT, WANTED = "llama-v2", 'the "llama"'
TEXTS = st.sampled_from((SENT, '"model": "llama-v2"', "a{b", "]", '\\"', "model", "x\ny", "")) | st.text(max_size=4)
INNER = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(("model", "id", "content", "input", "message", "response", "usage", "choices"))
DOCUMENTS = st.dictionaries(KEYS, INNER, max_size=6)
CUTS = st.lists(st.integers(0, 3000), max_size=12)


def restored(body: bytes, events: bool, cuts: list[int]) -> bytes:
    restorer = NameRestorer(SENT, WANTED)
    restorer.events = events
    out, last = b"", 0
    for cut in sorted({cut % (len(body) + 1) for cut in cuts}):
        out += restorer.feed(body[last:cut], False)
        last = cut
    return out + restorer.feed(body[last:], True)


def renamed(document: Any, envelopes: tuple[str, ...]) -> Any:
    """The document as the client is to see it."""
    if not isinstance(document, dict):
        return document
    changed = {name: renamed(value, ()) if name in envelopes else value for name, value in document.items()}
    return changed | {"model": WANTED} if document.get("model") == SENT else changed


@pytest.mark.parametrize(
    ("body", "events", "names"),
    [
        (
            {
                "id": "m1",
                "model": SENT,
                "content": [{"type": "tool_use", "name": "order", "input": {"model": SENT, "seats": 4}}],
                "usage": {"input_tokens": 3, "output_tokens": 2},
            },
            False,
            1,
        ),
        ({"content": [{"input": {"model": SENT}}], "id": "m1", "model": SENT}, False, 1),
        ({"type": "message_start", "message": {"id": "m1", "role": "assistant", "model": SENT}}, True, 1),
        ({"type": "response.completed", "response": {"output": [{"model": SENT}], "model": SENT}}, True, 1),
        ({"type": "response.output_item.done", "item": {"model": SENT}}, True, 0),
        ({"type": "content_block_start", "content_block": {"input": {"model": SENT}}}, True, 0),
        ({"message": {"model": SENT}}, False, 0),
        ([{"model": SENT}], False, 0),
    ],
)
def test_a_name_in_what_the_model_said_stays(body: Any, events: bool, names: int) -> None:
    text = json.dumps(body).encode()
    text = b"data: " + text + b"\n\n" if events else text
    for size in range(1, len(text) + 1):
        out = restored(text, events, list(range(0, len(text), size)))
        assert out.count(json.dumps(WANTED).encode()) == names
        assert out.replace(json.dumps(WANTED).encode(), json.dumps(SENT).encode()) == text


@given(DOCUMENTS, CUTS, st.booleans())
@example({"id": "\\", "model": SENT}, list(range(40)), False)
def test_a_document_is_renamed_at_its_top(document: dict[str, Any], cuts: list[int], escaped: bool) -> None:
    body = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")

    assert json.loads(restored(body, False, cuts)) == renamed(document, ())


@given(st.lists(DOCUMENTS, max_size=4), CUTS, st.sampled_from(("\n", "\r\n")))
def test_events_are_renamed_at_their_top_and_in_what_they_wrap(
    documents: list[dict[str, Any]], cuts: list[int], end: str
) -> None:
    body = "".join(f': "ping"{end}event: x{end}data: {json.dumps(one)}{end}{end}' for one in documents).encode()

    lines = restored(body, True, cuts).decode().split(end)

    found = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert found == [renamed(one, ("message", "response")) for one in documents]


@pytest.mark.parametrize(
    "noise",
    [lambda n: b'"a":[{}],' * n, lambda n: b'"x":"' + b"{" * n + b'",', lambda n: b"[" * n, lambda n: b'\\"' * n],
)
def test_memory_is_bounded_while_no_name_comes(noise: Callable[[int], bytes]) -> None:
    restorer = NameRestorer(SENT, WANTED)
    for _ in range(300):
        restorer.feed(noise(1000), False)

    assert len(restorer._passed) + len(restorer._held) < 100_000
