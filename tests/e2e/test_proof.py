"""Verifying is no toy: whatever is changed in a log of real traffic is found by the chain, or by replay, or by both."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from worlds.evidence import entries, verified
from worlds.forgery import copy_log, rewrite
from worlds.load import FOOD, LLAMA, Load
from worlds.system import demo, pointsman
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import EndpointJoined, Entry, Event, LoadSampled, RequestRouted
from pointsman.core.values.packing import pack, pack_floats, unpack, unpack_floats
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

SLOW = {"max_num_seqs": 2, "decode_step": 0.02}
"""Servers with queues, so that decisions have something to weigh."""

Change = Callable[[list[Entry], Entry], tuple[int, Event]]


class Recorded:
    """A log of real traffic, and a decision in its middle that had queues to choose between."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = entries(data / "log")
        with open_reader(data / "log") as reader:
            self.decision = next(e for e in self.log[len(self.log) // 2 :] if self._queued(reader, e))

    @staticmethod
    def _queued(reader: LogReader, entry: Entry) -> bool:
        event = entry.event
        return isinstance(event, RequestRouted) and not event.degraded and bool(_waiting(reader, event).max() > 1)


def _waiting(reader: LogReader, event: RequestRouted) -> np.ndarray[Any, Any]:
    state = reader.state_at(event.origin.applied)
    slots = [member.slot for member in state.members(event.request.pool)]
    return np.asarray(state.waiting)[slots]


def questions(number: int) -> tuple[str, dict[str, object], dict[str, str]]:
    prompt = f"{'What does the signal at the station say? ' * 20} {number % 7}" * 2
    model = FOOD if number % 3 == 0 else LLAMA
    return "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 10}, {}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    home = tmp_path_factory.mktemp("recorded")
    with demo(home, hardware=SLOW) as system:
        with Load(system.gateway, 60, questions, limit=400) as load:
            load.wait_sent(400, 60)
        assert load.broken() == []
        wait_for(lambda: sum(isinstance(e.event, RequestRouted) for e in entries(system.log)) >= 400, 10)
        system.stop()
    assert verified(system.data)["skipped"] == {}
    return Recorded(system.data)


def told(data: Path, *words: str) -> dict[str, Any]:
    found = pointsman("replay", "verify", "--data-dir", data, "--output", "json", *words)
    report: dict[str, Any] = json.loads(found.stdout)
    assert found.returncode == (1 if report["different"] else 0)
    return report


# --- what is changed ------------------------------------------------------------------------------


def _sample_behind(log: list[Entry], decision: Entry) -> tuple[int, LoadSampled, int]:
    """The last sample of the chosen endpoint that the decision had, and the endpoint's place in it."""
    event = decision.event
    assert isinstance(event, RequestRouted)
    for entry in reversed(log[: event.origin.applied]):
        sample = entry.event
        if isinstance(sample, LoadSampled) and event.endpoints[0] in (found := unpack(sample.endpoints).tolist()):
            return entry.position, sample, found.index(event.endpoints[0])
    raise AssertionError("the decision rests on no sample")


def longer_queue(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    position, sample, index = _sample_behind(log, decision)
    waiting = unpack(sample.waiting).copy()
    waiting[index] += 1
    return position, msgspec.structs.replace(sample, waiting=pack(waiting))


def fuller_cache(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    position, sample, index = _sample_behind(log, decision)
    used = unpack_floats(sample.kv_cache).copy()
    used[index] = 0.75
    return position, msgspec.structs.replace(sample, kv_cache=pack_floats(used))


def not_ready(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    event = decision.event
    assert isinstance(event, RequestRouted)
    [(position, joined)] = [
        (e.position, e.event)
        for e in log
        if isinstance(e.event, EndpointJoined) and e.event.endpoint == event.endpoints[0]
    ]
    return position, msgspec.structs.replace(joined, ready=False)


def value_read(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    event = decision.event
    assert isinstance(event, RequestRouted)
    [first, *others] = event.reads
    values = unpack(first.values).copy()
    values[0] += 1
    reads = (msgspec.structs.replace(first, values=pack(values)), *others)
    return decision.position, msgspec.structs.replace(event, reads=reads)


def outcome(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    event = decision.event
    assert isinstance(event, RequestRouted)
    numbers = [e.event.endpoint for e in log if isinstance(e.event, EndpointJoined)]
    other = next(n for n in numbers if n != event.endpoints[0])
    return decision.position, msgspec.structs.replace(event, endpoints=(other, *event.endpoints[1:]))


def score(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    event = decision.event
    assert isinstance(event, RequestRouted)
    [(endpoint, total), *others] = event.best
    best = ((endpoint, float(np.nextafter(total, 9.0))), *others)
    return decision.position, msgspec.structs.replace(event, best=best)


def degraded(log: list[Entry], decision: Entry) -> tuple[int, Event]:
    event = decision.event
    assert isinstance(event, RequestRouted)
    return decision.position, msgspec.structs.replace(event, degraded=True)


CHANGES = (longer_queue, fuller_cache, not_ready, value_read, outcome, score, degraded)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_one_changed_field_is_reported(tmp_path: Path, recorded: Recorded, change: Change) -> None:
    position, event = change(recorded.log, recorded.decision)
    as_it_was = copy_log(recorded.data / "log", tmp_path / "as-it-was")
    again = copy_log(recorded.data / "log", tmp_path / "again")
    rewrite(as_it_was, {position: event}, chain=False)
    rewrite(again, {position: event}, chain=True)

    broken = pointsman("log", "verify", as_it_was, "--output", "json")
    whole = pointsman("log", "verify", again, "--output", "json")
    at = str(recorded.decision.position)
    report = told(again, "--from", at, "--to", at)

    assert broken.returncode == 1
    fault = json.loads(broken.stdout)["fault"]
    assert fault["first"] <= position <= fault["last"]
    assert whole.returncode == 0, whole.stdout
    assert (report["checked"], report["different"]) == (1, 1)
    assert report["differences"][0]["position"] == recorded.decision.position


def test_the_chain_computed_again_over_the_same_entries_is_the_same(tmp_path: Path, recorded: Recorded) -> None:
    data = copy_log(recorded.data / "log", tmp_path)
    rewrite(data, {}, chain=True)

    before = pointsman("log", "verify", recorded.data, "--output", "json").stdout
    assert (
        json.loads(pointsman("log", "verify", data, "--output", "json").stdout)["digest"]
        == (json.loads(before)["digest"])
    )
    assert told(data)["different"] == 0


PATCHED = """
import sys
from pointsman.core.plugins.queue_scorer import QueueScorer
as_it_was = QueueScorer.score

def score(self, request, view):
    scores = as_it_was(self, request, view)
    return scores * 0.875 if view.waiting.max() > 1 else scores

QueueScorer.score = score
from pointsman.cli.main import main
sys.argv[1:] = ["replay", "verify", "--data-dir", sys.argv[1], "--output", "json"]
sys.exit(main())
"""


def test_a_formula_changed_without_its_version_is_reported_for_every_decision_it_affects(recorded: Recorded) -> None:
    with open_reader(recorded.data / "log") as reader:
        affected = [
            entry.position
            for entry in recorded.log
            if isinstance(entry.event, RequestRouted)
            and not entry.event.degraded
            and _waiting(reader, entry.event).max() > 1
        ]
    found = subprocess.run(
        [sys.executable, "-P", "-c", PATCHED, str(recorded.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report = json.loads(found.stdout)

    assert found.returncode == 1
    assert report["different"] == len(affected) > 20
    assert report["same"] == report["checked"] - len(affected) > 20
    assert [d["position"] for d in report["differences"]] == affected[:100]
