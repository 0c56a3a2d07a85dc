"""The line at the top of every page: the worst that is wrong, or how far recording is behind; log and replay."""

import time

import msgspec

from pointsman.web.console import Console
from pointsman.web.drawing import words
from pointsman.web.pages.judgement import judged
from pointsman.web.pages.reply import Reply


class Strip(msgspec.Struct, frozen=True):
    """What the strip says."""

    now: str
    behind_seconds: float
    position: int
    digest: str
    trouble: str
    """Words for the worst that is wrong; empty where all is well."""
    state: str = "good"
    """Name of its severity, which is its colour: `good`, `warn` or `bad`."""
    more: int = 0
    """Count of other findings."""
    href: str = ""
    """Address of the page that tells more of the worst."""
    since: str = ""
    """Time at which the trouble began."""
    replayed: int = 0
    """Count of the newest decisions that replay made again; 0 where it has not looked."""
    differing: int = 0

    @property
    def verified(self) -> str:
        """Share of them that came out the same, in words; empty where replay has not looked."""
        if not self.replayed:
            return ""
        share = (self.replayed - self.differing) / self.replayed
        return f"{words.percent(share, 0 if not self.differing else 2)} of the last {self.replayed:,}"


async def strip(console: Console) -> Strip:
    """The worst of the page's judgement, and the state of the log and of replay, in words."""
    found, log, now = await judged(console), console.log(), time.time()
    worst = found.worst
    since = console.watch.since(f"{worst.kind} {worst.subject}" if worst else "", now)
    stalled = 0.0
    if log.stalled_since is not None:
        since, stalled = log.stalled_since, max(0.0, now - log.stalled_since)
    newest = console.replayer.newest
    return Strip(
        now=words.moment(now),
        behind_seconds=max(log.commit_duration, stalled),
        position=log.head,
        digest=log.digest.hex(),
        trouble=worst.sentence if worst else "",
        state=found.severity.colour,
        more=max(0, len(found.findings) - 1),
        href=worst.href if worst else "",
        since=words.moment(since) if worst else "",
        replayed=newest.decisions,
        differing=newest.differing,
    )


async def page(console: Console) -> Reply:
    """The strip alone, for pages that refresh it."""
    return Reply("_strip.html", "_strip.html", {}, await strip(console))
