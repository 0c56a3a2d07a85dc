"""The Anthropic Messages API."""

from typing import Final

import msgspec

from pointsman.core.parsers.body import (
    NOTHING,
    BadRequest,
    ParsedRequest,
    decode_body,
    text_of,
    value_of,
)
from pointsman.core.parsers.rendering import Prompt, PromptText, Settings

PARSER: Final = "anthropic-parser"
MALFORMED: Final = "error unmarshaling request body: "
MESSAGES: Final = "messages"
COUNT_TOKENS: Final = "messages/count_tokens"
PATHS: Final = (MESSAGES, COUNT_TOKENS)


class _Messages(Settings):
    model: msgspec.Raw = NOTHING
    stream: msgspec.Raw = NOTHING
    cache_salt: msgspec.Raw = NOTHING
    system: msgspec.Raw = NOTHING
    messages: msgspec.Raw = NOTHING


_decoder = msgspec.json.Decoder(_Messages)


def parse(api: str, body: bytes) -> ParsedRequest:
    """Read the body of a request to a path that ends in `api`."""
    if api == COUNT_TOKENS:
        return _counted(api, body)
    found = decode_body(_decoder, body, MALFORMED)
    model, streamed = text_of(found.model), bytes(found.stream) == b"true"
    return ParsedRequest(PARSER, api, model, True, streamed, *_prompt(found), text_of(found.cache_salt))


def _counted(api: str, body: bytes) -> ParsedRequest:
    """What there is to know of a prompt to be counted: nothing to hash, since counting leaves nothing in a cache.

    A body that cannot be read goes on, as it does with the Go EPP.
    """
    try:
        found = decode_body(_decoder, body, MALFORMED)
        text, whole = _prompt(found)
    except BadRequest:
        return ParsedRequest(PARSER, api)
    model = text_of(found.model)
    return ParsedRequest(PARSER, api, model, bool(model), prompt_bytes=whole or len(text))


def _prompt(found: _Messages) -> Prompt:
    system, messages = bytes(found.system), bytes(found.messages)
    text = PromptText(found)
    if system not in (b"", b"null"):
        text.add_system(system)
    if not text.add_messages(messages):
        listed = value_of(found.messages, list[msgspec.Raw])
        if listed:
            raise BadRequest("error parsing messages request: a message is not an object")
        if listed is None and messages not in (b"", b"null"):
            raise BadRequest("error parsing messages request: messages is not a list")
        raise BadRequest("invalid messages request: must have at least one message")
    return text.taken()
