"""The client's model name put back into a response whose server was given another one.

Only the name's bytes change; the way there is `replace_model` of `core/parsers`.
"""

import json
import re

_KEY = b'"model"'
_BLANKS = b" \t\r\n"
_ENVELOPES = (b'"message"', b'"response"')
"""Keys of the objects that events of the Messages and the Responses API wrap."""
_KEY_MAX = 16
"""Bytes of a key that are kept: more than the longest of `_ENVELOPES`."""
_PASSED_MAX = 1 << 16
"""Bytes that are kept to be walked, should a name come."""
_QUOTE, _BRACE = b'"{'
_ONE_BRACE = re.compile(rb"[^{}\[\]]*\{[^{}\[\]]*")
"""What stands before a member of the object that begins it, where strings hold no brackets."""
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[\]{}]', re.DOTALL)
"""A string, to its end or to that of the piece, or a bracket."""
_STRING_END = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
_BLANKS_MAX = 64
"""Most blanks on either side of a colon that we look through: what is held back between two chunks is bounded."""


def _quoted(name: str) -> bytes:
    """The name as JSON: plain UTF-8 where it can be written so, escapes for lone surrogates."""
    try:
        return json.dumps(name, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(name).encode()


class _Nesting:
    """A place in JSON that is read piece by piece: how deep it is, and in what."""

    def __init__(self) -> None:
        self.fresh = True
        """Whether nothing was read yet."""
        self.depth = 0
        self.envelope = False
        """Whether the value at depth 1 is an object."""
        self.inner = False
        """Whether the value at depth 2 is an object called `message` or `response`."""
        self._within = False
        """Whether a string is open."""
        self._escaped = False
        """Whether the open string's next character has a backslash before it."""
        self._last = b""
        """The last string at depth 1, or its beginning: the key of what is opened next."""

    def in_envelope(self, events: bool) -> bool:
        """Whether a member that stands here is one of the document's, or of what an event wraps."""
        return not self._within and (self.envelope if self.depth == 1 else events and self.depth == 2 and self.inner)

    def walk(self, data: bytes) -> None:
        """Go on over the next piece."""
        if not data:
            return
        self.fresh = False
        start = 0
        if self._within:
            found = _STRING_END.match(data, int(self._escaped))
            assert found is not None, "the pattern matches anything"
            self._read_string(found, 0)
            start = found.end() + self._escaped
        for token in _TOKEN.finditer(data, start):
            character = data[token.start()]
            if character == _QUOTE:
                self._last = b""
                self._read_string(token, token.start())
            elif character in b"{[":
                self.depth += 1
                if self.depth == 1:
                    self.envelope = character == _BRACE
                elif self.depth == 2:
                    self.inner = character == _BRACE and self._last in _ENVELOPES
            else:
                self.depth -= 1

    def _read_string(self, found: re.Match[bytes], start: int) -> None:
        self._within = not found[1]
        self._escaped = self._within and found.end() < len(found.string)
        if self.depth == 1:
            self._last = (self._last + found.string[start : found.end()])[:_KEY_MAX]


class NameRestorer:
    """Puts the client's name back into a response, chunk by chunk.

    A `"model": "<the server's name>"` counts in the envelope alone: at the top of the document, or of an event and of
    its `message` or `response`.  What a model said, a tool's input for instance, stays.
    The end of a chunk that may be the start of one is held back until the next.
    Where a place is, is looked at only where there is a name: most chunks of a long answer have none.
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
        self.events = False
        """Whether the response is server-sent events: each line is a document."""
        self._nesting = _Nesting()
        self._passed = bytearray()
        """What was passed on of the document since `_nesting`."""

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """Return what can be passed on; at the end, all of it."""
        data = self._held + chunk
        pieces: list[bytes] = []
        at = done = behind = 0
        for found in self._pattern.finditer(data):
            start = found.start()
            at = self._line(data, at, start)
            between = data[at:start]
            if self._nesting.fresh and not self._passed and _ONE_BRACE.fullmatch(between):
                named = True  # by far the most usual place: behind a few plain members of an event or a document
            else:
                self._walk(between)
                at, named = start, self._nesting.in_envelope(self.events)
            if named:
                pieces += (data[done : found.end(1)], self._wanted)
                done = found.end()
            behind = found.end()
        keep = 0 if end else self._open_at_end(data[behind:] if behind else data)
        stop = len(data) - keep
        self._held = data[stop:]
        self._pass(data, at, stop)
        return b"".join([*pieces, data[done:stop]])

    def _walk(self, data: bytes) -> None:
        """Have `_nesting` be that behind what was passed on and `data`."""
        if self._passed:
            self._nesting.walk(bytes(self._passed))
            self._passed.clear()
        self._nesting.walk(data)

    def _pass(self, data: bytes, at: int, stop: int) -> None:
        """Keep what is passed on, to be walked should a name come."""
        at = self._line(data, at, stop)
        if at < stop:
            self._passed += data[at:stop]
            if len(self._passed) > _PASSED_MAX:
                self._walk(b"")

    def _line(self, data: bytes, at: int, stop: int) -> int:
        """Where the line of `stop` begins, if that is behind `at` and lines are documents."""
        if self.events:
            line = 1 + max(data.rfind(b"\n", at, stop), data.rfind(b"\r", at, stop))
            if line:
                if not self._nesting.fresh:
                    self._nesting = _Nesting()
                self._passed.clear()
                return line
        return at

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
