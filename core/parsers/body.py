"""JSON bodies as clients send them: decoded strictly and fast, or tolerantly where that fails.

Tolerated is what the Go EPP tolerates: bytes that are not UTF-8 inside strings, lone surrogates, numbers of any size.
The bytes that go on to the server are the client's, whatever is read from them here.
"""

import re
import struct
from typing import Final, TypeVar

import msgspec
import xxhash

LEVELS: Final = 512
"""Nesting that is always accepted; how much deeper it may be depends on the interpreter."""


class BadRequest(Exception):
    """The client's body is wrong; the message goes to the client.  Called as the code on the wire is."""


class ParsedRequest(msgspec.Struct, frozen=True):
    """What a body tells of its request."""

    parser: str
    """The parser's type."""
    api: str = ""
    """The path suffix that chose the form of the body; empty where nothing was read."""
    model: str = ""
    """Empty where the body names none."""
    rewritable: bool = False
    """The body must name a model, and can be given another one."""
    streamed: bool = False
    prompt: bytes = b""
    """What prefix hashes are made of."""
    salt: str = ""
    """Requests with different salts share no prefix."""
    skipped: bool = False
    """The response is of no interest."""


Body = TypeVar("Body", bound=msgspec.Struct)
JsonValue = TypeVar("JsonValue")

NOTHING: Final = msgspec.Raw()

# Escapes of surrogates without their other half, where no backslash is escaped.
_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..", re.DOTALL
)
_KINDS: Final = {"[": "array", '"': "string", "t": "bool", "f": "bool"}


def decode_body(decoder: msgspec.json.Decoder[Body], body: bytes, prefix: str) -> Body:
    """The body as `decoder` sees it; `BadRequest` begins with `prefix` and says what is wrong."""
    try:
        return decoder.decode(body)
    except RecursionError:
        raise BadRequest(f"{prefix}found nesting too deep, wanted at most {LEVELS} levels") from None
    except ValueError:
        pass
    text = tolerated(body)
    try:
        return decoder.decode(text)
    except RecursionError:
        raise BadRequest(f"{prefix}found nesting too deep, wanted at most {LEVELS} levels") from None
    except ValueError as error:
        raise BadRequest(prefix + _what(text.strip(b" \t\r\n"), error)) from None


def tolerated(body: bytes) -> bytes:
    """The body with replacement characters for what is no Unicode; `null` is an empty object."""
    if body.strip(b" \t\r\n") == b"null":
        return b"{}"
    text = body.decode("utf-8", "replace").encode()
    if b"\\u" not in text:
        return text
    return _SURROGATE.sub(rb"\\ufffd", text.replace(rb"\\", rb"\u005c"))


def _what(text: bytes, error: Exception) -> str:
    if not text:
        return "unexpected end of JSON input"
    message = str(error)
    first = text[:1].decode("utf-8", "replace")
    if message.startswith("Expected `object`"):
        return f"json: cannot unmarshal {_KINDS.get(first, 'number')} into Go value of type map[string]interface {{}}"
    if "truncated" in message:
        return "unexpected end of JSON input"
    return message.removeprefix("JSON is malformed: ")


def value_of(raw: msgspec.Raw, kind: type[JsonValue]) -> JsonValue | None:
    """The value where it is of that kind, None for any other."""
    data = bytes(raw)
    if not data:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError:  # what is not decoded is not checked for it either
        return value_of(msgspec.Raw(tolerated(data)), kind)
    except (ValueError, RecursionError):
        return None


def text_of(raw: msgspec.Raw) -> str:
    """The string, or nothing where it is none."""
    return value_of(raw, str) or ""


def token_bytes(ids: list[int]) -> bytes | None:
    """Token ids as 4 bytes each; None where one does not fit."""
    try:
        return struct.pack(f"<{len(ids)}I", *ids)
    except struct.error:
        return None


def placeholder(data: bytes, tokens: int) -> bytes:
    """A run that stands for an image, a video or a sound, as long as its tokens are."""
    return struct.pack("<I", xxhash.xxh64_intdigest(data) & 0xFFFFFFFF) * tokens


def aligned(text: bytes) -> bytes:
    """`text` filled up to whole tokens of 4 bytes."""
    return text + bytes(-len(text) % 4)
