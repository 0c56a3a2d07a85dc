"""`schedule`: which endpoint a request goes to.

It reads the cluster state, the traffic state through `Traffic`, the profile and the request facts, and nothing else:
the same arguments give the same decision on every machine.
"""

import msgspec
import numpy as np
from xxhash import xxh3_64_digest

from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.profile import PLUGIN_VERSIONS, Profile, compile_profile, profile_for, profile_in_force
from pointsman.core.deciding.refusals import RefusalReason
from pointsman.core.deciding.scoring import ScoreRow, Standing, score, standing_scores
from pointsman.core.events import Read, RequestFacts
from pointsman.core.plugin.formulas import FEW
from pointsman.core.plugin.kept_response import KEPT_RESPONSE, RULE as KEPT_RULE
from pointsman.core.plugin.known_load import KNOWN_LOAD, RULE
from pointsman.core.plugin.not_serving import NOT_SERVING, RULE as SERVING
from pointsman.core.plugin.shapes import Filter, Reasons, Scores, rejected
from pointsman.core.plugin.view import Cycle, View, rows_of
from pointsman.core.state.membership import Slots
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Traffic
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import Ints, pack, unpack

__all__ = [
    "PLUGIN_VERSIONS",
    "SCHEDULER_VERSION",
    "Profile",
    "compile_profile",
    "profile_for",
    "profile_in_force",
    "schedule",
]

SCHEDULER_VERSION = 2
"""Version of the rules in this file and of the digest; it rises when one of them changes."""

_BEST = 3
"""Number of sums that a decision stores, the highest ones."""

_NO_SCORES = np.zeros(0)
_NO_SLOTS: Slots = np.zeros(0, dtype=np.int64)

_encode = msgspec.msgpack.Encoder().encode


class Trace:
    """Everything that one run of `schedule` went through."""

    __slots__ = (
        "avoided",
        "candidates",
        "cycle",
        "filtered",
        "picks",
        "rejections",
        "saturation",
        "scores",
        "standing",
        "sums",
        "view",
    )

    def __init__(self, cycle: Cycle, avoided: Slots) -> None:
        self.cycle = cycle
        self.avoided = avoided
        self.candidates = cycle.candidates
        self.view = View(cycle, cycle.candidates, None)
        """The candidates that the filters have left."""
        self.saturation: float | None = None
        """Saturation of the pool; None where the priority of the request did not ask for it."""
        self.filtered: tuple[tuple[str, Filter, View, Reasons], ...] = ()
        self.rejections: tuple[tuple[str, int], ...] = ()
        self.standing: Standing | None = None
        """Scores that do not look at the request; None where the decision ended before scoring."""
        self.scores: list[ScoreRow] = []
        """A row for each scorer of the profile, a number for each of `view`."""
        self.sums: Scores = _NO_SCORES
        self.picks: list[int] = []
        """Indexes in `view` of the endpoints chosen, in the order of choice."""

    @property
    def request_kept(self) -> bool:
        """Whether the request went where what it goes on from is kept."""
        return any(name == KEPT_RULE and codes.any() for name, _, _, codes in self.filtered)


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
    """Decide where `request` goes, and tell how; with `keep`, standing scores are kept with the profile and used again."""
    candidates, avoided = _candidates(cluster, traffic, profile, request)
    run = Trace(Cycle(cluster, traffic, request, draws, candidates), avoided)
    if not len(candidates):
        return _decision(run, "no-endpoints"), run
    keep = keep and not traffic.degraded
    # Standing scores are kept only of candidates whose load is known, so that this need not be asked again.
    standing = profile.kept.find(cluster, request.pool, candidates) if keep else None
    if standing is None and (unknown := run.view.unknown) is not None:
        _filter(run, RULE, KNOWN_LOAD, request)
        keep = False
    else:
        unknown = None
    if cluster.sleeping or traffic.failing_among(candidates):
        _filter(run, SERVING, NOT_SERVING, request)
    if request.priority < 0 and not traffic.degraded:
        known = run.view if unknown is None or unknown.all() else run.view.only_known()
        run.saturation = profile.detector.saturation(request, known)
        if run.saturation >= 1.0:
            return _decision(run, "saturated"), run
    for name, filter in profile.filters if not request.continues else _filters(run, profile):
        if not _filter(run, name, filter, request):
            return _decision(run, "filtered"), run
    keep = keep and run.view.slots is cluster.ready(request.pool)
    run.standing = standing if standing is not None and keep else _standing(run, profile, keep)
    run.scores, run.sums = score(run.view, request, profile.scorers, run.standing)
    _pick(run, profile, traffic.degraded)
    return _decision(run, None), run


def _filters(run: Trace, profile: Profile) -> list[tuple[str, Filter]]:
    """The filters for a request that goes on from a response: where that is kept there is no choice by load."""
    if not run.view.keeps_response.any():
        return list(profile.filters)
    return [*((name, filter) for name, filter in profile.filters if not filter.load), (KEPT_RULE, KEPT_RESPONSE)]


def _standing(run: Trace, profile: Profile, keep: bool) -> Standing:
    cycle, slots = run.cycle, run.view.slots
    standing = standing_scores(cycle, profile.scorers, slots, run.view.positions)
    if keep:
        profile.kept.keep(cycle.cluster, cycle.request.pool, slots, standing)
    return standing


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
    run.filtered += ((name, filter, view, codes),)
    keep = codes == 0
    kept = int(np.count_nonzero(keep))
    if kept == view.size:
        return True
    counts = np.bincount(codes)
    for code in counts.nonzero()[0].tolist():
        if code:
            run.rejections += ((f"{name}: {filter.reasons[code - 1]}", int(counts[code])),)
    run.view = view.narrowed(keep)
    return kept > 0


def _pick(run: Trace, profile: Profile, degraded: bool) -> None:
    """Choose; while the feed is lost, those with fewer requests in flight come first, whatever their sums."""
    view, count = run.view, profile.endpoints_max
    if not degraded:
        run.picks = profile.picker.pick(run.sums, view, count)
        return
    in_flight = view.in_flight
    for level in sorted(set(in_flight.tolist())):  # `np.unique` imports a module at its first call
        if len(run.picks) >= count:
            return
        here = in_flight == level
        at = here.nonzero()[0]
        chosen = profile.picker.pick(run.sums[at], view.narrowed(here), count - len(run.picks))
        run.picks += at[chosen].tolist()


def _best(numbers: Ints, sums: Scores) -> tuple[tuple[int, float], ...]:
    """The three highest, of equal ones the lower slot first."""
    if len(sums) <= FEW:  # the same result, faster than with arrays
        values = sums.tolist()
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:_BEST]
        return tuple([(numbers.item(i), values[i]) for i in order])
    rest = sums.copy()
    best = []
    for _ in range(_BEST):
        top = int(rest.argmax())
        best.append((numbers.item(top), sums.item(top)))
        rest[top] = -np.inf
    return tuple(best)


def _decision(run: Trace, reason: RefusalReason | None) -> Decision:
    cycle, view, standing, sums = run.cycle, run.view, run.standing, run.sums
    reads = tuple([Read(int(column), pack(values)) for column, values in cycle.reads.items()])
    endpoints: tuple[int, ...] = ()
    best: tuple[tuple[int, float], ...] = ()
    if standing is not None:
        numbers = standing.numbers
        endpoints = tuple([numbers.item(pick) for pick in run.picks])
        best = _best(numbers, sums)
    return Decision(
        endpoints,
        reason,
        best,
        run.rejections,
        reads,
        pack(run.avoided) if len(run.avoided) else b"",
        cycle.traffic.degraded,
        _digest(run, reads, endpoints, best),
        _NO_SLOTS if standing is None else view.slots,
        sums,
    )


def _digest(
    run: Trace, reads: tuple[Read, ...], endpoints: tuple[int, ...], best: tuple[tuple[int, float], ...]
) -> bytes:
    """The hash over all that the decision depends on, and over the decision.

    Request facts are named one by one, so that a fact added later leaves the digests of old decisions as they are.
    """
    cycle, standing = run.cycle, run.standing
    facts, draws, cluster = cycle.request, cycle.draws, cycle.cluster
    narrowed = standing is None or run.view.positions is not None
    members = cluster.endpoints
    return xxh3_64_digest(
        _encode(
            (
                draws.picker,
                draws.epoch,
                draws.n,
                cluster.position,
                cycle.traffic.degraded,
                facts.pool,
                facts.priority,
                facts.model,
                facts.target_model,
                facts.prefix,
                facts.prefix_block_bytes,
                facts.subset,
                cluster.number[rows_of(run.candidates)].tobytes() if narrowed else None,
                [seen.tobytes() for seen in cycle.seen] if cycle.seen else (),
                reads,
                run.saturation,
                [codes.tobytes() for _, _, _, codes in run.filtered] if run.filtered else (),
                None if standing is None else standing.digest,
                run.sums.data,
                endpoints,
                [(members[number].address, members[number].port) for number in endpoints],
                best,
            )
        )
    )
