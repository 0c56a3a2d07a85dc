"""What an event of a streamed answer is: content, an error, or neither.

Servers send many events that are no token: comments that keep a connection open, the role of who is to speak, the
frame of a message.  They are told by their shape, in every API; an event of a shape that nobody knows is content.
An event is given as the text behind its `data:`.
"""

import re
from typing import Final

import msgspec

from pointsman.core.parsers.body import NOTHING, text_of, value_of
from pointsman.core.parsers.path import ID_CHARACTERS_MAX, short_id

ERROR_CHARACTERS_MAX: Final = 200
"""Characters that are kept of what a server says went wrong."""
UNNAMED_ERROR: Final = "error"
"""Error of which the server says no more than that it is one."""

_DONE: Final = b"[DONE]"
_EMPTY: Final = frozenset((b"", b"null", b'""', b"[]", b"{}", b"false"))
_FRAME: Final = re.compile(r"(?:start|started|stop|created|queued|in_progress|added|done|completed|ping|alive|beat)\Z")
"""Ends of the types of events that frame content, in the Messages and the Responses API and in heartbeats."""
_QUIET: Final = frozenset(("message_delta", "error", "response.failed", "response.incomplete", "message-end"))
_ID_AT_START: Final = re.compile(
    rb'[^{]{0,8}\{[^{}]{0,128}?(?:"response"[ ]*:[ ]*\{[ ]*)?"id"[ ]*:[ ]*("[^"\\]{1,%d}")' % ID_CHARACTERS_MAX
)
"""An id that is the first member of a document, or of the response in an event, maybe behind the event's type."""
_PARTS: Final = ("role", "type", "index")
"""Members of a delta or a block that are no content."""


class _Choice(msgspec.Struct):
    text: msgspec.Raw = NOTHING
    delta: msgspec.Raw = NOTHING
    token_ids: msgspec.Raw = NOTHING
    finish_reason: msgspec.Raw = NOTHING


class _StreamEvent(msgspec.Struct):
    type: msgspec.Raw = NOTHING
    object: msgspec.Raw = NOTHING
    choices: msgspec.Raw = NOTHING
    delta: msgspec.Raw = NOTHING
    content_block: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING
    message: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING


class _Failed(msgspec.Struct):
    error: msgspec.Raw = NOTHING


class _Problem(msgspec.Struct):
    message: msgspec.Raw = NOTHING


class _Identified(msgspec.Struct):
    id: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING


_identified = msgspec.json.Decoder(_Identified)
_event = msgspec.json.Decoder(_StreamEvent)


def has_content(data: bytes) -> bool:
    """Whether an event holds something that the model said."""
    data = data.strip()
    if data == _DONE or data in _EMPTY:
        return False
    try:
        event = _event.decode(data)
    except (ValueError, RecursionError):
        return True
    if _given(event.error) or bytes(event.object) == b'"error"':
        return False
    if event.choices is not NOTHING:
        choices = value_of(event.choices, list[_Choice])
        return choices is None or any(map(_says, choices))
    kind = text_of(event.type)
    if kind == "content_block_start":
        block = event.content_block
        return b'"tool_use"' in bytes(block) or _filled(block, ("text", "thinking"))
    if kind in _QUIET or _FRAME.search(kind):
        return False
    return event.delta is NOTHING or (_filled(event.delta) if bytes(event.delta)[:1] == b"{" else _given(event.delta))


def error_in(data: bytes) -> str:
    """What an event, or a whole answer, says went wrong; empty where it is no error."""
    try:
        event = _event.decode(data.strip())
    except (ValueError, RecursionError):
        return ""
    if _given(event.error):
        return _told(event.error)
    kind = text_of(event.type)
    if "error" in (kind, text_of(event.object)):
        return text_of(event.message)[:ERROR_CHARACTERS_MAX] or UNNAMED_ERROR
    if kind == "response.failed":
        failed = value_of(event.response, _Failed)
        return _told(failed.error) if failed is not None else UNNAMED_ERROR
    choices = value_of(event.choices, list[_Choice]) if event.choices is not NOTHING else None
    failed_choice = any(text_of(choice.finish_reason) == "error" for choice in choices or ())
    return UNNAMED_ERROR if failed_choice else ""


def response_id(data: bytes) -> str:
    """The id of a whole answer, or of the one that an event of the Responses API is about; empty where it has none."""
    try:
        found = _identified.decode(data.strip())
    except (ValueError, RecursionError):
        return ""
    whole = value_of(found.response, _Identified) if found.response is not NOTHING else found
    return "" if whole is None else short_id(text_of(whole.id))


def response_id_at_start(data: bytes) -> str:
    """The same of the beginning of a long document or line, where servers put it."""
    found = _ID_AT_START.match(data)
    return text_of(msgspec.Raw(found[1])) if found is not None else ""


def _told(error: msgspec.Raw) -> str:
    """The words of an error: those of its member `message`, or its own."""
    problem = value_of(error, _Problem) if bytes(error)[:1] == b"{" else None
    words = text_of(error) if problem is None else text_of(problem.message)
    return (words or bytes(error).decode("utf-8", "replace"))[:ERROR_CHARACTERS_MAX].strip() or UNNAMED_ERROR


def _says(choice: _Choice) -> bool:
    return _given(choice.text) or _given(choice.token_ids) or _filled(choice.delta)


def _filled(raw: msgspec.Raw, names: tuple[str, ...] = ()) -> bool:
    """Whether an object has a member with content, one of `names` where there are any."""
    members = value_of(raw, dict[str, msgspec.Raw]) or {}
    return any(_given(value) for name, value in members.items() if (name in names if names else name not in _PARTS))


def _given(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in _EMPTY
