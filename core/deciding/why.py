"""Why a request went where it went, in a sentence made of the decision's own numbers."""

import re

from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.profile import Profile
from pointsman.core.deciding.scheduler import Trace
from pointsman.core.state.membership import Endpoint
from pointsman.core.view import View

_POD = re.compile(r"-([a-z0-9]{4,10})$")
"""The part of a pod's name that a ReplicaSet adds."""


def why(run: Trace, profile: Profile, decision: Decision) -> str:
    """Return one sentence or two about `decision`."""
    if decision.reason is not None:
        return _refused(run, decision)
    view, choice = run.view.rewound(), run.picks[0]
    if view.size == 1:
        of = len(run.candidates)
        return "It was the only candidate." if of == 1 else f"It was the only one of {of} candidates that filters kept."
    if decision.degraded:
        level = view.in_flight
        same = int((level == level[choice]).sum()) - 1
        others = f", as did {same} other{'s' * (same > 1)}" if same else ""
        return f"The feed was lost, so the fewest requests in flight came first: it had {level[choice]}{others}."
    if not profile.picker.scored:
        return f"It was drawn at random among {view.size} candidates."
    return _compared(run, profile, view, choice)


def _refused(run: Trace, decision: Decision) -> str:
    request, cluster = run.cycle.request, run.cycle.cluster
    if decision.reason == "saturated":
        return (
            f"Saturation was {run.saturation:.2f}, and from 1.00 on requests below priority 0 are refused;"
            f" this one's priority is {request.priority}."
        )
    if decision.reason == "filtered":
        reasons = ", ".join(f"{count} for {reason}" for reason, count in run.rejections)
        return f"Filters rejected all {len(run.candidates)} candidates: {reasons}."
    ready = len(cluster.ready(request.pool))
    if not ready:
        members = len(cluster.members(request.pool))
        return f"No endpoint of {request.pool} was ready ({members} known)."
    if len(run.avoided):
        return f"Every candidate ({len(run.avoided)} of {ready} ready ones) was about to leave the pool."
    return f"None of the {ready} ready endpoints of {request.pool} was in the subset hint."


def _compared(run: Trace, profile: Profile, view: View, choice: int) -> str:
    """The choice against the best of the others."""
    sums = run.sums.tolist()
    rival = max((index for index in range(view.size) if index != choice), key=lambda index: (sums[index], -index))
    margin = sums[choice] - sums[rival]
    other = _short(view, rival)
    of = f"Margin to the runner-up: {margin:.2f} of {profile.best_sum:g}."
    if margin == 0.0:
        tied = sums.count(sums[choice]) - 1
        with_whom = other if tied == 1 else f"{tied} others"
        return f"Its sum of {sums[choice]:.2f} was equal to that of {with_whom}, and it was drawn among them."
    chance = profile.picker.chances(run.sums, view)[choice]
    lead = "" if chance == 1.0 else f"It was drawn with a probability of {chance:.2f}. "
    if margin < 0.0:
        return f"{lead}The highest other sum was {sums[rival]:.2f}, of {other}; its own was {sums[choice]:.2f}."
    return f"{lead}{_reasons(run, profile, view, (choice, rival))} {of}"


def _reasons(run: Trace, profile: Profile, view: View, pair: tuple[int, int]) -> str:
    choice, rival = pair
    request, other = run.cycle.request, _short(view, rival)
    gaps = [
        (float(row[choice] - row[rival]) * weight, scorer, weight)
        for (_, scorer, weight), row in zip(profile.scorers, run.scores, strict=True)
    ]
    gains = sorted((gap for gap in gaps if gap[0] > 0.0), key=lambda gap: -gap[0])
    losses = sorted((gap for gap in gaps if gap[0] < 0.0), key=lambda gap: gap[0])
    words = [scorer.words(request, view, choice) for _, scorer, _ in gains]
    if not losses:
        return _sentence(f"{words[0]}, and no scorer preferred {other}.")
    lost, loser, weight = losses[0]
    # a negative weight turns the preference round
    had = f"{loser.advantage} of {other}" if weight > 0 else f"{loser.advantage} that counted against it"
    if gains[0][0] > -lost:
        return _sentence(f"{words[0]}, which was worth more than the {had}.")
    return _sentence(f"{' and '.join(words)}, which together were worth more than the {had}.")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _short(view: View, index: int) -> str:
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
