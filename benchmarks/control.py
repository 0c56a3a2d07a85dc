"""What the control process costs a request, by thread: a real one, fed by a picker that only plays entries.

`python benchmarks/control.py [--rate 2000] [--seconds 6] [--rounds 3] [--directory DIR] [--also SRC ...]`
A request is a decision, its response's start and its end; its endpoints are not scraped while it is measured.
`--also` names the `.src` of other trees, measured in turns with this one.
Budget: 0.10 of the yardstick's CPU, about 40 µs a request where the yardstick takes 400.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from pointsman.core.events import (
    EndpointJoined,
    Origin,
    PickerEvent,
    PickerStarted,
    PoolApplied,
    Read,
    RequestFacts,
    RequestFinished,
    RequestRouted,
    ResponseStarted,
    class_of,
    encode as encode_event,
)
from pointsman.core.feed.frames import PROTOCOL, Entries, Hello, encode_frame
from pointsman.core.processes.leash import LEASH, Stop, encode
from pointsman.core.processes.settings import ControlSettings, encode as encode_settings
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import open_log

ENDPOINTS = 5
PICKER, EPOCH = "picker-1", 1 << 63
STARTED_AFTER, FINISHED_AFTER = 20, 30
"""Milliseconds between a decision and the other two entries."""
WARM_UP = 1.5
"""Seconds at full rate before anything is measured."""
HERE = Path(__file__).resolve().parent.parent / ".src"


async def prepare(directory: Path) -> None:
    """Make a log that holds a pool, so that the control process needs no source of one."""
    log = open_log(directory, "bench")
    async with trio.open_nursery() as nursery:
        appender = Appender(log, lambda commit: None)
        await nursery.start(appender.run)
        joined = [
            EndpointJoined(n, "bench/pool", f"uid-{n}", "bench", f"pod-{n}", "127.0.0.1", 1)
            for n in range(1, ENDPOINTS + 1)
        ]
        await appender.append_many([PoolApplied("bench/pool", {"app": "bench"}, (1,)), *joined])
        appender.close()
    log.close()


def decision(origin: Origin, rng: random.Random) -> RequestRouted:
    """A decision of about 500 bytes, which is what a prompt of some kilobytes gives."""
    facts = RequestFacts(
        request_id=f"{origin.n:08x}-0000-4000-8000-{rng.getrandbits(48):012x}",
        pool="bench/pool",
        model="meta-llama/Llama-3.1-8B-Instruct",
        path="/v1/chat/completions",
        body_bytes=2560,
        prompt_bytes=2300,
        prefix=rng.randbytes(8 * 32),
        prefix_block_bytes=64,
    )
    chosen = rng.randint(1, ENDPOINTS)
    best = ((chosen, 2.5), (chosen % ENDPOINTS + 1, 2.0), ((chosen + 1) % ENDPOINTS + 1, 1.0))
    reads = (Read(1, rng.randbytes(ENDPOINTS + 1)), Read(5, rng.randbytes(ENDPOINTS + 1)))
    return RequestRouted(
        origin, time.time(), facts, (chosen, best[1][0], best[2][0]), best, (), reads, b"", False, rng.randbytes(8), 90
    )


def frames(rate: int, seconds: float) -> list[bytes]:
    """The bytes that a picker sends in each millisecond of a steady load."""
    rng = random.Random(1)
    n = 1
    started_in: list[list[int]] = []
    said = [Entries(1, bytes([class_of(hello := _started())]), (encode_event(hello),))]
    for tick in range(int(seconds * 1000)):
        events: list[PickerEvent] = []
        routed = []
        for _ in range((tick + 1) * rate // 1000 - tick * rate // 1000):
            n += 1
            routed.append(n)
            events.append(decision(Origin(PICKER, EPOCH, n, 7), rng))
        started_in.append(routed)
        for request in started_in[tick - STARTED_AFTER] if tick >= STARTED_AFTER else ():
            n += 1
            events.append(ResponseStarted(Origin(PICKER, EPOCH, n, 7), request, 200, 0.0213, "127.0.0.1:8000"))
        for request in started_in[tick - FINISHED_AFTER] if tick >= FINISHED_AFTER else ():
            n += 1
            end = (request, "complete", 200, 0.0312, 0.0214, 2048, 2, False, 570, 128)
            events.append(RequestFinished(Origin(PICKER, EPOCH, n, 7), *end))
        kinds = bytes([class_of(event) for event in events])
        said.append(Entries(n + 1 - len(events), kinds, tuple([encode_event(event) for event in events])))
    return [encode_frame(entries) if entries.bodies else b"" for entries in said]


def _started() -> PickerStarted:
    return PickerStarted(Origin(PICKER, EPOCH, 1, 0), "bench", 1, {})


class Control:
    """A control process without a supervisor."""

    def __init__(self, source: Path, home: Path) -> None:
        self.feed = home / "feed"
        settings = ControlSettings(data=str(home), feed=str(self.feed), refresh_interval=3600.0)
        self._leash, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                (sys.executable, "-P", "-m", "pointsman.cli", "control", "--settings", encode_settings(settings)),
                env=os.environ | {LEASH: str(theirs.fileno()), "PYTHONPATH": str(source)},
                pass_fds=(theirs.fileno(),),
                stdout=subprocess.DEVNULL,
            )
        self._leash.settimeout(20.0)
        assert b"ready" in self._leash.recv(65_536), "the control process says when it is ready"

    def stop(self) -> None:
        """End it as the supervisor does."""
        self._leash.sendall(encode(Stop()))
        self.process.wait(20.0)
        self._leash.close()

    def cpu(self) -> dict[str, float]:
        """CPU seconds by thread; the threads of Trio's pool mostly fold the read model."""
        found: dict[str, float] = {}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            own = task.name == str(self.process.pid)
            pooled = "python" not in (task / "comm").read_text()
            name = "loop" if own else "pool" if pooled else "writer"
            found[name] = found.get(name, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e9
        return found


def play(path: Path, said: list[bytes]) -> Iterator[None]:
    """Connect, and at each step send the frames of a millisecond."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.connect(str(path))
        end.sendall(encode_frame(Hello(PROTOCOL, PICKER, EPOCH, "bench", "", 0, b"", 0, 1)))
        reading = threading.Thread(target=_read, args=(end,))
        reading.start()
        time.sleep(0.2)
        for frame in said:
            if frame:
                end.sendall(frame)
            yield
        time.sleep(0.3)
        end.shutdown(socket.SHUT_RDWR)
        reading.join()


def _read(end: socket.socket) -> None:
    while end.recv(1 << 20):
        time.sleep(0.005)


def measured(source: Path, said: list[bytes], rate: int, directory: Path | None) -> dict[str, float]:
    """Microseconds of CPU a request, by thread."""
    with tempfile.TemporaryDirectory(dir=directory) as home:
        trio.run(prepare, Path(home) / "log")
        control = Control(source, Path(home))
        try:
            before, since, began = control.cpu(), 0, time.monotonic()
            for step, _ in enumerate(play(control.feed, said)):
                if step == int(WARM_UP * 1000):
                    before, since = control.cpu(), step
                if step == len(said) - 1:
                    after = control.cpu()
                if (pause := began + 0.2 + step / 1000 - time.monotonic()) > 0:
                    time.sleep(pause)
            late = time.monotonic() - began - len(said) / 1000
        finally:
            control.stop()
    requests = (len(said) - 1 - since) * rate / 1000
    found = {name: 1e6 * (after[name] - before.get(name, 0.0)) / requests for name in sorted(after)}
    return found | {"all": sum(found.values()), "late_ms": 1000 * late}


def main() -> None:
    """Measure the trees in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    said = frames(options.rate, WARM_UP + options.seconds)
    found: dict[Path, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for source in (*options.also, HERE):
            found.setdefault(source, []).append(measured(source, said, options.rate, options.directory))
    for source, rounds in found.items():
        names = {name for one in rounds for name in one}
        medians = {name: statistics.median(one.get(name, 0.0) for one in rounds) for name in sorted(names)}
        print(json.dumps({"source": str(source)} | {name: round(value, 1) for name, value in medians.items()}))


if __name__ == "__main__":
    main()
