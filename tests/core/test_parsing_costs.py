"""What a body may cost to read: as much as its length, whatever it holds and wherever it holds it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from time import process_time

import pytest

from pointsman.core.parsers import BadRequest, parse_request, replace_model
from pointsman.core.parsers.body import PARTS_MAX
from pointsman.core.prefix.prompt_blocks import PROMPT_BYTES_MAX

ITEMS = {
    "empty": b"{}",
    "number": b"0",
    "string": b'""',
    "list": b"[]",
    "null": b"null",
    "list of a number": b"[0]",
    "text": b'{"type":"text","text":"a"}',
    "image": b'{"image_url":1}',
    "video": b'{"video_url":1}',
    "sound": b'{"input_audio":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}',
    "source": b'{"source":1}',
    "placeholder": b'{"offset":0,"length":9}',
    "keys": b'{"b":0,"a":1}',
    "message": b'{"role":"user","content":"a"}',
    "message of parts": b'{"role":"user","content":[{}]}',
    "result": b'{"text":"a","thinking":"b","id":"c","name":"d","input":1,"content":[{"source":1}]}',
    "adapter": b'{"model":"m"}',
}
PLACES = {
    "chat parts": ("/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":[%s]}]}'),
    "chat messages": ("/v1/chat/completions", b'{"model":"m","messages":[%s]}'),
    "chat tools": ("/v1/chat/completions", b'{"model":"m","messages":[{}],"tools":[%s]}'),
    "chat members": ("/v1/chat/completions", b'{"model":"m","messages":[{"role":"assistant","tool_calls":[%s]}]}'),
    "chat inner parts": (
        "/v1/chat/completions",
        b'{"model":"m","messages":[{"role":"tool","content":[{"type":"tool_result","content":[%s]}]}]}',
    ),
    "chat settings": ("/v1/chat/completions", b'{"model":"m","messages":[{}],"documents":[%s]}'),
    "completion settings": ("/v1/completions", b'{"model":"m","prompt":"","documents":[%s]}'),
    "prompts": ("/v1/completions", b'{"model":"m","prompt":[%s]}'),
    "embeddings": ("/v1/embeddings", b'{"model":"m","input":[%s]}'),
    "responses": ("/v1/responses", b'{"model":"m","input":[%s]}'),
    "response instructions": ("/v1/responses", b'{"model":"m","input":"","instructions":[%s]}'),
    "conversations": ("/v1/conversations", b'{"model":"m","items":[%s]}'),
    "anthropic parts": ("/v1/messages", b'{"model":"m","messages":[{"role":"user","content":[%s]}]}'),
    "anthropic messages": ("/v1/messages", b'{"model":"m","messages":[%s]}'),
    "anthropic system": ("/v1/messages", b'{"model":"m","messages":[{}],"system":[%s]}'),
    "anthropic tools": ("/v1/messages", b'{"model":"m","messages":[{}],"tools":[%s]}'),
    "features": (
        "/inference/v1/generate",
        b'{"model":"m","token_ids":[1],"features":{"mm_hashes":{"i":["a"]},"mm_placeholders":{"i":[%s]}}}',
    ),
    "tokens": ("/inference/v1/generate", b'{"model":"m","token_ids":[%s]}'),
}
CHARACTERS = {
    "lone": b"\\ud800",
    "pair": b"\\ud83d\\ude00",
    "invalid": b"\xff",
    "backslash": b"\\\\",
    "escape": b"\\u0041",
}
TEXTS = {
    "prompt": ("/v1/completions", b'{"model":"m","prompt":"%s"}'),
    "chat": ("/v1/chat/completions", b'{"model":"m","messages":[{"content":"%s"}]}'),
    "anthropic": ("/v1/messages", b'{"model":"m","messages":[{"content":"%s"}]}'),
    "responses": ("/v1/responses", b'{"model":"m","input":"%s"}'),
}
MEMBERS = {"same": b'"a":0', "model": b'"model":"m"', "brackets": b'"a":[{}]'}


def shapes(size: int) -> Iterator[tuple[str, str, bytes]]:
    """(name, path, body) with about `size` bytes of one thing at one place."""
    for (place, (path, frame)), (name, item) in product(PLACES.items(), ITEMS.items()):
        yield f"{place}: {name}", path, frame % b",".join([item] * (size // (len(item) + 1)))
    for (place, (path, frame)), (name, character) in product(TEXTS.items(), CHARACTERS.items()):
        yield f"{place}: {name}", path, frame % (character * (size // len(character)))
    for name, member in MEMBERS.items():
        members = b",".join([member] * (size // (len(member) + 1)))
        yield f"members: {name}", "/v1/chat/completions", b'{"messages":[{}],%s}' % members
    yield "names", "/v1/completions", b'{"prompt":"",%s}' % b",".join(b'"%d":0' % i for i in range(size // 9))
    yield "lists in lists", "/v1/chat/completions", b'{"messages":%s%s}' % (b"[" * (size // 2), b"]" * (size // 2))


def in_proportion(small: Callable[[], object], large: Callable[[], object], tries: int) -> bool:
    """Whether twice the input costs about twice as much; two milliseconds are beneath notice."""
    return cost(large, tries) <= 0.002 + 2.5 * cost(small, tries)


def cost(read: Callable[[], object], tries: int) -> float:
    """Seconds of CPU, the least of some tries: what else runs on a machine only adds to it."""
    least = float("inf")
    for _ in range(tries):
        start = process_time()
        with suppress(BadRequest):
            read()
        least = min(least, process_time() - start)
    return least


@pytest.mark.parametrize("size", [16_000, 120_000])
def test_twice_the_body_costs_about_twice_as_much(size: int) -> None:
    slow: list[str] = []
    for (name, path, small), (_, _, large) in zip(shapes(size), shapes(2 * size), strict=True):
        for what in ("read", "rewritten"):

            def read(body: bytes, path: str = path, what: str = what) -> object:
                return parse_request(path, body) if what == "read" else replace_model(body, "other")

            if not any(in_proportion(lambda: read(small), lambda: read(large), tries) for tries in (3, 10, 40)):  # noqa: B023
                slow.append(f"{name} {what}")

    assert slow == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("item", ["empty", "text", "message", "number"])
def test_a_crowded_body_still_names_its_model_and_its_beginning(place: str, item: str) -> None:
    path, frame = PLACES[place]
    if place == "features" or (place == "tokens" and item != "number"):
        pytest.skip("token ids are numbers")
    first = b"1" if item == "number" else ITEMS["text"]
    one, other = (frame % b",".join([first, *[ITEMS[item]] * (9 * PARTS_MAX), end]) for end in (b"2", b"3"))

    read, again = parse_request(path, one), parse_request(path, other)

    assert read.model == "m"
    assert len(read.prompt) > 9 * PARTS_MAX
    assert read.prompt[:1000] == again.prompt[:1000]


def test_a_prompt_of_many_videos_is_counted_whole_and_built_only_as_far_as_it_is_hashed() -> None:
    path, frame = PLACES["chat parts"]

    parsed = parse_request(path, frame % b",".join([ITEMS["video"]] * 1000))

    assert parsed.prompt_bytes == len("user.   ") + 1000 * 4 * 4500 + 999 * len(".   ") + len(".")
    assert len(parsed.prompt) < PROMPT_BYTES_MAX + 4 * 4500 + 4


@pytest.mark.parametrize("member", MEMBERS.values())
def test_a_body_with_too_many_members_to_walk_is_given_the_name_last(member: bytes) -> None:
    body = b'{"messages":[{}],%s}' % b",".join([member] * 20_000)

    changed = replace_model(body, "other")

    assert parse_request("/v1/chat/completions", changed).model == "other"
    assert changed == body[:-1] + b',"model":"other"}'
