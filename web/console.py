"""What the control process hands to its pages, and what all pages share."""

import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from pointsman.core.rollout.outcome import ChangeOutcome
from pointsman.core.rollout.weights import WeightsAsked
from pointsman.core.state.membership import Endpoint
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.appender import AppenderStatistics
from pointsman.eventlog.feed.hub import FeedStatistics
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.access import Access
from pointsman.web.drawing import words
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.stream import Broadcast

STALE = 0.2
"""Age in seconds from which a sample counts as old, where the log holds no threshold."""
LOOKED_AT = 60.0
"""Seconds after a page was shown in which somebody is taken to look, so that work is done for the pages."""


class Console(msgspec.Struct, frozen=True):
    """Everything that pages take their values from; a function where the value changes."""

    state: Callable[[], ClusterState]
    in_flight: Callable[[], Mapping[int, int]]
    """Open requests by endpoint number."""
    log: Callable[[], AppenderStatistics]
    feed: Callable[[], FeedStatistics]
    kept: Callable[[], Kept | None]
    """Function that tells what is kept of the log, as last looked at; None before the first look."""
    change_weights: Callable[[WeightsAsked], Awaitable[ChangeOutcome]]
    """Function that makes a change of weights, and ends it properly also where the page that asked is left."""
    log_directory: Path
    read_model: Path
    data_directory: Path
    manifests: str
    gateway: str
    """URL of the standalone gateway; empty without one."""
    broadcast: Broadcast
    replayer: Replayer
    access: Access
    watch: "Watch"
    used_forms: dict[str, None] = msgspec.field(default_factory=dict)
    """Forms that were sent, oldest first, so that none is used twice."""


class Watch:
    """What the strip has to remember: since when something is wrong, and when a page was last shown."""

    def __init__(self) -> None:
        self._kind = ""
        self._since = 0.0
        self._seen = float("-inf")

    def since(self, kind: str, now: float) -> float:
        """When the trouble of this kind (or the lack of one) began, as far as anybody looked."""
        if kind != self._kind:
            self._kind, self._since = kind, now
        return self._since

    def seen(self) -> None:
        """Note that a page was shown."""
        self._seen = time.monotonic()

    def looked_at(self) -> bool:
        """Whether a page was shown in the last LOOKED_AT seconds."""
        return time.monotonic() - self._seen < LOOKED_AT


class Strip(msgspec.Struct, frozen=True):
    """The line at the top of every page: the truth about the console itself."""

    now: str
    behind: str
    position: int
    digest: str
    trouble: str
    """Words for what is wrong; empty where all is well."""
    since: str = ""
    """Time at which the trouble began."""
    verified: str = ""
    """Words for what replay found of the newest decisions; empty where it has not looked."""
    differing: int = 0


class NavigationItem(msgspec.Struct, frozen=True):
    """A link of the navigation."""

    name: str
    href: str
    count: int | None
    current: bool


def strip(console: Console) -> Strip:
    """The state of the log, the feed, the samples and replay, in words."""
    log, now = console.log(), time.time()
    kind, words_ = _trouble(console)
    since = console.watch.since(kind, now)
    stalled = 0.0
    if log.stalled_since is not None:
        since, stalled = log.stalled_since, max(0.0, now - log.stalled_since)
    newest = console.replayer.newest
    verified = ""
    if newest.decisions:
        share = (newest.decisions - newest.differing) / newest.decisions
        verified = f"{words.percent(share, 0 if not newest.differing else 2)} of the last {newest.decisions:,}"
    return Strip(
        words.moment(now),
        words.duration(max(log.commit_duration, stalled)),
        log.head,
        log.digest.hex(),
        words_,
        words.moment(since) if kind else "",
        verified,
        newest.differing,
    )


def _trouble(console: Console) -> tuple[str, str]:
    """What is wrong, as a kind and in words; both empty where all is well."""
    log, feed, state = console.log(), console.feed(), console.state()
    if log.stalled_since is not None:
        waiting = words.plural(log.queued_events, "entry waits", "entries wait")
        return "stalled", f"not recording: {log.stalled_because}; {waiting} for the disk"
    if feed.connected == 0:
        return "feed", "no picker process is connected: what is decided now comes to the log later"
    ready = [m.slot for m in state.endpoints.values() if m.ready]
    stale = [slot for slot in ready if state.age[slot] > max(state.threshold, STALE)]
    if ready and len(stale) == len(ready):
        return "samples", "no server tells its load: the values of pools are old"
    if console.replayer.newest.differing:
        return "differs", "replay found decisions that it cannot reproduce"
    if state.rejected_sources:
        wrong = min(state.rejected_sources.values(), key=lambda event: event.source)
        more = len(state.rejected_sources) - 1
        line = f", line {wrong.line}" if wrong.line else ""
        also = f" (and {words.plural(more, 'other file')})" if more else ""
        return "source", f"{wrong.source}{line}: {wrong.message}{also}; what it said before stays in force"
    if feed.entries_lost:
        return "lost", f"{words.plural(feed.entries_lost, 'entry', 'entries')} of picker processes lost"
    return "", ""


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
