"""The client's model name put back into a response whose server was given another one.

Only the name's bytes change; the way there is `replace_model` of `core/parsers`.
"""

import json
import re

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
