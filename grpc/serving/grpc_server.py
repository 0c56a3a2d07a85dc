"""grpclib's server with limits, a choice of HTTP/2 engines, and a way to end in order.

What grpclib leaves open, and is closed here: streams per connection are told to the peer from the first SETTINGS,
unknown frames do not end a connection, messages have a size limit, and closing lets streams finish.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from google.protobuf.message import Message
from grpclib.encoding.proto import ProtoCodec
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol
from grpclib.server import Handler, Server
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from pointsman.core.processes.settings import MESSAGE_BYTES_MAX, OWN_ENGINE, STOCK_ENGINE
from pointsman.grpc.http2.header_blocks import Headers
from pointsman.grpc.http2.machine import STREAMS_MAX, ServerConnection
from pointsman.grpc.serving.calls import Answering, Call, Calls
from pointsman.grpc.serving.grpc_messages import acceptable
from pointsman.grpc.serving.turn import Turn

if TYPE_CHECKING:
    from grpclib._typing import IServable
    from h2.config import H2Configuration
    from h2.events import Event


HIGHEST_STREAM = 2**31 - 1
"""Stream id that in a GOAWAY says: open nothing more here, what is open goes on (RFC 9113, 6.8)."""

_BACKLOG = 1024
"""Connections that wait to be accepted, while a process starts, say."""

UNREAD_MAX = 16 * 2**20
"""Bytes written to a peer that does not read them: four windows of a connection."""

Answers = Mapping[str, Callable[[], Answering]]
"""Paths of methods that are answered in the turn in which their bytes arrive, and what begins a call of each."""


@runtime_checkable
class AnsweringService(Protocol):
    """A service that has such methods."""

    message_bytes_max: int

    def answers(self) -> dict[str, Callable[[], Answering]]:
        """Its methods."""
        ...

    def turn(self) -> Turn:
        """What is sent at a turn's end."""
        ...


def _nothing() -> None:
    pass


def quiet_grpclib() -> None:
    """Keep grpclib from logging each stream that a gateway resets, which is how streams end."""
    logging.getLogger("grpclib").setLevel(logging.WARNING)
    logging.getLogger("grpclib.server").addFilter(_told_of_nothing_new)


def _told_of_nothing_new(record: logging.LogRecord) -> bool:
    """Whether a record is of something else than an answer to a stream that its peer has closed."""
    return not (record.exc_info and isinstance(record.exc_info[1], StreamClosedError))


def _stock_engine(config: "H2Configuration", streams_max: int) -> H2Connection:
    """h2's own machine; its limit of 100 streams applies until the peer has acknowledged another, so it starts so."""
    engine = H2Connection(config=config)
    engine.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: streams_max,
            SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
        },
    )
    return engine


def _own_engine(config: "H2Configuration", streams_max: int) -> ServerConnection:
    return ServerConnection(config, streams_max)


ENGINES: dict[str, Callable[["H2Configuration", int], object]] = {OWN_ENGINE: _own_engine, STOCK_ENGINE: _stock_engine}
"""What makes the machine of a connection, by the values of `--http2`."""


class PassingCodec(ProtoCodec):
    """Protobuf, where a message to send may be its bytes already."""

    def encode(self, message: object, message_type: object) -> bytes:
        """Return bytes as they are."""
        if isinstance(message, bytes):
            return message
        assert isinstance(message, Message), f"{type(message).__name__} to send, wanted bytes or a message"
        return message.SerializeToString()


class _ServerEvents(EventsProcessor):
    """What happens on a connection: calls answered at once to their place, the rest to grpclib."""

    def __init__(self, handler: AbstractHandler, connection: Connection, answers: "Answers", calls: Calls) -> None:
        super().__init__(handler, connection)
        self._answers = answers
        self._calls = calls
        self._known: tuple[Headers, Callable[[], Answering] | None, str | None] = ([], None, None)
        """The headers last seen, which our engine hands out again for the same bytes; what answers them; their timeout."""

    def process(self, event: "Event") -> None:
        """Ignore what grpclib does not know: "Implementations MUST ignore and discard frames of unknown types"
        (RFC 9113, 4.1)."""
        calls, kind = self._calls, event.__class__
        if kind is WindowUpdated:
            calls.window_opened(event.stream_id)  # type: ignore[attr-defined]
        elif kind is RemoteSettingsChanged:
            calls.window_opened(0)
        elif kind is RequestReceived:
            if self.accept(event.stream_id, event.headers) is not None:  # type: ignore[attr-defined]
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
        """Take a call that is answered at once; None where it is none."""
        if headers is not self._known[0]:
            found = dict(headers)
            begin = self._answers.get(found.get(":path", "")) if acceptable(headers) else None
            self._known = (headers, begin, found.get("grpc-timeout"))
        _, begin, timeout = self._known
        return None if begin is None else self._calls.begin(stream_id, timeout, begin())

    def close(self, reason: str = "Connection closed") -> None:
        """As grpclib does it; calls end with their connection."""
        self._calls.lost()
        super().close(reason)


class _ServerConnection(H2Protocol):
    """One connection; its server knows it while it lasts."""

    def __init__(self, server: "GrpcServer", handler: AbstractHandler) -> None:
        super().__init__(handler, server.settings, server.http2_settings)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As grpclib does it, with the engine chosen."""
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        engine = self._server.engine(self.h2_config, self._server.streams_max)
        assert isinstance(transport, asyncio.Transport)
        self.connection = Connection(engine, transport, config=self.config)  # type: ignore[arg-type]  # h2's shape
        self.engine = self.connection._connection
        self.engine.initiate_connection()
        initial = self.engine.local_settings.initial_window_size
        self.engine.increment_flow_control_window(self.config.http2_connection_window_size - initial)
        self.engine.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self.config.http2_stream_window_size})
        self.connection.flush()
        self.connection.initialize()
        self.transport = transport
        server = self._server
        self.calls = Calls(self.engine, transport.write, server.turn, server.message_bytes_max)
        self.processor = _ServerEvents(self.handler, self.connection, server.answers, self.calls)
        if isinstance(self.engine, ServerConnection):
            self.engine.hand_over(self.processor.accept)
        self._counted_from = 0.0
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Read what came; answers go out at the end of the turn."""
        now = monotonic()
        if now - self._counted_from > 1.0:
            self._counted_from = now
            if isinstance(self.engine, ServerConnection):
                self.engine.forgive()
            if self.transport.get_write_buffer_size() > UNREAD_MAX:
                self.transport.abort()  # it sends, and reads nothing of what it is answered
                return
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
        self.calls.pause()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        super().resume_writing()
        self.calls.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._server.connections.discard(self)
        super().connection_lost(exc)

    def discourage(self) -> None:
        """Ask the peer to open no more streams here."""
        if not self.transport.is_closing():
            self.transport.write(GoAwayFrame(0, last_stream_id=HIGHEST_STREAM, error_code=0).serialize())

    def leave(self) -> None:
        """Say GOAWAY for good and close once all is written."""
        if not self.transport.is_closing():
            self.engine.close_connection()
            self.connection.flush()
            self.processor.close("Server closed")


class GrpcServer(Server):
    """A server on a socket that is handed in."""

    def __init__(
        self, services: Collection["IServable"], engine: str = OWN_ENGINE, streams_max: int = STREAMS_MAX
    ) -> None:
        super().__init__(services, codec=PassingCodec())
        self.engine = ENGINES[engine]
        self.streams_max = streams_max
        self.settings = self._config
        self.http2_settings = self._h2_config
        self.connections: set[_ServerConnection] = set()
        self.answers: dict[str, Callable[[], Answering]] = {}
        self.turn = Turn(_nothing)
        self.message_bytes_max = MESSAGE_BYTES_MAX
        for service in services:
            if isinstance(service, AnsweringService):
                self.answers |= service.answers()
                self.turn = service.turn()
                self.message_bytes_max = service.message_bytes_max
        self._listening: asyncio.Server | None = None

    def _protocol_factory(self) -> H2Protocol:
        handler = Handler(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        return _ServerConnection(self, handler)

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections from here on."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._protocol_factory, sock=sock, backlog=_BACKLOG, ssl=tls)

    @property
    def open_streams(self) -> int:
        """Calls in progress."""
        return sum(len(c.processor.streams) + len(c.calls) for c in self.connections)

    def stop_accepting(self) -> None:
        """Close the listening socket, which others may hold too, and ask peers to open nothing more."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in self.connections:
            connection.discourage()

    async def finish(self, within: float) -> bool:
        """Wait until no call is in progress, `within` seconds at most; whether that came to be."""
        deadline = asyncio.get_running_loop().time() + within
        while self.open_streams:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(min(0.05, within))
        return True

    async def disconnect(self) -> None:
        """Cancel what is still in progress, let it say so, then close every connection."""
        connections = list(self.connections)
        for connection in connections:
            connection.calls.drain()
        tasks = [task for c in connections for task in c.handler._tasks.values()]  # type: ignore[attr-defined]
        for task in tasks:
            task.cancel()
        if tasks:
            # A peer that reads nothing must not keep us: what is not said within a second is not said.
            await asyncio.wait(tasks, timeout=1.0)
        for connection in connections:
            connection.leave()
