"""What the control process hands to its pages, and what all pages share."""

import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from pointsman.core.events import BackendRef, Event, RouteObserved
from pointsman.core.projection import ClusterState, Endpoint
from pointsman.eventlog.appender import AppenderStatistics
from pointsman.eventlog.feed import FeedStatistics
from pointsman.web import words
from pointsman.web.access import Access
from pointsman.web.replayer import Replayer
from pointsman.web.stream import Broadcast

BEHIND_MAX = 1.0
"""Seconds of recording lag from which the strip says so."""


class Console(msgspec.Struct, frozen=True):
    """The sources of every page; functions where the value changes."""

    state: Callable[[], ClusterState]
    in_flight: Callable[[], Mapping[int, int]]
    """Open requests by endpoint number."""
    log: Callable[[], AppenderStatistics]
    feed: Callable[[], FeedStatistics]
    append: Callable[[Event], Awaitable[int]]
    """Returns after the commit."""
    write_weights: Callable[[RouteObserved, int, tuple[BackendRef, ...]], Awaitable[str]]
    """Returns the version that was read back; raises `WeightsNotWritten`."""
    log_directory: Path
    read_model: Path
    data_directory: Path
    manifests: str
    gateway: str
    """URL of the standalone gateway; empty without one."""
    broadcast: Broadcast
    replayer: Replayer
    access: Access
    used_forms: dict[str, None] = msgspec.field(default_factory=dict)
    """Forms that changed something, oldest first: none is used twice."""


class WeightsNotWritten(Exception):
    """The file stayed as it was; `stale` says that somebody else changed it."""

    def __init__(self, message: str, *, stale: bool) -> None:
        super().__init__(message)
        self.stale = stale


class Strip(msgspec.Struct, frozen=True):
    """The line at the top of every page: the truth about the console itself."""

    now: str
    behind: str
    position: int
    digest: str
    trouble: str
    """Empty where all is well."""
    verified: str = ""


class NavigationItem(msgspec.Struct, frozen=True):
    """A link of the navigation."""

    name: str
    href: str
    count: int | None
    current: bool


def strip(console: Console) -> Strip:
    """How the log and the feed are, in words."""
    log, feed, now = console.log(), console.feed(), time.time()
    stalled = 0.0 if log.stalled_since is None else max(0.0, now - log.stalled_since)
    trouble = ""
    if log.stalled_since is not None:
        trouble = (
            f"not recording for {words.duration(stalled)}: {log.stalled_because}; {log.queued_events} entries wait"
        )
    elif feed.connected == 0:
        trouble = "no picker process is connected: nothing is being picked"
    elif feed.entries_lost:
        trouble = f"{words.plural(feed.entries_lost, 'entry', 'entries')} lost since this process started"
    return Strip(
        words.moment(now), words.duration(max(log.commit_duration, stalled)), log.head, log.digest.hex(), trouble
    )


def navigation(console: Console, path: str) -> list[NavigationItem]:
    """The pages, with how many things each has."""
    state = console.state()
    items: tuple[tuple[str, str, int | None], ...] = (
        ("Overview", "/", None),
        ("Pools", "/pools", len(state.pools)),
        ("Routes", "/routes", len(state.routes)),
        ("Decisions", "/decisions", None),
        ("Log", "/log", None),
        ("Help", "/help", None),
    )
    return [
        NavigationItem(name, href, count, path == href or (href != "/" and path.startswith(href + "/")))
        for name, href, count in items
    ]


def short_name(pool: str) -> str:
    """A pool's or route's name without its namespace."""
    return pool.rpartition("/")[2]


def endpoint_name(member: Endpoint) -> str:
    """How pages call an endpoint: its pod and port."""
    return f"{member.name}:{member.port}"


def build() -> str:
    """The version of this installation."""
    return version("pointsman")
