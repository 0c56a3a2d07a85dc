"""The OpenAI API: completions, chat completions and their relatives."""

from typing import Any, Final

import msgspec

from pointsman.core.parsers.body import (
    NOTHING,
    BadRequest,
    ParsedRequest,
    crowded,
    decode_body,
    text_of,
    token_bytes,
    token_list,
    value_of,
)
from pointsman.core.parsers.path import short_id
from pointsman.core.parsers.rendering import NOT_RENDERED, Prompt, PromptText, Settings, decoded, in_one_form

PARSER: Final = "openai-parser"
MALFORMED: Final = "error unmarshaling request bodyMap: "


class _Completion(Settings):
    model: str
    prompt: str
    suffix: msgspec.Raw = NOTHING
    stream: bool | None = None
    cache_salt: str | None = None


class _Chat(Settings):
    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    cache_salt: str | None = None


class _LlamaPrompt(msgspec.Struct):
    prompt_string: str


class _Any(Settings):
    """Every top-level member that any of the forms reads, undecoded."""

    model: msgspec.Raw = NOTHING
    stream: msgspec.Raw = NOTHING
    cache_salt: msgspec.Raw = NOTHING
    prompt: msgspec.Raw = NOTHING
    suffix: msgspec.Raw = NOTHING
    messages: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING
    instructions: msgspec.Raw = NOTHING
    items: msgspec.Raw = NOTHING
    prompt_embeds: msgspec.Raw = NOTHING
    metadata: msgspec.Raw = NOTHING
    previous_input_messages: msgspec.Raw = NOTHING


_completion = msgspec.json.Decoder(_Completion)
_chat = msgspec.json.Decoder(_Chat)
_any = msgspec.json.Decoder(_Any)

CHAT: Final = "chat/completions"
COMPLETIONS: Final = "completions"
_FORMS: Final = {
    CHAT: "chat completions",
    "chat/completions/render": "chat completions",
    COMPLETIONS: "completions",
    "completions/render": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "conversations": "conversations",
    "images/generations": "images generations",
}
PATHS: Final = tuple(_FORMS)
_KEPT: Final = ("responses", "conversations")
"""Forms whose answers a server keeps, to go on from."""


def parse(api: str, body: bytes) -> ParsedRequest:
    """Read the body of a request to a path that ends in `api`."""
    form = _FORMS[api]
    try:
        if form == "completions":
            short = _completion.decode(body)
            if short.plain and short.suffix is NOTHING:
                return _parsed(api, short.model, bool(short.stream), (short.prompt.encode(), 0), short.cache_salt or "")
        if form == "chat completions" and not crowded(body):
            chat = _chat.decode(body)
            if chat.messages:
                text = PromptText(chat)
                for message in chat.messages:
                    text.add_message(message)
                return _parsed(api, chat.model, bool(chat.stream), text.taken(), chat.cache_salt or "")
    except (ValueError, RecursionError):
        pass  # the tolerant way says what is wrong, if anything is
    found = decode_body(_any, body, MALFORMED)
    model, prompt = text_of(found.model), _PROMPTS[form](found)
    whole = _parsed(api, model, bytes(found.stream) == b"true", prompt, text_of(found.cache_salt))
    if form not in _KEPT:
        return whole
    elsewhere = not model and (form == "conversations" or _given(found.prompt))
    return msgspec.structs.replace(whole, rewritable=not elsewhere, continues=_continues(found), kept=True)


_NOT_RENDERED: Final = NOT_RENDERED | {"id"}
"""Members of items that are no part of the prompt: servers give each item a name of its own."""
_UNREAD: Final[Prompt] = (b"", 0)
"""Prompt of a body that some server takes, and that says nothing here of what is cached."""


def _parsed(api: str, model: str, streamed: bool, prompt: Prompt, salt: str) -> ParsedRequest:
    text, whole = prompt
    return ParsedRequest(PARSER, api, model, True, streamed, text, whole, salt)


def _completions_prompt(found: _Any) -> Prompt:
    data = bytes(found.prompt)
    if data[:1] == b'"':
        prompt: Prompt = text_of(found.prompt).encode(), 0
    elif data[:1] == b"[":
        prompt = _sequences(found.prompt)
    # vLLM takes a prompt's embeddings in its place, llama.cpp an object of text and pictures.
    elif _given(found.prompt_embeds) or (data[:1] == b"{" and value_of(found.prompt, _LlamaPrompt) is not None):
        return _UNREAD
    else:
        raise BadRequest("invalid completions request: must have prompt field")
    if _given(found.suffix):
        prompt = prompt[0] + text_of(found.suffix).encode(), prompt[1]
    return _behind_settings(found, prompt)


def _behind_settings(found: _Any, prompt: Prompt) -> Prompt:
    if found.plain:
        return prompt
    before, _ = PromptText(found).taken()
    text, whole = prompt
    return before + text, whole and len(before) + whole


def _sequences(raw: msgspec.Raw) -> Prompt:
    """Several prompts one after another, token ids packed; anything else as it stands in the body."""
    if (tokens := token_list(raw)) is not None:
        return tokens
    if crowded(bytes(raw)):
        return bytes(raw), 0
    if (texts := value_of(raw, list[str])) is not None:
        return "\0".join(texts).encode(), 0
    lists = value_of(raw, list[list[int]])
    packed = None if lists is None else token_bytes([number for numbers in lists for number in numbers])
    return bytes(raw) if packed is None else packed, 0


def _loose_chat_prompt(found: _Any) -> Prompt:
    text = PromptText(found)
    if not text.add_messages(bytes(found.messages)):
        raise BadRequest("invalid chat completions request: must have valid messages field")
    return text.taken()


def _embeddings_prompt(found: _Any) -> Prompt:
    if _given(found.input):
        return _behind_settings(found, _sequences(found.input))
    # vLLM embeds a chat, which is how pictures get in.
    _need("invalid embeddings request: must have input field", found.messages)
    text = PromptText(found)
    return text.taken() if text.add_messages(bytes(found.messages)) else _UNREAD


def _responses_prompt(found: _Any) -> Prompt:
    kept = found.prompt, found.conversation, found.previous_response_id, found.previous_input_messages
    _need("invalid responses request: must have input field", found.input, *kept)
    text = PromptText(found)
    for before in (found.prompt, found.previous_input_messages):
        if _given(before):
            text.add(in_one_form(bytes(before)))
    if _given(found.instructions):
        text.add_system(bytes(found.instructions))
    if _given(found.input):
        _add_items(text, bytes(found.input))
    return text.taken()


def _conversations_prompt(found: _Any) -> Prompt:
    _need("invalid conversations request: must have items field", found.items, found.metadata)
    text = PromptText(found)
    if _given(found.items):
        _add_items(text, bytes(found.items))
    return text.taken()


class _Conversation(msgspec.Struct):
    id: str = ""


def _continues(found: _Any) -> str:
    """The id of the response or the conversation that a request goes on from."""
    conversation = value_of(found.conversation, _Conversation)
    named = text_of(found.conversation) if conversation is None else conversation.id
    return short_id(text_of(found.previous_response_id) or named)


def _add_items(text: PromptText, raw: bytes) -> None:
    """Append messages, calls of tools and their results; a text is what a user said."""
    items = decoded(raw)
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list):
        text.add(raw)
        return
    for item in items:
        if isinstance(item, dict):
            text.add_message(item, _NOT_RENDERED)
        else:
            text.add_content([item])


def _images_prompt(found: _Any) -> Prompt:
    _need("invalid images generations request: must have prompt field", found.prompt)
    return _UNREAD  # nothing of an image's prompt is cached


def _given(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in (b"", b"null")


def _need(message: str, *any_of: msgspec.Raw) -> None:
    if not any(map(_given, any_of)):
        raise BadRequest(message)


_PROMPTS: Final = {
    "completions": _completions_prompt,
    "chat completions": _loose_chat_prompt,
    "embeddings": _embeddings_prompt,
    "responses": _responses_prompt,
    "conversations": _conversations_prompt,
    "images generations": _images_prompt,
}
