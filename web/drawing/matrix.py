"""The matrix of candidates and plugins, as the decision page draws it."""

import math

import msgspec
from markupsafe import Markup

from pointsman.core.deciding.explanation import Candidate
from pointsman.core.events import RequestRefused, RequestRouted
from pointsman.web.drawing import svg as drawing
from pointsman.web.drawing import words
from pointsman.web.recomputing.worker import Account, Replayed


class ScorerColumn(msgspec.Struct, frozen=True):
    """A column."""

    name: str
    short: str
    weight: str
    colour: int


class Cell(msgspec.Struct, frozen=True):
    """What a scorer gave a candidate."""

    raw: str
    weight: str
    weighted: str
    words: str


class Rejected(msgspec.Struct, frozen=True):
    """Why a filter rejected a candidate."""

    plugin: str
    words: str


class Line(msgspec.Struct, frozen=True):
    """A row: one candidate."""

    name: str
    chosen: str
    """`picked`, `fallback 1`; empty where not chosen."""
    rejected: Rejected | None
    sample: str
    scores: tuple[Cell, ...]
    sum: str
    rank: str
    bar: Markup


class Matrix(msgspec.Struct, frozen=True):
    """The table."""

    caption: str
    scorers: tuple[ScorerColumn, ...]
    candidates: tuple[Line, ...]
    remaining: str
    margin: str


class VerdictTag(msgspec.Struct, frozen=True):
    """What came of replay, for the tag beside the title."""

    word: str
    kind: str
    difference: str = ""
    note: str = ""


RECOMPUTING = VerdictTag("recomputing", "", note="")
"""While replay is at work."""


def explained(replayed: Replayed) -> VerdictTag:
    """The tag, and a banner where there is something to say."""
    match replayed.kind:
        case "ok":
            return VerdictTag("verified", "good")
        case "differs":
            return VerdictTag("differs", "bad", difference=replayed.message)
        case "other-version":
            return VerdictTag(
                "other version", "warn", note=f"Recomputed with this version's formulas: {replayed.message}."
            )
        case "not-scheduled":
            return VerdictTag("not scheduled", "", note=f"There is nothing to recompute: {replayed.message}.")
        case _:
            return VerdictTag(
                "not verifiable", "warn", note=f"This decision could not be recomputed: {replayed.message}."
            )


def matrix(replayed: Replayed, decision: RequestRouted | RequestRefused) -> Matrix | None:
    """The table of an explanation; candidates by rank, the rejected last."""
    explanation = replayed.explanation
    if explanation is None or not explanation.candidates:
        return None
    scorers = tuple(
        ScorerColumn(
            name, name.removesuffix("-scorer").removesuffix("-utilization"), drawing.number(weight, 2), i % 5 + 1
        )
        for i, (name, weight) in enumerate(explanation.scorers)
    )
    scale = max([explanation.best_sum, *(c.scored.sum for c in explanation.candidates if c.scored), 0.0])
    order = sorted(explanation.candidates, key=lambda c: (c.scored.rank if c.scored else 1 << 30, c.slot))
    lines = tuple(_line(c, replayed, decision.decided_at, scale, scorers) for c in order)
    kept = sum(c.rejection is None for c in explanation.candidates)
    saturation = "" if explanation.saturation is None else f", saturation {explanation.saturation:.2f}"
    caption = f"profile {explanation.profile}, picker {explanation.picker}{saturation}; longest possible bar {scale:g}"
    return Matrix(caption, scorers, lines, f"{kept} of {len(order)} remain", _margin(explanation))


def _line(
    candidate: Candidate, replayed: Replayed, decided_at: float, scale: float, scorers: tuple[ScorerColumn, ...]
) -> Line:
    sampled = replayed.sampled_at.get(candidate.endpoint, 0.0)
    if math.isinf(candidate.sample_age) or not sampled:
        sample = "never sampled"
    else:
        stale = f", stale by {words.duration(candidate.sample_age)}" if candidate.sample_age else ""
        sample = f"sample {words.duration(max(0.0, decided_at - sampled))} old{stale}"
    sample += f" · {candidate.waiting} waiting, KV {candidate.kv_cache:.0%}".replace("%", " %")
    rejected = None
    if candidate.rejection is not None:
        rejected = Rejected(candidate.rejection.plugin, candidate.rejection.words)
    scored = candidate.scored
    if scored is None:
        return Line(candidate.name, "", rejected, sample, (), "", "", Markup(""))
    cells = tuple(
        Cell(f"{s.raw:.2f}", drawing.number(s.weight, 2), f"{s.weighted:.2f}", s.words) for s in scored.scores
    )
    label = ", ".join(f"{s.plugin} {s.weighted:.2f}" for s in scored.scores) or "no scorer"
    bar = drawing.bar([(c.colour, s.weighted) for c, s in zip(scorers, scored.scores, strict=True)], scale, label)
    chosen = "" if not scored.chosen else "picked" if scored.chosen == 1 else f"fallback {scored.chosen - 1}"
    rank = f"{scored.rank}{' tied' if scored.tied else ''}"
    return Line(candidate.name, chosen, rejected, sample, cells, f"{scored.sum:.2f}", rank, bar)


def _margin(explanation: Account) -> str:
    sums = sorted((c.scored.sum for c in explanation.candidates if c.scored), reverse=True)
    if not sums:
        return "nobody left"
    if not explanation.scorers:
        return "no scores: drawn"
    return f"{sums[0]:.2f} against {sums[1]:.2f}" if len(sums) > 1 else f"{sums[0]:.2f}, alone"
