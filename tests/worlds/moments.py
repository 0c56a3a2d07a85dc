"""Deaths at planned moments: a library that is preloaded, and kills its own process within a call (`moments.c`)."""

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pytest
from worlds.evidence import Evidence, undecided
from worlds.load import Load
from worlds.preloaded import compiled
from worlds.waiting import wait_for

from pointsman.core.events import Entry, PickerEnded, RequestRouted

SOURCE = Path(__file__).with_name("moments.c")
ANY = ("before", "half", "after")

CALLS: dict[str, dict[str, tuple[tuple[str, ...], int]]] = {
    "control": {
        "commit-write": (ANY, 600),
        "commit-sync": (("before", "after"), 100),
        "checkpoint-write": (ANY, 60),
        "feed-recv": (("after",), 100),
        "feed-send": (ANY, 100),
        "told": (("before", "half"), 100),
    },
    "picker": {
        "feed-send": (ANY, 300),
        "feed-recv": (("after",), 200),
        "reply": (ANY, 200),
    },
}
"""Kinds of call by process: when a life may end there, and how many there are in a second or two of a life."""


@dataclass(frozen=True)
class Moment:
    """Where a life ends."""

    role: str
    life: int
    kind: str
    when: str
    n: int


@dataclass(frozen=True)
class Death:
    """A moment that came."""

    moment: Moment
    at: float
    """Monotonic seconds."""


def plan(draw: random.Random, role: str, lives: int) -> list[Moment]:
    """An end for each of so many lives: the kinds take turns, and so do before, half and after in each of them.

    Ends come early in a life as often as late.
    """
    kinds = draw.sample(list(CALLS[role]), len(CALLS[role]))
    whens = {kind: cycle(draw.sample(found, len(found))) for kind, (found, _) in CALLS[role].items()}
    moments = []
    for life, kind in enumerate(islice(cycle(kinds), lives), 1):
        _, calls = CALLS[role][kind]
        moments.append(Moment(role, life, kind, next(whens[kind]), round(calls ** draw.random())))
    return moments


class Moments:
    """A directory with the library, the plan and what became of it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have what is started from now on die as planned; skips the test where nothing can be compiled."""
        self._directory = directory
        directory.mkdir()
        library = compiled(SOURCE, directory)
        self._planned: list[Moment] = []
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("MOMENTS", str(directory))

    def begin(self, moments: Iterable[Moment]) -> None:
        """Let them come from here on."""
        self._planned = list(moments)
        new = self._directory / "plan.new"
        new.write_text("".join(f"{m.role} {m.life} {m.kind} {m.when} {m.n}\n" for m in self._planned))
        new.replace(self._directory / "plan")

    def deaths(self) -> list[Death]:
        """What has come, by the report that each process writes before it dies."""
        path = self._directory / "deaths"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            role, life, kind, when, n, at = line.split()
            found.append(Death(Moment(role, int(life), kind, when, int(n)), float(at)))
        return found

    def wait_all(self, within: float, said: Callable[[], str]) -> list[Death]:
        """Wait until all that were planned have come, each where it was planned."""
        wait_for(
            lambda: len(self.deaths()) >= len(self._planned),
            within,
            lambda: f"{set(self._planned) - {death.moment for death in self.deaths()}}, with {said()}",
        )
        found = self.deaths()
        assert {death.moment for death in found} == set(self._planned)
        return found


def counted(deaths: Iterable[Death]) -> str:
    """How many of each kind, in words."""
    kinds = Counter(f"{d.moment.role} {d.moment.when} {d.moment.kind}" for d in deaths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def lost_elsewhere(found: Evidence, log: list[Entry], load: Load, deaths: Iterable[Death]) -> list[str]:
    """Requests without a decision that no `entries-lost` can be about.

    What it names was decided after the entries of its epoch that the log has before it, and not later than those after
    it, or the death of its picker.  A client sends a request before it is decided, a server notes one afterwards:
    so no time that anything takes is assumed.
    """
    offset = time.time() - time.monotonic()
    died = sorted(death.at + offset for death in deaths if death.moment.role == "picker")
    ends = [entry.event for entry in log if isinstance(entry.event, PickerEnded)]
    if len(ends) != len(died) + 1:
        return [f"{len(died)} pickers died and one ended in order, and the log has {len(ends)} ends"]
    until = dict(zip(((end.picker, end.epoch) for end in ends), [*died, math.inf], strict=True))
    decided: dict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
    for event in (entry.event for entry in log if isinstance(entry.event, RequestRouted)):
        decided[event.origin.picker, event.origin.epoch].append((event.origin.n, event.decided_at))
    spans = [
        (
            max((at for n, at in decided[key] if n < lost.first), default=0.0),
            min((at for n, at in decided[key] if n > lost.last), default=until[key]),
        )
        for lost in found.lost
        for key in [(lost.picker, lost.epoch)]
    ]
    sent = {outcome.id: outcome.began + offset for outcome in load.outcomes}
    return [
        request
        for request in undecided(found)
        if not any(since <= found.times[request] and sent[request] <= end for since, end in spans)
    ]
