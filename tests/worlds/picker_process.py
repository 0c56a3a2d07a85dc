"""A picker process with a real log behind its feed, and the supervisor's end of its leash."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self, TypeVar

import trio
from grpclib.health.v1.health_pb2 import HealthCheckResponse
from worlds.waiting import HUNG, wait_for

from pointsman.core.events import (
    Event,
)
from pointsman.core.processes.last_page import PAGE_BYTES
from pointsman.core.processes.leash import LEASH, LeashMessage, Listen, ListenHealth, Ready, encode
from pointsman.core.processes.settings import PickerOptions, PickerSettings, encode as encode_settings
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedHub, listen_at, serve_feed
from pointsman.eventlog.opening import open_log
from pointsman.eventlog.stores.writing import Commit

E = TypeVar("E", bound=Event)

POOL = "ns/pool"
PROGRAM = (
    "import sys, msgspec; from pointsman.core.processes.settings import PickerSettings; from pointsman.grpc.picker import run_picker;"
    "run_picker(msgspec.json.decode(sys.argv[1], type=PickerSettings))"
)
BODY = b'{"model":"m","prompt":"hello"}'
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Control:
    """A log and the control end of the feed, in a thread of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.feed = home / "feed"
        self.events: list[Event] = []
        self._stop = trio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(15)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with closing(open_log(self.home / "log", "test")) as log:
            self.appender = Appender(log, self._committed)
            self.hub = FeedHub.over(log, self.appender)
            self.log = log
            async with trio.open_nursery() as nursery:
                await nursery.start(self.appender.run)
                nursery.start_soon(serve_feed, self.hub, listen_at(self.feed))
                self._up.set()
                await self._stop.wait()
                nursery.cancel_scope.cancel()

    def _committed(self, commit: Commit) -> None:
        self.events += [entry.event for entry in commit.entries]
        self.hub.publish(commit)

    def append(self, *events: Event) -> None:
        """Write facts; they are committed when this returns."""
        for event in events:
            trio.from_thread.run(self.appender.append, event, trio_token=self._token)

    def of(self, kind: type[E], count: int = 1) -> list[E]:
        """The committed events of one type, once there are so many."""
        wait_for(lambda: sum(isinstance(e, kind) for e in self.events) >= count, 5, f"{count} {kind.__name__}")
        return [e for e in self.events if isinstance(e, kind)]


class PickerProcess:
    """A picker process and the supervisor's end of its leash."""

    def __init__(self, control: Control, options: PickerOptions | None = None, stop_within: float = 3.0) -> None:
        self.page = control.home / "page"
        self.page.write_bytes(bytes(PAGE_BYTES))
        options = options or PickerOptions()
        text = encode_settings(
            PickerSettings("picker-0", str(control.feed), "test", str(self.page), options, stop_within)
        )
        self._errors = control.home / "picker.err"
        self.leash, theirs = socket.socketpair()
        self.leash.settimeout(HUNG)
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                (sys.executable, "-P", "-c", PROGRAM, text),
                env=os.environ | {LEASH: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stderr=errors,
            )
        theirs.close()

    def tell(self, message: LeashMessage, sock: socket.socket | None = None) -> None:
        data = encode(message)
        if sock is None:
            self.leash.sendall(data)
        else:
            socket.send_fds(self.leash, [data], [sock.fileno()])

    def listen(self, pool: str, tls: bool = False) -> int:
        """Hand over a socket for a pool; its port."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
            self.tell(Listen(pool, port, tls), sock)
            return port

    def listen_health(self) -> int:
        """Hand over a socket for health; its port."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
            self.tell(ListenHealth(port), sock)
            return port

    def wait_ready(self) -> None:
        assert self.leash.recv(1000) == encode(Ready())

    def end(self) -> str:
        """Wait for the exit; what it wrote."""
        self.leash.close()
        self.process.wait(HUNG)
        return self.written()

    def written(self) -> str:
        """What it wrote so far."""
        return self._errors.read_text()


@contextmanager
def picker(control: Control, options: PickerOptions | None = None, stop_within: float = 3.0) -> Iterator[PickerProcess]:
    process = PickerProcess(control, options, stop_within)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.end()
