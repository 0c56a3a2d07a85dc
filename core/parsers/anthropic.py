"""The Anthropic Messages API."""

from typing import Final

import msgspec

from pointsman.core.parsers.body import (
    NOTHING,
    BadRequest,
    ParsedRequest,
    PromptText,
    crowded,
    decode_body,
    text_of,
    value_of,
)
from pointsman.core.parsers.openai import IMAGE_TOKENS

PARSER: Final = "anthropic-parser"
MALFORMED: Final = "error unmarshaling request body: "
MESSAGES: Final = "messages"
COUNT_TOKENS: Final = "messages/count_tokens"
PATHS: Final = (MESSAGES, COUNT_TOKENS)

_BILLING: Final = "x-anthropic-billing-header"
"""Begins a system block that differs from request to request and is not part of the prompt."""


class _Messages(msgspec.Struct):
    model: msgspec.Raw = NOTHING
    stream: msgspec.Raw = NOTHING
    system: msgspec.Raw = NOTHING
    tools: msgspec.Raw = NOTHING
    messages: msgspec.Raw = NOTHING


class _AnthropicMessage(msgspec.Struct):
    role: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING


class _Block(msgspec.Struct):
    text: msgspec.Raw = NOTHING
    thinking: msgspec.Raw = NOTHING
    id: msgspec.Raw = NOTHING
    name: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING
    source: msgspec.Raw = NOTHING


_decoder = msgspec.json.Decoder(_Messages)


def parse(api: str, body: bytes) -> ParsedRequest:
    """Read the body of a request to a path that ends in `api`."""
    if api == COUNT_TOKENS:
        return ParsedRequest(PARSER, api, skipped=True)
    found = decode_body(_decoder, body, MALFORMED)
    model, streamed = text_of(found.model), bytes(found.stream) == b"true"
    if bytes(found.messages)[:1] == b"[" and (crowded(bytes(found.messages)) or crowded(bytes(found.system))):
        prompt = bytes(found.tools) + bytes(found.system) + bytes(found.messages)
        return ParsedRequest(PARSER, api, model, True, streamed, prompt)
    messages = value_of(found.messages, list[msgspec.Raw])
    if messages is None and bytes(found.messages) not in (b"", b"null"):
        raise BadRequest("error parsing messages request: messages is not a list")
    if not messages:
        raise BadRequest("invalid messages request: must have at least one message")
    text = PromptText()
    text.add(bytes(found.tools))
    text.add(text_of(found.system).encode())
    for raw in value_of(found.system, list[msgspec.Raw]) or ():
        block = _block(raw)
        words = "" if block is None else text_of(block.text)
        if not words.startswith(_BILLING):
            text.add(words.encode())
    for raw in messages:
        message = value_of(raw, _AnthropicMessage)
        if message is None:
            raise BadRequest("error parsing messages request: a message is not an object")
        text.add(text_of(message.role).encode())
        _add_content(text, message.content, 2)
    prompt, whole = text.taken()
    return ParsedRequest(PARSER, api, model, True, streamed, prompt, whole)


def _block(raw: msgspec.Raw) -> _Block | None:
    return value_of(raw, _Block) if bytes(raw)[:1] == b"{" else None


def _add_content(text: PromptText, content: msgspec.Raw, levels: int) -> None:
    """Append a string or blocks; the content of tool results is one level deeper and no more."""
    text.add(text_of(content).encode())
    if not levels:
        return
    for raw in value_of(content, list[msgspec.Raw]) or ():
        block = _block(raw)
        if block is None:
            continue
        for part in (block.text, block.thinking, block.id, block.name):
            text.add(text_of(part).encode())
        text.add(bytes(block.input))
        if source := bytes(block.source):
            text.add_media(source, IMAGE_TOKENS)
        _add_content(text, block.content, levels - 1)
