"""Decisions as a picker process writes them, and a log that took some of another log's over."""

from pathlib import Path
from typing import NamedTuple

import msgspec
from worlds.logs import write
from worlds.strategies import EPOCH, PICKER, POOL, Readings, folded, pool_of, started

from pointsman.core.deciding.scheduler import profile_in_force, schedule
from pointsman.core.events import (
    EndpointJoined,
    EntriesAdopted,
    Origin,
    PickerStarted,
    RequestFacts,
    RequestRefused,
    RequestRouted,
    decode,
    encode,
)
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Traffic
from pointsman.core.values.draws import Draws
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.verifying.walk import DecisionEvent

__all__ = ["DecisionEvent", "adopting_log", "asked", "decided", "state_at"]


def decided(
    cluster: ClusterState, traffic: Traffic, request: RequestFacts, n: int = 5, epoch: int = EPOCH
) -> DecisionEvent:
    """The entry that a picker process would write, through its bytes."""
    decision = schedule(cluster, traffic, profile_in_force(cluster, POOL), request, Draws(PICKER, epoch, n))
    origin = Origin(PICKER, epoch, n, cluster.position)
    event = decode(encode(decision.to_event(origin, 1.7e9, request, 20)))
    assert isinstance(event, RequestRouted | RequestRefused)
    return event


def state_at(directory: Path, position: int | None = None) -> ClusterState:
    """The cluster state of the log in `directory` at a position or the head."""
    with open_reader(directory) as reader:
        return reader.state_at(reader.head().position if position is None else position)


def asked(n: int) -> RequestFacts:
    """A request whose id tells which it is."""
    return RequestFacts(f"r{n}", POOL)


class TwoLogs(NamedTuple):
    """Positions of the decisions in `adopting_log`."""

    own: list[int]
    """Made on the log's own cluster state: r2, r6 and r7."""
    adopted: list[int]
    """Made on another log's cluster state: r3 and r4."""


def adopting_log(directory: Path) -> TwoLogs:
    """A log whose picker process decided on another log's cluster state for a while and then came back to this one."""
    other = folded([started(), *pool_of([3, 1, 2])])
    unsampled = EndpointJoined(5, POOL, "uid-5", "default", "llama-0005", "10.0.0.5", 8000)
    write(directory, [started(), *pool_of([9, 8, 7, 6]), unsampled])
    write(directory, [decided(state_at(directory), Readings(), asked(2), 2)])
    own = [state_at(directory).position]
    foreign = [decided(other, Readings(), asked(n), n) for n in (3, 4)]
    again = started()
    again = PickerStarted(msgspec.structs.replace(again.origin, n=5), again.build, again.scheduler, again.plugins)
    write(directory, [EntriesAdopted(PICKER, EPOCH, 3, 4, "other"), *foreign, again])
    adopted = [own[0] + 2, own[0] + 3]
    for n in (6, 7):
        write(directory, [decided(state_at(directory), Readings(), asked(n), n)])
        own.append(state_at(directory).position)
    return TwoLogs(own, adopted)
