"""`schedule`: which endpoint a request goes to.

It reads the cluster state, the traffic state through `Traffic`, the profile and the request facts, and nothing else:
the same arguments give the same decision on every machine.
"""

import struct

import numpy as np
from xxhash import xxh3_64

from pointsman.core.cluster import Slots
from pointsman.core.decision import Decision, RefusalReason
from pointsman.core.draws import Draws
from pointsman.core.events import Read, RequestFacts
from pointsman.core.packing import Ints, pack, unpack
from pointsman.core.plugin import FEW, Filter, Reasons, Scores, rejected
from pointsman.core.profile import PLUGIN_VERSIONS, Profile, compile_profile, profile_for, profile_in_force
from pointsman.core.projection import ClusterState
from pointsman.core.scoring import score, standing_scores
from pointsman.core.traffic import Traffic
from pointsman.core.view import Cycle, View, rows_of

__all__ = [
    "PLUGIN_VERSIONS",
    "SCHEDULER_VERSION",
    "Profile",
    "compile_profile",
    "profile_for",
    "profile_in_force",
    "schedule",
]

SCHEDULER_VERSION = 1
"""Of the rules in this file and of the digest."""

_RANKED = struct.Struct("<qd").pack

_BEST = 3
"""Sums that a decision stores."""


class Trace:
    """Everything that one run of `schedule` went through."""

    __slots__ = (
        "avoided",
        "candidates",
        "cycle",
        "digest",
        "filtered",
        "picks",
        "rejections",
        "saturation",
        "scores",
        "sums",
        "view",
    )

    def __init__(self, cycle: Cycle, avoided: Slots) -> None:
        self.cycle = cycle
        self.avoided = avoided
        self.candidates = cycle.candidates
        self.view = View(cycle, cycle.candidates, None)
        """Those that remain."""
        self.saturation: float | None = None
        """None where it was not asked for."""
        self.filtered: list[tuple[str, Filter, View, Reasons]] = []
        self.rejections: list[tuple[str, int]] = []
        self.digest = xxh3_64()
        self.scores: list[Scores] = []
        """A row for each scorer of the profile, a column for each of `view`."""
        self.sums: Scores = _NO_SCORES
        self.picks: list[int] = []
        """Indexes in `view`."""


_NO_SCORES = np.zeros(0)
_NO_SLOTS: Slots = np.zeros(0, dtype=np.int64)


def schedule(
    cluster: ClusterState, traffic: Traffic, profile: Profile, request: RequestFacts, draws: Draws
) -> Decision:
    """Decide where `request` goes."""
    return trace(cluster, traffic, profile, request, draws, keep=True)[0]


def trace(
    cluster: ClusterState,
    traffic: Traffic,
    profile: Profile,
    request: RequestFacts,
    draws: Draws,
    *,
    keep: bool = False,
) -> tuple[Decision, Trace]:
    """Decide where `request` goes, and tell how; `keep` uses and leaves standing scores with the profile."""
    candidates, avoided = _candidates(cluster, traffic, profile, request)
    run = Trace(Cycle(cluster, traffic, request, draws, candidates), avoided)
    if not len(candidates):
        return _decision(run, "no-endpoints"), run
    if request.priority < 0 and not traffic.degraded:
        run.saturation = profile.detector.saturation(request, run.view)
        if run.saturation >= 1.0:
            return _decision(run, "saturated"), run
    for name, filter in profile.filters:
        if not _filter(run, name, filter, request):
            return _decision(run, "filtered"), run
    view = run.view
    standing = None
    keep = keep and not traffic.degraded and view.slots is cluster.ready(request.pool)
    if keep:
        standing = profile.kept.find(cluster, request.pool, view.slots)
    if standing is None:
        standing = standing_scores(run.cycle, profile.scorers, view.slots, view.positions)
        if keep:
            profile.kept.keep(cluster, request.pool, view.slots, standing)
    run.digest.update(standing.digest)
    run.scores, run.sums = score(view, request, profile.scorers, standing, run.digest)
    _pick(run, profile, traffic.degraded)
    return _decision(run, None), run


def _candidates(
    cluster: ClusterState, traffic: Traffic, profile: Profile, request: RequestFacts
) -> tuple[Slots, Slots]:
    """The slots to choose from, ascending, and those left out because of advice."""
    slots = cluster.ready(request.pool)
    if request.subset is not None and not profile.whole_subset:
        slots = slots[_member(slots, unpack(request.subset), cluster.slots)]
    avoided = traffic.avoided()
    if not len(avoided):
        return slots, _NO_SLOTS
    out = _member(slots, avoided, cluster.slots)
    return slots[~out], slots[out]


def _member(slots: Slots, group: Ints, width: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of `slots` are in `group`."""
    marks = np.zeros(width, dtype=np.bool_)
    marks[group[group < width]] = True
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = marks[slots]
    return found


def _filter(run: Trace, name: str, filter: Filter, request: RequestFacts) -> bool:
    """Apply one filter; False where it leaves nobody."""
    view = run.view = run.view.again()
    codes = rejected(filter, request, view)
    run.filtered.append((name, filter, view, codes))
    keep = codes == 0
    kept = int(np.count_nonzero(keep))
    if kept == view.size:
        return True
    counts = np.bincount(codes)
    for code in counts.nonzero()[0].tolist():
        if code:
            run.rejections.append((f"{name}: {filter.reasons[code - 1]}", int(counts[code])))
    run.view = view.narrowed(keep)
    return kept > 0


def _pick(run: Trace, profile: Profile, degraded: bool) -> None:
    """Choose, and while the feed is lost among those with the fewest requests in flight first."""
    view, count = run.view, profile.endpoints_max
    if not degraded:
        run.picks = profile.picker.pick(run.sums, view, count)
        return
    in_flight = view.in_flight
    for level in np.unique(in_flight).tolist():
        if len(run.picks) >= count:
            return
        here = in_flight == level
        at = here.nonzero()[0]
        chosen = profile.picker.pick(run.sums[at], view.narrowed(here), count - len(run.picks))
        run.picks += at[chosen].tolist()


def _best(numbers: Ints, sums: Scores) -> tuple[tuple[int, float], ...]:
    """The three highest, of equal ones the lower slot first."""
    if len(sums) <= FEW:  # the same result, sooner
        values = sums.tolist()
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:_BEST]
        return tuple([(int(numbers[i]), values[i]) for i in order])
    rest = sums.copy()
    best = []
    for _ in range(_BEST):
        top = int(rest.argmax())
        best.append((int(numbers[top]), float(sums[top])))
        rest[top] = -np.inf
    return tuple(best)


def _rests_on(cycle: Cycle) -> bytes:
    """What a decision depends on beside columns: spelled out, so that a new request fact leaves old digests as they are."""
    facts, draws, cluster = cycle.request, cycle.draws, cycle.cluster
    text = (
        f"{draws.picker}\0{draws.epoch}\0{draws.n}\0{cluster.position}\0{cycle.traffic.degraded}\0{facts.priority}"
        f"\0{len(facts.prefix)}\0{facts.pool}\0{facts.model}\0{facts.target_model}\0{facts.prefix_block_bytes}\0"
    )
    whole = text.encode() + facts.prefix
    return whole if facts.subset is None else whole + b"subset" + facts.subset


def _decision(run: Trace, reason: RefusalReason | None) -> Decision:
    cycle, view = run.cycle, run.view
    cluster = cycle.cluster
    digest = run.digest  # holds what scorers said
    digest.update(_rests_on(cycle))
    numbers = cluster.number[rows_of(run.candidates)]
    digest.update(numbers.data)
    reads = tuple([Read(int(column), pack(values)) for column, values in cycle.reads.items()])
    for read in reads:
        digest.update(read.values)
    for seen in cycle.seen:
        digest.update(seen.data)
    if run.saturation is not None:
        digest.update(struct.pack("<d", run.saturation))
    for _, _, _, codes in run.filtered:
        digest.update(codes.data)
    endpoints: tuple[int, ...] = ()
    best: tuple[tuple[int, float], ...] = ()
    if reason is None:
        digest.update(run.sums.data)
        if view.positions is not None:
            numbers = numbers[view.positions]
        endpoints = tuple([int(numbers[pick]) for pick in run.picks])
        best = _best(numbers, run.sums)
        for number in endpoints:
            digest.update(f"{number} {cluster.endpoints[number].authority}\n".encode())
        for number, total in best:
            digest.update(_RANKED(number, total))
    return Decision(
        endpoints,
        reason,
        best,
        tuple(run.rejections),
        reads,
        pack(run.avoided) if len(run.avoided) else b"",
        cycle.traffic.degraded,
        digest.digest(),
        view.slots if reason is None else _NO_SLOTS,
        run.sums,
    )
