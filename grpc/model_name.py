"""Another model name for the server than the client wrote: in the request's body, and back in the response's.

Only the name's bytes change.  Both work on bytes, so escapes, blanks, numbers and what is not UTF-8 stay as they came.
"""

import json
import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]', re.DOTALL)
_KEY = b'"model"'
_BLANKS = b" \t\r\n"
_BLANKS_MAX = 64
"""Most blanks on either side of a colon that we look through: what is held back between two chunks is bounded."""


def _quoted(name: str) -> bytes:
    """The name as JSON: plain UTF-8 where it can be written so, escapes for lone surrogates."""
    try:
        return json.dumps(name, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(name).encode()


def rename_request(body: bytes, name: str) -> bytes:
    """Return the JSON object `body` with `name` as its model: each top-level value in place, or a new first key."""
    wanted = _quoted(name)
    pieces: list[bytes] = []
    copied = depth = 0
    key: bytes | None = None
    value_at = -1
    start = body.find(b"{")
    for token in _TOKEN.finditer(body):
        kind = token.group()
        if kind in (b"{", b"["):
            depth += 1
        elif kind in (b"}", b"]"):
            depth -= 1
        if depth == 1 and kind == b":" and value_at < 0:
            value_at = token.end() if key is not None and _is_model(key) else -1
        elif (depth == 1 and kind == b",") or depth == 0:
            if value_at >= 0:
                pieces += (body[copied:value_at], _with_blanks(body[value_at : token.start()], wanted))
                copied, value_at = token.start(), -1
            key = None
        elif depth == 1 and kind[:1] == b'"' and key is None:
            key = kind
    if start < 0:  # `null`, which counts as an object without fields
        return b'{"model":' + wanted + b"}"
    if not pieces:
        rest = body[start + 1 :]
        comma = b"" if rest.lstrip(_BLANKS)[:1] == b"}" else b","
        return body[: start + 1] + b'"model":' + wanted + comma + rest
    return b"".join((*pieces, body[copied:]))


def _is_model(key: bytes) -> bool:
    return key == _KEY or (b"\\" in key and json.loads(key) == "model")


def _with_blanks(old: bytes, new: bytes) -> bytes:
    """`new` between the blanks that `old` has around it."""
    stripped = old.strip(_BLANKS)
    before = old.find(stripped) if stripped else len(old)
    return old[:before] + new + old[before + len(stripped) :]


class NameRestorer:
    """Puts the client's name back into a response, chunk by chunk.

    Each `"model": "<the server's name>"` counts, wherever it stands.
    The end of a chunk that may be the start of one is held back until the next.
    """

    def __init__(self, sent: str, wanted: str) -> None:
        ascii_only, plain = json.dumps(sent).encode(), _quoted(sent)
        spelled = {ascii_only, plain, ascii_only.replace(b"/", b"\\/"), plain.replace(b"/", b"\\/")}
        self._spellings = sorted(spelled, key=lambda s: (-len(s), s))
        blanks = rb"[ \t\r\n]{0,%d}" % _BLANKS_MAX
        values = b"|".join(re.escape(s) for s in self._spellings)
        self._pattern = re.compile(rb'("model"' + blanks + b":" + blanks + b")(?:" + values + b")")
        self._wanted = _quoted(wanted)
        self._held = b""

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """Return what can be passed on; at the end, all of it."""
        data = self._pattern.sub(lambda found: found.group(1) + self._wanted, self._held + chunk)
        keep = 0 if end else self._open_at_end(data)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def _open_at_end(self, data: bytes) -> int:
        """How many last bytes may be the beginning of a match."""
        at = data.rfind(_KEY)
        if at >= 0 and self._may_begin(data[at + len(_KEY) :]):
            return len(data) - at
        for length in range(min(len(_KEY) - 1, len(data)), 0, -1):
            if _KEY.startswith(data[-length:]):
                return length
        return 0

    def _may_begin(self, rest: bytes) -> bool:
        """Whether `rest`, found after the key, is a proper beginning of colon and value."""
        for wanted in (b":", b""):
            stripped = rest.lstrip(_BLANKS)
            if len(rest) - len(stripped) > _BLANKS_MAX:
                return False
            if not stripped:
                return True
            if wanted:
                if not stripped.startswith(wanted):
                    return False
                rest = stripped[1:]
        return any(len(stripped) < len(s) and s.startswith(stripped) for s in self._spellings)
