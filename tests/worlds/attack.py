"""Everything that reads what others wrote is given valid input, changed: bodies, frames, pages, files, queries.

    make attack ARGS="--minutes 30 --seed 1"

A round is a target and a seed; both are printed where it fails, and `--only TARGET --seed SEED --rounds 1` repeats it.
What is looked for: an exception that nobody announced, an input that takes more than its share of time, time that grows
faster than the input, memory that stays, and a picker that no longer serves.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote_from_bytes

from worlds.attack_corpus import BODIES, CONFIGS, ENDPOINTS, MANIFESTS, METRICS, PIECES, QUERIES, RESPONSES
from worlds.attacker import Attacker
from worlds.console_world import Running, running
from worlds.mutated_frames import into_connection, into_engine, mutated as mutated_frames, pieces, traffic
from worlds.picker_process import Control, PickerProcess, picker
from worlds.wire import (
    connected,
    hear,
    open_stream,
    request_body,
    request_headers,
    response_body,
    response_headers,
    say,
)

from pointsman.cli.bench.bench_decisions import POOL, cluster_of
from pointsman.cli.bench.bench_request import BufferFeed
from pointsman.cluster.manifests.endpoints_file import read_endpoints
from pointsman.cluster.objects.manifest import read_manifest
from pointsman.cluster.objects.yaml_document import load_documents
from pointsman.cluster.objects.yaml_nodes import DocumentError
from pointsman.cluster.scraping.http_page import HttpError, ResponseReader
from pointsman.core.config.document import ConfigError
from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.events import EndpointJoined, PoolApplied
from pointsman.core.parsers import BadRequest, parse_request, replace_model
from pointsman.core.parsers.metrics.engines import ENGINES
from pointsman.core.parsers.metrics.server_metrics import extract
from pointsman.core.parsers.usage import UsageReader
from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.epp import ExternalProcessor
from pointsman.grpc.ext_proc.encodings import unfolding
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.picking import PoolPicking
from pointsman.grpc.serving.grpc_server import GrpcServer, quiet_grpclib

SECONDS_MAX = 1.0
"""Seconds of CPU for an input of some ten kilobytes: a hundred times what the slowest takes."""
SCALED_BYTES = 16_000
GROWTH_MAX = 2.5
"""How many times the cost twice the input may have."""
MEMORY_MAX = 1 << 30
"""Bytes by which the attacking process may grow: it holds all parsers, a console and what the runs leave behind."""
STATUSES = (200, 303, 308, 400, 404, 405, 414, 421, 431)
FAILURES_MAX = 20

Read = Callable[[bytes], object]


def changed(data: bytes, source: random.Random) -> bytes:
    """The bytes, with some of them changed, moved, repeated, dropped, or pieces put in that have broken things."""
    out = bytearray(data)
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(len(out) + 1)
        end = min(len(out), at + source.choice((1, 2, 8, 60)))
        match source.randrange(6):
            case 0:
                out[at:end] = source.randbytes(end - at)
            case 1:
                del out[at:end]
            case 2:
                out[at:at] = out[at:end] * source.choice((1, 2, 50, 500))
            case 3 | 4:
                out[at : source.choice((at, end))] = source.choice(PIECES) * source.choice((1, 1, 1, 40))
            case _:
                other = source.randrange(len(out) + 1)
                out[at:at] = out[other : other + 30]
    return bytes(out[:60_000])


def cost(read: Read, data: bytes, tries: int) -> float:
    """Seconds of CPU, the least of some tries."""
    least = float("inf")
    for _ in range(tries):
        begin = time.thread_time()
        read(data)
        least = min(least, time.thread_time() - begin)
    return least


def scaled(read: Read, data: bytes, source: random.Random) -> None:
    """A piece of the input, repeated where it stands: twice as often costs about twice as much."""
    at = source.randrange(len(data))
    piece = data[at : at + source.choice((1, 2, 5, 12, 30, 80))]
    count = SCALED_BYTES // len(piece)
    small, large = (data[:at] + piece * n + data[at:] for n in (count, 2 * count))
    for tries in (2, 5, 20):
        one, two = cost(read, small, tries), cost(read, large, tries)
        if two <= 0.002 + GROWTH_MAX * one:
            return
    raise AssertionError(f"{piece!r} at {at}: {len(small)} bytes take {one:.4f} s, {len(large)} take {two:.4f} s")


def parsers() -> Iterator[tuple[str, list[bytes], Read]]:
    """What reads bytes and says in its own words what is wrong with them: name, valid input, reader."""
    for path, bodies in BODIES.items():

        def body(data: bytes, path: str = path) -> None:
            try:
                parse_request(path, data)
            except BadRequest:
                return
            replace_model(data, "other")

        yield f"body {path}", bodies, body
    for streaming in (False, True):

        def usage(data: bytes, streaming: bool = streaming) -> None:
            reader = UsageReader(streaming)
            for at in range(0, len(data), 1000):
                reader.feed(data[at : at + 1000])
            reader.usage()

        yield f"response {'stream' if streaming else 'document'}", RESPONSES, usage
    for name in ENGINES:
        yield f"metrics {name}", METRICS, lambda data, name=name: extract(data, ENGINES[name], 1.8e9)  # type: ignore[misc]
    yield "http page", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", CHUNKED], read_page
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, br"):
        yield f"encoding {encoding}", FOLDED, lambda data, encoding=encoding: unfold(data, encoding)  # type: ignore[misc]
    yield "manifest", MANIFESTS, told(lambda data: read_manifest("file.yaml", data))
    yield "endpoints", ENDPOINTS, told(lambda data: read_endpoints("file.yaml", data, "ns/pool"))
    yield "config", CONFIGS, told(read_config)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
FOLDED = [bytes.fromhex("1f8b0800000000000003cb48cdc9c95728cf2fca49010085114a0d0b000000"), bytes(40)]


def read_page(data: bytes) -> None:
    reader = ResponseReader(1 << 20)
    try:
        for at in range(0, len(data), 700):
            reader.feed(data[at : at + 700])
    except HttpError:
        pass


def unfold(data: bytes, encoding: str) -> None:
    body = unfolding(encoding)
    if body is not None:
        for at in range(0, len(data), 300):
            body.feed(data[at : at + 300])
        body.body()


def told(read: Read) -> Read:
    """The same, where what is wrong with a file is told by these errors."""

    def reading(data: bytes) -> None:
        with suppress(DocumentError, ConfigError):
            read(data)

    return reading


def read_config(data: bytes) -> None:
    for document in load_documents(data):
        parse_config(document.value, document.lines, PickingFlags())


class Attack:
    """The targets, with what they need: a console, a picker connection, a picker process."""

    def __init__(self, console: Running, process: PickerProcess) -> None:
        self._console = console
        self._process = process
        self._port = process.listen(pool="ns/pool")
        process.wait_ready()
        feed, self._load = BufferFeed(cluster_of(5)), Load(StreamLimits())
        self._server = GrpcServer([ExternalProcessor(PoolPicking(POOL, feed), feed, self._load)])
        self.targets: dict[str, Callable[[random.Random], object]] = {}
        for name, inputs, read in parsers():
            self.targets[name] = lambda source, inputs=inputs, read=read: one(read, inputs, source)  # type: ignore[misc]
            self.targets[f"{name}, twice as much"] = lambda source, inputs=inputs, read=read: scaled(  # type: ignore[misc]
                read, source.choice(inputs), source
            )
        self.targets |= {
            "frames": lambda source: into_engine(self._frames(source)),
            "connection": lambda source: asyncio.run(self._into_connection(source)),
            "query": self._query,
            "picker process": self._picker,
        }

    def _frames(self, source: random.Random) -> list[bytes]:
        return pieces(mutated_frames(traffic(source), source), source)

    async def _into_connection(self, source: random.Random) -> None:
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        self._server.turn = ExternalProcessor(None, BufferFeed(cluster_of(1)), self._load).turn()  # type: ignore[arg-type]
        await into_connection(self._server, self._load, self._frames(source))
        assert not failures, failures[0]

    def _query(self, source: random.Random) -> None:
        query = quote_from_bytes(changed(source.choice(QUERIES), source)[:4000], safe="/?=&;+%")
        answer = self._console.ask("/" + query.lstrip("/"))
        assert answer.status in STATUSES, (query, answer.status, answer.body[:300])

    def _picker(self, source: random.Random) -> None:
        """Connections of changed frames, and then one good request."""
        for _ in range(20):
            with Attacker(self._port, greeting=False) as attacker:
                for piece in self._frames(source):
                    if not attacker.send(piece, 1):
                        break
        asyncio.run(self._exchange())
        assert self._process.process.poll() is None, self._process.written()[-2000:]
        assert "Traceback" not in self._process.written(), self._process.written()[-2000:]

    async def _exchange(self) -> None:
        async with asyncio.timeout(30), connected(self._port) as channel, open_stream(channel) as stream:
            await say(stream, request_headers(), request_body(b'{"model":"m","prompt":"hello"}'))
            await hear(stream, 2)
            await say(stream, response_headers(), response_body(b"{}"))
            await hear(stream, 2)
            await stream.end()


def one(read: Read, inputs: list[bytes], source: random.Random) -> None:
    """A changed input is read in bounded time."""
    data = changed(source.choice(inputs), source)
    took = cost(read, data, 1)
    if took > SECONDS_MAX and cost(read, data, 3) > SECONDS_MAX:
        raise AssertionError(f"{len(data)} bytes take {took:.2f} s")


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Report:
    """What was done and found."""

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter()
        self.failures: list[str] = []
        self.grown = 0
        """Bytes by which this process grew, at most."""
        self.picker_grown = 0
        """Bytes by which the picker process grew, at most."""

    def words(self, seconds: float) -> str:
        groups: Counter[str] = Counter()
        for name, count in self.rounds.items():
            groups["scaling" if name.endswith("twice as much") else name.partition(" ")[0]] += count
        done = ", ".join(f"{name} {count:,}" for name, count in groups.most_common())
        return (
            f"{seconds / 60:.1f} minutes, {self.rounds.total():,} rounds ({done}); grown by {self.grown >> 20} MiB, "
            f"the picker process by {self.picker_grown >> 20} MiB; {len(self.failures)} failures"
        )


def attack(seconds: float, seed: int, only: str = "", rounds: int = 0) -> Report:
    """Go round the targets for so long, or so many rounds of each; each failure is printed with its seed."""
    quiet_grpclib()
    report = Report()
    with prepared() as (made, pid):
        targets = {name: run for name, run in made.targets.items() if only in name}
        began, first, picker_first = time.monotonic(), resident(os.getpid()), resident(pid)
        told_at = began
        while len(report.failures) < FAILURES_MAX:
            for name, run in targets.items():
                for _ in range(1 if name in ("query", "picker process") or "twice" in name else 10):
                    try:
                        run(random.Random(f"{name} {seed + report.rounds[name]}"))
                    except Exception:  # noqa: BLE001  whatever nobody announced is what is looked for
                        where = f"--only '{name}' --seed {seed + report.rounds[name]} --rounds 1"
                        report.failures.append(f"{where}\n{traceback.format_exc()}")
                        print(report.failures[-1], flush=True)
                    report.rounds[name] += 1
            now = time.monotonic()
            report.grown = max(report.grown, resident(os.getpid()) - first)
            report.picker_grown = max(report.picker_grown, resident(pid) - picker_first)
            if now > told_at + 60:
                told_at = now
                print(report.words(now - began), flush=True)
            if (rounds and report.rounds.total() >= rounds * len(targets)) or (not rounds and now - began > seconds):
                break
        if report.grown > MEMORY_MAX or report.picker_grown > MEMORY_MAX:
            report.failures.append("memory: " + report.words(now - began))
        print(report.words(time.monotonic() - began), flush=True)
    return report


@contextmanager
def prepared() -> Iterator[tuple[Attack, int]]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (home / "console").mkdir()
        (home / "picker").mkdir()
        console = stack.enter_context(running(home / "console", 30))
        control = stack.enter_context(Control(home / "picker"))
        control.append(
            PoolApplied("ns/pool", {"app": "m"}, (8000,)),
            EndpointJoined(1, "ns/pool", "uid-1", "ns", "pod-1", "10.0.0.1", 8000),
        )
        process = stack.enter_context(picker(control))

        async def attacking() -> Attack:
            return Attack(console, process)

        yield asyncio.run(attacking()), process.process.pid


def main() -> None:
    """Attack, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument("--rounds", type=int, default=0, help="of each target, in the place of minutes")
    options = parser.parse_args()
    report = attack(60 * options.minutes, options.seed, options.only, options.rounds)
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
