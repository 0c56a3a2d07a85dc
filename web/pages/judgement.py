"""One judgement of the whole, worst first: what headlines, tags and the strip say, so that none says another thing.

`judge` is pure: from facts to findings, by the table RULES.  `judged` gathers the facts of one page, once.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum

import msgspec
from quart import g

from pointsman.core.deciding.profile import pool_saturation
from pointsman.core.plugin.view import UNKNOWN_AFTER
from pointsman.core.rollout.conformity import Conformity, StepVerdict
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.errors import ReadModelUnavailableError
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import words
from pointsman.web.pages import figures

SATURATED = 1.0
"""Saturation from which a pool refuses requests of low priority."""
FILLING = 0.8
"""Saturation from which a pool is named: a fifth of room is what one endpoint of five that fails takes away."""
FAILING_MIN = 5
"""Failed requests in a minute below which their share says nothing."""
FAILING, FAILING_BADLY = 0.05, 0.25
"""Shares of failed requests: one in twenty is felt, one in four is an outage."""


class Severity(IntEnum):
    """How bad a finding is; higher is worse."""

    GOOD = 0
    WARN = 1
    BAD = 2

    @property
    def colour(self) -> str:
        """Name of it in the stylesheet."""
        return self.name.lower()


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    kind: str
    severity: Severity
    subject: str
    """Pool or route that it is about; empty for the whole."""
    sentence: str
    """Sentence without a full stop that can be a headline."""
    word: str
    """Words for a tag beside the subject's name."""
    href: str = ""
    """Address of the page that tells more."""


class PoolFacts(msgspec.Struct, frozen=True):
    """What a pool is judged by."""

    pool: str
    members: int
    ready: int
    stale: int = 0
    """Count of ready endpoints that told their load once, and not for too long."""
    never: int = 0
    """Count of ready endpoints that never told their load."""
    oldest: float = 0.0
    """Age in seconds of the oldest stale sample."""
    waiting: int = 0
    saturation: float | None = None
    """Saturation as a decision would find it; None where no load is known."""
    requests: int = 0
    """Requests of the last minute, as the next two."""
    refused: int = 0
    failed: int = 0


class WholeFacts(msgspec.Struct, frozen=True):
    """What everything else is judged by."""

    stalled_because: str | None = None
    """Cause why the log does not record; None where it does."""
    queued: int = 0
    pickers: int = 1
    differing: int = 0
    """Decisions among the newest that replay does not reproduce."""
    wrong_files: tuple[tuple[str, int, str], ...] = ()
    """Source, line and message of each file that is not understood."""
    lost: int = 0
    """Entries of picker processes lost a short while ago."""
    pools: tuple[PoolFacts, ...] = ()
    routes: tuple[tuple[str, Conformity], ...] = ()


class Judgement(msgspec.Struct, frozen=True):
    """What was found, worst first."""

    findings: tuple[Finding, ...]
    ready: str = ""
    """Words of each pool's ready endpoints, for the headline where nothing was found."""

    @property
    def worst(self) -> Finding | None:
        """The worst of all; None where all is well."""
        return self.findings[0] if self.findings else None

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.findings[0].severity if self.findings else Severity.GOOD

    @property
    def headline(self) -> str:
        """The worst in a sentence, or that all is well."""
        if self.worst is None:
            return "Every pool is ready"
        return self.worst.sentence[0].upper() + self.worst.sentence[1:]

    def of(self, subject: str) -> Finding | None:
        """The worst about a pool or a route; None where that is well."""
        return next((one for one in self.findings if one.subject == subject), None)

    def about(self, subject: str) -> tuple[Finding, ...]:
        """All about a pool or a route, worst first."""
        return tuple(one for one in self.findings if one.subject == subject)


class _Found(msgspec.Struct, frozen=True):
    """What a rule finds, before its rank is added."""

    sentence: str
    word: str
    subject: str = ""
    href: str = ""


def _pools(say: Callable[[PoolFacts, str], tuple[str, str] | None]) -> Callable[[WholeFacts], Iterator[_Found]]:
    """A rule about each pool: `say` has its facts and short name, and returns sentence and tag."""

    def find(facts: WholeFacts) -> Iterator[_Found]:
        for pool in facts.pools:
            if (said := say(pool, short_name(pool.pool))) is not None:
                yield _Found(*said, pool.pool, f"/pools/{pool.pool}")

    return find


def _stalled(facts: WholeFacts) -> Iterator[_Found]:
    if facts.stalled_because is not None:
        waiting = words.plural(facts.queued, "entry waits", "entries wait")
        yield _Found(f"not recording: {facts.stalled_because}; {waiting} for the disk", "not recording", href="/log")


def _unfed(facts: WholeFacts) -> Iterator[_Found]:
    if not facts.pickers:
        yield _Found(
            "no picker process is connected: what is decided now comes to the log later", "no picker", href="/log"
        )


def _differing(facts: WholeFacts) -> Iterator[_Found]:
    if facts.differing:
        count = words.plural(facts.differing, "decision")
        yield _Found(f"replay found {count} that it cannot reproduce", "differs", href="/decisions")


def _files(facts: WholeFacts) -> Iterator[_Found]:
    if facts.wrong_files:
        source, line, message = facts.wrong_files[0]
        more = len(facts.wrong_files) - 1
        at = f", line {line}" if line else ""
        also = f" (and {words.plural(more, 'other file')})" if more else ""
        sentence = f"{source}{at}: {message}{also}; what it said before stays in force"
        yield _Found(sentence, "file not understood", href="/log?type=source-rejected")


def _lost(facts: WholeFacts) -> Iterator[_Found]:
    if facts.lost:
        lost = words.plural(facts.lost, "entry", "entries")
        yield _Found(f"{lost} of picker processes lost", "entries lost", href="/log?type=entries-lost")


def _no_pool(facts: WholeFacts) -> Iterator[_Found]:
    if not facts.pools:
        yield _Found("No pool yet", "no pool", href="/pools")


def _out_of_step(facts: WholeFacts) -> Iterator[_Found]:
    for route, found in facts.routes:
        if found.step is StepVerdict.OUT_OF_STEP:
            sentence = f"{short_name(route)} is out of step: the shares observed do not agree with the weights"
            yield _Found(sentence, found.words, route, f"/routes/{route}")


def _none_ready(pool: PoolFacts, name: str) -> tuple[str, str] | None:
    if pool.ready:
        return None
    if not pool.members:
        return f"{name} has no endpoint: its requests are refused", "no endpoint"
    return f"{name} has no ready endpoint: its requests are refused", "no ready endpoint"


def _unread(pool: PoolFacts, name: str) -> tuple[str, str] | None:
    if not pool.ready or pool.stale + pool.never < pool.ready or not pool.stale:
        return None
    whose = "its only ready endpoint has" if pool.ready == 1 else f"its {pool.ready} ready endpoints have"
    return f"nobody knows the load of {name}: {whose} not told it for {words.duration(pool.oldest)}", "load not known"


def _failing(least: float) -> Callable[[PoolFacts, str], tuple[str, str] | None]:
    def say(pool: PoolFacts, name: str) -> tuple[str, str] | None:
        if pool.failed < FAILING_MIN or pool.failed < least * pool.requests:
            return None
        return f"{name}: {pool.failed:,} of {pool.requests:,} requests of the last minute failed", "failing"

    return say


def _full(least: float, word: str) -> Callable[[PoolFacts, str], tuple[str, str] | None]:
    def say(pool: PoolFacts, name: str) -> tuple[str, str] | None:
        if pool.saturation is None or pool.saturation < least:
            return None
        on = words.plural(pool.ready, "endpoint")
        queue = f"{words.plural(pool.waiting, 'request')} {'waits' if pool.waiting == 1 else 'wait'} on {on}"
        cause = queue if pool.waiting else f"the KV cache of {on} is full"
        return f"{name} is {word}: {cause}", word

    return say


def _refusing(pool: PoolFacts, name: str) -> tuple[str, str] | None:
    if not pool.refused or not pool.ready:
        return None
    return f"{name} refused {words.plural(pool.refused, 'request')} in the last minute", f"{pool.refused:,} refused"


def _unread_some(pool: PoolFacts, name: str) -> tuple[str, str] | None:
    unknown = pool.stale + pool.never
    if not pool.stale or unknown == pool.ready:
        return None
    which = "1 of its" if unknown == 1 else f"{unknown} of its"
    return f"{name}: {which} {pool.ready} ready endpoints cannot be read", f"{unknown} of {pool.ready} not read"


def _unsampled(pool: PoolFacts, name: str) -> tuple[str, str] | None:
    if not pool.never or pool.stale:
        return None
    return f"{name}: {pool.never} of {pool.ready} ready endpoints were never sampled", "not sampled yet"


def _not_ready(pool: PoolFacts, name: str) -> tuple[str, str] | None:
    if pool.ready == pool.members:
        return None
    return f"{name} has {pool.ready} of {pool.members} endpoints ready", f"{pool.ready} of {pool.members} ready"


RULES: tuple[tuple[str, Severity, Callable[[WholeFacts], Iterator[_Found]]], ...] = (
    ("not-recording", Severity.BAD, _stalled),
    ("no-picker", Severity.BAD, _unfed),
    ("no-ready-endpoint", Severity.BAD, _pools(_none_ready)),
    ("differs", Severity.BAD, _differing),
    ("failing", Severity.BAD, _pools(_failing(FAILING_BADLY))),
    ("load-unknown", Severity.BAD, _pools(_unread)),
    ("saturated", Severity.BAD, _pools(_full(SATURATED, "saturated"))),
    ("failing", Severity.WARN, _pools(_failing(FAILING))),
    ("refusing", Severity.WARN, _pools(_refusing)),
    ("filling", Severity.WARN, _pools(_full(FILLING, "nearly full"))),
    ("unread-endpoints", Severity.WARN, _pools(_unread_some)),
    ("out-of-step", Severity.WARN, _out_of_step),
    ("file-not-understood", Severity.WARN, _files),
    ("not-ready", Severity.WARN, _pools(_not_ready)),
    ("never-sampled", Severity.WARN, _pools(_unsampled)),
    ("entries-lost", Severity.WARN, _lost),
    ("no-pool", Severity.WARN, _no_pool),
)
"""Name, severity and finder of each thing that can be wrong, worst first.

First what makes pages and records untrue, then what makes requests fail, then what will.
"""


def judge(facts: WholeFacts) -> Judgement:
    """All that is wrong, worst first; of one kind about one subject once."""
    found: dict[tuple[str, str], Finding] = {}
    for kind, severity, find in RULES:
        for one in find(facts):
            key = (kind, one.subject)
            found.setdefault(key, Finding(kind, severity, one.subject, one.sentence, one.word, one.href))
    return Judgement(tuple(found.values()))


# --- gathering the facts ------------------------------------------------------------------------------


def pool_facts(state: ClusterState, pool: str, seen: figures.PoolTraffic | None) -> PoolFacts:
    """What the cluster state and the recent traffic say of a pool."""
    slots = state.ready(pool).tolist()
    ages = [float(state.age[slot]) for slot in slots]
    stale = [age for age in ages if not math.isinf(age) and unknown(state, age)]
    known = [slot for slot, age in zip(slots, ages, strict=True) if not unknown(state, age)]
    return PoolFacts(
        pool,
        len(state.members(pool)),
        len(slots),
        len(stale),
        sum(map(math.isinf, ages)),
        max(stale, default=0.0),
        sum(int(state.waiting[slot]) for slot in known),
        pool_saturation(state, pool),
        *((seen.requests_minute, seen.refused_minute, seen.failed_minute) if seen else ()),
    )


def unknown(state: ClusterState, age: float) -> bool:
    """Whether a sample of this age tells nothing any more, by the rule that decisions go by."""
    return age > max(UNKNOWN_AFTER, state.threshold)


def facts_of(
    console: Console, seen: Mapping[str, figures.PoolTraffic], routes: Sequence[tuple[str, Conformity]]
) -> WholeFacts:
    """What everything is judged by at this moment."""
    log, feed, state = console.log(), console.feed(), console.state()
    files = sorted((one.source, one.line, one.message) for one in state.rejected_sources.values())
    return WholeFacts(
        log.stalled_because if log.stalled_since is not None else None,
        log.queued_events,
        feed.connected,
        console.replayer.newest.differing,
        tuple(files),
        console.watch.lost_lately(feed.entries_lost, time.monotonic()),
        tuple(pool_facts(state, pool, seen.get(pool)) for pool in sorted(state.pools)),
        tuple(routes),
    )


async def judged(console: Console) -> Judgement:
    """The judgement of the page that is made: everything on it has the same one."""
    known: Judgement | None = g.get("judgement")
    if known is None:
        state = console.state()
        seen: dict[str, figures.PoolTraffic] = {}
        steps: list[tuple[str, Conformity]] = []
        try:
            seen = await figures.observed(console, sorted(state.pools))
            found = await figures.rules_observed(console)
            steps = [(route, one.conformity) for (route, _), one in sorted(found.items())]
        except ReadModelUnavailableError:  # the rest is judged all the same
            pass
        known = g.judgement = judge(facts_of(console, seen, steps))
    return known
