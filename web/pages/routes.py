"""The pages of routes: weights as they are wanted, and shares as they are observed."""

import time
from collections.abc import Sequence
from typing import assert_never

import msgspec
import trio
from markupsafe import Markup
from quart import request

from pointsman.core.events import BackendRef, RouteObserved
from pointsman.core.rollout.conformity import ENOUGH, StepVerdict
from pointsman.core.rollout.weights import Share, backend_key, interval, shares
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.rows import ChangeRow, MoveRow
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import svg, words
from pointsman.web.pages import figures
from pointsman.web.pages.reply import Missing, Reply
from pointsman.web.pages.rule_words import match_words, rule_words

CHANGES = 20
"""Changes that a route's page lists."""
COLOURS = {
    StepVerdict.IN_STEP: "good",
    StepVerdict.OUT_OF_STEP: "warn",
    StepVerdict.SETTLING: "",
    StepVerdict.UNOBSERVED: "",
}
"""Colour of each verdict's tag; none where nothing is claimed."""
SENTENCES = {
    StepVerdict.OUT_OF_STEP: "not in step with the weights",
    StepVerdict.SETTLING: f"settling: a verdict needs about {ENOUGH:,} requests",
    StepVerdict.UNOBSERVED: "not observed yet",
    StepVerdict.MIXED: "not told apart: another rule uses one of the pools",
    StepVerdict.IN_STEP: "in step with the weights",
    StepVerdict.UNDIVIDED: "undivided: one pool at most gets their requests",
}
"""Words for rules in each state, worst first."""
STEPS = tuple(SENTENCES)


class BackendView(msgspec.Struct, frozen=True):
    """A backend of a rule."""

    key: str
    pool: str
    name: str
    short: str
    href: str
    """Address of the pool's page; empty where there is none."""
    weight: int
    desired_share: float
    requests: int
    observed_share: float | None
    """Share of the requests that were observed; None where nothing was, or nothing can be seen here."""
    margin: float
    """Half of the 95 % interval of that share."""
    known: bool
    """Whether it is a pool that is known."""
    ready: int
    members: int
    requests_per_second: float
    first_token_seconds: float | None
    refused: int

    @property
    def desired(self) -> str:
        """Share that is wanted, in words."""
        return words.percent(self.desired_share)

    @property
    def observed(self) -> str:
        """Share that was observed, in words."""
        if not self.known:
            return "not seen here"
        return "nothing yet" if self.observed_share is None else _observed(self.observed_share, self.margin)

    @property
    def endpoints(self) -> str:
        """Readiness of its endpoints, in words."""
        return f"{self.ready} of {self.members} ready" if self.known else "no such pool"


class RuleView(msgspec.Struct, frozen=True):
    """A rule of a route."""

    name: str
    href: str
    change: str
    matches: str
    does: tuple[str, ...]
    """Sentences of what the rule does beside its weights."""
    backends: tuple[BackendView, ...]
    step: StepVerdict
    evidence: str
    """Words for the verdict, with how many requests it rests on where they are not enough."""
    colour: str
    """Colour of the verdict's tag; empty for none."""
    requests: int
    """Requests that were observed."""
    observed_over: str
    """Words for the time that shares are observed over: the last 5 minutes, or since the weights changed."""
    shared: bool
    """Whether another rule sends requests to one of these pools too, so that shares are those of both rules."""
    requests_per_second: float
    unwritable: str
    """Reason why the weights cannot be changed here; empty where they can, as far as is known."""
    picture: Markup


def bare(rule: RuleView) -> dict[str, object]:
    """The fields of a rule without its picture, for the JSON twin."""
    return {k: v for k, v in msgspec.structs.asdict(rule).items() if k != "picture"}


async def rules(console: Console, only: str = "") -> list[RuleView]:
    """The rules of all routes (or of one)."""
    state = console.state()
    chosen = [route for key, route in sorted(state.routes.items()) if not only or key == only]
    seen = await figures.observed(console, sorted(state.pools))
    observed = await figures.rules_observed(console)
    return [
        _rule(console, route, index, seen, observed[route.route, index])
        for route in chosen
        for index in range(len(route.rules))
    ]


def rule_name(route: RouteObserved, index: int) -> str:
    """A rule's own name, or its number."""
    return route.rules[index].name or f"{short_name(route.route)}, rule {index + 1}"


def backend_name(ref: BackendRef) -> str:
    """A backend's name, with its kind where that is not a pool."""
    return short_name(ref.pool) if ref.kind == "InferencePool" else f"{short_name(ref.pool)} ({ref.kind})"


def _rule(
    console: Console,
    route: RouteObserved,
    index: int,
    seen: dict[str, figures.PoolTraffic],
    told: figures.RuleObserved,
) -> RuleView:
    rule, counted, verdict = route.rules[index], told.counted, told.conformity
    views = tuple(
        _backend(console, wanted, rule.backends, seen.get(wanted.backend.pool), (counted, verdict.requests))
        for wanted in shares(rule.backends)
    )
    rate = sum(seen[pool].rate for pool in {b.pool for b in rule.backends} if pool in seen)
    name, href = rule_name(route, index), f"/routes/{route.route}"
    matches = ", ".join(map(match_words, rule.matches)) or "every request"
    source = (name, f"{words.rate(rate)} requests/s", matches[:34])
    return RuleView(
        name=name,
        href=href,
        change=f"{href}/rules/{index}/weights",
        matches=matches,
        does=rule_words(console.state(), route, index),
        backends=views,
        step=verdict.step,
        evidence=verdict.words,
        colour=COLOURS.get(verdict.step, ""),
        requests=verdict.requests,
        observed_over=counted.over,
        shared=told.shared,
        requests_per_second=rate,
        unwritable=rule.unwritable,
        picture=_junction(source, views, list(console.state().pools)),
    )


def _backend(
    console: Console,
    wanted: Share,
    backends: Sequence[BackendRef],
    told: figures.PoolTraffic | None,
    counted: tuple[figures.Counted, int],
) -> BackendView:
    state, ref = console.state(), wanted.backend
    count, total = counted[0].requests.get(ref.pool, 0), counted[1]
    share, margin = interval(count, total)
    known = ref.pool in state.pools
    return BackendView(
        key=backend_key(ref),
        pool=ref.pool,
        name=backend_name(ref),
        short=_short(ref, backends),
        href=f"/pools/{ref.pool}" if known else "",
        weight=ref.weight,
        desired_share=wanted.desired,
        requests=count,
        observed_share=share if total and known else None,
        margin=margin,
        known=known,
        ready=len(state.ready(ref.pool)) if known else 0,
        members=len(state.members(ref.pool)) if known else 0,
        requests_per_second=told.rate if told else 0.0,
        first_token_seconds=told.first_token if told else None,
        refused=told.refused if told else 0,
    )


def _observed(share: float, margin: float) -> str:
    return f"{words.percent(share)} ± {100 * margin:.1f}"


def _short(ref: BackendRef, backends: Sequence[BackendRef]) -> str:
    """A backend's name without the beginning that all of them share, for a narrow column."""
    parts = [short_name(b.pool).split("-") for b in backends]
    mine = short_name(ref.pool).split("-")
    same = 0
    while len(parts) > 1 and all(len(p) > same and p[same] == parts[0][same] for p in parts):
        same += 1
    return "-".join(mine[same:]) or mine[-1]


def _junction(source: tuple[str, str, str], views: Sequence[BackendView], pools: list[str]) -> Markup:
    branches = []
    for view in views:
        first = ""
        if view.first_token_seconds is not None:
            first = f" · first token {words.duration(view.first_token_seconds)}"
        lines = (
            f"weight {view.weight} · observed {view.observed}",
            f"{view.endpoints}{first} · refused {view.refused}",
        )
        colour = svg.colour_of(view.pool, pools)
        branches.append(svg.JunctionBranch(view.name, view.weight, colour, view.observed_share, view.margin, lines))
    told = ", ".join(f"{v.name} {v.desired} wanted, {v.observed} observed" for v in views)
    return svg.junction(f"{source[0]}: {told}", source, branches)


async def list_page(console: Console) -> Reply:
    """All routes."""
    found = await rules(console)
    return Reply(
        "routes.html", "_routes.html", {"routes": found, "headline": _headline(found)}, [bare(r) for r in found]
    )


def _headline(found: Sequence[RuleView]) -> str:
    """How many rules there are in each state, worst first."""
    if not found:
        return "No route sends requests to a pool."
    told = []
    for step in STEPS:
        names = [r.name for r in found if r.step is step]
        if names:
            verb = "is" if len(names) == 1 else "are"
            told.append(f"{', '.join(names)} {verb} {SENTENCES[step]}")
    return f"{'; '.join(told)}."


def route_of(console: Console, namespace: str, name: str) -> RouteObserved:
    """The route as it is; raises `Missing`."""
    found = console.state().routes.get(f"{namespace}/{name}")
    if found is None:
        raise Missing(f"There is no route {namespace[:100]}/{name[:100]} now. The log tells when it went.")
    return found


class WeightMove(msgspec.Struct, frozen=True):
    """A backend's weight before and after a change."""

    backend: str
    """Key of the backend."""
    before: int | None
    """Weight before; None where it was not there, or nobody knows."""
    after: int | None

    @property
    def words(self) -> str:
        """The change, such as `90 → 50`; one number where there is none."""
        if self.after is None:
            return ""
        return str(self.after) if self.before in (None, self.after) else f"{self.before} → {self.after}"


class ChangeView(msgspec.Struct, frozen=True):
    """A line of a route's history."""

    at: str
    actor: str
    reason: str
    weights: tuple[WeightMove, ...]
    word: str
    state: str
    cause: str
    position: int


def _changed(row: ChangeRow, keys: Sequence[str]) -> ChangeView:
    weights = _arrows((row.before,), (row.after,), keys)
    ends = {"written": ("written", "good"), "refused": ("not made", "bad"), "unknown": ("unknown", "bad")}
    word, kind = ends.get(row.state, ("writing", "warn"))
    return ChangeView(words.moment(row.at), row.actor, row.reason, weights, word, kind, row.cause, row.position)


def _moved(row: MoveRow, keys: Sequence[str], source: str) -> ChangeView:
    weights = _arrows(row.before, row.backends, keys)
    what = "edited there, not by this console" if row.before else "as it was first seen"
    at = words.moment(row.recorded_at)
    return ChangeView(at, source or "its source", what, weights, "seen", "", "", row.position)


def _arrows(
    before: Sequence[Sequence[BackendRef]], after: Sequence[Sequence[BackendRef]], keys: Sequence[str]
) -> tuple[WeightMove, ...]:
    """The change of each backend's weight."""
    old = {backend_key(b): b.weight for rule in before for b in rule}
    new = {backend_key(b): b.weight for rule in after for b in rule}
    return tuple(WeightMove(key, old.get(key), new.get(key)) for key in keys)


async def route_page(console: Console, namespace: str, name: str) -> Reply:
    """One route."""
    route = route_of(console, namespace, name)
    found = await rules(console, route.route)
    keys = [view.key for view in found[0].backends] if found else []
    history = await trio.to_thread.run_sync(_history, console, route, keys)
    word, kind, sentence = _words(console, route, found, history)
    span = figures.asked_span()
    charts = await _charts(console, found, span)
    context: dict[str, object] = {
        "route": {"name": name, "namespace": namespace, "word": word, "state": kind, "sentence": sentence},
        "rules": found,
        "charts": charts,
        "spans": figures.span_links(f"/routes/{route.route}", span),
        "changes": history,
        "here": f"/routes/{route.route}?span={span}",
        "done": "The weights were changed: recorded, written and read back." if request.args.get("done") else "",
    }
    data = {"route": route.route, "version": route.version, "rules": [bare(r) for r in found], "changes": history}
    data["charts"] = [one.named() for one in charts]
    return Reply("route.html", "_route.html", context, data | {"state": word, "sentence": sentence})


async def _charts(console: Console, found: Sequence[RuleView], span: str) -> list[figures.Chart]:
    names = list(console.state().pools)
    labels = {view.pool: view.short for rule in found for view in rule.backends if view.pool in names}
    until = time.time()
    lines = await figures.spans(console, sorted(labels), span, until)
    colours = {label: svg.colour_of(pool, names) for pool, label in labels.items()}
    named = {labels[pool]: spans for pool, spans in lines.items()}
    measures = (figures.REQUESTS, figures.FIRST_TOKEN, figures.WAITING, figures.REFUSED)
    window = await figures.window(console, span, until, sorted(labels))
    return [figures.chart(m, named, colours, window) for m in measures]


def _history(console: Console, route: RouteObserved, keys: Sequence[str]) -> list[ChangeView]:
    with open_read_model(console.read_model) as model:
        told = [_changed(row, keys) for row in model.changes(route.route, CHANGES)]
        moves = model.moves(route.route, CHANGES)
    told += [_moved(row, keys, route.source) for row in moves if not row.change]
    return sorted(told, key=lambda view: -view.position)[:CHANGES]


def _words(
    console: Console, route: RouteObserved, found: list[RuleView], history: list[ChangeView]
) -> tuple[str, str, str]:
    """The state of a route in a word, its colour, and a sentence."""
    if any(c.route == route.route for c in console.state().pending_changes.values()):
        return "writing", "warn", "A change was recorded and is being written; it counts once it was read back."
    last = next((c for c in history if c.state != "bad"), None)
    told = f"As {route.source} says. "
    if last is not None and last.word == "written":
        told = f"Last changed by {last.actor}: “{last.reason}”. "
    if not found:
        return StepVerdict.UNDIVIDED, "", f"{told}It has no rule that sends requests to a pool."
    worst = min(found, key=lambda rule: STEPS.index(rule.step))
    match worst.step:
        case StepVerdict.UNOBSERVED:
            said = f"No request has come by this route in {worst.observed_over}."
        case StepVerdict.SETTLING:
            said = f"{worst.requests:,} of the about {ENOUGH:,} requests that a verdict needs have come in {worst.observed_over}."
        case StepVerdict.IN_STEP:
            said = f"The shares of {worst.requests:,} requests agree with the weights."
        case StepVerdict.OUT_OF_STEP:
            said = f"The shares observed in {worst.observed_over} do not agree with the weights."
        case StepVerdict.UNDIVIDED:
            said = "All of its requests go to one pool."
        case StepVerdict.MIXED:
            said = (
                "Requests are counted by pool, and another rule uses one of these pools: shares cannot be told apart."
            )
        case _:
            assert_never(worst.step)
    return worst.evidence, worst.colour, told + said
