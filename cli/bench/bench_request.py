"""What a request costs in the picker process, without sockets: bytes of the gateway in, bytes to it and to the feed out.

The bare echo is measured in turns with it.  What sockets and the event loop cost comes on top.
"""

import asyncio
import gc
import time

import msgspec
from grpclib.server import Server

from pointsman.cli.bench.bench_decisions import POOL, cluster_of
from pointsman.cli.bench.echo import Echo
from pointsman.cli.bench.gateway_bytes import Gateway
from pointsman.core.events import Origin, PickerEvent
from pointsman.core.feed.buffer import EntryBuffer
from pointsman.core.feed.frames import encode_frame
from pointsman.core.processes.last_page import PAGE_BYTES, put_down, take_in_hand
from pointsman.core.processes.settings import StreamLimits
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import TrafficState
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.http2.frames import PREFACE, SETTINGS, WINDOW_UPDATE, frame
from pointsman.grpc.picking import PoolPicking
from pointsman.grpc.serving.grpc_server import GrpcServer, quiet_grpclib


class Options(msgspec.Struct, frozen=True):
    """What is measured, and how long."""

    endpoints: int = 5
    rounds: int = 7
    requests: int = 2000
    """Requests in one round."""
    chunks: int = 1
    """Number of server-sent events in a reply; 1 stands for a JSON reply of 2 KB."""
    http2: str = "pointsman"
    """Name of the HTTP/2 engine."""
    profile: bool = False
    """Whether the echo is left out, for a profiler."""


class BufferFeed:
    """A feed whose other end takes everything at once."""

    def __init__(self, cluster: ClusterState) -> None:
        self.cluster = cluster
        self.traffic = TrafficState()
        self.traffic.follow(cluster)
        self.buffer = EntryBuffer(64 << 20)
        self.page = bytearray(PAGE_BYTES)

    def origin(self) -> Origin:
        return Origin("picker-1", 1 << 63, self.buffer.last_n + 1, self.cluster.position)

    def record(self, event: PickerEvent) -> None:
        self.buffer.record(event)

    def take_in_hand(self, request_id: str, path: str, body_bytes: int) -> None:
        take_in_hand(self.page, f"{request_id[:100]!r}, {path[:60]!r}, {body_bytes} bytes")

    def put_down(self) -> None:
        put_down(self.page)

    def flush(self) -> None:
        for entries in self.buffer.next_frames():
            encode_frame(entries)
        self.buffer.acknowledge(self.buffer.last_n)


class Written(asyncio.Transport):
    """A transport that counts the bytes written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True


class Bench:
    """One server with one connection of the gateway."""

    def __init__(self, server: Server, turns: int, chunks: int) -> None:
        self._connection = server._protocol_factory()
        self._written = Written()
        self._read = 0
        self._connection.connection_made(self._written)
        self._turns = turns
        self._gateway = Gateway(chunks)
        self._done = 0
        window = frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
        self._connection.data_received(PREFACE + frame(SETTINGS, 0, 0) + window)

    async def run(self, requests: int) -> float:
        """CPU microseconds a request."""
        gateway, connection = self._gateway, self._connection
        work = [[gateway.request(self._done + i), *gateway.response()] for i in range(requests)]
        self._done += requests
        if more := self._written.size - self._read:
            self._read += more
            connection.data_received(frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))
        gc.collect()
        gc.freeze()
        begin = time.process_time()
        for reads in work:
            for read in reads:
                connection.data_received(read)
                for _ in range(self._turns):
                    await asyncio.sleep(0)
        return 1e6 * (time.process_time() - begin) / requests


async def measure(options: Options) -> tuple[list[float], list[float]]:
    """CPU microseconds a request of each round, of the picker and of the echo, measured in turns."""
    quiet_grpclib()
    feed = BufferFeed(cluster_of(options.endpoints))
    epp = ExternalProcessor(PoolPicking(POOL, feed), feed, Load(StreamLimits()))
    picker = Bench(GrpcServer([epp], options.http2), 1, options.chunks)
    echo = Bench(Server([Echo()]), 4, options.chunks)  # grpclib answers some turns of the loop later
    mine, theirs = [], []
    for _ in range(options.rounds + 1):
        mine.append(await picker.run(options.requests))
        theirs.append(1.0 if options.profile else await echo.run(options.requests))
    wanted = 3 * options.requests * (options.rounds + 1)
    if feed.buffer.last_n < wanted:
        raise AssertionError(f"{feed.buffer.last_n} entries, wanted {wanted}: three of each request")
    return mine[1:], theirs[1:]
