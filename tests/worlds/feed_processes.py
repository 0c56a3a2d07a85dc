"""A control process and a picker process with nothing in them but the feed, for tests that kill them.

Both take a line on stdin and answer with one on stdout, and end when stdin does.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Self

import msgspec
import trio
from worlds.feed_world import POOL, identity, members

from pointsman.core.events import RequestFacts, RequestFinished, RequestRouted
from pointsman.core.feed.picker_end import PickerFeedStatistics
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.core.state.traffic import TrafficState
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedHub, listen_at, serve_feed
from pointsman.eventlog.opening import open_log
from pointsman.grpc.picker_feed import PickerFeed


class Answer(msgspec.Struct, frozen=True):
    """What a picker process says of itself."""

    statistics: PickerFeedStatistics
    settled: bool
    slowest: float
    """The longest that a turn's `recorded` took since the last answer."""
    resident_bytes: int
    state: str
    """A digest of its cluster state."""


class Child:
    """One of the two, as a test holds it."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worlds.feed_processes", *arguments],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.says("ready")

    @property
    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def says(self, word: str) -> None:
        line = self._pipes[1].readline().strip()
        assert line == word, f"{line!r}, wanted {word!r}"

    def ask(self, line: str) -> str:
        """Say a line and return the answer."""
        stdin, stdout = self._pipes
        stdin.write(line + "\n")
        stdin.flush()
        return stdout.readline().strip()

    def status(self, question: str = "status") -> Answer:
        """Ask a picker how it is; `settle` first waits until the log has everything."""
        return msgspec.json.decode(self.ask(question), type=Answer)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(10)
        self._close()

    def _close(self) -> None:
        for pipe in self._pipes:
            with suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._pipes[0].close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._close()


async def control(directory: Path) -> None:
    log = open_log(directory / "log", "test")
    appender = Appender(log, lambda commit: hub.publish(commit))
    hub = FeedHub.over(log, appender)
    async with trio.open_nursery() as nursery:
        await nursery.start(appender.run)
        if not log.state.endpoints:
            await appender.append_many(members(3))
        nursery.start_soon(serve_feed, hub, listen_at(directory / "feed.sock"))
        nursery.start_soon(scrape, hub)
        print("ready", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            word, *rest = line.split()
            if word == "end":
                picker, epoch, last_n = rest
                drained = await hub.drained(picker, int(epoch))
                hub.picker_ended(picker, int(epoch), "killed by SIGKILL", int(last_n))
                await trio.sleep(0.05)
                print("drained" if drained else "not drained", flush=True)
            else:
                print(msgspec.json.encode(hub.statistics()).decode(), flush=True)
        nursery.cancel_scope.cancel()
    log.close()


async def scrape(hub: FeedHub) -> None:
    while True:
        hub.scraped(trio.current_time())
        await trio.sleep(0.05)


class Decider:
    """Decides at a rate, without looking right or left."""

    def __init__(self, feed: PickerFeed) -> None:
        self.feed = feed
        self.slowest = 0.0

    def decide(self) -> None:
        feed = self.feed
        assert feed.cluster is not None
        origin = feed.origin()
        event = RequestRouted(origin, time.time(), RequestFacts("r" * 36, POOL), (1 + origin.n % 3,))
        feed.record(event)
        feed.traffic.routed(origin.n, event, feed.cluster)
        feed.traffic.finished(origin.n)
        feed.record(RequestFinished(feed.origin(), origin.n, "complete", 200, 0.1))

    async def run(self, rate: int) -> None:
        if not rate:
            return
        while True:
            before = time.perf_counter()
            for _ in range(rate // 100):
                self.decide()
            self.feed.flush()
            self.slowest = max(self.slowest, time.perf_counter() - before)
            await asyncio.sleep(0.01)

    async def answer(self, question: list[str]) -> Answer:
        if question[0] == "burst":
            for _ in range(int(question[1])):
                self.decide()
            self.feed.flush()
        settled = question[0] == "settle" and await self.feed.wait_settled(5)
        cluster = self.feed.cluster
        slowest, self.slowest = self.slowest, 0.0
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Answer(
            self.feed.statistics(),
            settled,
            slowest,
            pages * os.sysconf("SC_PAGE_SIZE"),
            "" if cluster is None else sha256(encode_snapshot(cluster)).hexdigest(),
        )


async def picker(directory: Path, epoch: int, rate: int, buffer_bytes: int) -> None:
    me = identity("picker-0", epoch)
    feed = PickerFeed(
        directory / "feed.sock", me, TrafficState(), page=directory / "page", buffer_bytes_max=buffer_bytes
    )
    running = asyncio.create_task(feed.run())
    await feed.wait_fed()
    decider = Decider(feed)
    deciding = asyncio.create_task(decider.run(rate))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        words = line.split()
        if words[0] in ("settle", "pause"):
            deciding.cancel()
        print(msgspec.json.encode(await decider.answer(words)).decode(), flush=True)
    running.cancel()
    deciding.cancel()


if __name__ == "__main__":
    role, where, *numbers = sys.argv[1:]
    if role == "control":
        trio.run(control, Path(where))
    else:
        asyncio.run(picker(Path(where), *map(int, numbers)))
