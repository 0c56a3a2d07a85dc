"""Giving a body another model name without touching any other byte.

The decoder says where the top-level members are: it gives the value of each as it stands in the body, so the next one
begins where the last ends.  That fails where a member comes twice, because the decoder keeps the last one alone.  Such a
body is walked string by string and bracket by bracket, in Python, unless it holds so many of them that the walk would
hold up other requests; then the new name is put behind all members, where decoders find it last.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

WALK_MAX: Final = 4096
"""Quotes and brackets of a body that is walked, at 1 µs each, and members of an object whose places are told one by one."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KEY: Final = re.compile(rb'[ \t\r\n]*("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_NEXT: Final = re.compile(rb"[ \t\r\n]*[,}]")

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
    spans = _told(body)
    if spans is None:
        if sum([body.count(mark) for mark in (b'"', b"[", b"{")]) > WALK_MAX:
            end = body.rfind(b"}")
            return body[:end] + b"," + _MODEL + b":" + value + body[end:]
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


def _told(body: bytes) -> list[tuple[int, int]] | None:
    """Where the value of the top-level `model` is, by the decoder; None where it cannot tell."""
    try:
        members = _members.decode(body)
    except (ValueError, RecursionError):
        return None
    if len(members) > WALK_MAX:
        return None
    spans: list[tuple[int, int]] = []
    at = body.find(b"{") + 1
    for name, raw in members.items():
        key, value = _KEY.match(body, at), bytes(raw)
        if key is None or not body.startswith(value, key.end()):
            return None
        if name == "model":
            spans.append((key.end(), key.end() + len(value)))
        following = _NEXT.match(body, key.end() + len(value))
        if following is None or not _called(key[1], name):
            return None
        at = following.end()
    return spans if not members or body[at - 1 : at] == b"}" else None


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
            if depth == 1 and wanted < 0 and (colon := _COLON.match(body, stop)) and _called(body[start:stop], "model"):
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


def _called(key: bytes, name: str) -> bool:
    """Whether a key as it stands in the body is `name`."""
    if b"\\" not in key:
        return key[1:-1] == name.encode()
    try:
        return bool(msgspec.json.decode(key) == name)
    except ValueError:
        return False
