"""Giving a body another model name without touching any other byte."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

# A string, a bracket, or whatever stands between them.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR: Final = re.compile(rb"[^ \t\r\n,}\]]+")
_MODEL: Final = b'"model"'


def replace_model(body: bytes, name: str) -> bytes:
    """The body with `name` as the value of every top-level `model`, or with that member put first.

    The body must be JSON that a parser accepted: an object or `null`.
    """
    value = msgspec.json.encode(name.encode("utf-8", "replace").decode())
    spans = list(_models(body))
    if not spans:
        start = body.find(b"{") + 1
        if not start:
            return b'{"model":' + value + b"}"
        comma = b"" if body[start:].lstrip(b" \t\r\n").startswith(b"}") else b","
        return body[:start] + _MODEL + b":" + value + comma + body[start:]
    pieces: list[bytes] = []
    end = 0
    for start, stop in spans:
        pieces += (body[end:start], value)
        end = stop
    return b"".join([*pieces, body[end:]])


def _models(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the values of the top-level members called `model` are."""
    depth = 0
    opened = -1
    """Offset at which the array or object begins that is being passed over; -1 outside of one."""
    wanted = -1
    """Offset at which the value of the latest `model` key begins; -1 before one was seen."""
    for token in _TOKEN.finditer(body):
        start, stop = token.span()
        character = body[start]
        if character == 0x22:
            if depth == 1 and wanted < 0 and (colon := _COLON.match(body, stop)) and _called_model(body[start:stop]):
                wanted = colon.end()
                scalar = _SCALAR.match(body, wanted)
                if scalar and body[wanted] not in b'"[{':
                    yield scalar.span()
                    wanted = -1
            elif depth == 1 and start == wanted:
                yield start, stop
                wanted = -1
        elif character in b"[{":
            if depth == 1 and start == wanted:
                opened = start
            depth += 1
        else:
            depth -= 1
            if depth == 1 and opened >= 0:
                yield opened, stop
                opened = wanted = -1


def _called_model(key: bytes) -> bool:
    if key == _MODEL:
        return True
    if b"\\" not in key:
        return False
    try:
        return bool(msgspec.json.decode(key) == "model")
    except ValueError:
        return False
