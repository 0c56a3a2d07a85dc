"""The control process's sources: manifests or an endpoints file, and the scraper, all into the log."""

from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import trio

from pointsman.cli.control.config_following import ConfigFollower
from pointsman.cli.control.scrape_settings import scrape_settings
from pointsman.cluster.manifests.watch import watch_endpoints, watch_manifests
from pointsman.cluster.scraping.scraper import Scraper
from pointsman.core.events import Event, LoadSampled, ScrapeFailed, SourceAccepted, SourceRejected
from pointsman.core.plugins.file_discovery import FileDiscovery
from pointsman.core.processes.settings import ControlSettings
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError
from pointsman.eventlog.feed.hub import FeedHub
from pointsman.eventlog.stores.log import Log

RETRY = 0.05
"""Seconds before a fact that the log had no room for is offered again."""

HELD_MAX = 10_000
"""Facts of the scraper that may not be lost and can wait for room: at most one for each endpoint, and the pace."""

Tell = Callable[[str], None]


async def imported(name: str) -> Any:
    """Import a module beside what goes on; a stop does not wait for it."""
    return await trio.to_thread.run_sync(import_module, name, abandon_on_cancel=True)


class Recorder:
    """Takes the facts of all sources and has them appended to the log."""

    def __init__(self, appender: Appender, hub: FeedHub, tell: Tell) -> None:
        self._appender = appender
        self._hub = hub
        self._tell = tell
        self._held: deque[Event] = deque(maxlen=HELD_MAX)
        self.dropped = 0
        """Count of samples that found no room; the next samples replace them."""

    async def membership(self, events: Sequence[Event], removals: Sequence[int]) -> None:
        """Record what a source says, in order; pickers avoid the endpoints `removals` at once, before it is on disk."""
        self._hub.advise(removals)
        last = 0
        for event in events:
            self._report(event)
            while True:
                try:
                    last = self._appender.append_nowait(event)
                    break
                except LogFullError:
                    await trio.sleep(RETRY)
        if last:
            await self._appender.wait_committed(last)

    def load(self, events: Sequence[Event]) -> None:
        """Record what the scraper saw; samples without room are dropped, since only the latest count."""
        waiting = [*self._held, *events]
        self._held.clear()
        for event in waiting:
            try:
                self._appender.append_nowait(event)
            except LogFullError:
                if isinstance(event, LoadSampled | ScrapeFailed):
                    self.dropped += 1
                else:
                    self._held.append(event)

    def scraped(self) -> None:
        """Note that an attempt to scrape had a result, good or bad."""
        self._hub.scraped(trio.current_time())

    def _report(self, event: Event) -> None:
        match event:
            case SourceRejected(source, line, message):
                where = f"{source}, line {line}" if line else source
                self._tell(f"{where}: {message}; what it said before stays")
            case SourceAccepted(source, warnings):
                for warning in warnings:
                    self._tell(f"{source}: warning: {warning}")
            case _:
                pass


async def follow_sources(
    settings: ControlSettings,
    config: ConfigFollower,
    recorder: Recorder,
    log: Log,
    ready: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Follow the source of endpoints; reports that it has started once what it found first is recorded.

    `ready` is set when there is something to pick from: a broken endpoints file leaves it as it is.
    """
    if settings.cluster is not None:
        ready.set()
        # Importing the client takes half a second and 40 MB, so only who needs it pays.
        source = await imported("pointsman.cluster.kubernetes.source")
        followed = source.Followed(settings.cluster.namespaces, settings.pool)
        await source.watch_cluster(
            settings.cluster, followed, lambda: log.state, recorder.membership, task_status=task_status
        )
        return
    if settings.manifests:
        ready.set()
        await watch_manifests(Path(settings.manifests), lambda: log.state, recorder.membership, task_status=task_status)
        return
    follow = _Following(settings.pool, recorder, log, ready)
    async with trio.open_nursery() as nursery:
        while True:
            changed = config.changed
            discovery = config.effective.discovery()
            if discovery is not None:
                with trio.CancelScope() as scope:
                    nursery.start_soon(_replaced, config, discovery, scope)
                    await follow.endpoints(discovery, task_status)
                task_status = trio.TASK_STATUS_IGNORED
                continue
            ready.set()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await changed.wait()


class _Following(msgspec.Struct, frozen=True):
    """What it takes to follow an endpoints file."""

    pool: str
    recorder: Recorder
    log: Log
    ready: trio.Event

    async def endpoints(self, discovery: FileDiscovery, task_status: trio.TaskStatus[None]) -> None:
        """Follow the file for ever, also where it is read once."""
        await watch_endpoints(
            Path(discovery.path),
            self.pool,
            lambda: self.log.state,
            self.recorder.membership,
            follow=discovery.watch_file,
            ready=self.ready.set,
            task_status=task_status,
        )
        await trio.sleep_forever()  # until the configuration names another file


async def _replaced(config: ConfigFollower, discovery: FileDiscovery, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the configuration no longer names this file."""
    while config.effective.discovery() == discovery:
        await config.changed.wait()
    scope.cancel()


async def run_scraper(
    settings: ControlSettings,
    config: ConfigFollower,
    recorder: Recorder,
    log: Log,
    last_request: Callable[[], float],
) -> None:
    """Scrape for ever; a new scraper takes over when the configuration asks for other pages."""
    async with trio.open_nursery() as nursery:
        while True:
            wanted = scrape_settings(config.effective, settings.refresh_interval)
            scraper = Scraper(
                wanted, lambda: log.state, recorder.load, last_request=last_request, on_result=recorder.scraped
            )
            scope = trio.CancelScope()
            nursery.start_soon(_scrape, scraper, scope)
            while scrape_settings(config.effective, settings.refresh_interval) == wanted:
                await config.changed.wait()
            scope.cancel()


async def _scrape(scraper: Scraper, scope: trio.CancelScope) -> None:
    with scope:
        await scraper.run()
