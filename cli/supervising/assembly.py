"""The parts of one deployment: its directories, the plans of its processes, and the supervisor that runs them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from pointsman.cli.failure import Failure
from pointsman.cli.supervising.child import ChildPlan, Role, our_command
from pointsman.cli.supervising.supervisor import Listening, Supervisor
from pointsman.cli.version import build
from pointsman.cluster.gateway.envoy import BOOTSTRAP, EnvoyMissing, envoy_command, find_envoy
from pointsman.core.processes.settings import ControlSettings, GatewaySettings, PickerOptions, PickerSettings, encode

SOCKET_PATH_BYTES = 100
"""Bytes of a Unix socket's path that are kept: the systems with the least allow 104, the zero at its end included."""

LOG_BYTES_MAX = 16 << 20
"""Bytes of a child's output that the next run still finds; the file before it is kept under `.1`."""

PICKER = "picker-1"


class Deployment:
    """The directories of one running deployment; `with` holds its lock."""

    def __init__(self, data: Path, logs: bool) -> None:
        self.data = data.absolute()
        self.run = self.data / "run"
        self.gateway = self.data / "gateway"
        self.logs = self.data / "logs" if logs else None
        self._lock = self._page = -1
        self._umask = 0
        self._temporary = ""

    def __enter__(self) -> Self:
        self._umask = os.umask(
            0o077
        )  # logs hold what clients asked for, and sockets take orders: all of it is its owner's alone
        try:
            if (self.run / "lock").exists():  # ours, from a run that may have left it open to others
                with suppress(
                    PermissionError
                ):  # of somebody else, as a volume of a Pod is: who may look in is theirs to say
                    self.data.chmod(0o700)
            for directory in (self.run, *([self.logs] if self.logs else [])):
                directory.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.run / "lock", self.data)
            # In memory, because a picker has to start also where the disk is full or read-only.
            self._page = os.memfd_create(f"{PICKER} page")
        except OSError as error:
            raise Failure(f"the data directory {self.data} cannot be used: {error}") from error
        # Files that an earlier run left there name the ports of that run.
        shutil.rmtree(self.gateway, ignore_errors=True)
        for path in self.logs.glob("*.log") if self.logs else ():
            if path.stat().st_size > LOG_BYTES_MAX:
                path.replace(path.with_suffix(".log.1"))
        if len(os.fsencode(self.run / "feed.sock")) > SOCKET_PATH_BYTES:
            self._temporary = tempfile.mkdtemp(prefix="pointsman-")
        return self

    def __exit__(self, *_: object) -> None:
        os.umask(self._umask)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
        for descriptor in (self._lock, self._page):
            with suppress(OSError):
                os.close(descriptor)

    @property
    def feed(self) -> str:
        """Path of the feed's socket."""
        return str(Path(self._temporary or self.run) / "feed.sock")

    def log_of(self, name: str) -> str:
        """Path of the file that takes a child's output."""
        return str(self.logs / f"{name}.log") if self.logs else ""

    # --- plans ------------------------------------------------------------------------------------

    def control(self, settings: ControlSettings) -> ChildPlan:
        """The plan of the control process."""
        inherits = tuple(one for one in (settings.metrics, settings.console) if one >= 0)
        command = our_command("control", "--settings", encode(settings))
        return ChildPlan("control", Role.CONTROL, command, inherits=inherits, log=self.log_of("control"))

    def picker(self, options: PickerOptions) -> ChildPlan:
        """The plan of the picker process."""
        page = self._page
        settings = PickerSettings(PICKER, self.feed, build(), f"/proc/self/fd/{page}", options)
        command = our_command("picker", "--settings", encode(settings))
        return ChildPlan(
            PICKER,
            Role.PICKER,
            command,
            inherits=(page,),
            log=self.log_of(PICKER),
            page=page,
            hung_after=options.hung_after,
        )

    def envoy(self, settings: GatewaySettings) -> ChildPlan:
        """The plan of the standalone gateway; `Failure` where there is no Envoy."""
        binary = find_envoy()
        if isinstance(binary, EnvoyMissing):
            raise Failure(binary.reason)
        bootstrap = Path(settings.directory) / BOOTSTRAP
        command = tuple(envoy_command(binary, bootstrap))
        return ChildPlan("gateway", Role.GATEWAY, command, needs=str(bootstrap), log=self.log_of("gateway"))

    def gateway_at(self, address: str, port: int) -> GatewaySettings:
        """The settings of a gateway on this address: its files, and where it leaves its output."""
        log = (self.logs or self.data) / "access.log"
        return GatewaySettings(address, port, str(self.gateway), str(log))


def supervise(
    plans: list[ChildPlan],
    listening: Listening,
    drain: float,
    report: Callable[[str], None],
    started: Callable[[dict[str, int]], None],
) -> int:
    """Run until told to end; return the exit code."""
    return Supervisor(plans, listening, drain, report).run(started)


def _lock(path: Path, data: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Failure(
            f"the data directory {data} is in use by process {holder}: end that one, or choose another --data-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
