"""Marks: a mark is those fields of a traffic entry that are folded.

The cluster state, the read model and `/metrics` fold traffic, and read few of its fields.
The feed therefore decodes each entry once, to a mark, which goes with the entry wherever it is folded.
Fields that nobody folds are left as they are on the wire (`msgspec.Raw`).
A mark refers to nothing that could refer back to it, so the garbage collector need not look at marks.
"""

from typing import TypeAlias

import msgspec

from pointsman.core.events import Class, Event, Origin, decode
from pointsman.core.events.traffic import streamed_token


class FactsMark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields of a decision's RequestFacts that are folded."""

    request_id: str
    pool: str
    model: str = ""
    target_model: str = ""
    path: str = ""
    objective: str = ""
    priority: int = 0
    fairness_id: str = ""
    body_bytes: int = 0


_NOTHING = msgspec.Raw()


class RoutedMark(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="request-routed"):
    """The fields of a RequestRouted that are folded."""

    origin: Origin
    decided_at: float
    request: FactsMark
    endpoints: tuple[int, ...]
    best: msgspec.Raw = _NOTHING
    rejections: msgspec.Raw = _NOTHING
    reads: msgspec.Raw = _NOTHING
    avoided: msgspec.Raw = _NOTHING
    degraded: bool = False
    digest: msgspec.Raw = _NOTHING
    took: int = 0
    timed: tuple[tuple[str, str, str, int], ...] = ()


class RefusedMark(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="request-refused"):
    """The fields of a RequestRefused that are folded; a picker that folds its own traffic fills in the origin alone."""

    origin: Origin
    decided_at: float = 0.0
    request: FactsMark = FactsMark("", "")
    reason: str = ""
    status: int = 0
    message: msgspec.Raw = _NOTHING
    rejections: msgspec.Raw = _NOTHING
    reads: msgspec.Raw = _NOTHING
    avoided: msgspec.Raw = _NOTHING
    degraded: bool = False
    digest: bytes = b""
    took: int = 0


class StartedMark(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="response-started"):
    """The fields of a ResponseStarted that are folded."""

    origin: Origin
    request_n: int
    status: int
    after: float


class FinishedMark(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="request-finished"):
    """The fields of a RequestFinished that are folded."""

    origin: Origin
    request_n: int
    cause: str
    status: int
    duration: float
    first_token: float | None = None
    response_bytes: int = 0
    chunks: int = 0
    streamed: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    error: str = ""
    unanswered: bool = False

    @property
    def failed(self) -> bool:
        """Whether the client got no whole answer, or one that is an error."""
        return self.cause != "complete" or self.status >= 400 or bool(self.error)

    @property
    def streamed_token(self) -> float | None:
        """Seconds until the first token of a streamed answer; None for errors and for answers in one piece."""
        return streamed_token(self.first_token, self.streamed, self.status)


Mark: TypeAlias = RoutedMark | RefusedMark | StartedMark | FinishedMark
MARKS = frozenset((RoutedMark, RefusedMark, StartedMark, FinishedMark))
_decoder: msgspec.msgpack.Decoder[Mark] = msgspec.msgpack.Decoder(Mark)
_TRAFFIC = int(Class.TRAFFIC)

decode_mark = _decoder.decode
"""Return the mark of a traffic entry's body; raises what `skim` raises."""


def skim(kind: int, body: bytes) -> Event | Mark:
    """Decode as much of an entry's body as the folds read.

    `msgspec.DecodeError` for a tag or a shape that this version does not know.
    """
    return decode_mark(body) if kind == _TRAFFIC else decode(body)
