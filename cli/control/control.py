"""The control process: owner of the log, the sources, the gateway's files and the metrics page.

Rules.  The log is opened first and closed last; everything between lives in one nursery.
Nothing here waits for a picker, a browser or a model server.
"""

import errno
import faulthandler
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import trio

from pointsman.cli.arguments import Parser
from pointsman.cli.control.config_following import ConfigFollower
from pointsman.cli.control.control_leash import ControlLeash
from pointsman.cli.control.gateway_part import follow_routes
from pointsman.cli.control.retaining import Retention
from pointsman.cli.control.sources import Recorder, follow_sources, imported, run_scraper
from pointsman.cli.control.weight_changes import WeightActuator, WeightChanges
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.supervisor import UNUSABLE_LOG
from pointsman.cli.version import build
from pointsman.cluster.manifests.actuator import ManifestActuator
from pointsman.core.events import Class, ClockStepped, ControlStarted, ControlStopped, PickerEnded
from pointsman.core.processes.leash import Ready
from pointsman.core.processes.settings import ControlSettings
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogCorruptError, LogFullError, LogLockedError, StoreRefusedError
from pointsman.eventlog.feed.hub import FeedHub, listen_at, serve_feed
from pointsman.eventlog.opening import open_log
from pointsman.eventlog.readmodel.folding import ReadModelWriter, follow_log
from pointsman.eventlog.stores.log import Log
from pointsman.eventlog.stores.retention import store_limits
from pointsman.eventlog.stores.writing import Commit
from pointsman.web.metrics.counting import Metrics
from pointsman.web.metrics.metrics_text import metrics_page
from pointsman.web.stream import Broadcast

STOP_GRACE = 1.0
"""Seconds that stopping waits for a disk that refuses, before the appender's own CLOSE_GRACE begins."""

END_MAX = 30.0
"""Seconds that stopping may take.  The supervisor kills us long before; this is for when the supervisor is gone."""

DIRECTORY_LOOK = 1.0
"""Seconds between two looks at whether the data directory is there."""

CLOCK_LOOK = 1.0
CLOCK_STEP = 0.5
"""Seconds of change between the clocks that count as a step: slewing moves them by 0.5 ms a second at most."""


def run(name: str, words: list[str]) -> int:
    """Be the control process until the supervisor says stop or is gone."""
    parser = Parser(name, "The control process; `pointsman serve` starts it.", f"{name} --settings '{{...}}'")
    parser.add_argument("--settings", required=True, help="JSON")
    settings = msgspec.json.decode(parser.parse_args(words).settings, type=ControlSettings)
    if _gone(settings):
        raise Failure(_GONE.format(settings.data))
    try:
        log = open_log(Path(settings.data) / "log", build(), store_limits(settings.keep))
    except (LogCorruptError, LogLockedError) as error:
        raise Failure(str(error), UNUSABLE_LOG) from error
    except (OSError, StoreRefusedError) as error:
        raise Failure(f"the log in {settings.data} cannot be opened: {error}", UNUSABLE_LOG) from error
    _print_head("found" if log.head.position > 1 else "began", log)
    try:
        trio.run(_control, settings, log)
    except BaseExceptionGroup as group:
        # What is wrong outside of the program is there at the next start as well, and a line says all of it.
        if _gone(settings):
            raise Failure(_GONE.format(settings.data)) from None
        if (outside := _os_error(group)) is not None:
            raise Failure(f"the control process ends: {outside}") from None
        raise
    finally:
        log.close()
    _print_head("left", log)
    return 0


_GONE = "the data directory {} is gone: nothing is recorded until it is back; put it back, or end and start anew"


def _gone(settings: ControlSettings) -> bool:
    """Whether the directories that the supervisor made or found are not there any more."""
    return not (Path(settings.data).is_dir() and Path(settings.feed).parent.is_dir())


def _os_error(group: BaseExceptionGroup[BaseException]) -> OSError | None:
    """The first error of the system where the group has no other exceptions."""
    if group.split(OSError)[1] is not None:
        return None
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, OSError) else None


def _print_head(did: str, log: Log) -> None:
    # An operator who keeps this line can show later whether the log was changed.
    print(f"{did} log {log.log_id} at head {log.head.position}:{log.head.digest.hex()}", flush=True)


class Control:
    """The log's appender, and all that hears of each commit: feed, metrics, read model, console, supervisor."""

    def __init__(self, log: Log, read_model: Path) -> None:
        self.log = log
        self.metrics = Metrics()
        self.last_request = float("-inf")
        self.moved = trio.Event()
        """Event that is set, and replaced by a new one, when membership or routes changed."""
        self.appender = Appender(log, self._committed)
        self.hub = FeedHub.over(log, self.appender)
        self.broadcast = Broadcast()
        self.leash: ControlLeash | None = None
        self.model = ReadModelWriter(read_model, log.directory)

    def _committed(self, commit: Commit) -> None:
        self.hub.publish(commit)
        self.metrics.follow(commit.events, self.log.state)
        self.model.tell(commit)
        self.broadcast.changed("log", "strip")
        kinds = set(commit.kinds)
        if Class.TRAFFIC in kinds:
            self.last_request = time.monotonic()
        if Class.MEMBERSHIP in kinds:
            self.wake()
        if Class.CONTROL in kinds and self.leash is not None:
            for event in commit.events:
                if isinstance(event, PickerEnded):
                    self.leash.recorded(event)

    def wake(self) -> None:
        """Have the gateway's part look at membership and routes."""
        self.moved.set()
        self.moved = trio.Event()


async def _control(settings: ControlSettings, log: Log) -> None:
    control = Control(log, Path(settings.data) / "readmodel.db")
    head = log.head
    async with trio.open_nursery() as outer:
        await outer.start(control.appender.run)
        appender = control.appender
        await appender.append(ControlStarted(build(), os.getpid(), head.position, head.digest))
        cause = await _serve(settings, control)
        with trio.move_on_after(STOP_GRACE), suppress(LogFullError):
            await appender.append(ControlStopped(os.getpid(), cause))
            appender.close()
            return
        outer.cancel_scope.cancel()  # the disk refuses: entries it does not take within CLOSE_GRACE are lost


async def _serve(settings: ControlSettings, control: Control) -> str:
    """Run all parts until told to stop; return why."""
    log, appender, hub = control.log, control.appender, control.hub
    causes = ["told to stop"]
    leash = control.leash = ControlLeash()
    config = ConfigFollower(settings, appender, log.state, leash.tell)
    await config.begin()
    recorder = Recorder(appender, hub, leash.tell)
    changes = WeightChanges(appender, await _actuator(settings))
    retention = Retention(settings.keep, appender, control.model.path, leash.tell)
    listener = listen_at(Path(settings.feed))
    async with trio.open_nursery() as nursery:
        ready = trio.Event()
        await nursery.start(follow_sources, settings, config, recorder, log, ready)
        nursery.start_soon(serve_feed, hub, listener)
        nursery.start_soon(config.run)
        nursery.start_soon(run_scraper, settings, config, recorder, log, lambda: control.last_request)
        folded = partial(control.broadcast.changed, "decisions", "pools", "routes")
        nursery.start_soon(follow_log, control.model, folded)
        nursery.start_soon(changes.settle)
        nursery.start_soon(_watch_clock, appender)
        nursery.start_soon(_watch_directory, settings)
        nursery.start_soon(retention.run)
        nursery.start_soon(follow_routes, settings, log, leash, lambda: control.moved)
        if settings.metrics >= 0:
            nursery.start_soon(
                _serve_metrics,
                lambda: metrics_page(
                    control.metrics, log.state, build(), retention.kept, legacy=settings.legacy_metrics
                ),
                settings.metrics,
            )
        if settings.console >= 0:
            nursery.start_soon(_serve_console, settings, control, changes, retention)
        nursery.start_soon(_until_terminated, nursery.cancel_scope, causes)
        nursery.start_soon(_say_ready, leash, ready)
        _settle_memory()
        await leash.run(hub, appender, control.wake)
        _bound_the_end()
        nursery.cancel_scope.cancel()
    return causes[-1]


async def _actuator(settings: ControlSettings) -> WeightActuator:
    """What writes weights where this process's routes come from."""
    if settings.cluster is None:
        return ManifestActuator(Path(settings.manifests) if settings.manifests else None)
    module = await imported("pointsman.cluster.kubernetes.actuator")
    actuator: WeightActuator = module.ClusterActuator(settings.cluster)
    return actuator


async def _say_ready(leash: ControlLeash, ready: trio.Event) -> None:
    """Tell the supervisor that this process is ready, once its source has said what there is to pick from."""
    await ready.wait()
    await leash.say(Ready())


async def _serve_metrics(page: Callable[[], Iterator[str]], descriptor: int) -> None:
    # Importing it takes a third of the start, so a thread does that, while pickers are already fed.
    module = await imported("pointsman.web.metrics.metrics_server")
    await module.serve_metrics(page, descriptor)


async def _serve_console(
    settings: ControlSettings, control: Control, changes: WeightChanges, retention: Retention
) -> None:
    module = await imported("pointsman.cli.control.console_part")
    await module.run_console(
        settings, control.appender, changes, control.hub, control.broadcast, kept=lambda: retention.kept
    )


async def _until_terminated(scope: trio.CancelScope, causes: list[str]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            causes.append("SIGTERM")
            _bound_the_end()
            scope.cancel()


def _bound_the_end() -> None:
    """Have the process end within `END_MAX` whatever it waits for; it then writes where every thread stands."""
    faulthandler.dump_traceback_later(END_MAX, exit=True)


async def _watch_directory(settings: ControlSettings) -> None:
    """End with an error where the data directory goes: what is written to files without a name is lost."""
    before = False
    while True:
        await trio.sleep(DIRECTORY_LOOK)
        gone = await trio.to_thread.run_sync(_gone, settings, abandon_on_cancel=True)
        if gone and before:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), settings.data)
        before = gone


async def _watch_clock(appender: Appender) -> None:
    """Record when the wall clock moves against the monotonic one."""
    apart = time.time() - time.monotonic()
    while True:
        await trio.sleep(CLOCK_LOOK)
        found = time.time() - time.monotonic()
        if abs(found - apart) > CLOCK_STEP:
            try:
                appender.append_nowait(ClockStepped(found - apart))
            except LogFullError:
                continue  # it is still apart at the next look
            apart = found


def _settle_memory() -> None:
    """Keep the collector away from what lasts: a full collection over it would stall the feed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
