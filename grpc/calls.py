"""Calls answered in the turn of the loop in which their bytes arrive: no task, no queue, no `await` for a message.

grpclib starts a task, two queues and several events for every stream and wakes the task for every message,
which costs more than all that a decision does.  The method of the data plane needs none of it:
messages are assembled here, given to a state machine without I/O, and what it answers is sent at the end of the turn,
after the turn's decisions were handed to the feed.  All other methods run as grpclib runs them.

Rules.  Windows, the transport's pauses, deadlines and limits hold as they do under grpclib.
A peer that does not read is not read from: bytes are acknowledged only while its own answers are not piling up.
"""

import asyncio
import heapq
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from time import monotonic
from typing import Protocol

from grpclib.const import Status
from grpclib.metadata import decode_timeout
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from pointsman.grpc.headers import Headers

BACKLOG_MAX = 2**20
"""Bytes of answers that wait for a peer's window before its own bytes are no longer acknowledged."""
SWEEP = 0.1
"""Seconds between two looks at deadlines: what a deadline may be late by."""
PREFIX_BYTES = 5
"""Of a gRPC message: compressed or not, and its length."""

_RESPONSE: Headers = [(":status", "200"), ("content-type", "application/grpc+proto")]
_OK: Headers = [("grpc-status", "0")]
_prefix = struct.Struct(">BI").pack

_seconds = lru_cache(maxsize=256)(decode_timeout)
"""What a `grpc-timeout` leaves: gateways send few different ones."""


class Answering(Protocol):
    """One call's state machine."""

    decided: bool
    """Set when an answer has to wait until the feed was handed what was recorded; the caller clears it."""

    def take_bytes(self, data: bytes, compressed: bool, now: float) -> tuple[list[bytes], bool]:
        """Take a message; return the messages to answer with, and whether the call then ends.

        Raises `GRPCError` where the message is none.
        """
        ...

    def let_go(self, now: float) -> tuple[list[bytes], bool]:
        """End in the middle, with what is still to be said; whether what was asked goes on without us."""
        ...

    def close(self, cause: str, now: float) -> None:
        """The call is over: `disconnected`, `deadline`, `drained` or `lost`; what it had its end already, keeps it."""
        ...


class Engine(Protocol):
    """What a call needs of the HTTP/2 engine."""

    max_outbound_frame_size: int

    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None: ...
    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None: ...
    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None: ...
    def local_flow_control_window(self, stream_id: int) -> int: ...
    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None: ...
    def data_to_send(self, amount: int | None = None) -> bytes: ...


class Call:
    """One stream of the method."""

    __slots__ = ("answering", "backlog", "begun", "buffer", "deadline", "ended", "out", "stream_id", "unacknowledged")

    def __init__(self, stream_id: int, answering: Answering, deadline: float | None) -> None:
        self.stream_id = stream_id
        self.answering = answering
        self.deadline = deadline
        self.buffer = b""
        self.out: deque[bytes] = deque()
        """Framed messages that wait for the window."""
        self.backlog = 0
        self.unacknowledged = 0
        self.begun = False
        """The response's headers were sent."""
        self.ended: Headers | None = None
        """The trailers, once nothing more will be answered."""


class Turn:
    """What a process sends at the end of a turn of the loop: entries first, answers second."""

    def __init__(self, flush_feed: Callable[[], None]) -> None:
        self._flush_feed = flush_feed
        self._dirty: dict[Calls, None] = {}
        self.decided = False

    def __contains__(self, calls: "Calls") -> bool:
        return calls in self._dirty

    def wants(self, calls: "Calls") -> None:
        """Have `calls` send what it has when this turn ends."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._end)
        self._dirty[calls] = None

    def _end(self) -> None:
        if self.decided:
            self.decided = False
            self._flush_feed()
        dirty, self._dirty = self._dirty, {}
        for calls in dirty:
            calls.send()


class Calls:
    """The calls of one connection."""

    def __init__(self, engine: Engine, write: Callable[[bytes], None], turn: Turn, message_bytes_max: int) -> None:
        self._engine = engine
        self._write = write
        self._turn = turn
        self._message_bytes_max = message_bytes_max
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Call] = {}
        self._touched: dict[int, Call] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._paused = False

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._open

    # --- events -----------------------------------------------------------------------------------

    def begin(self, stream_id: int, timeout: str | None, answering: Answering) -> None:
        """A stream of the method began; `timeout` is the value of its `grpc-timeout`, which `acceptable` has seen."""
        deadline = None if timeout is None else monotonic() + _seconds(timeout)
        self._open[stream_id] = Call(stream_id, answering, deadline)
        if deadline is not None:
            self._watch(deadline, stream_id)

    def data(self, stream_id: int, data: bytes, size: int) -> None:
        """Bytes of a call came; `size` is what they count for in the windows."""
        call = self._open[stream_id]
        if call.ended is None:
            self._read(call, call.buffer + data if call.buffer else data)
        if call.backlog > BACKLOG_MAX:
            call.unacknowledged += size
        else:
            self._engine.acknowledge_received_data(size, stream_id)
        if call.out or call.ended is not None:
            self._touch(call)

    def half_closed(self, stream_id: int) -> None:
        """The peer will send nothing more."""
        call = self._open[stream_id]
        if call.ended is None:
            if call.buffer:
                self._fail(call, Status.INTERNAL, "the stream ended within a message")
            else:
                call.answering.close("disconnected", monotonic())
                call.ended = _OK
        self._touch(call)

    def reset(self, stream_id: int) -> None:
        """The peer reset the stream: the ordinary end of most."""
        call = self._open.pop(stream_id)
        self._touched.pop(stream_id, None)
        if call.ended is None:
            call.answering.close("disconnected", monotonic())

    def window_opened(self, stream_id: int) -> None:
        """The peer reads again; 0 for the whole connection."""
        waiting = self._open.values() if stream_id == 0 else [c for c in (self._open.get(stream_id),) if c is not None]
        for call in waiting:
            if call.out:
                self._touch(call)

    def pause(self) -> None:
        """The transport has enough to write."""
        self._paused = True

    def resume(self) -> None:
        """The transport takes more."""
        self._paused = False
        self._turn.wants(self)

    def drain(self) -> None:
        """End every call: those whose request can go on without us are told so, the others that we go away."""
        now = monotonic()
        for call in list(self._open.values()):
            if call.ended is None:
                answers, end = call.answering.let_go(now)
                self._queue(call, answers)
                call.answering.close("drained", now)
                if end:
                    call.ended = _OK
                else:
                    self._trailers(call, Status.UNAVAILABLE, "the picker is shutting down")
            self._touched[call.stream_id] = call
        self.send()

    def lost(self) -> None:
        """The connection is gone."""
        calls, self._open = self._open, {}
        self._touched.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for call in calls.values():
            if call.ended is None:
                call.answering.close("disconnected", monotonic())

    # --- messages ---------------------------------------------------------------------------------

    def _read(self, call: Call, data: bytes) -> None:
        """Give every whole message in `data` to the call; keep the rest."""
        now = monotonic()
        position, size = 0, len(data)
        while size - position >= PREFIX_BYTES and call.ended is None:
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            if length > self._message_bytes_max:
                limit = self._message_bytes_max
                self._fail(
                    call,
                    Status.RESOURCE_EXHAUSTED,
                    f"grpc: received message larger than max ({length} vs. {limit})",
                )
                break
            end = position + PREFIX_BYTES + length
            if end > size:
                break
            self._answer(call, data[position + PREFIX_BYTES : end], data[position] == 1, now)
            position = end
        call.buffer = data[position:] if position < size and call.ended is None else b""

    def _answer(self, call: Call, message: bytes, compressed: bool, now: float) -> None:
        answering = call.answering
        try:
            answers, end = answering.take_bytes(message, compressed, now)
        except RefusedMessage as refused:
            self._fail(call, refused.status, str(refused))
            return
        if answering.decided:
            answering.decided = False
            self._turn.decided = True
        if answers:
            self._queue(call, answers)
        if end:
            answering.close("lost", now)
            call.ended = _OK

    def _queue(self, call: Call, answers: list[bytes]) -> None:
        for answer in answers:
            framed = _prefix(0, len(answer)) + answer
            call.out.append(framed)
            call.backlog += len(framed)

    def _fail(self, call: Call, status: Status, message: str) -> None:
        call.answering.close("disconnected", monotonic())
        self._trailers(call, status, message)

    def _trailers(self, call: Call, status: Status, message: str) -> None:
        trailers = [("grpc-status", str(status.value)), ("grpc-message", message)]
        call.ended = trailers if call.begun or call.out else [*_RESPONSE, *trailers]

    # --- sending ----------------------------------------------------------------------------------

    def _touch(self, call: Call) -> None:
        self._touched[call.stream_id] = call
        self._turn.wants(self)

    def send(self) -> None:
        """Write what the windows and the transport allow."""
        if not self._paused:
            touched, self._touched = self._touched, {}
            for call in touched.values():
                try:
                    self._send_call(call)
                except StreamClosedError:
                    self._open.pop(call.stream_id, None)
        data = self._engine.data_to_send()
        if data:
            self._write(data)

    def _send_call(self, call: Call) -> None:
        engine, stream_id = self._engine, call.stream_id
        if call.out:
            if not call.begun:
                call.begun = True
                engine.send_headers(stream_id, _RESPONSE)
            self._send_out(call)
        if call.unacknowledged and call.backlog <= BACKLOG_MAX:
            engine.acknowledge_received_data(call.unacknowledged, stream_id)
            call.unacknowledged = 0
        if call.ended is not None and not call.out:
            trailers = call.ended
            if trailers is _OK and not call.begun:
                trailers = [*_RESPONSE, *_OK]
            engine.send_headers(stream_id, trailers, end_stream=True)
            if trailers[-1][0] == "grpc-message":
                engine.reset_stream(stream_id)
            del self._open[stream_id]

    def _send_out(self, call: Call) -> None:
        """One frame for all that waits, or as many as its size and the window make of it."""
        engine, stream_id, out = self._engine, call.stream_id, call.out
        if len(out) > 1 and call.backlog <= engine.max_outbound_frame_size:
            whole = b"".join(out)
            out.clear()
            out.append(whole)
        while out:
            data = out[0]
            room = min(engine.local_flow_control_window(stream_id), engine.max_outbound_frame_size)
            if room <= 0:
                return
            if len(data) <= room:
                out.popleft()
                sent = data
            else:
                sent, out[0] = data[:room], data[room:]
            engine.send_data(stream_id, sent)
            call.backlog -= len(sent)

    # --- deadlines --------------------------------------------------------------------------------

    def _watch(self, deadline: float, stream_id: int) -> None:
        heapq.heappush(self._deadlines, (deadline, stream_id))
        if len(self._deadlines) > 2 * len(self._open) + 1024:  # calls that ended long before their deadline
            self._deadlines = [(c.deadline, i) for i, c in self._open.items() if c.deadline is not None]
            heapq.heapify(self._deadlines)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            call = self._open.get(heapq.heappop(self._deadlines)[1])
            if call is not None and call.ended is None:
                call.answering.close("deadline", now)
                self._trailers(call, Status.DEADLINE_EXCEEDED, "deadline exceeded")
                self._touch(call)
        self._sweeper = self._loop.call_later(SWEEP, self._sweep) if self._deadlines else None


class RefusedMessage(Exception):
    """A message that no call may hold."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def inflated(data: bytes, bytes_max: int) -> bytes:
    """The message under gzip (or zlib), whose size counts as it will be."""
    try:
        inflated = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise RefusedMessage(
            Status.UNIMPLEMENTED, f"grpc: compressed message is no gzip, wanted gzip or none: {error}"
        ) from error
    if len(inflated) > bytes_max:
        raise RefusedMessage(
            Status.RESOURCE_EXHAUSTED,
            f"grpc: received message after decompression larger than max ({len(inflated)} vs. {bytes_max})",
        )
    return inflated


def acceptable(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a request for the method is one that can be answered here; what is not, grpclib refuses in its words."""
    found = dict(headers)
    content_type = found.get("content-type", "")
    if found.get(":method") != "POST" or found.get("te") != "trailers":
        return False
    if content_type not in ("application/grpc", "application/grpc+proto"):
        return False
    timeout = found.get("grpc-timeout")
    return timeout is None or (timeout[:-1].isdigit() and timeout[-1:] in "HMSmun")
