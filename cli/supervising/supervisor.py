"""The supervisor: parent of all processes, holder of the listening sockets.

It starts the others, starts again whatever ends or hangs, and ends them all in order.
It decides nothing else: which ports are wanted comes from the control process, what to run from its plans.
One loop over a selector, without threads and without anything that can wait for a child.
"""

import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

import msgspec

from pointsman.cli.supervising.child import SAY_WHEN_READY, Child, ChildPlan, Role
from pointsman.cli.supervising.leash import say
from pointsman.cli.supervising.ports import answers, bind_nearby, port_of
from pointsman.core.processes.leash import (
    BoundPorts,
    ChildMessage,
    Drain,
    LeashError,
    LeashMessage,
    LifeRecorded,
    Listen,
    ListenHealth,
    OperatorLine,
    PickerGone,
    PickerLife,
    PickerLives,
    PickerReady,
    PoolPort,
    ProcessBegan,
    ProcessGone,
    Ready,
    Stop,
    Unlisten,
    WantedPorts,
)
from pointsman.core.values.printable import printable

TOGETHER = 0.2
"""Seconds before the control process is told of an end: where one cause ended both, the next control process is told."""
TICK = 0.05
"""Seconds between two looks at what may start; ends and messages wake the loop by themselves."""
PATIENCE = 10.0
"""Seconds after which a start that is not complete is reported."""
GRACE = 5.0
"""Seconds that a child has to end once it was told to; then it is killed."""
UNUSABLE_LOG = 3
"""Exit code of a control process that no restart helps: a person has to act."""
ENDED_KEPT = 64
"""Ends of lives that are remembered for the control process: more than occur while it starts."""
HURRY = 1.0
"""Seconds that a child has to end after a second signal, in the place of GRACE."""


class Listening(msgspec.Struct):
    """Where pickers and gateway listen."""

    address: str = "127.0.0.1"
    tls: bool = False
    fixed: dict[str, socket.socket] = {}
    """Sockets bound beforehand, by the pool they serve."""
    health: socket.socket | None = None
    gateway: tuple[str, int] | None = None
    """Address and port on which the standalone gateway will listen; it binds them itself."""
    moves: bool = True
    """Whether the next free port is taken where the wanted one is busy."""


Announce = Callable[[str], None]


class Supervisor:
    """Runs the processes of `plans` until it is told to end."""

    def __init__(self, plans: Iterable[ChildPlan], listening: Listening, drain: float, report: Announce) -> None:
        self.children = [Child(plan) for plan in plans]
        self.listening = listening
        self.drain = drain
        self.report: Announce = lambda line: report(printable(line))
        self.pools = dict(listening.fixed)
        self.wanted: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()
        self.signals = 0
        self.began = time.monotonic()
        self.complained = False
        self.announced = False
        """Whether everything has been up at one time, and was announced."""
        self.picked = False
        """Whether some picker has been ready."""
        self.code = 0
        self.stopping_since = 0.0
        self.ended: deque[PickerLife] = deque(maxlen=ENDED_KEPT)
        """Lives of pickers that ended while no control process lived; kept until the log has their end."""
        self.untold: deque[tuple[float, ProcessBegan | ProcessGone]] = deque(maxlen=ENDED_KEPT)
        """Begins and ends of other processes, each with the time from which the control process may be told."""
        self.told: dict[str, float] = {}
        """Times at which children that were told to end are killed, by name."""

    # --- the loop -------------------------------------------------------------------------------

    def run(self, started: Callable[[dict[str, int]], None]) -> int:
        """Run until told to end and return the exit code.

        `started` is called once, when everything is up for the first time, with the port of each pool.
        """
        wake = self._catch_signals()
        while True:
            now = time.monotonic()
            if self.signals:
                self._stop(now)
                if all(child.process is None for child in self.children):
                    break
            else:
                if not self.announced and self.up():
                    self.announced = True
                    started(self.ports())
                self._complain(now)
                for child in self.children:
                    # Clients start last, when everything that answers them is up.
                    if child.may_start(now) and (self.announced or child.plan.role is not Role.CLIENTS):
                        self._start(child, now)
            for key, _ in self.selector.select(TICK):
                if key.fileobj is wake:
                    self._signalled(wake)
                else:
                    self._read(key.data)
            self._reap()
            for child in filter(Child.hung, self.children):
                os.kill(child.pid, signal.SIGKILL)
            self._tell_lives(time.monotonic())
        return self.code

    def ports(self) -> dict[str, int]:
        """The port that each pool's picker listens on."""
        return {pool: port_of(bound) for pool, bound in self.pools.items()}

    def up(self) -> bool:
        """Whether every child runs, those that report when they are ready have done so, and the gateway answers."""
        return not self._missing() and (self.listening.gateway is None or answers(*self.listening.gateway))

    def _missing(self) -> list[str]:
        return [
            child.plan.name
            for child in self.children
            if child.plan.role is not Role.CLIENTS
            and not (child.process is not None and (child.ready or child.plan.role not in SAY_WHEN_READY))
        ]

    def _complain(self, now: float) -> None:
        """Say once what keeps everything from being up."""
        if not self.announced and not self.complained and now > self.began + PATIENCE:
            self.complained = True
            missing = self._missing() or [f"the gateway on port {self.listening.gateway and self.listening.gateway[1]}"]
            self.report(f"still waiting for {', '.join(missing)}")

    def _catch_signals(self) -> socket.socket:
        wake, sink = socket.socketpair()
        wake.setblocking(False)
        sink.setblocking(False)
        signal.set_wakeup_fd(sink.fileno(), warn_on_full_buffer=False)
        self._sink = sink
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # Python writes the signal's number to the socket
        self.selector.register(wake, selectors.EVENT_READ)
        return wake

    def _signalled(self, wake: socket.socket) -> None:
        numbers = [number for number in wake.recv(4096) if number != signal.SIGCHLD]
        if numbers:
            self.signals += len(numbers)
            if self.signals == 1:
                self.report("ending: draining, then all processes stop (once more ends at once)")

    # --- lives ----------------------------------------------------------------------------------

    def _start(self, child: Child, now: float) -> None:
        try:
            child.start(now)
        except OSError as error:
            child.quick_ends += 1
            child.start_after = now + 1.0
            self.report(f"{child.plan.name} cannot be started: {error}")
            return
        assert child.leash is not None
        self.selector.register(child.leash, selectors.EVENT_READ, child)
        match child.plan.role:
            case Role.PICKER:
                for pool, bound in self.pools.items():
                    self._hand(child, pool, bound)
                if (health := self.listening.health) is not None:
                    self._tell(child, ListenHealth(port_of(health)), [health])
            case Role.CONTROL:
                alive = [self._life(c) for c in self._pickers() if c.process is not None]
                self._tell(child, PickerLives(tuple(alive), tuple(self.ended)))
                self._tell_control_ports(child)
                self._tell_picking()
                while self.untold:
                    self._tell(child, self.untold.popleft()[1])
            case _:
                self._tell_of_life(ProcessBegan(child.plan.name, child.pid))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self.children:
                if child.pid == pid:
                    self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        if child.leash is not None:
            self._read(child)  # its last words
        if child.leash is not None:
            self.selector.unregister(child.leash)
        life, pid = self._life(child), child.pid
        cause = child.ended(status, time.monotonic())
        if child.plan.role is Role.PICKER:
            self.ended.append(msgspec.structs.replace(life, cause=cause))
            self._tell_control(PickerGone(self.ended[-1]))
            self._tell_picking()
        elif child.plan.role is not Role.CONTROL:
            self._tell_of_life(ProcessGone(child.plan.name, pid, cause))
        if child.plan.role is Role.CONTROL and cause == f"exit code {UNUSABLE_LOG}" and not self.announced:
            for line in child.last_lines()[-1:]:
                self.report(line)
            self.code, self.signals = 1, max(self.signals, 1)
        if not self.signals:
            self._tell_of_crash(child, pid, cause)

    def _tell_of_crash(self, child: Child, pid: int, cause: str) -> None:
        lines = [] if cause == "signal SIGKILL" else child.last_lines()
        before, child.last_words = child.last_words, lines[-1:]
        if max(child.quick_ends, child.failed_starts) > 1 and before == child.last_words:
            return  # the same crash as before, which was reported
        self.report(f"{child.plan.name} (process {pid}) ended with {cause}; starting it again")
        for line in lines:
            self.report(f"  {child.plan.name} | {line}")

    def _pickers(self) -> list[Child]:
        return [child for child in self.children if child.plan.role is Role.PICKER]

    def _life(self, child: Child) -> PickerLife:
        page = child.last_page()
        return PickerLife(child.plan.name, *(page or (0, 0)), pid=child.pid)

    # --- what is said over leashes ----------------------------------------------------------------

    def _read(self, child: Child) -> None:
        assert child.leash is not None
        try:
            data = child.leash.recv(65_536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        try:
            messages = child.lines.feed(data)
        except LeashError as error:
            self._cut(child, str(error))
            return
        if not data:
            self.selector.unregister(child.leash)
            child.leash.close()
            child.leash = None
        for message in messages:
            self._said(child, message)

    def _said(self, child: Child, message: ChildMessage) -> None:
        match message:
            case Ready():
                child.ready = True
                if child.plan.role is Role.PICKER:
                    self.picked = True
                    self._tell_picking()
            case WantedPorts(ports):
                self._want_ports(ports)
            case LifeRecorded():
                self.ended = deque([life for life in self.ended if life.epoch != message.epoch], ENDED_KEPT)
            case OperatorLine(line):
                self.report(line)
            case _:
                assert_never(message)

    def _cut(self, child: Child, why: str) -> None:
        """Kill a child that sends nonsense or does not read; it is then started again."""
        self.report(f"{child.plan.name} is ended: {why}")
        if child.process is not None:
            os.kill(child.pid, signal.SIGKILL)

    def _tell(self, child: Child, message: LeashMessage, handed: Iterable[socket.socket] = ()) -> bool:
        """Send a message over the child's leash; False where the child is not there."""
        if child.leash is None:
            return False
        try:
            say(child.leash, message, handed)
        except BlockingIOError:
            self._cut(child, "it does not read its leash")
            return False
        except OSError:
            return False  # it has just ended, which the loop finds next
        return True

    def _hand(self, picker: Child, pool: str, bound: socket.socket) -> None:
        self._tell(picker, Listen(pool, port_of(bound), self.listening.tls), [bound])

    def _tell_control(self, message: LeashMessage) -> None:
        for child in self.children:
            if child.plan.role is Role.CONTROL:
                self._tell(child, message)

    def _tell_of_life(self, message: ProcessBegan | ProcessGone) -> None:
        self.untold.append((time.monotonic() + (0.0 if self.signals else TOGETHER), message))
        self._tell_lives(time.monotonic())

    def _tell_lives(self, now: float) -> None:
        while self.untold and self.untold[0][0] <= now:
            if not any(self._tell(c, self.untold[0][1]) for c in self.children if c.plan.role is Role.CONTROL):
                return
            self.untold.popleft()

    def _tell_picking(self) -> None:
        """Tell the control process whether a picker is ready; before the first one is, that is no fault."""
        ready = any(c.ready for c in self._pickers() if c.process is not None)
        self._tell_control(PickerReady(ready or not self.picked))

    def _tell_control_ports(self, control: Child) -> None:
        self._tell(control, BoundPorts(tuple([PoolPort(pool, port) for pool, port in self.ports().items()])))

    # --- listening sockets ------------------------------------------------------------------------

    def _want_ports(self, wanted: Sequence[PoolPort]) -> None:
        """Listen for these pools: a socket once bound stays, whatever happens to the processes behind it."""
        for want in wanted:
            if want.pool not in self.pools and (bound := self._bind(want)) is not None:
                self.pools[want.pool] = bound
                for picker in self._pickers():
                    self._hand(picker, want.pool, bound)
        for pool in self.pools.keys() - self.listening.fixed.keys() - {want.pool for want in wanted}:
            closed = self.pools.pop(pool)
            for picker in self._pickers():
                self._tell(picker, Unlisten(pool, port_of(closed)))
            closed.close()
        for control in self.children:
            if control.plan.role is Role.CONTROL:
                self._tell_control_ports(control)

    def _bind(self, want: PoolPort) -> socket.socket | None:
        try:
            bound = bind_nearby(self.listening.address, want.port, 100 if self.listening.moves else 1)
        except OSError as error:
            if self.wanted.get(want.pool) != want.port:  # reported once for each wanted port
                self.report(f"pool {want.pool} wants port {want.port}: {error.strerror}")
            self.wanted[want.pool] = want.port
            return None
        if (port := port_of(bound)) != want.port:
            self.report(f"port {want.port} of pool {want.pool} is in use: its picker listens on {port}")
        return bound

    # --- the end ----------------------------------------------------------------------------------

    def _stop(self, now: float) -> None:
        """Take a step of the end: tell the children whose turn it is, kill those whose time is over."""
        if not self.stopping_since:
            self.stopping_since = now
            for picker in self._pickers():
                self._tell(picker, Drain(self.drain))
        drained = now >= self.stopping_since + self.drain or self.signals > 1
        living = sorted((c for c in self.children if c.process is not None), key=lambda c: c.plan.role.value)
        for child in living:
            if child.plan.role is not living[0].plan.role or (child.plan.role is not Role.CLIENTS and not drained):
                break
            self._end(child, now)
        for child in living:
            patience = HURRY if self.signals > 1 else GRACE
            if self.signals > 2 or now > self.told.get(child.plan.name, now) + patience:
                os.kill(child.pid, signal.SIGKILL)

    def _end(self, child: Child, now: float) -> None:
        if child.plan.name in self.told:
            return
        self.told[child.plan.name] = now
        if child.plan.role in (Role.PICKER, Role.CONTROL):
            # Requests get a little less time than the process, so that it can still record how they ended.
            self._tell(child, Stop(0.8 * GRACE if self.signals < 2 else 0.0))
        else:
            os.kill(child.pid, signal.SIGTERM)
