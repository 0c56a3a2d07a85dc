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
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Protocol

from grpclib.const import Status
from grpclib.metadata import decode_timeout
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from pointsman.grpc.http2.header_blocks import Headers, write_block
from pointsman.grpc.http2.machine import ServerConnection
from pointsman.grpc.serving.grpc_messages import RefusedMessage, inflated
from pointsman.grpc.serving.turn import Turn

BACKLOG_MAX = 2**20
"""Bytes of answers that wait for a peer's window before its own bytes are no longer acknowledged."""
SWEEP = 0.1
"""Seconds between two looks at deadlines: what a deadline may be late by."""
PREFIX_BYTES = 5
"""Bytes before each gRPC message: one that says whether it is compressed, four with its length."""

_RESPONSE: Headers = [(":status", "200"), ("content-type", "application/grpc+proto")]
_OK: Headers = [("grpc-status", "0")]
_RESPONSE_BLOCK, _OK_BLOCK = write_block(_RESPONSE), write_block(_OK)
_unprefix = struct.Struct(">BI").unpack_from

_seconds = lru_cache(maxsize=256)(decode_timeout)
"""Seconds that a `grpc-timeout` leaves; remembered, since gateways send few different ones."""


class Answering(Protocol):
    """One call's state machine."""

    out: list[bytes]
    """Framed messages to answer with, which the caller takes out."""
    ended: bool
    """Whether nothing more will be answered, so that the call ends with OK."""
    decided: bool
    """Whether an answer has to wait until the feed was handed what was recorded; the caller clears it."""

    def receive(self, data: bytes, now: float) -> None:
        """Take a message; raises `RefusedMessage` where it is none."""
        ...

    def let_go(self, now: float) -> None:
        """End in the middle, with what is still to be said, where what was asked goes on without us."""
        ...

    def closed(self, cause: str, now: float) -> None:
        """The call is over: `disconnected`, `deadline`, `drained` or `lost`; what it had its end already, keeps it."""
        ...


class Http2Engine(Protocol):
    """What a call needs of the HTTP/2 engine."""

    @property
    def max_outbound_frame_size(self) -> int: ...
    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None: ...
    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None: ...
    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None: ...
    def local_flow_control_window(self, stream_id: int) -> int: ...
    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None: ...
    def data_to_send(self, amount: int | None = None) -> bytes: ...


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
    )

    def __init__(self, calls: "Calls", stream_id: int, answering: Answering, deadline: float | None) -> None:
        self.calls = calls
        self.stream_id = stream_id
        self.answering = answering
        self.deadline = deadline
        self.buffer = b""
        """Bytes of a message that has not come whole."""
        self.out: deque[bytes] | None = None
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

    def take(self, data: bytes, size: int) -> bool:
        """Bytes came; `size` is what they count for in the windows.  Whether they are acknowledged now."""
        calls, answering = self.calls, self.answering
        if self.buffer:
            data, self.buffer = self.buffer + data, b""
        position, whole = 0, len(data)
        now = monotonic()
        while whole - position >= PREFIX_BYTES and self.ended is None:
            compressed, length = _unprefix(data, position)
            start = position + PREFIX_BYTES
            position = start + length
            if position > whole or length > calls.message_bytes_max:
                position = start - PREFIX_BYTES
                if length > calls.message_bytes_max:
                    limit = calls.message_bytes_max
                    words = f"grpc: received message larger than max ({length} vs. {limit})"
                    self.fail(Status.RESOURCE_EXHAUSTED, words, "disconnected", now)
                break
            try:
                message = data[start:position]
                answering.receive(inflated(message, calls.message_bytes_max) if compressed == 1 else message, now)
            except RefusedMessage as refused:
                self.fail(refused.status, str(refused), "disconnected", now)
            if answering.ended and self.ended is None:
                answering.closed("lost", now)
                self.ended = _OK
        if position < whole and self.ended is None:
            self.buffer = data[position:]
        if answering.decided:
            answering.decided = False
            calls.turn.decided = True
        if not self.touched and (answering.out or (self.ended is not None and not self.gone)):
            calls.touch(self)
        if self.backlog > BACKLOG_MAX:
            self.unacknowledged += size
            return False
        return True

    def half_closed(self) -> None:
        """The peer will send nothing more."""
        if self.ended is None:
            if self.buffer:
                self.fail(Status.INTERNAL, "the stream ended within a message", "disconnected", monotonic())
            else:
                self.answering.closed("disconnected", monotonic())
                self.ended = _OK
        if not self.gone:
            self.calls.touch(self)

    def reset(self) -> None:
        """The peer reset the stream: the ordinary end of most."""
        self.calls.forget(self)
        if self.ended is None:
            self.answering.closed("disconnected", monotonic())

    def fail(self, status: Status, message: str, cause: str, now: float) -> None:
        """End with an error."""
        self.answering.closed(cause, now)
        trailers = [("grpc-status", str(status.value)), ("grpc-message", message)]
        self.ended = trailers if self.begun or self.out or self.answering.out else [*_RESPONSE, *trailers]


class Calls:
    """The calls of one connection."""

    def __init__(self, engine: Http2Engine, write: Callable[[bytes], None], turn: Turn, message_bytes_max: int) -> None:
        self.engine = engine
        self.turn = turn
        self.message_bytes_max = message_bytes_max
        self._send_whole = engine.send_whole if isinstance(engine, ServerConnection) else None
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Call] = {}
        self._touched: list[Call] = []
        self._deadlines: list[tuple[float, int]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._paused = False

    def __len__(self) -> int:
        return len(self._open)

    def get(self, stream_id: int) -> Call | None:
        """The call on a stream."""
        return self._open.get(stream_id)

    def begin(self, stream_id: int, timeout: str | None, answering: Answering) -> Call:
        """A stream of the method began; `timeout` is the value of its `grpc-timeout`, which `acceptable` has seen."""
        deadline = None if timeout is None else monotonic() + _seconds(timeout)
        call = self._open[stream_id] = Call(self, stream_id, answering, deadline)
        if deadline is not None:
            self._watch(deadline, stream_id)
        return call

    def touch(self, call: Call) -> None:
        """It has something to send."""
        if not call.touched:
            call.touched = True
            self._touched.append(call)
            self.turn.wants(self)

    def forget(self, call: Call) -> None:
        """Its stream is gone, or ended."""
        call.gone = True
        self._open.pop(call.stream_id, None)

    def window_opened(self, stream_id: int) -> None:
        """The peer reads again; 0 for the whole connection."""
        waiting = self._open.values() if stream_id == 0 else [c for c in (self._open.get(stream_id),) if c is not None]
        for call in waiting:
            if call.out:
                self.touch(call)

    def pause(self) -> None:
        """The transport has enough to write."""
        self._paused = True

    def resume(self) -> None:
        """The transport takes more."""
        self._paused = False
        self.turn.wants(self)

    def drain(self) -> None:
        """End every call: those whose request can go on without us are told so, the others that we go away."""
        now = monotonic()
        for call in self._open.values():
            if call.ended is None:
                call.answering.let_go(now)
                if call.answering.ended:
                    call.answering.closed("drained", now)
                    call.ended = _OK
                else:
                    call.fail(Status.UNAVAILABLE, "the picker is shutting down", "drained", now)
            self.touch(call)
        self.send()

    def lost(self) -> None:
        """The connection is gone."""
        calls, self._open = self._open, {}
        self._touched.clear()
        self.turn.forget(self)
        if self._sweeper is not None:
            self._sweeper.cancel()
        for call in calls.values():
            if call.ended is None:
                call.answering.closed("disconnected", monotonic())

    # --- sending ----------------------------------------------------------------------------------

    def send(self) -> None:
        """Write what the windows and the transport allow."""
        if self._paused:
            for call in self._touched:
                _keep(call)
        else:
            touched, self._touched = self._touched, []
            for call in touched:
                call.touched = False
                if not call.gone:
                    try:
                        self._send_call(call)
                    except StreamClosedError:
                        self.forget(call)
        data = self.engine.data_to_send()
        if data:
            self._write(data)

    def _send_call(self, call: Call) -> None:
        out, ended = call.answering.out, call.ended
        # Nearly always all of it can go at once.
        if self._send_whole is not None and not call.out and out and (ended is None or ended is _OK):
            head, tail = b"" if call.begun else _RESPONSE_BLOCK, b"" if ended is None else _OK_BLOCK
            if self._send_whole(call.stream_id, head, out[0] if len(out) == 1 else b"".join(out), tail):
                out.clear()
                call.begun = True
                if tail:
                    self.forget(call)
                return
        self._send_slowly(call)

    def _send_slowly(self, call: Call) -> None:
        engine, stream_id = self.engine, call.stream_id
        _keep(call)
        if call.out:
            if not call.begun:
                call.begun = True
                engine.send_headers(stream_id, _RESPONSE)
            self._send_out(call, call.out)
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
            self.forget(call)

    def _send_out(self, call: Call, out: deque[bytes]) -> None:
        """One frame for all that waits, or as many as its size and the window make of it."""
        engine, stream_id = self.engine, call.stream_id
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
                call.fail(Status.DEADLINE_EXCEEDED, "deadline exceeded", "deadline", now)
                self.touch(call)
        self._sweeper = self._loop.call_later(SWEEP, self._sweep) if self._deadlines else None


def _keep(call: Call) -> None:
    """Have what was answered wait in the call."""
    answered = call.answering.out
    if answered:
        if call.out is None:
            call.out = deque()
        call.out.extend(answered)
        call.backlog += sum(map(len, answered))
        answered.clear()
