"""The picker process: pools' ports and health on sockets that the supervisor hands over, decisions to the feed.

Rules.  No connection is accepted before there is a cluster state; until then the kernel holds them.
The process ends when the supervisor says so or is gone: streams first, then the feed, then the exit.
"""

import asyncio
import faulthandler
import gc
import logging
import secrets
import signal
import socket
import ssl
from pathlib import Path

from google.protobuf.internal import api_implementation

from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION
from pointsman.core.feed.picker_end import PickerIdentity
from pointsman.core.processes.leash import (
    WHERE,
    Drain,
    LeashError,
    Listen,
    ListenHealth,
    OperatorLine,
    PickerMessage,
    Ready,
    Stop,
    Unlisten,
)
from pointsman.core.processes.settings import PickerOptions, PickerSettings
from pointsman.core.state.traffic import TrafficState
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.picker_feed import PickerFeed
from pointsman.grpc.picker_leash import PickerLeash, held_leash
from pointsman.grpc.picking import PoolPicking
from pointsman.grpc.serving.accepting import connections_max
from pointsman.grpc.serving.grpc_server import GrpcServer, quiet_grpclib
from pointsman.grpc.serving.health import Condition, HealthService
from pointsman.grpc.serving.tls import RenewedPair, server_context

SETTLE_MAX = 1.5
"""Seconds at the end for the log to take the last entries."""

RENEWAL_LOOK = 1.0
"""Seconds between two looks at the certificate: it is renewed days before the old one ends."""

_logger = logging.getLogger("pointsman.picker")


class ProtobufTooSlowError(Exception):
    """Protobuf runs without its C implementation: each message would cost a hundred times as much."""


def run_picker(settings: PickerSettings) -> None:
    """Be a picker process until the supervisor ends it or is gone."""
    found = api_implementation.Type()
    if found != "upb":
        raise ProtobufTooSlowError(f"protobuf's implementation is {found!r}, wanted 'upb': install its binary wheel")
    quiet_grpclib()
    asyncio.run(_run(settings))


async def _run(settings: PickerSettings) -> None:
    leash = held_leash()
    faulthandler.register(WHERE)
    me = PickerIdentity(settings.picker, secrets.randbits(64), settings.build, SCHEDULER_VERSION, dict(PLUGIN_VERSIONS))
    page = Path(settings.page) if settings.page else None
    traffic = TrafficState()
    feed = PickerFeed(Path(settings.feed), me, traffic, page=page, buffer_bytes_max=settings.options.buffer_bytes_max)
    picker = PickerProcess(settings.options, feed, leash)
    feeding = asyncio.create_task(feed.run())
    serving = asyncio.create_task(picker.serve())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, picker.take, Stop(settings.stop_within))
    try:
        await asyncio.wait((feeding, serving), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and not serving.done():
            feeding.result()  # it only ends by an error: this epoch is refused
        await serving
    finally:
        serving.cancel()
        await picker.close()
        await feed.wait_settled(SETTLE_MAX)
        feeding.cancel()
        leash.close()


class PickerProcess:
    """The servers of one picker process."""

    def __init__(self, options: PickerOptions, feed: PickerFeed, leash: PickerLeash) -> None:
        self._options = options
        self._feed = feed
        self._leash = leash
        self._load = Load(options.limits)
        self._load.held.connections_max = connections_max()
        self._condition = Condition(self._ready)
        self._pools: dict[str, tuple[GrpcServer, ExternalProcessor]] = {}
        self._health: list[GrpcServer] = []
        self._orders: asyncio.Queue[tuple[PickerMessage | None, socket.socket | None]] = asyncio.Queue()
        self._pending: list[tuple[Listen, socket.socket]] = []
        """Ports that wait for a cluster state."""
        self._tls: ssl.SSLContext | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._told_ready = False

    def _ready(self) -> bool:
        """Whether there is a state that knows a pool of ours: one deleted pool does not take the others down."""
        cluster = self._feed.cluster
        return cluster is not None and any(pool in cluster.pools for pool in self._pools)

    def take(self, order: PickerMessage | None, sock: socket.socket | None = None) -> None:
        """Queue an order; None says that the feed has brought the first cluster state."""
        self._orders.put_nowait((order, sock))

    def _receive(self) -> None:
        try:
            orders = self._leash.receive()
        except LeashError:
            _logger.exception("the supervisor cannot be understood, ending")
            orders = [(Stop(), None)]
        for order, sock in orders:
            self.take(order, sock)
            if isinstance(order, Stop):
                asyncio.get_running_loop().remove_reader(self._leash.end)

    async def serve(self) -> None:
        """Follow orders until the one to stop."""
        asyncio.get_running_loop().add_reader(self._leash.end, self._receive)
        fed = asyncio.create_task(self._feed.wait_fed())
        fed.add_done_callback(lambda task: None if task.cancelled() else self.take(None))
        try:
            while not isinstance((told := await self._orders.get())[0], Stop):
                await self._obey(*told)
            await self._finish(told[0].seconds)
        finally:
            fed.cancel()
            for _, sock in self._pending:
                sock.close()

    async def _obey(self, order: PickerMessage | None, sock: socket.socket | None) -> None:
        match order:
            case None:
                pass
            case Listen():
                assert sock is not None
                self._pending.append((order, sock))
            case ListenHealth():
                assert sock is not None
                server = GrpcServer(
                    [HealthService(self._condition)],
                    self._options.engine,
                    held=self._load.held,
                    patience=self._options.patience,
                )
                await server.listen(sock)
                self._health.append(server)
            case Unlisten(pool):
                await self._leave(pool)
            case Drain():
                self._condition.draining = True
            case _:
                raise AssertionError(f"{order} is not obeyed here")
        if self._feed.cluster is not None:
            await self._listen_pending()

    async def _listen_pending(self) -> None:
        while self._pending:
            await self._listen(*self._pending.pop(0))
        if self._pools and not self._told_ready:
            self._told_ready = True
            _settle_memory()
            self._leash.say(Ready())

    async def _listen(self, order: Listen, sock: socket.socket) -> None:
        await self._leave(order.pool)
        epp = ExternalProcessor(
            PoolPicking(order.pool, self._feed), self._feed, self._load, self._options.message_bytes_max
        )
        more = [HealthService(self._condition)] if self._options.health_checking else []
        server = GrpcServer([epp, *more], self._options.engine, patience=self._options.patience)
        if order.tls and self._tls is None:
            self._tls = server_context(self._options.cert_path, self._options.tls_min_version)
            if self._options.cert_path and self._options.reload_certificates:
                self._renewing = asyncio.create_task(self._renew(RenewedPair(self._tls, self._options.cert_path)))
        await server.listen(sock, self._tls if order.tls else None)
        self._pools[order.pool] = (server, epp)
        _logger.info("pool %s is served on port %s", order.pool, sock.getsockname()[1])

    async def _renew(self, pair: RenewedPair) -> None:
        """Take up renewed certificates for ever."""
        while True:
            await asyncio.sleep(RENEWAL_LOOK)
            if told := await asyncio.to_thread(pair.look):  # a disk that does not answer holds up no stream
                self._leash.say(OperatorLine(told))

    async def _leave(self, pool: str) -> None:
        """Serve a pool no longer; its replies in progress go on without us."""
        for order, sock in list(self._pending):
            if order.pool == pool:
                self._pending.remove((order, sock))
                sock.close()
        if pool in self._pools:
            server, _ = self._pools.pop(pool)
            server.stop_accepting()
            await server.disconnect()

    async def _finish(self, within: float) -> None:
        """Stop accepting, let streams finish, and let go of those that do not."""
        self._condition.draining = True
        for server, _ in self._pools.values():
            server.stop_accepting()
        await asyncio.gather(*[server.finish(within) for server, _ in self._pools.values()])
        await self.close()

    async def close(self) -> None:
        """End every call and connection."""
        if self._renewing is not None:
            self._renewing.cancel()
        for pool in list(self._pools):
            await self._leave(pool)
        while self._health:
            server = self._health.pop()
            server.stop_accepting()
            await server.disconnect()


def _settle_memory() -> None:
    """Keep the collector from looking at what lasts, and from looking often (p99 5 ms instead of 30, 10 % less CPU)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000)
