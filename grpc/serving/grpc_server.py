"""A gRPC server with limits, a choice of HTTP/2 engines, and a way to end in order.

What grpclib leaves open, and is closed here: streams per connection are told to the peer from the first SETTINGS,
unknown frames do not end a connection, messages have a size limit, connections have a number and an end,
and closing lets streams finish.
"""

import asyncio
import heapq
import logging
import socket
import ssl
from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from grpclib.protocol import H2Protocol
from grpclib.server import Handler, Server
from h2.connection import H2Connection
from h2.events import Event
from h2.settings import SettingCodes, Settings

from pointsman.core.processes.settings import MESSAGE_BYTES_MAX, OWN_ENGINE, STOCK_ENGINE, Patience, StreamLimits
from pointsman.grpc.http2.machine import STREAMS_MAX, ServerConnection
from pointsman.grpc.serving.accepting import Accepting
from pointsman.grpc.serving.calls import Http2Engine
from pointsman.grpc.serving.connection import Answers, GrpcConnection
from pointsman.grpc.serving.held import Held
from pointsman.grpc.serving.turn import Turn

if TYPE_CHECKING:
    from h2._typing import Buffer
    from h2.config import H2Configuration

STOOD = 1.0
"""Seconds by which a look at peers' times is so late that the process must have stood: stopped, or asleep.

For as long, what peers sent meanwhile is read before anybody is let go of.
"""


class AnsweringService(Protocol):
    """A service whose methods are answered in the turn in which their bytes arrive."""

    def answers(self) -> Answers:
        """Its methods, by their paths."""
        ...


@runtime_checkable
class RecordingService(Protocol):
    """A service that records what it answers, and shares what it holds with the others of its process."""

    message_bytes_max: int

    @property
    def held(self) -> Held:
        """What the process holds for peers."""
        ...

    def turn(self) -> Turn:
        """What is sent at a turn's end."""
        ...


def _nothing() -> None:
    pass


def quiet_grpclib() -> None:
    """Keep grpclib from logging each connection that ends."""
    logging.getLogger("grpclib").setLevel(logging.WARNING)


class StockConnection(H2Connection):
    """h2's own machine, which tells what has not come whole as ours does."""

    def __init__(self, config: "H2Configuration") -> None:
        super().__init__(config=config)
        self._received = 0

    def receive_data(self, data: "Buffer") -> "list[Event]":
        """As h2 does it, counting."""
        self._received += memoryview(data).nbytes
        return super().receive_data(data)

    @property
    def unfinished(self) -> int | None:
        """What has begun and not come whole, as `Receiver.unfinished` tells it."""
        buffer = self.incoming_buffer
        if buffer._headers_buffer:
            return -int(buffer._headers_buffer[0].stream_id)
        left = len(buffer._data)
        return self._received - left if left else None


def _stock_engine(config: "H2Configuration", streams_max: int) -> StockConnection:
    """Its limit of 100 streams applies until the peer has acknowledged another, so it starts so."""
    engine = StockConnection(config)
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


ENGINES: dict[str, Callable[["H2Configuration", int], Http2Engine]] = {
    OWN_ENGINE: _own_engine,
    STOCK_ENGINE: _stock_engine,
}
"""What makes the machine of a connection, by the values of `--http2`."""


class GrpcServer(Server):
    """A server on a socket that is handed in."""

    def __init__(
        self,
        services: Collection[AnsweringService],
        engine: str = OWN_ENGINE,
        streams_max: int = STREAMS_MAX,
        held: Held | None = None,
        *,
        patience: Patience | None = None,
    ) -> None:
        """`held` is what the process holds for peers, where no service tells; by default an account of its own."""
        super().__init__([])
        self.engine = ENGINES[engine]
        self.streams_max = streams_max
        self.patience = patience or Patience()
        self.settings = self._config
        self.http2_settings = self._h2_config
        self.connections: set[GrpcConnection] = set()
        self.turn = Turn(_nothing)
        self.message_bytes_max = MESSAGE_BYTES_MAX
        self.held = held or Held(StreamLimits().held_bytes_max)
        self.answers: Answers = {}
        for service in services:
            self.answers = {**self.answers, **service.answers()}
            if isinstance(service, RecordingService):
                self.turn = service.turn()
                self.held = service.held
                self.message_bytes_max = service.message_bytes_max
        self._accepting: Accepting | None = None
        self._looked = 0.0
        self._lenient_until = 0.0
        """Time before which nobody is let go of, because this process has stood; 0 where it has not."""

    def _protocol_factory(self) -> H2Protocol:
        return GrpcConnection(self, Handler({}, self._codec, self._status_details_codec, self.__dispatch__))

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections from here on."""
        patience = self.patience
        self._accepting = Accepting(sock, self._protocol_factory, self._room, tls, handshake=patience.greeting)
        self._looked = monotonic()
        self._look()

    def _room(self, beginning: int) -> bool:
        """Whether one more connection can be had; those that have been idle longest are closed for it."""
        if len(self.held.accounts) + beginning < self.held.connections_max:
            return True
        idle = [c for c in self.connections if c.idle and not c.transport.is_closing()]
        for connection in heapq.nsmallest(len(idle) // 16 + 1, idle, key=_busy):
            connection.transport.abort()
        return bool(idle)

    def _look(self) -> None:
        now, look = monotonic(), self.patience.look
        late, self._looked = now - self._looked > look + STOOD, now
        if late and not self._lenient_until:
            self._lenient_until = now + STOOD
        elif now >= self._lenient_until:
            self._lenient_until = 0.0
            for connection in list(self.connections):
                connection.look(now)
        if self._accepting is not None or self.connections:
            asyncio.get_running_loop().call_later(look, self._look)

    @property
    def open_streams(self) -> int:
        """Calls in progress."""
        return sum(len(c.calls) for c in self.connections)

    def stop_accepting(self) -> None:
        """Close the listening socket, which others may hold too, and ask peers to open nothing more."""
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
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
        """End what is still in progress, then close every connection."""
        for connection in list(self.connections):
            connection.calls.drain()
            connection.leave()


def _busy(connection: GrpcConnection) -> float:
    return connection.busy
