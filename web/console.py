"""What the control process hands to its pages, and what all pages share."""

import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from pointsman.core.rollout.outcome import ChangeOutcome
from pointsman.core.rollout.weights import WeightsAsked
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.appender import AppenderStatistics
from pointsman.eventlog.feed.hub import FeedStatistics
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.access import Access
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.stream import Broadcast

LOST_LATELY = 600.0
"""Seconds for which pages tell that entries were lost; after that the log tells it."""
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
        self._seen = self._lost_at = float("-inf")
        self._lost = self._lost_before = 0

    def lost_lately(self, count: int, now: float) -> int:
        """Return how many entries were lost shortly before `now`, a monotonic time; `count` is that of all so far."""
        lately = now - self._lost_at < LOST_LATELY
        if count != self._lost:
            self._lost_before = self._lost_before if lately else self._lost
            self._lost, self._lost_at, lately = count, now, True
        return count - self._lost_before if lately else 0

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


class NavigationItem(msgspec.Struct, frozen=True):
    """A link of the navigation."""

    name: str
    href: str
    count: int | None
    current: bool


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


def command_line(*words: str) -> str:
    """A command of this installation, to be pasted into a shell as it is."""
    program = Path(sys.executable).with_name("pointsman")
    return shlex.join((str(program) if program.exists() else "pointsman", *words))


def build() -> str:
    """The version of this installation."""
    return version("pointsman")
