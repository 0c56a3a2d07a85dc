"""Scores: clamped to 0 to 1, weighted, summed in the order of the configuration.

What standing scorers say holds for every request until the cluster state changes, so it is kept:
samples come a hundred times a second, requests thousands of times.  Kept or not, the sums are the same.
"""

import weakref
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from xxhash import xxh3_64

from pointsman.core.cluster import Slots
from pointsman.core.events import RequestFacts
from pointsman.core.plugin import Scorer, Scores
from pointsman.core.projection import ClusterState
from pointsman.core.view import Cycle, View

NEUTRAL = 0.5
"""A load scorer's score for each candidate while the feed is lost."""

Scorers = Sequence[tuple[str, Scorer, float]]
"""(plugin, what scores, weight), in the order of the configuration."""

_ZERO, _ONE = np.zeros(()), np.ones(())


class Standing(msgspec.Struct, frozen=True):
    """What the standing scorers say of the candidates."""

    rows: tuple[Scores | None, ...]
    """A row for each scorer; None for those that look at the request."""
    weighted: tuple[Scores | None, ...]
    leading: int
    """How many scorers stand before the first that looks at the request."""
    sums: Scores
    """Of the leading ones."""
    digest: bytes
    """Over the columns they read and what they said."""


class KeptScores:
    """The latest standing scores of each pool, good for one cluster state."""

    def __init__(self) -> None:
        self._by_pool: dict[str, tuple[weakref.ref[ClusterState], int, Slots, Standing]] = {}

    def find(self, cluster: ClusterState, pool: str, slots: Slots) -> Standing | None:
        """Those of `slots`, which are the pool's ready ones; None where something changed since."""
        kept = self._by_pool.get(pool)
        # `ready` makes another array when membership changes
        if kept is None or kept[1] != cluster.load_version or kept[2] is not slots or kept[0]() is not cluster:
            return None
        return kept[3]

    def keep(self, cluster: ClusterState, pool: str, slots: Slots, standing: Standing) -> None:
        """Keep them until the cluster state changes."""
        if len(self._by_pool) >= 256:  # pools come and go
            self._by_pool.clear()
        self._by_pool[pool] = (weakref.ref(cluster), cluster.load_version, slots, standing)


class Hasher(Protocol):
    """What a digest is made with."""

    def update(self, data: memoryview, /) -> None:
        """Take in `data`."""
        ...


def standing_scores(cycle: Cycle, scorers: Scorers, slots: Slots, positions: Slots | None) -> Standing:
    """Ask the standing scorers about `slots`."""
    degraded = cycle.traffic.degraded
    own = Cycle(cycle.cluster, cycle.traffic, cycle.request, cycle.draws, cycle.candidates)
    view = View(own, slots, positions)
    rows: list[Scores | None] = []
    for _, scorer, _ in scorers:
        rows.append(_row(scorer, cycle.request, view, degraded) if scorer.standing else None)
    assert not own.reads, "standing scorers read nothing of the traffic state"
    assert not own.drawn, "standing scorers draw nothing"
    digest = xxh3_64()
    for column in own.seen:
        digest.update(column.data)
    weighted: list[Scores | None] = []
    for (_, _, weight), row in zip(scorers, rows, strict=True):
        weighted.append(None if row is None else row * weight)
        if row is not None:
            digest.update(row.data)
    leading = next((i for i, row in enumerate(rows) if row is None), len(rows))
    sums = np.zeros(len(slots))
    for part in weighted[:leading]:
        sums += part  # type: ignore[arg-type]  # leading ones are rows
    return Standing(tuple(rows), tuple(weighted), leading, sums, digest.digest())


def score(
    view: View, request: RequestFacts, scorers: Scorers, standing: Standing, digest: Hasher
) -> tuple[list[Scores], Scores]:
    """Ask the other scorers, and sum up: the rows of all scorers, and the sums.  New rows go into `digest`."""
    rows = list(standing.rows)
    sums = standing.sums.copy()
    for i in range(standing.leading, len(scorers)):
        weighted = standing.weighted[i]
        if weighted is None:
            _, scorer, weight = scorers[i]
            row = rows[i] = _row(scorer, request, view, view.degraded)
            digest.update(row.data)
            weighted = row * weight
        sums += weighted
    return rows, sums  # type: ignore[return-value]  # what was None is a row by here


def _row(scorer: Scorer, request: RequestFacts, view: View, degraded: bool) -> Scores:
    if degraded and scorer.load:
        return np.full(view.size, NEUTRAL)
    row: Scores = np.fmax(scorer.score(request, view), _ZERO)  # fmax and fmin make 0 of what is no number
    np.fmin(row, _ONE, row)
    np.add(row, _ZERO, row)  # one zero: the sign that fmax leaves is the machine's choice
    return row
