"""Lives of a control process with nothing in it but the log, its read model and a picker that is told of each commit.

    python power_lives.py control <directory> <seed> <segment bytes> <end>...

Each end is one life in a process of its own, and what `power.c` takes as `$POWER_END`; `-` is an end in order.
Where the disk is to refuse something, the read model is left alone, as it is then.
The log gets the events of one world, whichever lives they are appended in: entry n + 2 is event n.
"""

import os
import random
import signal
import socket
import sys
from itertools import islice
from pathlib import Path

import trio
from worlds.logs import world

from pointsman.core.events import Event
from pointsman.core.feed.frames import BatchFrame, Welcome, encode_frame
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import open_log
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.stores.writing import Commit, StoreLimits

EVENTS = 400
"""Of one life that ends in order."""


def limits(segment_bytes: int) -> StoreLimits:
    """Limits under which a few hundred events meet everything: segments, snapshots, checkpoints."""
    return StoreLimits(
        segment_bytes=segment_bytes,
        snapshot_cost=150,
        batch_interval=0.0,
        batch_events=50,
        checkpoint_interval=0.02,
    )


class Picker:
    """Whom the control process tells: a socket with a name, as the feed has one."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._receiving = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiving.bind(str(path))
        self._sending = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sending.connect(str(path))

    def tell(self, frame: Welcome | BatchFrame) -> None:
        """Send it a frame, which is acknowledged with that."""
        data = encode_frame(frame)
        self._sending.send(data)
        assert self._receiving.recv(1 << 20) == data


async def live(root: Path, seed: int, segment_bytes: int) -> None:
    """From the opening of the log to its end in order, unless something kills it before."""
    draw = random.Random(f"{seed} {os.getpid()}")
    log = open_log(root / "data" / "log", "test", limits(segment_bytes))
    picker = Picker(root.with_name("picker.sock"))
    picker.tell(Welcome(log.log_id, log.head.position, log.head.digest, True, 0, 0))
    model = ReadModelWriter(root / "data" / "readmodel.db", log.directory)

    def committed(commit: Commit) -> None:
        kinds, bodies = bytes(commit.kinds), tuple(commit.bodies)
        picker.tell(BatchFrame(commit.first, commit.recorded_at, commit.digest, 0, kinds, bodies))
        model.tell(commit)

    events = islice(world(seed), log.head.position - 1, log.head.position - 1 + EVENTS)
    async with trio.open_nursery() as nursery:
        appender = Appender(log, committed)
        await nursery.start(appender.run)
        await append(appender, None if "refuse" in os.environ["POWER_END"] else model, list(events), draw)
        appender.close()
    log.close()
    model.close()


async def append(appender: Appender, model: ReadModelWriter | None, events: list[Event], draw: random.Random) -> None:
    """Append events in runs, and fold the read model now and then."""
    while events:
        count = draw.choice((1, 5, 20, 60))
        for event in events[:count]:
            appender.append_nowait(event)
        del events[:count]
        await trio.sleep(draw.choice((0.0, 0.001, 0.005)))
        if model is not None:
            await trio.to_thread.run_sync(model.fold)


def main(root: Path, seed: int, segment_bytes: int, ends: list[str]) -> None:
    """Live and die so often."""
    for end in ends:
        os.environ["POWER_END"] = end
        child = os.fork()
        if child == 0:
            trio.run(live, root, seed, segment_bytes)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -signal.SIGKILL):
            sys.exit(f"a life that was to end with {end!r} ended with {status}")


if __name__ == "__main__":
    assert sys.argv[1] == "control"
    main(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
