"""The control process's end of its leash, the socket to the supervisor: who lives and who died, ports, when to stop."""

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import assert_never

import trio

from pointsman.core.events import PickerEnded, ProcessEnded, ProcessStarted
from pointsman.core.processes.leash import (
    TO_CONTROL,
    BoundPorts,
    ChildMessage,
    LeashLines,
    LifeRecorded,
    OperatorLine,
    PickerGone,
    PickerLife,
    PickerLives,
    PickerReady,
    ProcessBegan,
    ProcessGone,
    Stop,
    encode,
    held_descriptor,
)
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError
from pointsman.eventlog.feed.hub import FeedHub

TOLD_MAX = 200
"""Lines that may wait to be shown; later ones are dropped, as nobody reads so many."""


class ControlLeash:
    """Hears the supervisor and tells it what is wanted."""

    def __init__(self) -> None:
        end = socket.socket(fileno=held_descriptor(os.environ))
        os.set_inheritable(end.fileno(), False)
        end.setblocking(False)
        self._end = trio.socket.from_stdlib_socket(end)
        self._saying = trio.Lock()
        self._told: deque[ChildMessage] = deque(maxlen=TOLD_MAX)
        self._telling = trio.Event()
        self.bound: dict[str, int] = {}
        """Ports that pickers listen on, by pool."""
        self.unpicked_since: float | None = None
        """Time since which no picker is ready, in Trio's clock; None while one is."""

    async def say(self, message: ChildMessage) -> None:
        """Tell the supervisor something; nothing where it is gone."""
        data = encode(message)
        async with self._saying:
            try:
                while data:
                    data = data[await self._end.send(data) :]
            except OSError:
                return  # the task that reads finds that the supervisor is gone

    def tell(self, line: str) -> None:
        """Have the supervisor show a line to the operator, soon."""
        self._told.append(OperatorLine(line))
        self._telling.set()

    def recorded(self, end: PickerEnded) -> None:
        """Tell the supervisor that the log has the end of a picker's life."""
        self._told.append(LifeRecorded(end.picker, end.epoch))
        self._telling.set()

    async def _tell(self) -> None:
        while True:
            while self._told:
                await self.say(self._told.popleft())
            self._telling = trio.Event()
            await self._telling.wait()

    async def run(self, hub: FeedHub, appender: Appender, rebound: Callable[[], None]) -> None:
        """Follow what the supervisor says; returns when it says stop, or is gone."""
        lines = LeashLines(TO_CONTROL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            while True:
                try:
                    data = await self._end.recv(65_536)
                except ConnectionResetError:
                    data = b""
                for message in lines.feed(data) if data else [Stop()]:
                    match message:
                        case Stop():
                            nursery.cancel_scope.cancel()
                            return
                        case PickerLives(alive, ended):
                            known = {(life.picker, life.epoch): life.last_n for life in ended}
                            hub.end_unreported([(life.picker, life.epoch) for life in alive], known)
                        case PickerGone(life):
                            nursery.start_soon(_end_picker, hub, life)
                        case ProcessBegan(name, pid):
                            _note(appender, ProcessStarted(name, pid))
                        case ProcessGone(name, pid, cause):
                            _note(appender, ProcessEnded(name, pid, cause))
                        case BoundPorts(ports):
                            self.bound = {bound.pool: bound.port for bound in ports}
                            rebound()
                        case PickerReady(ready):
                            if ready:
                                self.unpicked_since = None
                            elif self.unpicked_since is None:
                                self.unpicked_since = trio.current_time()
                            rebound()
                        case _:
                            assert_never(message)


async def _end_picker(hub: FeedHub, life: PickerLife) -> None:
    if life.epoch:
        await hub.drained(life.picker, life.epoch)
        hub.picker_ended(life.picker, life.epoch, life.cause, life.last_n)


def _note(appender: Appender, event: ProcessStarted | ProcessEnded) -> None:
    try:
        appender.append_nowait(event)
    except LogFullError:
        print(f"not recorded, the log is full: {event}", flush=True)
