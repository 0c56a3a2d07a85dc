"""JSON bodies as clients send them: decoded strictly and fast, or tolerantly where that fails.

Tolerated is what the Go EPP tolerates: bytes that are not UTF-8 inside strings, lone surrogates, numbers of any size.
The bytes that go on to the server are the client's, whatever is read from them here.
"""

import re
import struct
from typing import Final, TypeVar

import msgspec
import numpy as np

LEVELS: Final = 512
"""Nesting that is always accepted; how much deeper it may be depends on the interpreter."""


PARTS_MAX: Final = 4096
"""Objects and arrays in a prompt that are read one by one; a prompt with more is hashed as it stands in the body."""
MEMBERS_MAX: Final = 1 << 15
"""Commas in such a prompt, for the same reason: numbers and strings in a list cost less, but not nothing."""
SURROGATES_MAX: Final = 1 << 16
"""Lone surrogates that are replaced in a body; one with more is malformed."""
TOKEN_TEXT_MAX: Final = 2 << 20
"""Bytes of a list of token ids that are read: some 350,000 ids."""


_OPENING, _BRACKET, _COMMA = np.uint8(0x5B), np.uint8(0xDF), np.uint8(0x2C)
"""`[`; what of a character tells it from all others but `{`; and `,`."""

_PIECE: Final = 1 << 16
"""Bytes of a body that are counted together: they stay in the processor's cache."""


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
    """Bytes that prefix hashes are made of."""
    prompt_bytes: int = 0
    """Length of the whole prompt where `prompt` is only its beginning; 0 where it is all of it."""
    salt: str = ""
    """Requests with different salts share no prefix."""
    continues: str = ""
    """Id of what a server keeps, which the request goes on from or asks for; empty for none."""
    kept: bool = False
    """Whether the server keeps its answer, under the id in it."""


Body = TypeVar("Body", bound=msgspec.Struct)
JsonValue = TypeVar("JsonValue")

NOTHING: Final = msgspec.Raw()

# Escapes of surrogates without their other half, where no backslash is escaped.
_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..", re.DOTALL
)
_KINDS: Final = {"[": "array", '"': "string", "t": "bool", "f": "bool"}


def crowded(data: bytes) -> bool:
    """Whether there is too much in a value for each member to be read by itself: see `PARTS_MAX`.

    One request may not hold up the others, and a few bytes make a member.  Counting costs next to nothing.
    """
    if len(data) <= 2 * PARTS_MAX:
        return False  # each takes two bytes at least
    parts = members = 0
    characters = np.frombuffer(data, np.uint8)  # counts in a tenth of the time of `bytes.count`
    for start in range(0, len(data), _PIECE):
        piece = characters[start : start + _PIECE]
        parts += int(np.count_nonzero(piece & _BRACKET == _OPENING))
        members += int(np.count_nonzero(piece == _COMMA))
        if parts > PARTS_MAX or members > MEMBERS_MAX:
            return True
    return False


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
    return _SURROGATE.sub(rb"\\ufffd", text.replace(rb"\\", rb"\u005c"), SURROGATES_MAX)


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


def token_list(raw: msgspec.Raw) -> tuple[bytes, int] | None:
    """The ids of a flat list of tokens as 4 bytes each, with the length of the whole where they are only its beginning.

    None where it is no list of whole numbers from 0 to 2^32 - 1, or an empty one.
    """
    data = bytes(raw)
    if data.count(b"[") != 1:
        return None
    cut = len(data) > TOKEN_TEXT_MAX
    ids = value_of(msgspec.Raw(data[: data.rfind(b",", 0, TOKEN_TEXT_MAX)] + b"]") if cut else raw, list[int])
    packed = token_bytes(ids) if ids else None
    return None if packed is None else (packed, 4 * (data.count(b",") + 1) if cut else 0)
