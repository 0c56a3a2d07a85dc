"""A decision with everything that led to it, for people."""

import math

import msgspec
import numpy as np

from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.profile import Profile
from pointsman.core.deciding.scheduler import Trace, trace
from pointsman.core.deciding.telling.why import why
from pointsman.core.events import RequestFacts
from pointsman.core.plugin.known_load import words_of_unknown
from pointsman.core.plugin.view import View
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column, Traffic
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import Ints


class PluginScore(msgspec.Struct, frozen=True):
    """What one scorer gave one candidate."""

    plugin: str
    raw: float
    """Score before the weight, 0 to 1."""
    weight: float
    weighted: float
    words: str
    """Sentence about "it", the candidate, on what the score rests on."""


class Rejection(msgspec.Struct, frozen=True):
    """Why a filter rejected a candidate."""

    plugin: str
    reason: str
    """Short stable name by which rejections are counted."""
    words: str
    """Reason in words: what was found and what was wanted."""


class Scored(msgspec.Struct, frozen=True):
    """How a candidate that filters kept did."""

    scores: tuple[PluginScore, ...]
    sum: float
    rank: int
    """Rank by sum, 1 for the highest; equal sums have the same."""
    tied: bool
    """Whether another candidate has the same rank."""
    probability: float
    """Probability of being the choice, before the picker drew."""
    chosen: int
    """Place in the order of choice: 1 for the choice, 2 for its first fallback; 0 where not chosen."""


class Candidate(msgspec.Struct, frozen=True):
    """One candidate of a decision."""

    endpoint: int
    slot: int
    name: str
    """Full name: of its pod, and its port."""
    authority: str
    sample_age: float | None
    """Seconds from the last scrape that succeeded to the last one tried; None when never sampled.  Rules read it."""
    sampled_at: float
    """Time when the sample was taken, in seconds since 1970; 0 when never.  For people."""
    waiting: int
    running: int
    kv_cache: float
    """Share in use, 0 to 1."""
    in_flight: int | None
    """Requests in flight; None where the decision did not read them."""
    prefix_blocks: int | None
    """Blocks of the prompt that it held; None where the decision did not read them."""
    rejection: Rejection | None
    """Rejection by a filter; None where filters kept it, or did not come to it."""
    scored: Scored | None
    """Scores and rank; None where it did not come to scores."""


class Explanation(msgspec.Struct, frozen=True):
    """How a decision came about: what is printed, drawn, and sent from one process to another."""

    digest: bytes
    """Digest of the decision, as it was computed for this."""
    profile: str
    picker: str
    scorers: tuple[tuple[str, float], ...]
    """(plugin, weight), in order."""
    best_sum: float
    """Sum of a candidate that would score 1 by each scorer with a positive weight."""
    saturation: float | None
    """Saturation of the pool; None where the decision did not ask for it."""
    avoided: tuple[str, ...]
    """Names of endpoints left out because of advice."""
    draws: int
    """Number of draws used."""
    candidates: tuple[Candidate, ...]
    """Candidates in slot order."""
    why: str
    """Reason in one sentence or two."""


def explain(
    cluster: ClusterState, traffic: Traffic, profile: Profile, request: RequestFacts, draws: Draws
) -> Explanation:
    """Decide as `schedule` does, and tell everything."""
    decision, run = trace(cluster, traffic, profile, request, draws)
    drawn = run.cycle.drawn  # read first: the views that words are asked of set it back
    candidates = _candidates(cluster, run, profile, decision)
    return Explanation(
        digest=decision.digest,
        profile=profile.config.profiles[0].name,
        picker=profile.picker_name,
        scorers=tuple((name, weight) for name, _, weight in profile.scorers),
        best_sum=profile.best_sum,
        saturation=run.saturation,
        avoided=tuple(
            member.full_name for slot in run.avoided.tolist() if (member := cluster.by_slot[slot]) is not None
        ),
        draws=drawn,
        candidates=candidates,
        why=why(run, profile, decision),
    )


def _candidates(cluster: ClusterState, run: Trace, profile: Profile, decision: Decision) -> tuple[Candidate, ...]:
    rejections = _rejections(run)
    scored = _scored(run, profile, decision)
    in_flight, prefix_blocks = run.cycle.reads.get(Column.IN_FLIGHT), run.cycle.reads.get(Column.PREFIX_BLOCKS)
    found = []
    for position, slot in enumerate(run.candidates.tolist()):
        member = cluster.by_slot[slot]
        assert member is not None, "candidates are members"
        found.append(
            Candidate(
                endpoint=member.number,
                slot=slot,
                name=member.full_name,
                authority=member.authority,
                sample_age=age if math.isfinite(age := float(cluster.age[slot])) else None,
                sampled_at=float(cluster.sampled_at[slot]),
                waiting=int(cluster.waiting[slot]),
                running=int(cluster.running[slot]),
                kv_cache=float(cluster.kv_cache[slot]),
                in_flight=None if in_flight is None else int(in_flight[position]),
                prefix_blocks=None if prefix_blocks is None else int(prefix_blocks[position]),
                rejection=rejections.get(slot),
                scored=scored.get(slot),
            )
        )
    return tuple(found)


def _rejections(run: Trace) -> dict[int, Rejection]:
    """What filters rejected, by slot."""
    found = {}
    for name, filter, view, codes in run.filtered:
        for index in codes.nonzero()[0].tolist():
            code = int(codes[index])
            words = filter.words(code, run.cycle.request, view.rewound(), index)
            found[int(view.slots[index])] = Rejection(name, filter.reasons[code - 1], words)
    return found


def _scored(run: Trace, profile: Profile, decision: Decision) -> dict[int, Scored]:
    """How the others did, by slot; empty where the request was refused."""
    if decision.reason is not None:
        return {}
    view, sums = run.view.rewound(), run.sums.tolist()
    ranks = _ranks(run, view, decision)
    chances = _chances(run, profile, view, decision)
    found = {}
    for index, slot in enumerate(view.slots.tolist()):
        found[slot] = Scored(
            scores=tuple(
                PluginScore(
                    plugin=name,
                    raw=float(scores[index]),
                    weight=weight,
                    weighted=float(scores[index]) * weight,
                    words="neutral: the feed was lost"
                    if decision.degraded and scorer.load
                    else (words_of_unknown(view, index) if scorer.load else None)
                    or scorer.words(run.cycle.request, view, index),
                )
                for (name, scorer, weight), scores in zip(profile.scorers, run.scores, strict=True)
            ),
            sum=sums[index],
            rank=ranks[index],
            tied=ranks.count(ranks[index]) > 1,
            probability=chances[index],
            chosen=run.picks.index(index) + 1 if index in run.picks else 0,
        )
    return found


def _ranks(run: Trace, view: View, decision: Decision) -> list[int]:
    """The rank of each scored candidate, 1 for the first; while the feed is lost, fewest in flight come before highest sum."""
    in_flight = view.in_flight.tolist() if decision.degraded else [0] * view.size
    keys = list(zip(in_flight, (-run.sums).tolist(), strict=True))
    first: dict[tuple[int, float], int] = {}
    for place, key in enumerate(sorted(keys), 1):
        first.setdefault(key, place)
    return [first[key] for key in keys]


def _chances(run: Trace, profile: Profile, view: View, decision: Decision) -> list[float]:
    """The probability of each scored candidate to be the choice."""
    here = np.ones(view.size, dtype=np.bool_)
    if decision.degraded:
        in_flight: Ints = view.in_flight
        here = in_flight == in_flight.min()
    at = here.nonzero()[0]
    chances = [0.0] * view.size
    for index, chance in zip(at.tolist(), profile.picker.chances(run.sums[at], view.narrowed(here)), strict=True):
        chances[index] = chance
    assert math.isclose(math.fsum(chances), 1.0), f"chances add up to {math.fsum(chances)}"
    return chances
