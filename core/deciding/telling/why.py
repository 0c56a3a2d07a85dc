"""Why a request went where it went, in a sentence made of the decision's own numbers."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.profile import Profile
from pointsman.core.deciding.refusals import REFUSALS
from pointsman.core.deciding.scheduler import Trace
from pointsman.core.plugin.known_load import words_of_unknown
from pointsman.core.plugin.shapes import Scorer
from pointsman.core.plugin.view import View
from pointsman.core.state.membership import Endpoint
from pointsman.core.values.plural import plural

_POD = re.compile(r"-([a-z0-9]{4,10})$")
"""End of a pod's name: what a ReplicaSet adds, of lengths that Kubernetes uses."""


def why(run: Trace, profile: Profile, decision: Decision) -> str:
    """Return one sentence or two about `decision`."""
    if decision.reason is not None:
        return _refused(run, decision)
    view, choice = run.view.rewound(), run.picks[0]
    if view.size == 1:
        of = len(run.candidates)
        if run.request_kept:
            return f"It keeps {run.cycle.request.continues}, which the request goes on from."
        return "It was the only candidate." if of == 1 else f"It was the only one of {of} candidates that filters kept."
    if decision.degraded:
        level = view.in_flight
        same = int((level == level[choice]).sum()) - 1
        others = f", as did {plural(same, 'other')}" if same else ""
        return f"The feed was lost, so the fewest requests in flight came first: it had {level[choice]}{others}."
    if not profile.picker.scored:
        return f"It was drawn at random among {view.size} candidates."
    return _compared(run, profile, view, choice)


def briefly(run: Trace, profile: Profile, decision: Decision) -> str:
    """Return why in about three words, for a list."""
    if decision.reason is not None:
        return REFUSALS[decision.reason].brief or decision.reason
    view, choice = run.view.rewound(), run.picks[0]
    if view.size == 1:
        if run.request_kept:
            return "keeps the response"
        return "only candidate" if len(run.candidates) == 1 else "only one left"
    if decision.degraded:
        return "fewest in flight"
    if not profile.picker.scored:
        return "drawn at random"
    sums = run.sums.tolist()
    rival = _rival(sums, choice)
    if sums[choice] == sums[rival]:
        return "tie, drawn"
    if sums[choice] < sums[rival]:
        return "drawn by weight"
    return max(_gaps(run, profile, (choice, rival)), key=lambda gap: gap.size).scorer.advantage


def _rival(sums: Sequence[float], choice: int) -> int:
    """The best of the others, of equal ones the lower slot."""
    return max((index for index in range(len(sums)) if index != choice), key=lambda index: (sums[index], -index))


def _refused(run: Trace, decision: Decision) -> str:
    request, cluster = run.cycle.request, run.cycle.cluster
    if decision.reason == "saturated":
        return (
            f"Saturation was {run.saturation:.2f}, and from 1.00 on requests below priority 0 are refused;"
            f" this one's priority is {request.priority}."
        )
    if decision.reason == "filtered":
        reasons = ", ".join(f"{count} for {reason}" for reason, count in run.rejections)
        count = len(run.candidates)
        return f"Filters rejected {'the only candidate' if count == 1 else f'all {count} candidates'}: {reasons}."
    ready = len(cluster.ready(request.pool))
    if not ready:
        members = len(cluster.members(request.pool))
        return f"No endpoint of {request.pool} was ready ({members} known)."
    if len(run.avoided):
        return f"Every candidate ({len(run.avoided)} of {plural(ready, 'ready one')}) was about to leave the pool."
    if ready == 1:
        return f"The only ready endpoint of {request.pool} was not in the subset hint."
    return f"None of the {ready} ready endpoints of {request.pool} was in the subset hint."


def _compared(run: Trace, profile: Profile, view: View, choice: int) -> str:
    """The choice against the best of the others."""
    sums = run.sums.tolist()
    rival = _rival(sums, choice)
    margin = sums[choice] - sums[rival]
    other = short(view, rival)
    best = f" of {profile.best_sum:g}" if profile.best_sum else ""  # nothing to compare with where no weight is above 0
    if margin == 0.0:
        tied = sums.count(sums[choice]) - 1
        with_whom = other if tied == 1 else f"{tied} others"
        return f"Its sum of {sums[choice]:.2f} was equal to that of {with_whom}, and it was drawn among them."
    chance = profile.picker.chances(run.sums, view)[choice]
    lead = "" if chance == 1.0 else f"It was drawn with a probability of {chance:.2f}. "
    if margin < 0.0:
        return f"{lead}The highest other sum was {sums[rival]:.2f}, of {other}; its own was {sums[choice]:.2f}."
    reasons = _reasons(run, profile, view, (choice, rival))
    return f"{lead}{reasons} Margin to the runner-up: {margin:.2f}{best}."


class _Gap(NamedTuple):
    """What one scorer gave the choice more than the rival."""

    size: float
    """Difference of the weighted scores; below 0 where the rival had more."""
    plugin: str
    scorer: Scorer
    weight: float

    @property
    def turned(self) -> str:
        """Why a drawback counts as an advantage, and an advantage as a drawback; empty where it does not."""
        return f", as the weight of {self.plugin} is negative" if self.weight < 0.0 else ""


def _gaps(run: Trace, profile: Profile, pair: tuple[int, int]) -> list[_Gap]:
    choice, rival = pair
    return [
        _Gap(float(row[choice] - row[rival]) * weight, name, scorer, weight)
        for (name, scorer, weight), row in zip(profile.scorers, run.scores, strict=True)
    ]


def _reasons(run: Trace, profile: Profile, view: View, pair: tuple[int, int]) -> str:
    choice, rival = pair
    request, other = run.cycle.request, short(view, rival)
    gaps = _gaps(run, profile, pair)
    gains = sorted((gap for gap in gaps if gap.size > 0.0), key=lambda gap: -gap.size)
    losses = sorted((gap for gap in gaps if gap.size < 0.0), key=lambda gap: gap.size)
    unknown = words_of_unknown(view, choice)
    words = [
        _favoured(gap, (unknown if gap.scorer.load else None) or gap.scorer.words(request, view, choice))
        for gap in gains
    ]
    if not losses:
        return _sentence(f"{words[0]}, and no scorer preferred {other}.")
    lost = losses[0]
    whose = f"that counted against it{lost.turned}" if lost.turned else f"of {other}"
    had = f"worth more than the {lost.scorer.advantage} {whose}"
    if gains[0].size > -lost.size:
        return _sentence(f"{words[0]}, which was {had}.")
    return _sentence(f"{' and '.join(words)}, which together were {had}.")


def _favoured(gap: _Gap, words: str) -> str:
    return f"{words} (in its favour{gap.turned})" if gap.turned else words


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def short(view: View, index: int) -> str:
    """The endpoint's name, as short as it is unmistakable among the candidates."""
    members = [view.endpoint(i) for i in range(view.size)]
    mine = members[index]
    for form in (_pod, _name):
        if sum(form(member) == form(mine) for member in members) == 1:
            return form(mine)
    return mine.authority


def _pod(member: Endpoint) -> str:
    found = _POD.search(member.name)
    return found[1] if found else member.name


def _name(member: Endpoint) -> str:
    return member.name
