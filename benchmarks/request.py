"""What a request costs in the picker process, without sockets: bytes of the gateway in, bytes to it and to the feed out.

    .venv/bin/python benchmarks/request.py [--endpoints 5] [--rounds 7] [--requests 2000] [--chunks 1]

Prints the median over rounds of the CPU a request, the lowest, and the same of the bare echo (echo.py), interleaved.
What sockets and the loop cost comes on top: `benchmarks/run.py` measures the whole.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import re
import statistics
import sys
import time
from pathlib import Path

import hpack
from grpclib.server import Server

sys.path.insert(0, str(Path(__file__).resolve().parent))
from echo import Echo
from schedule import POOL, cluster_of

from pointsman.core.events import Origin, PickerEvent
from pointsman.core.feed import encode_frame
from pointsman.core.feed_buffer import EntryBuffer
from pointsman.core.projection import ClusterState
from pointsman.core.traffic import TrafficState
from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HttpHeaders, ProcessingRequest
from pointsman.grpc.epp import METHOD, ExternalProcessor
from pointsman.grpc.http2_send import DATA, END_HEADERS, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame
from pointsman.grpc.picking import PoolPicking
from pointsman.grpc.protocol import Limits, Load
from pointsman.grpc.server import ENGINES, GrpcServer, quiet_grpclib

PATH_HEADERS = (":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1:19100"), (":path", "/v1/completions")
MORE_HEADERS = ("content-type", "application/json"), ("x-forwarded-proto", "http"), ("x-envoy-internal", "true")
STATUS_HEADERS = (
    (":status", "200"),
    ("server", "nginx/1.22.1"),
    ("date", "Sat, 21 Nov 2026 12:34:55 GMT"),
    ("content-length", "2216"),
    ("last-modified", "Sat, 21 Nov 2026 12:34:49 GMT"),
    ("etag", '"6b018fe9-8a8"'),
    ("accept-ranges", "bytes"),
    ("x-envoy-upstream-service-time", "1"),
)


class BufferFeed:
    """A feed whose other end takes everything at once."""

    def __init__(self, cluster: ClusterState) -> None:
        self.cluster = cluster
        self.traffic = TrafficState()
        self.traffic.follow(cluster)
        self.buffer = EntryBuffer(64 << 20)

    def origin(self) -> Origin:
        return Origin("picker-1", 1 << 63, self.buffer.last_n + 1, self.cluster.position)

    def record(self, event: PickerEvent) -> None:
        self.buffer.record(event)

    def flush(self) -> None:
        for entries in self.buffer.next_frames():
            encode_frame(entries)
        self.buffer.acknowledge(self.buffer.last_n)


class Written(asyncio.Transport):
    """Counts what is written."""

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


def headers_of(message: HttpHeaders, fields: tuple[tuple[str, str], ...]) -> None:
    for name, value in fields:
        header = message.headers.headers.add()
        header.key, header.raw_value = name, value.encode()


class Gateway:
    """The bytes that Envoy 1.40 sends for one request after the other: each body's end apart, each metadata present."""

    def __init__(self, chunks: int) -> None:
        self._hpack = hpack.Encoder()
        self._stream = -1
        usage = '"usage":{"prompt_tokens":120,"completion_tokens":40,"total_tokens":160}'
        self._json = ('{"id":"cmpl-1","choices":[{"text":"' + "x" * 2000 + '"}],' + usage + "}").encode()
        event = b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" word"}]}\n\n'
        self._chunks = [self._json] if chunks == 1 else [event] * chunks
        self._kind = "application/json" if chunks == 1 else "text/event-stream"

    def _message(self, message: ProcessingRequest) -> bytes:
        message.metadata_context.SetInParent()
        data = message.SerializeToString()
        return frame(DATA, 0, self._stream, b"\0" + len(data).to_bytes(4, "big") + data)

    def request(self, i: int) -> bytes:
        """Headers and body, as they come in one read."""
        self._stream += 2
        path = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "picker")]
        more = [("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "10000m")]
        block = self._hpack.encode([*path, *more, ("x-forwarded-for", "10.0.0.1")])
        first, second, third = ProcessingRequest(), ProcessingRequest(), ProcessingRequest()
        own = ("x-request-id", f"{i:08x}-4b1c-4d6e-9c3f-1f0c5d7a9b2e"), ("content-length", "1200")
        headers_of(first.request_headers, (*PATH_HEADERS, *MORE_HEADERS, *own))
        mode = ProcessingMode.FULL_DUPLEX_STREAMED
        first.protocol_config.request_body_mode = first.protocol_config.response_body_mode = mode
        prompt = f"system prompt number {i % 20} says be nice. " * 20 + f" question {i}"
        second.request_body.body = f'{{"model":"m","max_tokens":50,"prompt":"{prompt}"}}'.encode()
        third.request_body.end_of_stream = True
        head = frame(HEADERS, END_HEADERS, self._stream, block)
        return head + self._message(first) + self._message(second) + self._message(third)

    def response(self) -> list[bytes]:
        """Headers and body in as many reads as there are chunks, then the gateway's end of the stream."""
        headers = ProcessingRequest()
        headers_of(headers.response_headers, (*STATUS_HEADERS, ("content-type", self._kind)))
        reads = []
        for chunk in self._chunks:
            body = ProcessingRequest()
            body.response_body.body = chunk
            reads.append(self._message(body))
        end = ProcessingRequest()
        end.response_body.end_of_stream = True
        reads[0] = self._message(headers) + reads[0]
        reads[-1] += self._message(end)
        return [*reads, frame(RST_STREAM, 0, self._stream, bytes(4))]


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


async def measure(options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """CPU microseconds a request of the picker and of the echo, of each round; interleaved."""
    quiet_grpclib()
    feed = BufferFeed(cluster_of(options.endpoints))
    epp = ExternalProcessor(PoolPicking(POOL, feed), feed, Load(Limits()))
    picker = Bench(GrpcServer([epp], options.http2), 1, options.chunks)
    echo = Bench(Server([Echo()]), 4, options.chunks)  # it answers some turns later
    mine, theirs = [], []
    for _ in range(options.rounds + 1):
        mine.append(await picker.run(options.requests))
        theirs.append(1.0 if options.profile else await echo.run(options.requests))
    wanted = 3 * options.requests * (options.rounds + 1)
    if feed.buffer.last_n < wanted:
        raise AssertionError(f"{feed.buffer.last_n} entries, wanted {wanted}: three of each request")
    return mine[1:], theirs[1:]


async def watch_memory(requests: int) -> None:
    """Resident memory of this process, a tenth of the requests after the other; fails where it goes on growing."""
    feed = BufferFeed(cluster_of(100))
    epp = ExternalProcessor(PoolPicking(POOL, feed), feed, Load(Limits()))
    picker = Bench(GrpcServer([epp]), 1, 1)
    seen = []
    for tenth in range(1, 11):
        for _ in range(max(1, requests // 10_000)):
            await picker.run(1000)
        found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None, "Linux tells it"
        seen.append(int(found.group(1)) / 1024)
        print(f"{tenth * max(1, requests // 10_000) * 1000:9,} requests: {seen[-1]:.1f} MiB", flush=True)
    # Twenty prompts that differ in their ends: the index must not grow with requests.
    index = feed.traffic.prefix.statistics()
    print(f"prefix index: {index.bytes / 2**20:.1f} MiB in arrays, {index.blocks:,} blocks of {index.blocks_max:,}")
    if seen[-1] > 1.05 * seen[4]:
        raise SystemExit(f"memory grew from {seen[4]:.0f} to {seen[-1]:.0f} MiB in the second half, wanted 5 % at most")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=1, help="server-sent events a reply; 1 is a JSON reply of 2 KB")
    parser.add_argument("--http2", choices=sorted(ENGINES), default="pointsman", help="the engine")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--memory", type=int, metavar="REQUESTS", help="watch memory instead: 1000000, say")
    options = parser.parse_args()
    gc.set_threshold(5000)
    if options.memory:
        asyncio.run(watch_memory(options.memory))
        return

    if options.profile:
        profiler = cProfile.Profile()
        mine, theirs = profiler.runcall(asyncio.run, measure(options))
        for order in ("tottime", "cumtime"):
            pstats.Stats(profiler).sort_stats(order).print_stats(70)
    else:
        mine, theirs = asyncio.run(measure(options))
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    print(
        f"{statistics.median(mine):.1f} us a request, lowest {min(mine):.1f};"
        f" echo {statistics.median(theirs):.1f}; ratio {statistics.median(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
