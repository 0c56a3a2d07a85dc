"""The OpenAI API: completions, chat completions and their relatives."""

from typing import Final

import msgspec

from pointsman.core.parsers.body import (
    NOTHING,
    PARTS_MAX,
    BadRequest,
    ParsedRequest,
    PromptText,
    crowded,
    decode_body,
    text_of,
    token_bytes,
    token_list,
    value_of,
)

PARSER: Final = "openai-parser"
MALFORMED: Final = "error unmarshaling request bodyMap: "

IMAGE_TOKENS: Final = 225
"""Tokens counted for an image of unknown size: 640 by 360 pixels at 1,024 pixels a token, the Go EPP's estimate."""
VIDEO_TOKENS: Final = 2 * 10 * IMAGE_TOKENS
"""Two frames a second, ten seconds."""
AUDIO_TOKENS_MAX: Final = 1 << 16
"""Tokens counted at most for one sound: more than any block that is hashed holds."""


class _Completion(msgspec.Struct):
    model: str
    prompt: str
    stream: bool | None = None
    cache_salt: str | None = None


class _ContentPart(msgspec.Struct):
    type: str = ""
    text: str = ""
    image_url: msgspec.Raw = NOTHING
    video_url: msgspec.Raw = NOTHING
    audio_url: msgspec.Raw = NOTHING
    input_audio: msgspec.Raw = NOTHING


class _ChatMessage(msgspec.Struct):
    role: str = ""
    content: str | list[_ContentPart] | None = None


class _Chat(msgspec.Struct):
    model: str
    messages: list[_ChatMessage]
    tools: msgspec.Raw = NOTHING
    stream: bool | None = None
    cache_salt: str | None = None


class _LooseMessage(msgspec.Struct):
    role: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING


class _LoosePart(msgspec.Struct):
    text: msgspec.Raw = NOTHING
    image_url: msgspec.Raw = NOTHING
    video_url: msgspec.Raw = NOTHING
    audio_url: msgspec.Raw = NOTHING
    input_audio: msgspec.Raw = NOTHING


class _LlamaPrompt(msgspec.Struct):
    prompt_string: str


class _Any(msgspec.Struct):
    """Every top-level member that any of the forms reads, undecoded."""

    model: msgspec.Raw = NOTHING
    stream: msgspec.Raw = NOTHING
    cache_salt: msgspec.Raw = NOTHING
    prompt: msgspec.Raw = NOTHING
    messages: msgspec.Raw = NOTHING
    tools: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING
    instructions: msgspec.Raw = NOTHING
    items: msgspec.Raw = NOTHING
    prompt_embeds: msgspec.Raw = NOTHING
    metadata: msgspec.Raw = NOTHING
    conversation: msgspec.Raw = NOTHING
    previous_response_id: msgspec.Raw = NOTHING
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


def parse(api: str, body: bytes) -> ParsedRequest:
    """Read the body of a request to a path that ends in `api`."""
    form = _FORMS[api]
    try:
        if form == "completions":
            short = _completion.decode(body)
            return _parsed(api, short.model, bool(short.stream), (short.prompt.encode(), 0), short.cache_salt or "")
        if form == "chat completions" and body.count(b"{") <= PARTS_MAX:
            chat = _chat.decode(body)
            if chat.messages:
                return _parsed(api, chat.model, bool(chat.stream), _chat_prompt(chat), chat.cache_salt or "")
    except (ValueError, RecursionError):
        pass  # the tolerant way says what is wrong, if anything is
    found = decode_body(_any, body, MALFORMED)
    model, prompt = text_of(found.model), _PROMPTS[form](found)
    whole = _parsed(api, model, bytes(found.stream) == b"true", prompt, text_of(found.cache_salt))
    elsewhere = form == "conversations" or (form == "responses" and _given(found.prompt))
    return msgspec.structs.replace(whole, rewritable=False) if elsewhere and not model else whole


Prompt = tuple[bytes, int]
"""A prompt or its beginning, and the length of the whole where it is only that."""

_UNREAD: Final[Prompt] = (b"", 0)
"""Prompt of a body that some server takes, and that says nothing here of what is cached."""


def _parsed(api: str, model: str, streamed: bool, prompt: Prompt, salt: str) -> ParsedRequest:
    text, whole = prompt
    return ParsedRequest(PARSER, api, model, True, streamed, text, whole, salt)


def _chat_prompt(chat: _Chat) -> Prompt:
    pieces = [bytes(chat.tools)]
    text: PromptText | None = None  # only where there is media: joining plain text takes 0.7 µs less
    add = pieces.append
    for message in chat.messages:
        add(message.role.encode())
        content = message.content
        if isinstance(content, str):
            add(content.encode())
        elif content:
            for part in content:
                add(part.text.encode())
                if _has_media(part):
                    if text is None:
                        text = PromptText()
                        add = text.add
                        for piece in pieces:
                            add(piece)
                    _add_media(text, part)
    return (b"".join(pieces), 0) if text is None else text.taken()


def _has_media(part: _ContentPart) -> bool:
    absent = part.image_url is part.video_url is part.audio_url is part.input_audio is NOTHING
    return not absent


def _add_media(text: PromptText, part: _ContentPart | _LoosePart) -> None:
    image, video = bytes(part.image_url), bytes(part.video_url)
    audio = bytes(part.audio_url) or bytes(part.input_audio)
    if image:
        text.add_media(image, IMAGE_TOKENS)
    if video:
        text.add_media(video, VIDEO_TOKENS)
    if audio:
        text.add_media(audio, min(len(audio) // 4, AUDIO_TOKENS_MAX))


def _completions_prompt(found: _Any) -> Prompt:
    data = bytes(found.prompt)
    if data[:1] == b'"':
        return text_of(found.prompt).encode(), 0
    if data[:1] == b"[":
        return _sequences(found.prompt)
    # vLLM takes a prompt's embeddings in its place, llama.cpp an object of text and pictures.
    if not _given(found.prompt_embeds) and (data[:1] != b"{" or value_of(found.prompt, _LlamaPrompt) is None):
        raise BadRequest("invalid completions request: must have prompt field")
    return _UNREAD


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
    if bytes(found.messages)[:1] == b"[" and crowded(bytes(found.messages)):
        return bytes(found.tools) + bytes(found.messages), 0
    messages = value_of(found.messages, list[_LooseMessage])
    if not messages:
        raise BadRequest("invalid chat completions request: must have valid messages field")
    text = PromptText()
    text.add(bytes(found.tools))
    for message in messages:
        text.add(text_of(message.role).encode())
        text.add(text_of(message.content).encode())
        for part in value_of(message.content, list[msgspec.Raw]) or ():
            block = value_of(part, _LoosePart) if bytes(part)[:1] == b"{" else None
            if block is not None:
                text.add(text_of(block.text).encode())
                _add_media(text, block)
    return text.taken()


def _embeddings_prompt(found: _Any) -> Prompt:
    if _given(found.input):
        return _sequences(found.input)
    # vLLM embeds a chat, which is how pictures get in.
    _need("invalid embeddings request: must have input field", found.messages)
    return _UNREAD


def _responses_prompt(found: _Any) -> Prompt:
    if _given(found.input):
        return bytes(found.instructions) + bytes(found.tools) + bytes(found.input), 0
    kept = found.prompt, found.conversation, found.previous_response_id, found.previous_input_messages
    _need("invalid responses request: must have input field", *kept)
    return _UNREAD


def _conversations_prompt(found: _Any) -> Prompt:
    _need("invalid conversations request: must have items field", found.items, found.metadata)
    return bytes(found.items), 0


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
