"""As much of a traffic entry as folding reads: decoding the rest would be two thirds of the work."""

from typing import TypeAlias

import msgspec

from pointsman.core.events import Class, Event, Origin, decode


class RoutedMark(msgspec.Struct, frozen=True, array_like=True, tag="request-routed"):
    """What the fold reads of a RequestRouted."""

    origin: Origin
    decided_at: float
    request: msgspec.Raw
    endpoints: tuple[int, ...]


class RefusedMark(msgspec.Struct, frozen=True, array_like=True, tag="request-refused"):
    """What the fold reads of a RequestRefused."""

    origin: Origin


class StartedMark(msgspec.Struct, frozen=True, array_like=True, tag="response-started"):
    """What the fold reads of a ResponseStarted."""

    origin: Origin


class FinishedMark(msgspec.Struct, frozen=True, array_like=True, tag="request-finished"):
    """What the fold reads of a RequestFinished."""

    origin: Origin
    request_n: int


Mark: TypeAlias = RoutedMark | RefusedMark | StartedMark | FinishedMark
MARKS = (RoutedMark, RefusedMark, StartedMark, FinishedMark)
_marks: msgspec.msgpack.Decoder[Mark] = msgspec.msgpack.Decoder(Mark)


def skim(kind: int, body: bytes) -> Event | Mark:
    """Decode as much of an entry's body as the fold reads; of traffic that is a third of the work.

    `msgspec.DecodeError` for a tag or a shape that this version does not know.
    """
    return _marks.decode(body) if kind == Class.TRAFFIC else decode(body)
