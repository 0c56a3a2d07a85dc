"""What clients send is read as far as routing needs it, refused in the words of the Go EPP, and never breaks anything."""

import json
import struct
from typing import Any

import pytest
from hypothesis import assume, example, given, strategies as st

from pointsman.core.parsers import BadRequest, parse_request, replace_model

NO_OBJECT = "json: cannot unmarshal array into Go value of type map[string]interface {}"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
PATHS = st.sampled_from(
    (
        COMPLETIONS,
        CHAT,
        "/v1/embeddings",
        "/v1/responses",
        "/v1/conversations",
        "/v1/images/generations",
        "/v1/chat/completions/render",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/inference/v1/generate",
        "/anything",
    )
)
MEMBERS = ("model", "prompt", "messages", "tools", "input", "items", "instructions", "stream", "cache_salt", "system")


def refusal(path: str, body: bytes) -> str:
    with pytest.raises(BadRequest) as refused:
        parse_request(path, body)
    return str(refused.value)


def outcome(path: str, body: bytes) -> str:
    """The parser that read the body, or why it was refused."""
    try:
        return parse_request(path, body).parser
    except BadRequest as refused:
        return str(refused)


# --- the form of the body -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (COMPLETIONS, b'{"model":"m"}', "invalid completions request: must have prompt field"),
        (COMPLETIONS, b'{"model":"m","prompt":5}', "invalid completions request: must have prompt field"),
        (COMPLETIONS, b'{"model":"m","prompt":{}}', "invalid completions request: must have prompt field"),
        (COMPLETIONS, b"null", "invalid completions request: must have prompt field"),
        (CHAT, b'{"model":"m"}', "invalid chat completions request: must have valid messages field"),
        (CHAT, b'{"model":"m","messages":[]}', "invalid chat completions request: must have valid messages field"),
        (CHAT, b'{"model":"m","messages":[1]}', "invalid chat completions request: must have valid messages field"),
        (CHAT, b'{"model":"m","messages":"hi"}', "invalid chat completions request: must have valid messages field"),
        ("/v1/embeddings", b"{}", "invalid embeddings request: must have input field"),
        ("/v1/responses", b'{"input":null}', "invalid responses request: must have input field"),
        ("/v1/conversations", b"{}", "invalid conversations request: must have items field"),
        ("/v1/images/generations", b"{}", "invalid images generations request: must have prompt field"),
        ("/v1/messages", b"{}", "invalid messages request: must have at least one message"),
        ("/v1/messages", b'{"messages":[]}', "invalid messages request: must have at least one message"),
        ("/v1/messages", b'{"messages":[7]}', "error parsing messages request: a message is not an object"),
        ("/inference/v1/generate", b"{}", "invalid generate request: must have non-empty token_ids field"),
        (COMPLETIONS, b"", "error unmarshaling request bodyMap: unexpected end of JSON input"),
        (COMPLETIONS, b'{"prompt":"x"', "error unmarshaling request bodyMap: unexpected end of JSON input"),
        (COMPLETIONS, b"\xef\xbb\xbf{}", "error unmarshaling request bodyMap: invalid character (byte 0)"),
        (
            COMPLETIONS,
            '{"prompt":"x"}'.encode("utf-16"),
            "error unmarshaling request bodyMap: invalid character (byte 0)",
        ),
        (
            COMPLETIONS,
            b"[]",
            f"error unmarshaling request bodyMap: {NO_OBJECT}",
        ),
        ("/v1/messages", b"", "error unmarshaling request body: unexpected end of JSON input"),
    ],
)
def test_a_body_that_is_wrong_is_refused_in_the_words_of_the_go_epp(path: str, body: bytes, message: str) -> None:
    assert refusal(path, body) == message


@pytest.mark.parametrize(
    ("prompt", "hashed"),
    [
        ('""', b""),
        ('"a\\nb"', b"a\nb"),
        ('["one"]', b"one"),
        ('["one","two"]', b"one\0two"),
        ("[1,2]", struct.pack("<2I", 1, 2)),
        ("[[1,2],[3]]", struct.pack("<3I", 1, 2, 3)),
        ("[-1]", b"[-1]"),
        ("[1e400]", b"[1e400]"),
        ("[]", b"\0" * 0),
        ('[{"a":1}]', b'[{"a":1}]'),
    ],
)
def test_every_prompt_that_the_api_allows_is_routed(prompt: str, hashed: bytes) -> None:
    assert parse_request(COMPLETIONS, f'{{"model":"m","prompt":{prompt}}}'.encode()).prompt == hashed


def test_a_chat_prompt_is_tools_roles_and_text() -> None:
    body = json.dumps(
        {
            "model": "m",
            "stream": True,
            "cache_salt": "s",
            "tools": [{"name": "t"}],
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "text", "text": " is it"}]},
                {"role": "assistant", "content": None, "tool_calls": []},
            ],
        }
    ).encode()

    parsed = parse_request(CHAT, body)

    parts = b"system\x1fbe brief\x1e", b"user\x1fwhat\x1f is it\x1e", b"assistant\x1f\x1e"
    assert parsed.prompt == b'[{"name":"t"}]\x1e' + b"".join(parts)
    assert (parsed.model, parsed.streamed, parsed.salt, parsed.rewritable) == ("m", True, "s", True)


def test_images_stand_for_as_many_bytes_as_their_tokens() -> None:
    def prompt(url: str) -> bytes:
        content = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
        return parse_request(CHAT, json.dumps({"model": "m", "messages": [{"content": content}]}).encode()).prompt

    assert len(prompt("a")) == 4 + 4 * 225 + 1
    assert prompt("a") == prompt("a") != prompt("b")


@pytest.mark.parametrize("stream", ["1", '"true"', "null", "false", "[]"])
def test_only_json_true_asks_for_a_stream(stream: str) -> None:
    for body in (f'{{"model":"m","prompt":"x","stream":{stream}}}', f'{{"prompt":[1],"stream":{stream}}}'):
        assert not parse_request(COMPLETIONS, body.encode()).streamed


@pytest.mark.parametrize("model", ["null", "1", "[]", '{"model":"x"}', '""'])
def test_a_model_that_is_no_string_is_none(model: str) -> None:
    assert parse_request(COMPLETIONS, f'{{"model":{model},"prompt":"x"}}'.encode()).model == ""


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert parse_request(COMPLETIONS, b'{"model":"a","prompt":"x","model":"b"}').model == "b"


# --- JSON as it comes -----------------------------------------------------------------------------


def test_512_levels_are_accepted_and_many_more_refused() -> None:
    for value in ("[" * 511 + "]" * 511, '{"a":' * 511 + "1" + "}" * 511):
        for name in ("other", "tools", "input"):
            body = f'{{"model":"m","prompt":"x","{name}":{value}}}'.encode()
            assert parse_request(COMPLETIONS, body).model == "m"
    for value in ("[" * 100_000 + "]" * 100_000, "[" * 1_000_000):
        for name in ("other", "prompt"):
            message = refusal(COMPLETIONS, f'{{"model":"m","{name}":{value}}}'.encode())
            assert "nesting too deep, wanted at most 512 levels" in message


def test_bytes_in_strings_that_are_not_utf8_are_replaced_for_hashing() -> None:
    body = b'{"model":"m\xff","prompt":"a\xffb","x":"\xfe"}'

    parsed = parse_request(COMPLETIONS, body)

    assert (parsed.model, parsed.prompt) == ("m�", "a�b".encode())
    chat = parse_request(CHAT, b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}')
    assert chat.prompt == "user\x1f�\x1e".encode()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\ud800", "�"),
        (r"\udc00\ud800", "��"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\�"),
        (r"\ud83d\ud83d\ude00", "�\U0001f600"),
        (r"\uD83D\uDE00\uDE00", "\U0001f600�"),
    ],
)
def test_lone_surrogates_are_replaced_and_pairs_are_not(written: str, read: str) -> None:
    body = f'{{"model":"m","prompt":"{written}","other":"\\ud800"}}'.encode()

    assert parse_request(COMPLETIONS, body).prompt.decode() == read


def test_numbers_of_any_size_are_accepted() -> None:
    digits = "9" * 10_000
    body = f'{{"model":"m","prompt":"x","a":1e400,"b":{digits},"seed":12345678901234567890123}}'.encode()

    assert parse_request(COMPLETIONS, body).model == "m"


@given(PATHS, st.dictionaries(st.sampled_from(MEMBERS), VALUES), st.booleans())
def test_any_document_is_read_or_refused(path: str, document: dict[str, Any], escaped: bool) -> None:
    body = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    assert outcome(path, body)


@given(PATHS, st.binary(max_size=60))
@example(COMPLETIONS, b'{"prompt":"\\u')
@example(COMPLETIONS, b'{"prompt":"\\ud8')
def test_any_bytes_are_read_or_refused(path: str, body: bytes) -> None:
    assert outcome(path, body)


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/completions", "completions"),
        ("/v1/completions/", "completions"),
        ("/v1/completions?a=/v1/embeddings", "completions"),
        ("/foo-completions", "completions"),
        ("/v1/chat/completions", "chat/completions"),
        ("/openai/v1/chat/completions/render", "chat/completions/render"),
        ("/v1/images/generations", "images/generations"),
    ],
)
def test_the_longest_end_of_the_path_chooses_the_form(path: str, api: str) -> None:
    body = b'{"model":"m","prompt":"x","messages":[{"role":"user","content":"x"}]}'

    assert parse_request(path, body).api == api


def test_a_path_that_nobody_claims_is_passed_through_or_refused() -> None:
    parsed = parse_request("/v1/models?x=1", b"\xff")

    assert (parsed.parser, parsed.model, parsed.rewritable) == ("passthrough-parser", "", False)
    with pytest.raises(BadRequest, match=r"^no parser registered matching path suffix for: /v1/models$"):
        parse_request("/v1/models?x=1", b"{}", ("openai-parser",))


# --- another model name ---------------------------------------------------------------------------

OBJECTS = st.dictionaries(st.text(max_size=6) | st.just("model"), VALUES, max_size=6)


@given(OBJECTS, st.text(max_size=12), st.booleans(), st.sampled_from((None, 1)))
def test_a_rewrite_changes_the_model_and_nothing_else(
    document: dict[str, Any], name: str, escaped: bool, indent: int | None
) -> None:
    assume(not any(0xD800 <= ord(character) < 0xE000 for character in name))
    body = json.dumps(document, ensure_ascii=escaped, indent=indent).encode()

    changed = replace_model(body, name)

    assert json.loads(changed) == {**document, "model": name}
    if "model" in document:
        before = body.index(json.dumps(document["model"], ensure_ascii=escaped, indent=indent).encode()[:1])
        assert changed[: min(before, body.index(b"model"))] == body[: min(before, body.index(b"model"))]
    assert replace_model(changed, name) == changed


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"a":{"model":"x"},"model" :\t"x","n":1.50e2}', b'{"a":{"model":"x"},"model" :\t"NEW","n":1.50e2}'),
        (b'{"model":"x","model":"y"}', b'{"model":"NEW","model":"NEW"}'),
        (b'{"mod\\u0065l":"x","b":"\\ud800\xff"}', b'{"mod\\u0065l":"NEW","b":"\\ud800\xff"}'),
        (b'{"model":[{"model":"x"}],"z":{}}', b'{"model":"NEW","z":{}}'),
        (b'{"model":12345678901234567890 }', b'{"model":"NEW" }'),
        (b'{"b":"model","c":["model","x"]}', b'{"model":"NEW","b":"model","c":["model","x"]}'),
        (b"{ }", b'{"model":"NEW" }'),
        (b"null", b'{"model":"NEW"}'),
    ],
)
def test_a_rewrite_keeps_every_other_byte(body: bytes, wanted: bytes) -> None:
    assert replace_model(body, "NEW") == wanted
