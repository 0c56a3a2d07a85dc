"""One connection of a server: bytes to the HTTP/2 engine, streams to the calls that answer them, and time limits.

grpclib's protocol with the engine chosen.  Its handlers are not used: they would start a task for each stream,
and keep whatever is sent on it.  What none of our methods is, is refused in the turn in which it comes.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol
from h2.events import DataReceived, RemoteSettingsChanged, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from pointsman.core.processes.settings import Patience
from pointsman.grpc.http2.header_blocks import Headers
from pointsman.grpc.http2.machine import ServerConnection
from pointsman.grpc.serving.call import Answering, Call
from pointsman.grpc.serving.calls import Calls, Http2Engine
from pointsman.grpc.serving.grpc_messages import acceptable, refusal
from pointsman.grpc.serving.held import Account, Held
from pointsman.grpc.serving.turn import Turn

if TYPE_CHECKING:
    from grpclib.config import Configuration
    from h2.config import H2Configuration
    from h2.events import Event

HIGHEST_STREAM = 2**31 - 1
"""Stream id that in a GOAWAY says: open nothing more here, what is open goes on (RFC 9113, 6.8)."""
UNREAD_MAX = 2 * 2**20
"""Bytes written to a peer that does not read them: what answers may add in a turn, and much of what control frames may."""
PROBES = 6
"""Questions of the kernel to a silent peer, evenly over the time that it has."""

Answers = Mapping[str, Callable[[Account], Answering]]
"""Paths of methods, and what begins a call of each, for the account of its connection."""


class ConnectionOwner(Protocol):
    """What a connection needs of its server."""

    settings: "Configuration"
    http2_settings: "H2Configuration"
    engine: Callable[["H2Configuration", int], Http2Engine]
    streams_max: int
    answers: Answers
    turn: Turn
    held: Held
    message_bytes_max: int
    patience: Patience
    connections: "set[GrpcConnection]"


class Unchanged:
    """Since when a mark is what it is."""

    __slots__ = ("_mark", "_since")

    def __init__(self) -> None:
        self._mark: int | None = None
        self._since = 0.0

    def seconds(self, mark: int | None, now: float) -> float:
        """Look at the mark: for how long it has been the same; 0 where there is none."""
        if mark is None or mark != self._mark:
            self._mark, self._since = mark, now
        return now - self._since


class ServerEvents(EventsProcessor):
    """What happens on a connection: to its calls, or refused."""

    def __init__(self, handler: AbstractHandler, connection: Connection, answers: Answers, calls: Calls) -> None:
        super().__init__(handler, connection)
        self._answers = answers
        self._calls = calls
        self.greeted = False
        """Whether the peer has sent its SETTINGS."""
        self.begun = 0
        """Number of streams that the peer has begun."""
        self._known: tuple[Headers, Callable[[Account], Answering] | None, str | None] = ([], None, None)
        """The headers last seen, which our engine hands out again for the same bytes; what answers them; their timeout."""

    def process(self, event: "Event") -> None:
        """Ignore what grpclib does not know: "Implementations MUST ignore and discard frames of unknown types"
        (RFC 9113, 4.1)."""
        calls, kind = self._calls, event.__class__
        if kind is WindowUpdated:
            calls.window_opened(event.stream_id)  # type: ignore[attr-defined]
        elif kind is RemoteSettingsChanged:
            self.greeted = True
            calls.windows_changed()
        elif kind is RequestReceived:
            headers: Headers = event.headers  # type: ignore[attr-defined]
            if self.accept(event.stream_id, headers) is None:  # type: ignore[attr-defined]
                self._refuse(event.stream_id, headers)  # type: ignore[attr-defined]
            return
        elif (call := calls.get(getattr(event, "stream_id", 0))) is not None:
            if kind is DataReceived:
                size = event.flow_controlled_length  # type: ignore[attr-defined]
                if call.take(event.data, size):  # type: ignore[attr-defined]
                    self._calls.engine.acknowledge_received_data(size, call.stream_id)
            elif kind is StreamEnded:
                call.half_closed()
            elif kind is StreamReset:
                call.reset()
            return
        processors = getattr(self, "processors", {})  # gone once the connection is closed
        handle = processors.get(kind)
        if handle is not None:
            handle(event)

    def accept(self, stream_id: int, headers: Headers) -> Call | None:
        """Take a call; None where it is none of ours."""
        self.begun += 1
        if headers is not self._known[0]:
            found = dict(headers)
            begin = self._answers.get(found.get(":path", "")) if acceptable(headers) else None
            self._known = (headers, begin, found.get("grpc-timeout"))
        _, begin, timeout = self._known
        return None if begin is None else self._calls.begin(stream_id, timeout, begin(self._calls.account))

    def _refuse(self, stream_id: int, headers: Headers) -> None:
        engine = self._calls.engine
        try:
            engine.send_headers(stream_id, refusal(headers, self._answers), end_stream=True)
            engine.reset_stream(stream_id)
        except StreamClosedError:
            pass  # the request has ended as well, and so has the stream

    def close(self, reason: str = "Connection closed") -> None:
        """As grpclib does it; calls end with their connection."""
        self._calls.lost()
        super().close(reason)


class GrpcConnection(H2Protocol):
    """One connection; its server knows it while it lasts, and has it `look` at its times once a second."""

    def __init__(self, server: ConnectionOwner, handler: AbstractHandler) -> None:
        super().__init__(handler, server.settings, server.http2_settings)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As grpclib does it, with the engine chosen."""
        sock = transport.get_extra_info("socket")
        server = self._server
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            _set_options(sock, server.patience.vanished)
        engine = server.engine(self.h2_config, server.streams_max)
        assert isinstance(transport, asyncio.Transport)
        self.connection = Connection(engine, transport, config=self.config)  # type: ignore[arg-type]  # h2's shape
        self.engine = self.connection._connection
        self.engine.initiate_connection()
        initial = self.engine.local_settings.initial_window_size
        self.engine.increment_flow_control_window(self.config.http2_connection_window_size - initial)
        self.engine.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self.config.http2_stream_window_size})
        self.connection.flush()
        self.transport = transport
        self.calls = Calls(engine, transport.write, server.turn, server.held, server.message_bytes_max)
        self.processor: ServerEvents = ServerEvents(self.handler, self.connection, server.answers, self.calls)
        if isinstance(self.engine, ServerConnection):
            self.engine.hand_over(self.processor.accept)
        self._counted_from = 0.0
        self._made = self.busy = monotonic()
        """Time when it was last seen with a stream."""
        self._begun = 0
        self._discouraged = False
        self._paused_since = self._closing_since = 0.0
        self._piece, self._starving = Unchanged(), Unchanged()
        server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Read what came; answers go out at the end of the turn."""
        now = monotonic()
        if now - self._counted_from > 1.0:
            self._counted_from = now
            if isinstance(self.engine, ServerConnection):
                self.engine.forgive()
        turn = self._server.turn
        turn.read()
        try:
            self._read(data)
        finally:
            turn.settle()

    def _read(self, data: bytes) -> None:
        try:
            events = self.engine.receive_data(data)
        except ProtocolError:
            self.connection.flush()
            self.processor.close("Protocol error")
            return
        for event in events:
            self.processor.process(event)
        if self.calls not in self._server.turn.dirty:
            output = self.engine.data_to_send()
            if output and not self.transport.is_closing():
                self.transport.write(output)

    def pause_writing(self) -> None:
        """The peer reads slower than it is written to."""
        super().pause_writing()
        self._paused_since = monotonic()
        self.calls.pause()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        super().resume_writing()
        self.calls.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._server.connections.discard(self)
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no call is in progress."""
        return not self.calls

    def look(self, now: float) -> None:
        """End what has taken too long: the peer's greeting, its messages, its reading, its silence."""
        times, calls = self._server.patience, self.calls
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > times.leaving:
                self.transport.abort()  # what it does not read keeps nobody
            return
        deaf = calls.paused and now - self._paused_since > times.unread
        starving = self._starving.seconds(calls.starving, now) > times.unread
        dumb = not self.processor.greeted and now - self._made > times.greeting
        halting = self._piece.seconds(calls.engine.unfinished, now) > times.message
        if deaf or starving or dumb or halting or self.transport.get_write_buffer_size() > UNREAD_MAX:
            self.transport.abort()
        elif calls or self.processor.begun != self._begun:
            self._begun, self.busy = self.processor.begun, now
            calls.end_unfinished(now - times.message)
            calls.end_unread(now - times.stream_unread)
        elif now - self.busy > times.idle + times.leaving:
            self.leave()
        elif now - self.busy > times.idle and not self._discouraged:
            self.discourage()

    def discourage(self) -> None:
        """Ask the peer to open no more streams here."""
        self._discouraged = True
        if not self.transport.is_closing():
            self.transport.write(GoAwayFrame(0, last_stream_id=HIGHEST_STREAM, error_code=0).serialize())

    def leave(self) -> None:
        """Say GOAWAY for good and close once all is written."""
        if not self.transport.is_closing():
            self.engine.close_connection()
            self.connection.flush()
            self.processor.close("Server closed")


def _set_options(sock: socket.socket, vanished: int) -> None:
    """Send at once, and have the kernel end the connection whose other end answers nothing for `vanished` seconds."""
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, vanished)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, max(1, vanished // PROBES))
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, PROBES)
    sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, vanished * 1000)
