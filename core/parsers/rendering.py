"""What a server may render into a prompt, in one form whichever way a client spells it.

A chat template sees the whole of a message, so all of it is hashed: every member of a message and of its parts, by
rule and not by a list of names, but those of `NOT_RENDERED`.  A member without a value is as good as absent, as it is
to templates; a text stands for a part that has nothing but that text.  What is no text is written as JSON with sorted
keys and without spaces, so that neither their order nor escapes count.
What stands before the messages is in the order in which it is shared: settings of a template and tools are those of an
application, the system text is often a user's, and only then come the messages.
"""

import struct
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
import xxhash

from pointsman.core.parsers.body import NOTHING, crowded, tolerated, value_of
from pointsman.core.prefix.prompt_blocks import PROMPT_BYTES_MAX

Prompt = tuple[bytes, int]
"""A prompt or its beginning, and the length of the whole where it is only that."""

NOT_RENDERED: Final = frozenset(
    ("annotations", "cache_control", "citations", "encrypted_content", "logprobs", "signature", "status")
)
"""Members that no template renders: marks for caches, and what answers say of themselves, which clients send back."""

IMAGE_TOKENS: Final = 225
"""Tokens counted for an image of unknown size: 640 by 360 pixels at 1,024 pixels a token, the Go EPP's estimate."""
VIDEO_TOKENS: Final = 2 * 10 * IMAGE_TOKENS
"""Two frames a second, ten seconds."""
DATA_TOKENS_MAX: Final = 1 << 16
"""Tokens counted at most for one sound or file, which has as many as its data is long: more than any block holds."""

_MEDIA: Final = {
    "image_url": IMAGE_TOKENS,
    "image": IMAGE_TOKENS,
    "image_embeds": IMAGE_TOKENS,
    "source": IMAGE_TOKENS,
    "video_url": VIDEO_TOKENS,
    "video": VIDEO_TOKENS,
    "audio_url": 0,
    "input_audio": 0,
    "audio": 0,
    "file": 0,
    "file_data": 0,
}
"""Members that stand for an image, a video, a sound or a file, with their tokens; 0 where these go by the length."""

_LEVELS: Final = 4
"""Levels of content in content that are read part by part: results of tools have two; deeper ones are JSON."""
_MEMBER, _MESSAGE = b"\x1f", b"\x1e"
"""Ends of a role or a part, and of a message: control characters, which the text of people and JSON do not have."""

_BILLING: Final = "x-anthropic-billing-header"
"""Begins a system block that differs from request to request and is not part of the prompt."""

_ABSENT: Final = (b"", b"null", b"[]", b"{}", b'""', b"false")
"""Settings without a value."""

_SHORT: Final = 4096
"""Characters of a text that is put together with what surrounds it: a longer one is not copied once more."""

_TOOLS_KEPT: Final = 64
"""Lists of tools kept in their one form, because an application sends the same with each request."""
_TOOLS_BYTES_MAX: Final = 1 << 16
"""Bytes of such a list; longer ones are written anew each time."""

_decode = msgspec.json.Decoder(Any).decode
_encode = msgspec.json.Encoder(order="sorted").encode
_tools: dict[bytes, bytes] = {}


class Settings(msgspec.Struct, kw_only=True):
    """Members of a request beside its prompt that servers render into it, or that separate their caches.

    What only allows or forbids tokens of the answer, like `response_format`, or adds some behind the last message, is
    no part of what requests share.
    """

    tools: msgspec.Raw = NOTHING
    chat_template: msgspec.Raw = NOTHING
    chat_template_kwargs: msgspec.Raw = NOTHING
    conversation: msgspec.Raw = NOTHING
    documents: msgspec.Raw = NOTHING
    extra_key: msgspec.Raw = NOTHING
    """Separator of caches in SGLang, as `cache_salt` is elsewhere."""
    functions: msgspec.Raw = NOTHING
    lora_path: msgspec.Raw = NOTHING
    """Adapter in SGLang, which caches for each of them apart."""
    mm_processor_kwargs: msgspec.Raw = NOTHING
    previous_response_id: msgspec.Raw = NOTHING
    reasoning: msgspec.Raw = NOTHING
    reasoning_effort: msgspec.Raw = NOTHING

    @property
    def plain(self) -> bool:
        """Whether none of them is there."""
        values = _values(self)
        return values.count(NOTHING) == len(values)


_NAMES: Final = Settings.__struct_fields__
_values: Final = attrgetter(*_NAMES)


class PromptText:
    """A prompt put together from its parts, each copied once.

    Beyond `PROMPT_BYTES_MAX` parts are only counted.  A part that stands for an image, a video or a sound begins at a
    whole token of 4 bytes, and is as long as its tokens are.
    """

    def __init__(self, settings: Settings) -> None:
        self.bytes = 0
        """Length of the prompt, what is only counted included."""
        self._parts: list[bytes] = []
        if not settings.plain:
            self._add_settings(settings)

    def taken(self) -> Prompt:
        """The prompt or its beginning, and the length of the whole where it is only that, 0 elsewhere."""
        text = b"".join(self._parts)
        return text, self.bytes if self.bytes > len(text) else 0

    def add(self, part: bytes) -> None:
        """Append a piece of text."""
        if self.bytes < PROMPT_BYTES_MAX:
            self._parts.append(part)
        self.bytes += len(part)

    def add_message(self, message: Mapping[str, Any], ignored: frozenset[str] = NOT_RENDERED) -> None:
        """Append a message; `ignored` are members that are no part of the prompt."""
        role, content = message.get("role"), message.get("content")
        members = len(message)
        if isinstance(role, str):
            members -= 1
            if members == 1 and isinstance(content, str) and len(content) < _SHORT:
                self.add(f"{role}\x1f{content}\x1e".encode())
                return
            self.add(role.encode() + _MEMBER)
        if isinstance(content, str | list):
            members -= 1
            self.add_content(content)
        if members:
            self._add_members({k: v for k, v in message.items() if v and k not in ignored and not _read(k, v)})
        self.add(_MESSAGE)

    def add_messages(self, raw: bytes) -> bool:
        """Append a list of messages, as JSON; False where it is none, or empty, or has something else in it."""
        if raw[:1] == b"[" and crowded(raw):
            self.add(raw)
            return True
        messages = value_of(msgspec.Raw(raw), list[msgspec.Raw])
        if not messages or not all(bytes(message).startswith(b"{") for message in messages):
            return False
        for message in messages:
            read = decoded(bytes(message))
            if isinstance(read, dict):
                self.add_message(read)
            else:
                self.add(bytes(message))
        return True

    def add_system(self, raw: bytes) -> None:
        """Append a text or parts that stand before the messages, as JSON."""
        content = decoded(raw)
        if content is None:
            self.add(raw + _MESSAGE)
            return
        if isinstance(content, list):
            content = [part for part in content if not (isinstance(part, dict) and _billed(part.get("text")))]
        if content:
            self.add_message({"role": "system", "content": content})

    def add_content(self, content: str | list[Any], levels: int = _LEVELS) -> None:
        """Append a text, or parts."""
        if isinstance(content, str):
            self.add(content.encode())
            return
        for i, part in enumerate(content):
            if i:
                self.add(_MEMBER)
            if isinstance(part, dict):
                self._add_part(part, levels)
            else:
                self.add(part.encode() if isinstance(part, str) else _encode(part))

    def _add_part(self, part: dict[str, Any], levels: int) -> None:
        words = part.get("text")
        if isinstance(words, str):
            self.add(words.encode())
            if len(part) == 2 and "type" in part:
                return
        rest: dict[str, Any] = {}
        media: list[tuple[int, Any]] = []
        inner: str | list[Any] = ""
        for name, value in part.items():
            if not value or name in NOT_RENDERED or value is words:
                continue
            if name in _MEDIA and not (isinstance(value, dict) and value.get("type") == "text"):
                media.append((_MEDIA[name], value))
            elif name == "content" and levels and isinstance(value, str | list):
                inner = value
            else:
                rest[name] = value
        if media or words:
            rest.pop("type", None)  # the text or the picture says what the part is
        self._add_members(rest)
        for tokens, value in media:
            self._add_media(_address(value), tokens)
        self.add_content(inner, levels - 1)

    def _add_members(self, members: dict[str, Any]) -> None:
        if members:
            self.add(_MEMBER + _encode(members))

    def _add_media(self, data: bytes, tokens: int) -> None:
        """Append a run that stands for `data`, which is hashed."""
        tokens = tokens or min(len(data) // 4, DATA_TOKENS_MAX)
        self.add(bytes(-self.bytes % 4))
        if self.bytes < PROMPT_BYTES_MAX:
            self.add(struct.pack("<I", xxhash.xxh64_intdigest(data) & 0xFFFFFFFF) * tokens)
        else:
            self.bytes += 4 * tokens

    def _add_settings(self, settings: Settings) -> None:
        for name, raw in zip(_NAMES, _values(settings), strict=True):
            if name != "tools" and (value := in_one_form(bytes(raw))) not in _ABSENT:
                self.add(name.encode() + _MEMBER + value + _MESSAGE)
        if (tools := _tools_in_one_form(bytes(settings.tools))) not in _ABSENT:
            self.add(tools + _MESSAGE)


def _billed(words: object) -> bool:
    return isinstance(words, str) and words.startswith(_BILLING)


def _read(name: str, value: object) -> bool:
    """Whether a member of a message is read by itself; an item with a role is a message whether or not it says so."""
    if name == "role":
        return isinstance(value, str)
    if name == "content":
        return isinstance(value, str | list)
    return name == "type" and value == "message"


def _address(value: Any) -> bytes:
    """The bytes that tell one image or sound from another."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(url := value.get("url"), str):
        value = url
    return value.encode() if isinstance(value, str) else _encode(value)


def decoded(raw: bytes) -> Any:
    """A JSON value; None where it cannot be decoded, or holds too much to be looked at."""
    try:
        return None if crowded(raw) else _decode(raw)
    except UnicodeDecodeError:  # what is not decoded is not checked for it either
        return decoded(tolerated(raw))
    except (ValueError, RecursionError):
        return None


def in_one_form(raw: bytes) -> bytes:
    """A JSON value with sorted keys, without spaces and needless escapes; as it stands where it cannot be decoded."""
    value = decoded(raw) if raw else None
    return raw if value is None else _encode(value)


def _tools_in_one_form(raw: bytes) -> bytes:
    found = _tools.get(raw)
    if found is None:
        tools = decoded(raw)
        found = _encode(list(_rendered(tools))) if isinstance(tools, list) else raw
        if len(raw) <= _TOOLS_BYTES_MAX:
            if len(_tools) >= _TOOLS_KEPT:
                _tools.clear()
            _tools[raw] = found
    return found


def _rendered(tools: Iterable[Any]) -> Iterable[Any]:
    for tool in tools:
        yield {k: v for k, v in tool.items() if k not in NOT_RENDERED} if isinstance(tool, dict) else tool
