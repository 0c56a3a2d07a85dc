"""The console inside the control process: its sources, its writes, and where it can be found."""

import socket
from functools import partial
from pathlib import Path

import trio

from pointsman.cli.supervising.child import our_command
from pointsman.cli.supervising.console_place import url_file, url_of
from pointsman.cluster.manifests.actuator import WriteRefused, end_of, write_weights
from pointsman.core.events import BackendRef, RouteObserved
from pointsman.core.processes.settings import ControlSettings
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedHub
from pointsman.eventlog.stores.log import Log
from pointsman.web.access import Access
from pointsman.web.app import create_app
from pointsman.web.console import Console, Watch, WeightsNotWritten
from pointsman.web.console_server import serve
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.stream import Broadcast

LOOK = 1.0
"""Seconds between two looks at whether the strip has something new to say though nothing is committed."""


async def run_console(settings: ControlSettings, log: Log, appender: Appender, hub: FeedHub, told: Broadcast) -> None:
    """Serve the console on the handed-in socket until cancelled."""
    listening = socket.socket(fileno=settings.console)
    url = url_of(listening)
    console = _console(settings, log, appender, hub, told)
    place = url_file(Path(settings.data))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(url + "\n")
    except OSError as error:
        print(f"{place} cannot be written, commands do not find the console: {error}", flush=True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_changes, settings, log, appender)
            nursery.start_soon(console.replayer.run, console.watch.looked_at, partial(told.changed, "strip"))
            nursery.start_soon(_look, console)
            await serve(create_app(console), listening, told)
    finally:
        place.unlink(missing_ok=True)


def _console(settings: ControlSettings, log: Log, appender: Appender, hub: FeedHub, told: Broadcast) -> Console:
    data = Path(settings.data)
    gateway = settings.gateway
    address = "" if gateway is None else {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(gateway.address, gateway.address)
    return Console(
        state=lambda: log.state,
        in_flight=lambda: log.open_requests.in_flight(),
        log=appender.statistics,
        feed=hub.statistics,
        append=appender.append,
        write_weights=partial(_write, settings.manifests),
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


async def _write(manifests: str, route: RouteObserved, rule: int, touched: tuple[BackendRef, ...]) -> str:
    if not manifests:
        raise WeightsNotWritten("routes do not come from a directory of manifests, so there is no file", stale=False)
    try:
        return await write_weights(Path(manifests), route, rule, touched)
    except WriteRefused as error:
        raise WeightsNotWritten(str(error), stale=error.stale) from error


async def _end_changes(settings: ControlSettings, log: Log, appender: Appender) -> None:
    """Changes that a control process before this one began: the file tells what became of them."""
    for intent in list(log.state.pending_changes.values()):
        route = log.state.routes.get(intent.route)
        end = await trio.to_thread.run_sync(end_of, Path(settings.manifests), route, intent)
        await appender.append(end)


async def _look(console: Console) -> None:
    """Have pages show a trouble that no commit tells of, such as a disk that stalls or a feed that is lost."""
    seen: tuple[object, ...] = ()
    while True:
        await trio.sleep(LOOK)
        log, feed = console.log(), console.feed()
        now = (log.stalled_since, feed.connected, feed.entries_lost)
        if now != seen:
            seen = now
            console.broadcast.changed("strip")
