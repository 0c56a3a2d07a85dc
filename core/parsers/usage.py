"""What model servers answer: token counts, the first content, errors, of JSON or server-sent events in any pieces.

Nothing that a server sends is an error here: what is no count is no count.
Memory is bounded: of a longer document or line only the tail is kept, and `usage` is looked for in that.
Two readers: the strict one takes what nearly all answers are in 1.2 µs, where the loose one, which takes everything,
needs 6.0 µs for an answer of 2 kB.  What the strict one does not take goes to the loose one.
"""

import re
from collections import deque
from typing import Annotated, Final

import msgspec

from pointsman.core.parsers.stream_events import (
    UNNAMED_ERROR,
    error_in,
    has_content,
    response_id,
    response_id_at_start,
)

DOCUMENT_BYTES_MAX: Final = 1 << 20
"""Bytes of a JSON answer that is read whole: embeddings of a few hundred texts; longer ones end with `usage`."""
LINE_BYTES_MAX: Final = 1 << 16
"""Bytes of one line of events: deltas are small, and the last event of the Responses API ends with `usage`."""
_TAIL: Final = 1 << 14
"""Bytes that are kept of the end of a longer one: `usage` and the few members that may follow it."""
_LAST: Final = 8
_START_BYTES: Final = 1 << 10
"""Bytes of the beginning of a longer one that the answer's id is looked for in."""
_OBJECT_BYTES_MAX: Final = 1 << 12
"""Bytes of a `usage` object that is searched for: a dozen counts are 300 bytes."""
_COUNT_MAX: Final = 2**63 - 1
_MARK: Final = b"\xef\xbb\xbf"
"""Byte order mark, which may stand before a document and before a stream of events."""

_NOTHING: Final = msgspec.Raw()
# A quote inside a string has a backslash before it.
_START: Final = re.compile(rb'(?<!\\)"usage"[ \t\r\n]*:[ \t\r\n]*(?=\{)')
_OBJECT: Final = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*\{')
_BRACKET: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}]', re.DOTALL)
_ERROR: Final = re.compile(rb"error")
_ERROR_EVENT: Final = re.compile(rb"event: ?error[ ]*")
_NUMBER: Final = re.compile(rb'"?[ ]*\+?([0-9]{1,18})([.][0-9]{1,32})?([eE]\+?[0-9]{1,2})?[ ]*"?')


class Usage(msgspec.Struct, frozen=True):
    """Token counts; None where the server told none."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class _Details(msgspec.Struct):
    cached_tokens: msgspec.Raw = _NOTHING


class _Counts(msgspec.Struct):
    prompt_tokens: msgspec.Raw = _NOTHING
    input_tokens: msgspec.Raw = _NOTHING
    completion_tokens: msgspec.Raw = _NOTHING
    output_tokens: msgspec.Raw = _NOTHING
    prompt_tokens_details: msgspec.Raw = _NOTHING
    input_tokens_details: msgspec.Raw = _NOTHING
    cache_read_input_tokens: msgspec.Raw = _NOTHING


_Number = Annotated[int, msgspec.Meta(ge=0, le=_COUNT_MAX)] | None


class _PlainDetails(msgspec.Struct):
    cached_tokens: _Number = None


class _Plain(msgspec.Struct):
    """What nearly all answers hold: whole numbers under OpenAI's names."""

    prompt_tokens: _Number = None
    completion_tokens: _Number = None
    prompt_tokens_details: _PlainDetails | None = None
    input_tokens: msgspec.Raw = _NOTHING
    output_tokens: msgspec.Raw = _NOTHING
    input_tokens_details: msgspec.Raw = _NOTHING
    cache_read_input_tokens: msgspec.Raw = _NOTHING

    @property
    def usual(self) -> bool:
        """No other name is used."""
        return (
            self.input_tokens is self.output_tokens is _NOTHING
            and self.input_tokens_details is self.cache_read_input_tokens is _NOTHING
        )


class _PlainDocument(msgspec.Struct):
    """What nearly all answers are: their usage stands at the top, plainly."""

    usage: _Plain | None = None
    message: msgspec.Raw = _NOTHING
    response: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING

    @property
    def usual(self) -> bool:
        """The usage is in no other place, and under no other name."""
        return self.message is self.response is _NOTHING and (self.usage is None or self.usage.usual)


class _Inner(msgspec.Struct):
    """An envelope (`message` of the Messages API, `response` of the Responses API), a vendor's member, or a choice."""

    usage: msgspec.Raw = _NOTHING


_plain = msgspec.json.Decoder(_Plain)
_plain_document = msgspec.json.Decoder(_PlainDocument)
_counts = msgspec.json.Decoder(_Counts)
_details = msgspec.json.Decoder(_Details)
_inner = msgspec.json.Decoder(_Inner)
_choices = msgspec.json.Decoder(list[_Inner])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class UsageReader:
    """Reads one response; of each count the latest that was told stays."""

    def __init__(self, streaming: bool, identified: bool = False) -> None:
        self._identified = identified
        """Whether the answer has an id that is still to be read."""
        self.response_id = ""
        """Id of the answer, where it was asked for; of a document known once `usage` was asked."""
        self._streaming = streaming
        self._kept: bytes | bytearray = b""
        """The document, or the line that has not ended."""
        self._cut = False
        """Whether the beginning of the line is lost."""
        self._usage = Usage()
        self.begun = False
        """Whether an event with content came; of a document it is not asked."""
        self.error = ""
        """Words for what the server said went wrong while it answered; of a document known once `usage` was asked."""

    def feed(self, chunk: bytes) -> None:
        """The next piece of the body."""
        if not self._streaming:
            self._keep(chunk, DOCUMENT_BYTES_MAX)
            return
        end = chunk.rfind(b"\n")
        if end != len(chunk) - 1 and (end := max(end, chunk.rfind(b"\r"))) < 0:
            self._keep(chunk, LINE_BYTES_MAX)
            return
        lines = bytes(self._kept) + chunk[:end] if self._kept else chunk[:end]
        if not self.begun or _ERROR.search(lines):
            self._look_at(lines)
        if self._identified:
            self._identify(lines)
        if b'"usage"' in lines and _OBJECT.search(lines):  # most events say null, or nothing
            self._usage = _lines(lines, self._cut, self._usage)
        self._kept = chunk[end + 1 :]
        self._cut = False
        if self._kept:
            self._keep(b"", LINE_BYTES_MAX)

    def usage(self) -> Usage:
        """What was told so far; a last line without its end counts."""
        kept = bytes(self._kept)
        if self._streaming:
            if not self.begun or _ERROR.search(kept):
                self._look_at(kept)
            if self._identified:
                self._identify(kept)
            return _lines(kept, self._cut, self._usage)
        if self._cut:
            return _searched(kept, self._usage)
        kept = kept.removeprefix(_MARK)
        if self._identified:
            self._found(response_id(kept))
        plain = _plainly(kept)
        if plain is None or plain.error is not _NOTHING:
            self.error = error_in(kept)
        return _told(kept, plain, self._usage)

    def _keep(self, chunk: bytes, limit: int) -> None:
        if not self._kept:
            self._kept = chunk  # most answers come in one piece
        elif chunk:
            if isinstance(self._kept, bytes):
                self._kept = bytearray(self._kept)
            self._kept += chunk
        if len(self._kept) > (2 * _TAIL if self._cut else limit):
            if self._identified and not self._cut:
                self._found(response_id_at_start(bytes(self._kept[:_START_BYTES])))
            self._cut = True
            self._kept = self._kept[-_TAIL:]

    def _identify(self, lines: bytes) -> None:
        """Look for the id of the answer in the first events."""
        for line in lines.splitlines():
            line = line.removeprefix(_MARK)
            if self._identified and line.startswith(b"data:") and b'"response"' in line:
                self._found(response_id(line[5:]))

    def _found(self, response_id: str) -> None:
        self.response_id = response_id
        self._identified = not response_id

    def _look_at(self, lines: bytes) -> None:
        """Look for the first content, and for errors."""
        for number, line in enumerate(lines.splitlines()):
            if number == 0 and self._cut:
                self.begun = True  # the beginning of a line that long is not told any more
                continue
            line = line.removeprefix(_MARK)
            if line.startswith(b"data:"):
                self.begun = self.begun or has_content(line[5:])
                if b"error" in line and self.error in ("", UNNAMED_ERROR):
                    self.error = error_in(line[5:]) or self.error
            elif not self.error and _ERROR_EVENT.fullmatch(line):
                self.error = UNNAMED_ERROR


def _lines(lines: bytes, cut: bool, known: Usage) -> Usage:
    """The counts in the `data:` of these lines; the first may be the tail of one whose beginning is lost."""
    for number, line in enumerate(lines.splitlines()):
        if cut and number == 0:
            known = _searched(line, known)
            continue
        line = line.removeprefix(_MARK)
        if line.startswith(b"data:") and _OBJECT.search(line):
            known = _told(line[5:], _plainly(line[5:]), known)
    return known


def _plainly(document: bytes) -> _PlainDocument | None:
    """The document, if it is what nearly all are."""
    try:
        return _plain_document.decode(document)
    except (ValueError, RecursionError):
        return None


def _told(document: bytes, plain: _PlainDocument | None, known: Usage) -> Usage:
    """The counts in the places where servers put them; anywhere, where the document is no JSON object."""
    if plain is not None and plain.usual and (plain.usage is not None or b'"usage"' not in document):
        return known if plain.usage is None else _latest(plain.usage, known)
    return _told_anywhere(document, known)


def _told_anywhere(document: bytes, known: Usage) -> Usage:
    """The counts at the top, in an envelope or a vendor's member, and in choices: no deeper, where tools' inputs are."""
    try:
        members = _members.decode(document)
        known = _counted(bytes(members.get("usage", _NOTHING)), known)
        for name, member in members.items():
            data = bytes(member)
            if b'"usage"' not in data or name == "usage":
                continue
            if data[:1] == b"{":
                known = _counted(bytes(_inner.decode(data).usage), known)
            elif name == "choices":
                for choice in _choices.decode(data):
                    known = _counted(bytes(choice.usage), known)
    except (ValueError, RecursionError):
        return _searched(document, known)
    return known


def _searched(text: bytes, known: Usage) -> Usage:
    """The counts of the last `usage` objects that are whole, wherever they stand."""
    for start in deque(_START.finditer(text), maxlen=_LAST):
        depth = 0
        for token in _BRACKET.finditer(text, start.end(), start.end() + _OBJECT_BYTES_MAX):
            character = text[token.start()]
            depth += (character == 0x7B) - (character == 0x7D)
            if not depth:
                known = _counted(text[start.end() : token.end()], known)
                break
    return known


def _counted(usage: bytes, known: Usage) -> Usage:
    if usage[:1] != b"{":
        return known
    try:
        plain = _plain.decode(usage)
    except (ValueError, RecursionError):
        return _counted_slowly(usage, known)
    if not plain.usual:
        return _counted_slowly(usage, known)
    return _latest(plain, known)


def _latest(plain: _Plain, known: Usage) -> Usage:
    details = plain.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    return Usage(
        known.prompt_tokens if plain.prompt_tokens is None else plain.prompt_tokens,
        known.completion_tokens if plain.completion_tokens is None else plain.completion_tokens,
        known.cached_tokens if cached is None else cached,
    )


def _counted_slowly(usage: bytes, known: Usage) -> Usage:
    """The same for other names, and for numbers that are spelled in other ways."""
    try:
        found = _counts.decode(usage)
    except (ValueError, RecursionError):
        return known
    cached = [_cached(found.prompt_tokens_details), _cached(found.input_tokens_details)]
    return Usage(
        _first(_count(found.prompt_tokens), _count(found.input_tokens), known.prompt_tokens),
        _first(_count(found.completion_tokens), _count(found.output_tokens), known.completion_tokens),
        _first(*cached, _count(found.cache_read_input_tokens), known.cached_tokens),
    )


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _cached(details: msgspec.Raw) -> int | None:
    if bytes(details)[:1] != b"{":
        return None
    try:
        return _count(_details.decode(details).cached_tokens)
    except (ValueError, RecursionError):
        return None


def _count(raw: msgspec.Raw) -> int | None:
    """A count of 0 or more that fits an event: a number, with a fraction cut off, or a text that is one."""
    number = _NUMBER.fullmatch(bytes(raw))
    if number is None:
        return None
    whole, fraction, exponent = number.groups()
    count = int(float(whole + (fraction or b"") + exponent)) if exponent else int(whole)
    return count if count <= _COUNT_MAX else None
