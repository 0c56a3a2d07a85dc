"""What is known of each request from three sides: the log's decisions, the gateway's access log, the servers' own.

`disagreements` says where they do not tell the same story.  What may be missing is named by the caller, by cause:
a gateway that was killed took the last lines of its log with it, and where control and picker process died together
the log itself says how many entries went.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from worlds.load import Load
from worlds.system import System, pointsman

from pointsman.core.events import (
    ControlStarted,
    EndpointJoined,
    EntriesLost,
    Entry,
    Origin,
    PickerEnded,
    RequestFinished,
    RequestRefused,
    RequestRouted,
)
from pointsman.eventlog.opening import open_reader

COMMIT = 0.5
"""Seconds from a decision to its commit, on a machine with other work."""


def entries(log: Path) -> list[Entry]:
    """All of a log."""
    with open_reader(log) as reader:
        return list(reader.entries(1))


def lines(path: Path) -> list[dict[str, Any]]:
    """A log of JSON lines; a last line that was cut off by a kill is left out."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def verified(data: Path) -> dict[str, Any]:
    """`replay verify` over the whole log: none differs, nothing is missing; and the chain is sound."""
    found = pointsman("replay", "verify", "--data-dir", data, "--output", "json")
    report: dict[str, Any] = json.loads(found.stdout)
    assert found.returncode == (3 if report["skipped"] else 0), report
    assert report["complete"]["problems"] == 0, report
    assert report["different"] == 0, report
    assert report["checked"] == report["same"] > 0, report
    chain = pointsman("log", "verify", data, "--output", "json")
    assert chain.returncode == 0, chain.stdout
    assert json.loads(chain.stdout)["sound"]
    return report


@dataclass
class Evidence:
    """The three stories."""

    decided: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Request id to the addresses that decisions chose."""
    refused: Counter[str] = field(default_factory=Counter)
    """By reason."""
    degraded: int = 0
    """Decisions that say so."""
    served: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Request id to the servers that were asked."""
    passed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Request id to the servers that the gateway names."""
    answered: set[str] = field(default_factory=set)
    """Requests of which the gateway says that a server answered."""
    times: dict[str, float] = field(default_factory=dict)
    """Request id to when its server was asked."""
    routed: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    ends: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    ended: dict[tuple[str, int], PickerEnded] = field(default_factory=dict)
    lost: list[EntriesLost] = field(default_factory=list)
    numbers: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    """By epoch: the `n` of its entries, in the order of the log."""

    @property
    def entries_lost(self) -> int:
        """How many the log says are lost."""
        return sum(event.last - event.first + 1 for event in self.lost)


def gather(log: list[Entry], request_log: Path, access_log: Path) -> Evidence:
    """Read all three."""
    found, address = Evidence(), dict[int, str]()
    for entry in log:
        event = entry.event
        if isinstance(origin := getattr(event, "origin", None), Origin):
            found.numbers[origin.picker, origin.epoch].append(origin.n)
        match event:
            case EndpointJoined():
                address[event.endpoint] = f"{event.address}:{event.port}"
            case RequestRouted():
                found.decided[event.request.request_id].append(address[event.endpoints[0]])
                found.routed[event.origin.picker, event.origin.epoch, event.origin.n] += 1
                found.degraded += event.degraded
            case RequestRefused():
                found.refused[event.reason] += 1
                found.degraded += event.degraded
            case RequestFinished():
                found.ends[event.origin.picker, event.origin.epoch, event.request_n] += 1
            case EntriesLost():
                found.lost.append(event)
            case PickerEnded():
                found.ended[event.picker, event.epoch] = event
            case _:
                pass
    for line in lines(request_log):
        found.served[line["request_id"]].append(line["server"])
        found.times[line["request_id"]] = line["time"]
    for line in lines(access_log):
        if line["endpoint"] is not None:
            found.passed[line["request_id"]].append(line["endpoint"])
            if line["status"] == 200:
                found.answered.add(line["request_id"])
    return found


def undecided(found: Evidence) -> list[str]:
    """Requests that reached a server without a decision."""
    return [request for request in found.served if request not in found.decided]


def lost_while_recorded(found: Evidence, log: list[Entry]) -> list[str]:
    """Requests without a decision that no `entries-lost` can be about.

    They lie between a last commit and the start of the next control process, or, where an epoch's entries were sent
    again and taken in part, between the last of its decisions in the log and the end of its picker.
    """
    windows = [
        (before.recorded_at - COMMIT, entry.recorded_at + COMMIT)
        for before, entry in pairwise(log)
        if isinstance(entry.event, ControlStarted)
    ]
    lost = {(event.picker, event.epoch) for event in found.lost}
    decided: dict[tuple[str, int], float] = {}
    for entry in log:
        if isinstance(entry.event, RequestRouted):
            decided[entry.event.origin.picker, entry.event.origin.epoch] = entry.event.decided_at
        elif isinstance(entry.event, PickerEnded) and (key := (entry.event.picker, entry.event.epoch)) in lost:
            windows.append((decided.get(key, entry.recorded_at), entry.recorded_at + COMMIT))
    return [r for r in undecided(found) if not any(begin <= found.times[r] <= end for begin, end in windows)]


def disagreements(found: Evidence, *, gateway_killed: set[str] | None = None) -> list[str]:
    """Where a request that reached a server does not have one decision and one line of the gateway, all alike.

    `gateway_killed` are the requests that were under way, or had just ended, when the gateway was killed:
    it had no time to write their lines.
    """
    problems = []
    for request, servers in found.served.items():
        if len(servers) != 1:
            problems.append(f"{request} was served {len(servers)} times: {servers}")
        if request in found.decided and found.decided[request] != servers:
            problems.append(f"{request} was sent to {found.decided[request]} and served by {servers}")
        passed = found.passed.get(request, [])
        if passed != servers and not (not passed and request in (gateway_killed or set())):
            problems.append(f"{request} was served by {servers}, and the gateway names {passed}")
    for request in found.answered:
        if request not in found.decided and request not in found.served:
            problems.append(f"{request} is known to the gateway alone: {found.passed[request]}")
    return problems


def without_one_end(found: Evidence) -> list[tuple[str, int, int]]:
    """Routed requests that do not have exactly one end: their own, or that of their picker process."""
    wrong = []
    for key in found.routed:
        ends = found.ends[key]
        lost = any((e.picker, e.epoch) == key[:2] for e in found.lost)  # its end may be among what was lost
        if ends > 1 or (ends == 0 and key[:2] not in found.ended and not lost):
            wrong.append(key)
    return wrong


def unaccounted(found: Evidence) -> list[str]:
    """Epochs whose entries are not there once each, in order, up to the last that was given out, save what is told lost."""
    wrong = []
    for key, numbers in found.numbers.items():
        lost = [n for e in found.lost if (e.picker, e.epoch) == key for n in range(e.first, e.last + 1)]
        last = found.ended[key].last_n if key in found.ended else 0
        wanted = list(range(1, max(last, *numbers) + 1))
        if numbers != sorted(set(numbers)) or sorted(numbers + lost) != wanted:
            wrong.append(f"{key}: {len(numbers)} entries and {len(lost)} lost, the last is {last or numbers[-1]}")
    return wrong


def all_is_told(system: System, load: Load) -> None:
    """Every request was answered, and the log has all of it."""
    assert load.broken() == []
    found = gather(entries(system.log), system.request_log, system.access_log)
    assert {outcome.id for outcome in load.outcomes} <= set(found.decided)
    assert found.refused.total() == 0
    assert found.lost == []
    assert disagreements(found) == []
    assert unaccounted(found) == []
    assert verified(system.data)["skipped"] == {}
