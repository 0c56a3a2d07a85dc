"""One child of the supervisor: how it is started, what it left behind, when it may start again."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import msgspec

from pointsman.cli.supervising.loop_watch import LoopWatch
from pointsman.core.processes.last_page import PAGE_BYTES, LastPage, read_page
from pointsman.core.processes.leash import FROM_CHILD, LEASH, WHERE, LeashLines

PR_SET_PDEATHSIG = 1
"""Number of this option in `linux/prctl.h`."""

RESTART_DELAYS = (0.0, 0.1, 0.2, 0.4, 0.6)
"""Seconds before the next start, by the number of quick ends in a row: with Python's start, a child is back within two."""

FAILED_DELAYS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""The same, by the number of starts in a row that failed by themselves: their cause is there still, and somebody looks."""

STEADY = 5.0
"""Seconds after which the end of a life no longer counts as a quick one."""

LAST_LINES = 12


class Role(Enum):
    """What a child is for; when all processes end, children whose role has a lower value end first."""

    CLIENTS = 1
    GATEWAY = 2
    PICKER = 3
    CONTROL = 4
    SERVER = 5


SAY_WHEN_READY = (Role.PICKER, Role.CONTROL)


class ChildPlan(msgspec.Struct, frozen=True):
    """How to run a child: its command, and what it needs and gets."""

    name: str
    role: Role
    command: tuple[str, ...]
    needs: str = ""
    """File that must exist before the first start; empty for none."""
    inherits: tuple[int, ...] = ()
    """File descriptors that keep their numbers in the child."""
    log: str = ""
    """File that takes the child's output; empty for the supervisor's own."""
    page: int = -1
    """Descriptor of the memory shared with the child, cleared for each life; -1 for none."""
    hung_after: float = 0.0
    """Seconds without a turn of its loop after which it is killed; 0 for never."""


def our_command(*words: str) -> tuple[str, ...]:
    """The words that run a command of ours; -P because the current directory may hold a folder named `grpc`."""
    return (sys.executable, "-P", "-m", "pointsman.cli", *words)


class Child:
    """A planned child and its present life, if it has one."""

    def __init__(self, plan: ChildPlan) -> None:
        self.plan = plan
        self.process: subprocess.Popen[bytes] | None = None
        self.leash: socket.socket | None = None
        self.lines = LeashLines(FROM_CHILD)
        self.ready = False
        self.started_at = 0.0
        self.start_after = 0.0
        self.quick_ends = 0
        self.failed_starts = 0
        """Count of lives in a row that ended by themselves before they were ready, or where none says so, quickly."""
        self.log_offset: int | None = None
        """Offset in the log file at which this life's output begins; None where the output goes to the supervisor's own."""
        self.watch = LoopWatch(plan.hung_after)
        self.verdict = ""
        """Words for why the supervisor ended this life; empty where it did not."""
        self.last_words: list[str] = []
        """Last lines of its output that were shown."""

    @property
    def pid(self) -> int:
        """Process id of the present life, 0 without one."""
        return self.process.pid if self.process is not None else 0

    def may_start(self, now: float) -> bool:
        """Whether it may be started: it does not run, its delay is over, and the file that it needs is there."""
        return (
            self.process is None and now >= self.start_after and (not self.plan.needs or Path(self.plan.needs).exists())
        )

    def start(self, now: float) -> None:
        """Begin a life; `OSError` where the program cannot be run."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.plan.page >= 0:
                os.pwrite(self.plan.page, bytes(PAGE_BYTES), 0)
            self.process = self._spawn(os.environ | {LEASH: str(theirs.fileno())}, theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.leash, self.lines, self.ready, self.started_at = ours, LeashLines(FROM_CHILD), False, now
        self.watch, self.verdict = LoopWatch(self.plan.hung_after), ""

    def _spawn(self, environment: dict[str, str], leash: int) -> subprocess.Popen[bytes]:
        output = self._open_log()
        try:
            return subprocess.Popen(
                self.plan.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(leash, *self.plan.inherits),
                # A Ctrl-C at the terminal reaches the supervisor alone, which ends all others in order.
                process_group=0,
                preexec_fn=_dies_with(os.getpid(), self.plan.role),  # noqa: PLW1509  the supervisor has no threads
            )
        finally:
            if output is not None:
                output.close()

    def _open_log(self) -> BinaryIO | None:
        """Open the file for the child's output; None, for the supervisor's own, where none is planned or can be written."""
        self.log_offset = None
        if not self.plan.log:
            return None
        try:
            output = open(self.plan.log, "ab", buffering=0)  # noqa: SIM115
        except OSError:
            return None
        self.log_offset = output.seek(0, os.SEEK_END)
        return output

    def ended(self, status: int, now: float) -> str:
        """Note the end of this life and return its cause in words; `status` is `waitpid`'s."""
        assert self.process is not None
        code = os.waitstatus_to_exitcode(status)
        self.process.returncode = code
        self.process = None
        if self.leash is not None:
            self.leash.close()
            self.leash = None
        quick = now - self.started_at < STEADY
        failed = code > 0 and not self.ready and (quick or self.plan.role in SAY_WHEN_READY)
        self.ready = False
        self.quick_ends = self.quick_ends + 1 if quick else 0
        self.failed_starts = self.failed_starts + 1 if failed else 0
        delays, count = (FAILED_DELAYS, self.failed_starts - 1) if failed else (RESTART_DELAYS, self.quick_ends)
        self.start_after = now + delays[min(count, len(delays) - 1)]
        cause = f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        return f"{cause}: {self.verdict}" if self.verdict else cause

    def hung(self) -> bool:
        """Whether its loop does not turn; where it does not, the verdict says so and its output where it is caught."""
        if self.process is None or self.plan.page < 0 or self.verdict:
            return bool(self.verdict) and self.process is not None
        self.verdict = self.watch.look(self.pid, os.pread(self.plan.page, PAGE_BYTES, 0), time.monotonic())
        if self.verdict:
            os.kill(self.pid, WHERE)
        return False

    def last_page(self) -> LastPage | None:
        """The last values on the page that the process shares; None where it has begun no epoch."""
        return read_page(os.pread(self.plan.page, PAGE_BYTES, 0)) if self.plan.page >= 0 else None

    def last_lines(self) -> list[str]:
        """The last lines that this life wrote; none where it has no file of its own."""
        if self.log_offset is None:
            return []
        try:
            with open(self.plan.log, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self.log_offset, size - 16_384))
                return [line.decode(errors="replace").rstrip() for line in deque(file, LAST_LINES)]
        except OSError as error:
            return [f"its output cannot be read: {error}"]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _dies_with(parent: int, role: Role) -> Callable[[], None] | None:
    """The function that a child calls before its program starts, so that the kernel ends it when the supervisor dies."""
    # Our processes get time to flush.  The gateway would only drain, with no picker left to ask.
    last = signal.SIGKILL if role is Role.GATEWAY else signal.SIGTERM
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, last)
        if os.getppid() != parent:  # the supervisor died before the line above
            os._exit(1)

    return prepare
