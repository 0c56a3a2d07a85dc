"""Scores: clamped to 0 to 1, weighted, summed in the order of the configuration.

A standing scorer depends on the cluster state alone, so its scores are kept until that changes: samples come a
hundred times a second, requests thousands of times.
The sums are the same to the last bit whether scores were kept or not, and whether few candidates are summed as
plain numbers or many as arrays.
"""

import weakref
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from xxhash import xxh3_64

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.formulas import FEW
from pointsman.core.plugin.shapes import Scorer, Scores
from pointsman.core.plugin.view import Cycle, View, rows_of
from pointsman.core.state.membership import Slots
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import Ints

NEUTRAL = 0.5
"""Score that a load scorer gives each candidate while the feed is lost."""

Scorers = Sequence[tuple[str, Scorer, float]]
"""(plugin, what scores, weight), in the order of the configuration."""

ScoreRow: TypeAlias = Scores | list[float]
"""A score for each candidate."""

_ZERO, _ONE = np.zeros(()), np.ones(())


class Standing(msgspec.Struct, frozen=True):
    """What the standing scorers say of the candidates; rows are plain lists where there are few."""

    numbers: Ints
    """Numbers of the endpoints that are scored."""
    rows: tuple[Scores | None, ...]
    """A row for each scorer; None for those that look at the request."""
    weighted: tuple[Scores | None, ...]
    """The same rows times their weights."""
    leading: int
    """Number of scorers before the first that looks at the request."""
    sums: Scores
    """Sums of the weighted rows of those leading scorers."""
    plain: tuple[tuple[list[float], ...], list[float]]
    """`weighted` and `sums` as plain numbers, where there are few."""
    digest: bytes
    """Hash over the numbers, the columns that were read and the rows."""


class KeptScores:
    """The latest standing scores of each pool, good for one cluster state."""

    def __init__(self) -> None:
        self._by_pool: dict[str, tuple[weakref.ref[ClusterState], int, Slots, Standing]] = {}

    def find(self, cluster: ClusterState, pool: str, slots: Slots) -> Standing | None:
        """The scores of `slots`, which are what `ready` returns for the pool; None where something changed since."""
        kept = self._by_pool.get(pool)
        # `ready` returns the same array until membership changes, so identity is enough.
        if kept is None or kept[1] != cluster.load_version or kept[2] is not slots or kept[0]() is not cluster:
            return None
        return kept[3]

    def keep(self, cluster: ClusterState, pool: str, slots: Slots, standing: Standing) -> None:
        """Keep them until the cluster state changes."""
        if len(self._by_pool) >= 256:  # pools come and go
            self._by_pool.clear()
        self._by_pool[pool] = (weakref.ref(cluster), cluster.load_version, slots, standing)


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
    numbers = cycle.cluster.number[rows_of(slots)]
    digest = xxh3_64(numbers.tobytes())
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
    plain: tuple[tuple[list[float], ...], list[float]] = (), []
    if len(slots) <= FEW:
        plain = tuple([[] if row is None else row.tolist() for row in weighted]), sums.tolist()
    return Standing(numbers.copy(), tuple(rows), tuple(weighted), leading, sums, plain, digest.digest())


def score(view: View, request: RequestFacts, scorers: Scorers, standing: Standing) -> tuple[list[ScoreRow], Scores]:
    """Ask the scorers that look at the request; the rows of all scorers, and their weighted sums."""
    degraded = view.degraded
    rows: list[ScoreRow] = list(standing.rows)  # type: ignore[arg-type]  # what is None becomes a row
    if view.size <= FEW:
        weighted, listed = standing.plain
        for i in range(standing.leading, len(scorers)):
            if more := weighted[i]:
                listed = [a + b for a, b in zip(listed, more, strict=True)]
                continue
            _, scorer, weight = scorers[i]
            few = rows[i] = _few(scorer, request, view, degraded)
            listed = [a + b * weight for a, b in zip(listed, few, strict=True)]
        return rows, np.array(listed)
    sums = standing.sums
    for i in range(standing.leading, len(scorers)):
        part = standing.weighted[i]
        if part is None:
            _, scorer, weight = scorers[i]
            row = rows[i] = _row(scorer, request, view, degraded)
            part = row * weight
        sums = sums + part
    return rows, sums


def _row(scorer: Scorer, request: RequestFacts, view: View, degraded: bool) -> Scores:
    if degraded and scorer.load:
        return np.full(view.size, NEUTRAL)
    row = scorer.score(request, view)
    if scorer.bounded:
        return row
    row = np.fmax(row, _ZERO)  # of NaN and 0, fmax takes 0
    np.fmin(row, _ONE, row)
    np.add(row, _ZERO, row)  # makes -0.0 to 0.0: which of them fmax returns differs between machines
    return row


def _few(scorer: Scorer, request: RequestFacts, view: View, degraded: bool) -> list[float]:
    """The same as `_row`, in plain numbers."""
    if degraded and scorer.load:
        return [NEUTRAL] * view.size
    listed: list[float] = scorer.score(request, view).tolist()
    if scorer.bounded:
        return listed
    return [value + 0.0 if 0.0 <= value <= 1.0 else 1.0 if value > 1.0 else 0.0 for value in listed]
