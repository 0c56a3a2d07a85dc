"""The console inside the control process: its sources, and where it can be found."""

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from pointsman.cli.control.weight_changes import WeightChanges
from pointsman.cli.supervising.child import our_command
from pointsman.cli.supervising.console_place import url_file, url_of
from pointsman.core.processes.settings import ControlSettings
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedHub
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.access import Access
from pointsman.web.app import create_app
from pointsman.web.console import Console, Watch
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.serving.console_server import serve
from pointsman.web.stream import Broadcast

LOOK = 1.0
"""Seconds between two looks at whether the strip has to change though nothing is committed."""


async def run_console(
    settings: ControlSettings,
    appender: Appender,
    changes: WeightChanges,
    hub: FeedHub,
    told: Broadcast,
    *,
    kept: Callable[[], Kept | None],
) -> None:
    """Serve the console on the handed-in socket until cancelled."""
    listening = socket.socket(fileno=settings.console)
    url = url_of(listening)
    console = _console(settings, appender, changes, hub, told, kept=kept)
    place = url_file(Path(settings.data))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(url + "\n")
    except OSError as error:
        print(f"{place} cannot be written, commands do not find the console: {error}", flush=True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(console.replayer.run, console.watch.looked_at, partial(told.changed, "strip"))
            nursery.start_soon(_look, console)
            await serve(create_app(console), listening, told)
    finally:
        place.unlink(missing_ok=True)


def _console(
    settings: ControlSettings,
    appender: Appender,
    changes: WeightChanges,
    hub: FeedHub,
    told: Broadcast,
    *,
    kept: Callable[[], Kept | None],
) -> Console:
    log, data = appender.log, Path(settings.data)
    gateway = settings.gateway
    address = "" if gateway is None else {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(gateway.address, gateway.address)
    return Console(
        state=lambda: log.state,
        in_flight=lambda: log.open_requests.in_flight(),
        log=appender.statistics,
        feed=hub.statistics,
        kept=kept,
        change_weights=changes.change,
        log_directory=log.directory,
        read_model=data / "readmodel.db",
        data_directory=data,
        manifests=settings.manifests,
        gateway=f"http://{address}:{gateway.port}" if gateway is not None else "",
        broadcast=told,
        replayer=Replayer(our_command("replay", "worker", "--data-dir", settings.data)),
        access=Access(),
        watch=Watch(),
    )


async def _look(console: Console) -> None:
    """Have pages show trouble that no commit tells of, such as a disk that stalls or a feed that is lost."""
    seen: tuple[object, ...] = ()
    while True:
        await trio.sleep(LOOK)
        log, feed = console.log(), console.feed()
        now = (log.stalled_since, feed.connected, feed.entries_lost)
        if now != seen:
            seen = now
            console.broadcast.changed("strip")
