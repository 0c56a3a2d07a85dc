"""Deaths at planned moments: a library that is preloaded, and kills its own process within a call (`moments.c`)."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pytest
from worlds.evidence import Evidence, undecided
from worlds.preloaded import compiled

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
        deadline = time.monotonic() + within
        while len(found := self.deaths()) < len(self._planned):
            missing = set(self._planned) - {death.moment for death in found}
            assert time.monotonic() < deadline, f"{missing} did not come within {within:.0f} s: {said()}"
            time.sleep(0.02)
        assert {death.moment for death in found} == set(self._planned)
        return found


def counted(deaths: Iterable[Death]) -> str:
    """How many of each kind, in words."""
    kinds = Counter(f"{d.moment.role} {d.moment.when} {d.moment.kind}" for d in deaths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


SLACK = 0.5
"""Seconds from a decision to the server's note of the request, on a machine with other work."""


def lost_elsewhere(found: Evidence, log: list[Entry], deaths: Iterable[Death]) -> list[str]:
    """Requests without a decision that no `entries-lost` can be about.

    What it names was decided after the epoch's last decision in the log, and before its picker died.
    """
    offset = time.time() - time.monotonic()
    died = sorted(death.at + offset for death in deaths if death.moment.role == "picker")
    ends = [entry.event for entry in log if isinstance(entry.event, PickerEnded)]
    if len(ends) != len(died) + 1:
        return [f"{len(died)} pickers died and one ended in order, and the log has {len(ends)} ends"]
    last: dict[tuple[str, int], float] = {}
    for event in (entry.event for entry in log if isinstance(entry.event, RequestRouted)):
        last[event.origin.picker, event.origin.epoch] = event.decided_at
    lost = {(event.picker, event.epoch) for event in found.lost}
    began = [0.0, *died]
    spans = [
        (last.get((end.picker, end.epoch), since) - SLACK, until + SLACK)
        for end, since, until in zip(ends, began, died, strict=False)
        if (end.picker, end.epoch) in lost
    ]
    return [
        request
        for request in undecided(found)
        if not any(since <= found.times[request] <= until for since, until in spans)
    ]
