"""The pages of routes: weights as they are wanted, and shares as they are observed."""

import time
from collections.abc import Sequence

import msgspec
import trio
from markupsafe import Markup
from quart import request

from pointsman.core.events import BackendRef, RouteObserved
from pointsman.core.rollout.weights import Share, backend_key, interval, shares
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.rollups import ChangeRow, MoveRow
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import svg, words
from pointsman.web.pages import figures
from pointsman.web.pages.reply import Missing, Reply

CHANGES = 20
"""Changes that a route's page lists."""
NEAR = 0.005
"""Share by which an observation may miss its interval before a route counts as out of step."""


class BackendView(msgspec.Struct, frozen=True):
    """A backend of a rule."""

    key: str
    pool: str
    name: str
    short: str
    href: str
    """Address of the pool's page; empty where there is none."""
    weight: int
    desired: str
    observed: str
    requests: int
    share: float | None
    margin: float
    ready: str
    rate: str
    first_token: str
    refused: int


class RuleView(msgspec.Struct, frozen=True):
    """A rule of a route."""

    name: str
    href: str
    change: str
    matches: str
    backends: tuple[BackendView, ...]
    in_step: bool
    observed_over: str
    """Words for the time that shares are observed over: the last 5 minutes, or since the weights changed."""
    shared: bool
    """Whether another rule sends requests to one of these pools too, so that shares are those of both rules."""
    rate: str
    picture: Markup


def bare(rule: RuleView) -> dict[str, object]:
    """The fields of a rule without its picture, for the JSON twin."""
    return {k: v for k, v in msgspec.structs.asdict(rule).items() if k != "picture"}


async def rules(console: Console, only: str = "") -> list[RuleView]:
    """The rules of all routes (or of one)."""
    state = console.state()
    chosen = [route for key, route in sorted(state.routes.items()) if not only or key == only]
    seen = await figures.observed(console, sorted(state.pools))
    counted = await figures.since_moved(console, chosen)
    return [
        _rule(console, route, index, seen, counted[route.route])
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
    console: Console, route: RouteObserved, index: int, seen: dict[str, figures.PoolTraffic], counted: figures.Counted
) -> RuleView:
    rule = route.rules[index]
    total = sum(counted.requests.get(b.pool, 0) for b in rule.backends)
    views = tuple(
        _backend(console, wanted, rule.backends, seen.get(wanted.backend.pool), (counted, total))
        for wanted in shares(rule.backends)
    )
    step = all(_in_step(view, wanted) for view, wanted in zip(views, shares(rule.backends), strict=True))
    pools = {b.pool for b in rule.backends}
    uses = [b.pool for other in console.state().routes.values() for r in other.rules for b in r.backends]
    shared = any(uses.count(pool) > 1 for pool in pools)
    rate = sum(seen[pool].rate for pool in pools if pool in seen)
    name, href = rule_name(route, index), f"/routes/{route.route}"
    matches = ", ".join(_match(m.path_kind, m.path) for m in rule.matches) or "every request"
    source = (name, f"{words.rate(rate)} requests/s", matches[:34])
    picture = _junction(source, views, list(console.state().pools))
    change = f"{href}/rules/{index}/weights"
    return RuleView(name, href, change, matches, views, step, counted.over, shared, words.rate(rate), picture)


def _match(kind: str, path: str) -> str:
    return {"PathPrefix": "paths below ", "Exact": "path ", "RegularExpression": "paths like "}.get(kind, "") + path


def _in_step(view: BackendView, wanted: Share) -> bool:
    return view.share is None or abs(view.share - wanted.desired) <= view.margin + NEAR


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
    ready = f"{len(state.ready(ref.pool))} of {len(state.members(ref.pool))} ready" if known else "no such pool"
    return BackendView(
        key=backend_key(ref),
        pool=ref.pool,
        name=backend_name(ref),
        short=_short(ref, backends),
        href=f"/pools/{ref.pool}" if known else "",
        weight=ref.weight,
        desired=words.percent(wanted.desired),
        observed=f"{words.percent(share)} ± {100 * margin:.1f}" if total else "nothing yet",
        requests=count,
        share=share if total else None,
        margin=margin,
        ready=ready,
        rate=words.rate(told.rate) if told else "0",
        first_token=words.duration(told.first_token) if told and told.first_token is not None else "",
        refused=told.refused if told else 0,
    )


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
        first = f" · first token {view.first_token}" if view.first_token else ""
        lines = (f"weight {view.weight} · observed {view.observed}", f"{view.ready}{first} · refused {view.refused}")
        colour = svg.colour_of(view.pool, pools)
        branches.append(svg.JunctionBranch(view.name, view.weight, colour, view.share, view.margin, lines))
    told = ", ".join(f"{v.name} {v.desired} wanted, {v.observed} observed" for v in views)
    return svg.junction(f"{source[0]}: {told}", source, branches)


async def list_page(console: Console) -> Reply:
    """All routes."""
    found = await rules(console)
    off = [r.name for r in found if not r.in_step]
    if off:
        headline = f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} not in step with the weights."
    elif found:
        headline = f"{words.plural(len(found), 'rule')}; the observed shares agree with the weights."
    else:
        headline = "No route sends requests to a pool."
    return Reply("routes.html", "_routes.html", {"routes": found, "headline": headline}, [bare(r) for r in found])


def route_of(console: Console, namespace: str, name: str) -> RouteObserved:
    """The route as it is; raises `Missing`."""
    found = console.state().routes.get(f"{namespace}/{name}")
    if found is None:
        raise Missing(f"There is no route {namespace[:100]}/{name[:100]} now. The log tells when it went.")
    return found


class ChangeView(msgspec.Struct, frozen=True):
    """A line of a route's history."""

    at: str
    actor: str
    reason: str
    weights: tuple[str, ...]
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
) -> tuple[str, ...]:
    """The change of each backend's weight, such as `90 → 50`."""
    old = {backend_key(b): b.weight for rule in before for b in rule}
    new = {backend_key(b): b.weight for rule in after for b in rule}
    return tuple(
        "" if key not in new else str(new[key]) if old.get(key, new[key]) == new[key] else f"{old[key]} → {new[key]}"
        for key in keys
    )


async def route_page(console: Console, namespace: str, name: str) -> Reply:
    """One route."""
    route = route_of(console, namespace, name)
    found = await rules(console, route.route)
    keys = [view.key for view in found[0].backends] if found else []
    history = await trio.to_thread.run_sync(_history, console, route, keys)
    word, kind, sentence = _words(console, route, found, history)
    context: dict[str, object] = {
        "route": {"name": name, "namespace": namespace, "word": word, "state": kind, "sentence": sentence},
        "rules": found,
        "charts": await _charts(console, found),
        "changes": history,
        "here": f"/routes/{route.route}",
        "done": "The weights were changed: recorded, written and read back." if request.args.get("done") else "",
    }
    data = {"route": route.route, "version": route.version, "rules": [bare(r) for r in found], "changes": history}
    return Reply("route.html", "_route.html", context, data | {"state": word, "sentence": sentence})


async def _charts(console: Console, found: Sequence[RuleView]) -> list[figures.Chart]:
    names = list(console.state().pools)
    labels = {view.pool: view.short for rule in found for view in rule.backends if view.pool in names}
    until = time.time()
    lines = await figures.spans(console, sorted(labels), "5m", until)
    colours = {label: svg.colour_of(pool, names) for pool, label in labels.items()}
    named = {labels[pool]: spans for pool, spans in lines.items()}
    measures = (figures.REQUESTS, figures.FIRST_TOKEN, figures.WAITING, figures.REFUSED)
    return [figures.chart(m, named, colours, "5m", until) for m in measures]


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
    if not any(view.share is not None for rule in found for view in rule.backends):
        over = found[0].observed_over if found else "the last 5 minutes"
        return "not observed yet", "warn", f"{told}No request has come by this route in {over}."
    if all(rule.in_step for rule in found):
        return "in step", "good", f"{told}The observed shares agree with the weights."
    over = next(rule.observed_over for rule in found if not rule.in_step)
    return "out of step", "warn", f"{told}The shares observed in {over} do not agree with the weights."
