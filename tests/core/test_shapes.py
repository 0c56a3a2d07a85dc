"""Bodies in the shapes that some server takes are routed, whether or not they say what would be hashed."""

import json
from itertools import chain, combinations
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, strategies as st

from pointsman.core.parsers import BadRequest, parse_request
from pointsman.core.parsers.path import model_in_path, model_in_query

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CHAT = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "Represent"}]}]
AZURE = "/openai/deployments/d/chat/completions?api-version=2024-10-21"

STAND_INS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "prompt_embeds": "QUJD"},
    "/v1/embeddings": {"input": "x", "messages": CHAT},
    "/v1/responses": {
        "input": "x",
        "prompt": {"id": "pmpt_1"},
        "conversation": "conv_1",
        "previous_response_id": "resp_1",
        "previous_input_messages": [{"role": "user"}],
    },
    "/v1/conversations": {"items": [{"type": "message"}], "metadata": {"a": "b"}},
}
"""By path: members of which a server wants at least one."""


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/embeddings", {"model": "m", "messages": CHAT, "encoding_format": "float"}, "m"),
        ("/v1/completions", {"model": "m", "prompt_embeds": "QUJD", "max_tokens": 5}, "m"),
        ("/v1/completions", {"model": "m", "prompt": None, "prompt_embeds": ["QUJD"]}, "m"),
        ("/v1/completions", {"model": "m", "prompt": {"prompt_string": "x", "multimodal_data": ["QUJD"]}}, "m"),
        ("/v1/responses", {"model": "m", "prompt": {"id": "pmpt_1"}}, "m"),
        ("/v1/responses", {"prompt": {"id": "pmpt_1"}}, ""),
        ("/v1/conversations", {"metadata": {"a": "b"}}, ""),
        ("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": "x"}]}, ""),
        (AZURE, {"messages": [{"role": "user", "content": "x"}]}, "d"),
        ("/v1/engines/davinci/completions", {"prompt": "x"}, "davinci"),
    ],
)
def test_a_shape_that_some_server_takes_is_routed(path: str, body: dict[str, Any], model: str) -> None:
    parsed = parse_request(path, json.dumps(body).encode())

    assert parsed.model == model
    assert parsed.model or not parsed.rewritable, "a body that need not name a model is not refused for it"


@pytest.mark.parametrize("path", STAND_INS)
def test_any_of_the_members_that_stand_for_each_other_is_enough_and_none_is_not(path: str) -> None:
    members = STAND_INS[path]
    subsets = chain.from_iterable(combinations(members, n) for n in range(len(members) + 1))
    for chosen in subsets:
        absent = dict.fromkeys(members.keys() - set(chosen))
        body = json.dumps({"model": "m", **absent, **{name: members[name] for name in chosen}}).encode()
        if chosen:
            assert parse_request(path, body).model == "m"
        else:
            with pytest.raises(BadRequest, match="must have"):
                parse_request(path, body)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_a_model_that_nothing_supplies_is_still_wanted(path: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "prompt": "", "input": "x"})
    if path == "/v1/responses":
        body = '{"input": "x"}'

    parsed = parse_request(path, body.encode())

    assert (parsed.model, parsed.rewritable) == ("", True)


def test_the_body_names_the_model_before_the_path_does() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}

    assert parse_request(AZURE, json.dumps(body).encode()).model == "m"


@given(st.text(min_size=1, max_size=20))
def test_a_model_in_an_address_is_read_as_it_was_meant(name: str) -> None:
    try:
        quoted, query = quote(name, safe=""), urlencode({"api-version": "1", "model": name})
    except UnicodeEncodeError:
        return
    assert model_in_path(f"/openai/deployments/{quoted}/chat/completions") == name
    assert model_in_query(f"/v1/realtime?{query}") == name


@given(st.text(max_size=200))
def test_any_address_is_looked_at_without_an_error(address: str) -> None:
    assert isinstance(model_in_path(address) + model_in_query(address), str)


def test_a_query_of_many_fields_names_none() -> None:
    assert model_in_query("/v1/realtime?" + "a=1&" * 1000 + "model=m") == ""


def test_a_count_of_tokens_is_read_and_not_hashed() -> None:
    body = {"model": "m", "system": "be brief", "messages": [{"role": "user", "content": "hello"}]}
    counted = parse_request("/v1/messages/count_tokens", json.dumps(body).encode())
    asked = parse_request("/v1/messages", json.dumps(body).encode())

    assert (counted.model, counted.rewritable, counted.prompt) == ("m", True, b"")
    assert counted.prompt_bytes == len(asked.prompt)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"messages":7}', b"\xff"])
def test_a_count_of_tokens_that_cannot_be_read_goes_on(body: bytes) -> None:
    parsed = parse_request("/v1/messages/count_tokens", body)

    assert (parsed.model, parsed.rewritable, parsed.prompt_bytes) == ("", False, 0)
