"""Processes that die within a commit, a send or a fold, under load with streams open.

`POINTSMAN_KILLS` and `POINTSMAN_SEED` say how many deaths there are, and which.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from worlds.evidence import (
    Evidence,
    all_is_told,
    disagreements,
    entries,
    gather,
    unaccounted,
    undecided,
    verified,
    without_one_end,
)
from worlds.load import Load, Outcome, some_streamed
from worlds.moments import CALLS, Death, Moment, Moments, counted, lost_elsewhere, plan
from worlds.system import System, demo
from worlds.waiting import HUNG, wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import RequestRouted

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

FULL = os.environ.get("POINTSMAN_FAULTS") == "full"
KILLS = max(18, int(os.environ.get("POINTSMAN_KILLS", "300" if FULL else "18")))
"""In all three tests together; with fewer some kind would be left out."""
SEED = int(os.environ.get("POINTSMAN_SEED", "1"))
RATE = 500.0
LIFE_MAX = 10.0
"""Seconds of a life that ends as planned, with its start."""
UNNOTICED = 0.1
"""Seconds until the gateway has seen that a picker's connection is gone."""


@contextmanager
def dying(
    home: Path, monkeypatch: pytest.MonkeyPatch, moments: list[Moment]
) -> Iterator[tuple[System, Load, list[Death]]]:
    """A system under load that has gone through all of these deaths, and has ended."""
    print(f"POINTSMAN_SEED={SEED} POINTSMAN_KILLS={KILLS}: {moments}")
    library = Moments(home / "moments", monkeypatch)
    with demo(home) as system:
        with Load(system.gateway, RATE, some_streamed(25, 300), connections_max=300) as load:
            load.wait_sent(300, 20)
            library.begin(moments)
            deaths = library.wait_all(20 + LIFE_MAX * len(moments), system.said)
            load.wait_sent(len(load.outcomes) + 500, 60)
        # What is claimed is about deaths: an end in order may come before the feed has given all that it kept.
        wait_for(lambda: is_recorded(system, load), HUNG, "the last request's decision")
        system.stop()
    yield system, load, deaths


def is_recorded(system: System, load: Load) -> bool:
    """Whether the last request that was answered is in the log; looks twice a second."""
    time.sleep(0.5)
    last = [outcome.id for outcome in load.outcomes if outcome.whole and outcome.status == 200][-1]
    return any(isinstance(e.event, RequestRouted) and e.event.request.request_id == last for e in entries(system.log))


def told(found: Evidence, load: Load, deaths: list[Death], same: int) -> None:
    print(f"{counted(deaths)}: {len(load.outcomes)} requests, {len(found.served)} reached a server,")
    print(f"{same} decisions the same, {len(undecided(found))} without one, {found.entries_lost} told as lost")


def met(outcome: Outcome, deaths: list[Death]) -> bool:
    """It was under way at a death, or began before anybody could know of it."""
    ended = outcome.ended or float("inf")
    return any(outcome.began < death.at + UNNOTICED and ended > death.at for death in deaths)


def test_a_control_process_that_dies_within_its_work_costs_no_request_and_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = plan(random.Random(SEED), "control", KILLS // 3)
    with dying(tmp_path, monkeypatch, moments) as (system, load, deaths):
        found = gather(entries(system.log), system.request_log, system.access_log)
        told(found, load, deaths, len(found.decided))
        assert {death.moment.kind for death in deaths} == set(CALLS["control"])
        all_is_told(system, load)
        assert without_one_end(found) == []


def test_of_a_picker_that_dies_within_its_work_all_that_was_answered_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = plan(random.Random(SEED), "picker", KILLS // 3)
    with dying(tmp_path, monkeypatch, moments) as (system, load, deaths):
        log = entries(system.log)
        found = gather(log, system.request_log, system.access_log)
        report = verified(system.data)
        told(found, load, deaths, report["checked"])
        assert {death.moment.kind for death in deaths} == set(CALLS["picker"])
        assert [outcome for outcome in load.broken() if not met(outcome, deaths)] == []
        assert undecided(found) == []
        assert disagreements(found) == []
        assert without_one_end(found) == []
        assert unaccounted(found) == []
        assert report["skipped"] == {}


def test_of_both_that_die_within_their_work_nothing_is_lost_that_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, each = random.Random(SEED + 1), KILLS // 6
    moments = plan(draw, "control", each) + plan(draw, "picker", each)
    with dying(tmp_path, monkeypatch, moments) as (system, load, deaths):
        log = entries(system.log)
        found = gather(log, system.request_log, system.access_log)
        report = verified(system.data)
        told(found, load, deaths, report["checked"])
        assert len(undecided(found)) <= found.entries_lost
        assert lost_elsewhere(found, log, load, deaths) == []
        assert disagreements(found) == []
        assert without_one_end(found) == []
        assert unaccounted(found) == []
        assert report["skipped"] == {}
