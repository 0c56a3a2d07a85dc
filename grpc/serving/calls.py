"""Calls answered in the turn of the loop in which their bytes arrive: no task, no queue, no `await` for a message.

grpclib starts a task, two queues and several events for every stream and wakes the task for every message,
which costs more than all that a decision does.  The method of the data plane needs none of it:
messages are assembled in a `Call`, given to a state machine without I/O, and what it answers is sent at the end of the
turn, after the turn's decisions were handed to the feed.  All other methods run as grpclib runs them.

Rules.  Windows, the transport's pauses, deadlines and limits hold as they do under grpclib.
A peer that does not read is not read from: bytes are acknowledged only while its own answers are not piling up.
What a frame has us do is bounded by its bytes, and what a turn sends by SEND_BYTES, however much waits.
"""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from time import monotonic
from typing import Protocol

from grpclib.const import Status
from grpclib.metadata import decode_timeout
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from pointsman.grpc.http2.header_blocks import Headers, write_block
from pointsman.grpc.http2.machine import ServerConnection
from pointsman.grpc.serving.call import BACKLOG_MAX, OK, RESPONSE, Answering, Call
from pointsman.grpc.serving.held import STREAM_BYTES, Held
from pointsman.grpc.serving.turn import Turn

SWEEP = 0.1
"""Seconds between two looks at deadlines: what a deadline may be late by."""
SEND_BYTES = 2**18
"""Bytes of answers that one connection is given to write in a turn; what waits beyond them goes out in the next ones.

Answers in a transport's hands can no longer be taken back, so few are put there.
"""
FRAME_BYTES_SENT = 2**16
"""Bytes of data in one frame, where the peer allows so many: more save nothing, and are copied as a whole."""

_RESPONSE_BLOCK, _OK_BLOCK = write_block(RESPONSE), write_block(OK)

_seconds = lru_cache(maxsize=256)(decode_timeout)
"""Seconds that a `grpc-timeout` leaves; remembered, since gateways send few different ones."""


class Http2Engine(Protocol):
    """What a call needs of the HTTP/2 engine."""

    @property
    def max_outbound_frame_size(self) -> int: ...
    @property
    def outbound_flow_control_window(self) -> int: ...
    @property
    def unfinished(self) -> int | None: ...
    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None: ...
    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None: ...
    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None: ...
    def local_flow_control_window(self, stream_id: int) -> int: ...
    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None: ...
    def data_to_send(self, amount: int | None = None) -> bytes: ...


class Calls:
    """The calls of one connection."""

    def __init__(
        self, engine: Http2Engine, write: Callable[[bytes], None], turn: Turn, held: Held, message_bytes_max: int
    ) -> None:
        self.engine = engine
        self.turn = turn
        self.account = held.open(self.shed)
        self.message_bytes_max = message_bytes_max
        self.unfinished: dict[Call, float] = {}
        """Calls of which no message, or not the whole of one, has come, by the time since when; the oldest first."""
        self.unread: dict[Call, float] = {}
        """Calls whose answers wait for a window, by the time since when nothing of them went out; the oldest first."""
        self.paused = False
        """Whether the transport has enough to write."""
        self._send_whole = engine.send_whole if isinstance(engine, ServerConnection) else None
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Call] = {}
        self._touched: list[Call] = []
        self._starved: dict[Call, None] = {}
        """Calls whose answers wait for the connection's window, those that wait longest first."""
        self._waited = 0
        """Bytes sent of answers that had to wait."""
        self._room = 0
        """Bytes that may still be written in this turn."""
        self._deadlines: list[tuple[float, int]] = []
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def get(self, stream_id: int) -> Call | None:
        """The call on a stream."""
        return self._open.get(stream_id)

    def begin(self, stream_id: int, timeout: str | None, answering: Answering) -> Call:
        """A stream of the method began; `timeout` is the value of its `grpc-timeout`, which `acceptable` has seen."""
        now = monotonic()
        deadline = None if timeout is None else now + _seconds(timeout)
        call = self._open[stream_id] = Call(self, stream_id, answering, deadline)
        self.account.take(STREAM_BYTES)
        self.unfinished[call] = now
        if deadline is not None:
            self._watch(deadline, stream_id)
        if self.account.beyond():
            call.refuse_more()
            self.touch(call)
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
        if self._open.pop(call.stream_id, None) is not None:
            call.let_go()
            self.account.give(STREAM_BYTES)
            self._starved.pop(call, None)
            self.unread.pop(call, None)

    def window_opened(self, stream_id: int) -> None:
        """The peer reads again, on one stream; 0 for the whole connection."""
        if stream_id:
            call = self._open.get(stream_id)
            if call is not None and call.out:
                self.touch(call)
        elif self._starved:
            self.turn.wants(self)

    def windows_changed(self) -> None:
        """The peer has set another window for each stream."""
        for call in self._open.values():
            if call.out:
                self.touch(call)

    def pause(self) -> None:
        """The transport has enough to write."""
        self.paused = True

    def resume(self) -> None:
        """The transport takes more."""
        self.paused = False
        self.turn.wants(self)

    def shed(self, silent: bool) -> bool:
        """Give up the call that holds the most, or one that has said nothing yet; false where there is none."""
        call = next(iter(self.unfinished), None) if silent else max(self._open.values(), key=_held_bytes, default=None)
        if call is None:
            return False
        self.give_up(call)
        return True

    def give_up(self, call: Call) -> None:
        """Reset its stream: there is no room for what it holds."""
        if call.ended is None:
            call.answering.closed("disconnected", monotonic())
            call.ended = OK
        with suppress(StreamClosedError):
            self.engine.reset_stream(call.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
        self.forget(call)
        self.turn.wants(self)

    def drain(self) -> None:
        """End every call: those whose request can go on without us are told so, the others that we go away."""
        now = monotonic()
        for call in self._open.values():
            if call.ended is None:
                call.answering.let_go(now)
                if call.answering.ended:
                    call.answering.closed("drained", now)
                    call.ended = OK
                else:
                    call.fail(Status.UNAVAILABLE, "the picker is shutting down", "drained", now)
            self.touch(call)
        self.send()

    def lost(self) -> None:
        """The connection is gone."""
        calls, self._open = self._open, {}
        self._touched.clear()
        self._starved.clear()
        self.unfinished.clear()
        self.unread.clear()
        self.turn.forget(self)
        if self._sweeper is not None:
            self._sweeper.cancel()
        for call in calls.values():
            if call.ended is None:
                call.answering.closed("disconnected", monotonic())
            call.gone = True
            call.let_go()
        self.account.close()

    def end_unfinished(self, since: float) -> None:
        """Fail the calls that have waited since before that time for a message, or for the rest of one."""
        while self.unfinished:
            call, began = next(iter(self.unfinished.items()))
            if began > since:
                return
            del self.unfinished[call]
            if call.ended is None and not call.gone:
                call.fail(Status.DEADLINE_EXCEEDED, "no whole message came in time", "deadline", monotonic())
                self.touch(call)

    def end_unread(self, since: float) -> None:
        """Give up the calls of whose answers nothing was read since before that time."""
        while self.unread:
            call, began = next(iter(self.unread.items()))
            if began > since:
                return
            self.give_up(call)

    @property
    def starving(self) -> int | None:
        """A mark that stays the same while answers wait for the connection's window and none goes out; None without any."""
        return self._waited if self._starved and self.engine.outbound_flow_control_window <= 0 else None

    # --- sending ----------------------------------------------------------------------------------

    def send(self) -> None:
        """Write what the windows, the transport and a turn allow."""
        if self.paused:
            for call in self._touched:
                call.keep()
        else:
            self._room = SEND_BYTES
            touched, self._touched = self._touched, []
            for call in touched:
                call.touched = False
                self._try(call)
            while self._starved and self._room > 0 and self.engine.outbound_flow_control_window > 0:
                call = next(iter(self._starved))
                del self._starved[call]
                self._try(call)
        data = self.engine.data_to_send()
        if data:
            self._write(data)

    def _try(self, call: Call) -> None:
        if not call.gone:
            try:
                self._send_call(call)
            except StreamClosedError:
                self.forget(call)

    def _send_call(self, call: Call) -> None:
        out, ended = call.answering.out, call.ended
        # Nearly always all of it can go at once.
        if self._send_whole is not None and not call.out and out and (ended is None or ended is OK):
            head, tail = b"" if call.begun else _RESPONSE_BLOCK, b"" if ended is None else _OK_BLOCK
            data = out[0] if len(out) == 1 else b"".join(out)
            if len(data) <= self._room and self._send_whole(call.stream_id, head, data, tail):
                self._room -= len(data)
                out.clear()
                call.begun = True
                if tail:
                    self.forget(call)
                return
        self._send_slowly(call)

    def _send_slowly(self, call: Call) -> None:
        engine, stream_id = self.engine, call.stream_id
        call.keep()
        if call.out:
            if not call.begun:
                call.begun = True
                engine.send_headers(stream_id, RESPONSE)
            self._send_out(call)
        if call.unacknowledged and call.backlog <= BACKLOG_MAX:
            engine.acknowledge_received_data(call.unacknowledged, stream_id)
            call.unacknowledged = 0
        if call.out:
            if self.account.beyond():
                self.give_up(call)
        elif call.ended is not None:
            trailers = call.ended
            if trailers is OK and not call.begun:
                trailers = [*RESPONSE, *OK]
            engine.send_headers(stream_id, trailers, end_stream=True)
            if trailers[-1][0] == "grpc-message":
                engine.reset_stream(stream_id)
            self.forget(call)

    def _send_out(self, call: Call) -> None:
        """One frame for all that waits, or as many as its size, the windows and the turn make of it."""
        out, engine, stream_id = call.out, self.engine, call.stream_id
        assert out is not None, "the caller has looked"
        frame_bytes = min(engine.max_outbound_frame_size, FRAME_BYTES_SENT)
        if len(out) > 1 and call.backlog <= frame_bytes:
            whole = memoryview(b"".join(out))
            out.clear()
            out.append(whole)
        while out:
            if self._room <= 0:
                self.touch(call)
                return
            data = out[0]
            room = min(engine.local_flow_control_window(stream_id), frame_bytes)
            if room <= 0:
                self.unread.setdefault(call, monotonic())
                if engine.outbound_flow_control_window <= 0:
                    self._starved[call] = None
                return
            if len(data) <= room:
                out.popleft()
            else:
                data, out[0] = data[:room], data[room:]
            engine.send_data(stream_id, bytes(data))
            self._room -= len(data)
            self._waited += len(data)
            self.unread.pop(call, None)
            call.sent(len(data))

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


def _held_bytes(call: Call) -> int:
    return call.held_bytes
