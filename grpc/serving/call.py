"""One call answered in the turn of the loop in which its bytes arrive: messages are put together and given on.

A call stands in the place of grpclib's stream: `calls.py` knows all of a connection and sends what they answer.
"""

import struct
from collections import deque
from time import monotonic
from typing import Protocol

from grpclib.const import Status

from pointsman.grpc.http2.header_blocks import Headers
from pointsman.grpc.serving.grpc_messages import RefusedMessage, inflated
from pointsman.grpc.serving.held import STREAM_BYTES, Account
from pointsman.grpc.serving.turn import Turn

BACKLOG_MAX = 2**20
"""Bytes of answers that wait for a peer's window before its own bytes are no longer acknowledged."""
PREFIX_BYTES = 5
"""Bytes before each gRPC message: one that says whether it is compressed, four with its length."""

RESPONSE: Headers = [(":status", "200"), ("content-type", "application/grpc+proto")]
OK: Headers = [("grpc-status", "0")]

_unprefix = struct.Struct(">BI").unpack_from


class Answering(Protocol):
    """One call's state machine."""

    out: list[bytes]
    """Framed messages to answer with, which the caller takes out."""
    ended: bool
    """Whether nothing more will be answered, so that the call ends with OK."""
    decided: bool
    """Whether an answer has to wait until the feed was handed what was recorded; the caller clears it."""

    @property
    def held_bytes(self) -> int:
        """Bytes that it holds of what it received."""
        ...

    def receive(self, data: bytes, now: float) -> None:
        """Take a message; raises `RefusedMessage` where it is none."""
        ...

    def let_go(self, now: float) -> None:
        """End in the middle, with what is still to be said, where what was asked goes on without us."""
        ...

    def closed(self, cause: str, now: float) -> None:
        """The call is over: `disconnected`, `deadline`, `drained` or `lost`; what it had its end already, keeps it."""
        ...


class Together(Protocol):
    """What a call needs of the connection it is on."""

    account: Account
    turn: Turn
    message_bytes_max: int
    paused: bool
    """Whether the transport has enough to write."""
    unfinished: "dict[Call, float]"
    """Calls of which no message, or not the whole of one, has come, by the time since when; the oldest first."""

    def touch(self, call: "Call") -> None:
        """It has something to send."""
        ...

    def give_up(self, call: "Call") -> None:
        """Reset its stream: there is no room for what it holds."""
        ...

    def forget(self, call: "Call") -> None:
        """Its stream is gone, or ended."""
        ...


class Call:
    """One stream of the method."""

    __slots__ = (
        "answering",
        "backlog",
        "begun",
        "buffer",
        "calls",
        "deadline",
        "ended",
        "gone",
        "out",
        "stream_id",
        "touched",
        "unacknowledged",
        "wanted",
    )

    def __init__(self, calls: Together, stream_id: int, answering: Answering, deadline: float | None) -> None:
        self.calls = calls
        self.stream_id = stream_id
        self.answering = answering
        self.deadline = deadline
        self.buffer: bytearray | None = None
        """Bytes of a message that has not come whole; None where there are none."""
        self.wanted = 0
        """Bytes that `buffer` needs before there is anything to read in it."""
        self.out: deque[memoryview] | None = None
        """Framed messages that wait for the window; None until some had to."""
        self.backlog = 0
        """Bytes in `out`."""
        self.unacknowledged = 0
        """Bytes that came and are not acknowledged, since the peer reads too slowly."""
        self.begun = False
        """Whether the response's headers were sent."""
        self.ended: Headers | None = None
        """Trailers to end with, once nothing more will be answered."""
        self.gone = False
        """Whether the stream is over, so that nothing can be sent."""
        self.touched = False
        """Whether it is in the list of calls that have something to send."""

    @property
    def held_bytes(self) -> int:
        """Bytes that are held because of it."""
        return STREAM_BYTES + len(self.buffer or b"") + self.backlog + self.answering.held_bytes

    def take(self, data: bytes, size: int) -> bool:
        """Bytes came; `size` is what they count for in the windows.  Whether they are acknowledged now."""
        if self.buffer is None:
            self._read(data)
        elif self.ended is None:
            buffer = self.buffer
            buffer += data
            self.calls.account.take(len(data))
            if len(buffer) >= self.wanted:
                self._drop_buffer()
                self._read(bytes(buffer))
            elif self.calls.account.beyond():
                self.refuse_more()
        answering, calls = self.answering, self.calls
        if answering.decided:
            answering.decided = False
            calls.turn.decided = True
        if not self.touched and (answering.out or (self.ended is not None and not self.gone)):
            calls.touch(self)
        if calls.paused and answering.out:
            self.keep()  # counted at once, since nothing is sent at the end of this turn
            if calls.account.beyond():
                calls.give_up(self)
        if self.backlog > BACKLOG_MAX:
            self.unacknowledged += size
            return False
        return True

    def _read(self, data: bytes) -> None:
        """Give on the messages that are whole, and keep the rest."""
        calls, answering = self.calls, self.answering
        position, whole = 0, len(data)
        now = monotonic()
        while whole - position >= PREFIX_BYTES and self.ended is None:
            compressed, length = _unprefix(data, position)
            start = position + PREFIX_BYTES
            if length > calls.message_bytes_max:
                limit = calls.message_bytes_max
                words = f"grpc: received message larger than max ({length} vs. {limit})"
                self.fail(Status.RESOURCE_EXHAUSTED, words, "disconnected", now)
                return
            if start + length > whole:
                self.wanted = PREFIX_BYTES + length
                break
            position = start + length
            try:
                message = data[start:position]
                answering.receive(inflated(message, calls.message_bytes_max) if compressed == 1 else message, now)
            except RefusedMessage as refused:
                self.fail(refused.status, str(refused), "disconnected", now)
            if answering.ended and self.ended is None:
                answering.closed("lost", now)
                self.ended = OK
        else:
            self.wanted = PREFIX_BYTES
        if self.ended is not None:
            return
        if position < whole:
            self.buffer = bytearray(data[position:] if position else data)
            calls.account.take(whole - position)
            if position:  # what came whole before it is no part of the time that it has
                calls.unfinished.pop(self, None)
            calls.unfinished.setdefault(self, now)
            if calls.account.beyond():
                self.refuse_more()
        elif position:
            calls.unfinished.pop(self, None)

    def refuse_more(self) -> None:
        """End, since there is no room for what it sends."""
        self.fail(Status.RESOURCE_EXHAUSTED, "the picker holds as much as it may", "disconnected", monotonic())

    def half_closed(self) -> None:
        """The peer will send nothing more."""
        if self.ended is None:
            if self.buffer:
                self.fail(Status.INTERNAL, "the stream ended within a message", "disconnected", monotonic())
            else:
                self.answering.closed("disconnected", monotonic())
                self.ended = OK
        if not self.gone:
            self.calls.touch(self)

    def reset(self) -> None:
        """The peer reset the stream: the ordinary end of most."""
        if self.ended is None:
            self.answering.closed("disconnected", monotonic())
        self.calls.forget(self)

    def fail(self, status: Status, message: str, cause: str, now: float) -> None:
        """End with an error."""
        self.answering.closed(cause, now)
        trailers = [("grpc-status", str(status.value)), ("grpc-message", message)]
        self.ended = trailers if self.begun or self.out or self.answering.out else [*RESPONSE, *trailers]
        self._drop_buffer()

    def keep(self) -> None:
        """Have what was answered wait."""
        answered = self.answering.out
        if answered:
            if self.out is None:
                self.out = deque()
            self.out.extend(map(memoryview, answered))
            size = sum(map(len, answered))
            self.backlog += size
            self.calls.account.take(size)
            answered.clear()

    def sent(self, size: int) -> None:
        """Bytes of what waited went out."""
        self.backlog -= size
        self.calls.account.give(size)

    def let_go(self) -> None:
        """Hold nothing more."""
        self._drop_buffer()
        if self.out:
            self.sent(self.backlog)
            self.out = None

    def _drop_buffer(self) -> None:
        if self.buffer is not None:
            self.calls.account.give(len(self.buffer))
            self.buffer = None
        self.calls.unfinished.pop(self, None)
