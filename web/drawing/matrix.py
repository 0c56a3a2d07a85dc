"""The matrix of candidates and plugins, as the decision page draws it."""

from typing import assert_never

import msgspec
from markupsafe import Markup

from pointsman.core.deciding.explanation import Candidate, Explanation
from pointsman.core.deciding.verdict import Verdict, VerdictKind
from pointsman.web.drawing import svg as drawing, words


class ScorerColumn(msgspec.Struct, frozen=True):
    """The head of a scorer's column."""

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
    """One candidate's row."""

    name: str
    chosen: str
    """Place in the order of choice, such as `picked` or `fallback 1`; empty where not chosen."""
    rejected: Rejected | None
    sample: str
    scores: tuple[Cell, ...]
    sum: str
    rank: str
    bar: Markup


class Matrix(msgspec.Struct, frozen=True):
    """The table of candidates by scorers."""

    caption: str
    scorers: tuple[ScorerColumn, ...]
    candidates: tuple[Line, ...]
    remaining: str
    margin: str


class VerdictTag(msgspec.Struct, frozen=True):
    """The result of replay, for the tag beside the title."""

    word: str
    kind: str
    """Colour of the tag: `good`, `warn`, `bad`, or none."""
    difference: str = ""
    """Words for what differs from the record, for a banner; empty where nothing does."""
    note: str = ""
    """Reason why it was not compared with the record, for a banner; empty where it was."""


RECOMPUTING = VerdictTag("recomputing", "")
"""Tag while replay is at work."""


def verdict_tag(verdict: Verdict) -> VerdictTag:
    """The tag, with what a banner says where there is something to say."""
    word = verdict.kind.words.tag
    note = f"{verdict.sentence[0].upper()}{verdict.sentence[1:]}."
    match verdict.kind:
        case VerdictKind.SAME:
            return VerdictTag(word, "good")
        case VerdictKind.DIFFERS:
            return VerdictTag(word, "bad", difference=verdict.message)
        case VerdictKind.NOT_SCHEDULED:
            return VerdictTag(word, "", note=note)
        case VerdictKind.OTHER_VERSION | VerdictKind.OTHER_LOG | VerdictKind.NOT_KEPT | VerdictKind.UNAVAILABLE:
            return VerdictTag(word, "warn", note=note)
        case _:
            assert_never(verdict.kind)


def matrix(explanation: Explanation, decided_at: float) -> Matrix | None:
    """The table of an explanation; candidates by rank, the rejected last; None where there were no candidates."""
    if not explanation.candidates:
        return None
    scorers = tuple(
        ScorerColumn(
            name, name.removesuffix("-scorer").removesuffix("-utilization"), drawing.number(weight, 2), i % 5 + 1
        )
        for i, (name, weight) in enumerate(explanation.scorers)
    )
    scale = max([explanation.best_sum, *(c.scored.sum for c in explanation.candidates if c.scored), 0.0])
    order = sorted(explanation.candidates, key=lambda c: (c.scored.rank if c.scored else 1 << 30, c.slot))
    lines = tuple(_line(c, decided_at, scale, scorers) for c in order)
    kept = sum(c.rejection is None for c in explanation.candidates)
    saturation = "" if explanation.saturation is None else f", saturation {explanation.saturation:.2f}"
    caption = f"profile {explanation.profile}, picker {explanation.picker}{saturation}; longest possible bar {scale:g}"
    return Matrix(caption, scorers, lines, f"{kept} of {len(order)} remain", _margin(explanation))


def _line(candidate: Candidate, decided_at: float, scale: float, scorers: tuple[ScorerColumn, ...]) -> Line:
    if candidate.sample_age is None or not candidate.sampled_at:
        sample = "never sampled"
    else:
        stale = f", stale by {words.duration(candidate.sample_age)}" if candidate.sample_age else ""
        sample = f"sample {words.duration(max(0.0, decided_at - candidate.sampled_at))} old{stale}"
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


def _margin(explanation: Explanation) -> str:
    sums = sorted((c.scored.sum for c in explanation.candidates if c.scored), reverse=True)
    if not sums:
        return "nobody left"
    if not explanation.scorers:
        return "no scores: drawn"
    return f"{sums[0]:.2f} against {sums[1]:.2f}" if len(sums) > 1 else f"{sums[0]:.2f}, alone"
