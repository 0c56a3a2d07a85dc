"""The control process's end of its leash: who lives and who died, which ports are bound, when to stop."""

from collections import deque
from collections.abc import Callable

import msgspec
import trio

from pointsman.cli.supervising.leash import LeashError, LeashLines, encode, held_end
from pointsman.cli.supervising.supervisor import PickerLife, WantedPort
from pointsman.core.events import PickerEnded, ProcessEnded, ProcessStarted
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError
from pointsman.eventlog.feed.hub import FeedHub

TOLD_MAX = 200
"""Lines that wait to be shown; more than that nobody reads."""


class Lives(msgspec.Struct, frozen=True):
    """The picker processes that live, and those that ended lately."""

    alive: list[PickerLife]
    ended: list[PickerLife]


class ControlLeash:
    """Hears the supervisor and tells it what is wanted."""

    def __init__(self) -> None:
        end = held_end()
        end.setblocking(False)
        self._end = trio.socket.from_stdlib_socket(end)
        self._saying = trio.Lock()
        self._told: deque[tuple[str, object]] = deque(maxlen=TOLD_MAX)
        self._telling = trio.Event()
        self.bound: dict[str, int] = {}
        """Pool to the port that its picker listens on."""
        self.unpicked_since: float | None = None
        """The moment since which no picker is ready, in Trio's time; None while one is."""

    async def say(self, name: str, content: object) -> None:
        """Tell the supervisor something; nothing where it is gone."""
        data = encode(name, content)
        async with self._saying:
            try:
                while data:
                    data = data[await self._end.send(data) :]
            except OSError:
                return  # the reading side finds the end

    def tell(self, line: str) -> None:
        """Have the supervisor show a line to the operator, soon."""
        self._told.append(("say", line))
        self._telling.set()

    def recorded(self, end: PickerEnded) -> None:
        """Tell the supervisor that the log has the end of a picker's life."""
        self._told.append(("recorded", {"picker": end.picker, "epoch": end.epoch}))
        self._telling.set()

    async def _tell(self) -> None:
        while True:
            while self._told:
                await self.say(*self._told.popleft())
            self._telling = trio.Event()
            await self._telling.wait()

    async def run(self, hub: FeedHub, appender: Appender, rebound: Callable[[], None]) -> None:
        """Follow what the supervisor says; returns when it says stop, or is gone."""
        lines = LeashLines()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            while True:
                try:
                    data = await self._end.recv(65_536)
                except ConnectionResetError:
                    data = b""
                messages = lines.feed(data) if data else [("stop", True)]
                for name, content in messages:
                    match name:
                        case "stop":
                            nursery.cancel_scope.cancel()
                            return
                        case "pickers":
                            lives = msgspec.convert(content, Lives)
                            alive = [(life.picker, life.epoch) for life in lives.alive]
                            hub.end_unreported(alive, {(l.picker, l.epoch): l.last_n for l in lives.ended})
                        case "picker_started":
                            pass  # its first entry says so itself
                        case "picker_ended":
                            nursery.start_soon(_end_picker, hub, msgspec.convert(content, PickerLife))
                        case "process_started" | "process_ended":
                            _note(appender, name, content)
                        case "bound":
                            self.bound = {b.pool: b.port for b in msgspec.convert(content, list[WantedPort])}
                            rebound()
                        case "picking":
                            if content is True:
                                self.unpicked_since = None
                            elif self.unpicked_since is None:
                                self.unpicked_since = trio.current_time()
                            rebound()
                        case _:
                            raise LeashError(f"found message {name!r} from the supervisor, which says no such thing")


async def _end_picker(hub: FeedHub, life: PickerLife) -> None:
    if life.epoch:
        await hub.drained(life.picker, life.epoch)
        hub.picker_ended(life.picker, life.epoch, life.cause, life.last_n)


class _Process(msgspec.Struct):
    name: str
    pid: int
    cause: str = ""


def _note(appender: Appender, name: str, content: object) -> None:
    process = msgspec.convert(content, _Process)
    if name == "process_started":
        event: ProcessStarted | ProcessEnded = ProcessStarted(process.name, process.pid)
    else:
        event = ProcessEnded(process.name, process.pid, process.cause)
    try:
        appender.append_nowait(event)
    except LogFullError:
        print(f"not recorded, the log is full: {event}", flush=True)
