"""The pages of routes: weights as they are wanted and as they are observed, and the form that changes them."""

import secrets
import time
from collections.abc import Sequence

import msgspec
import trio
from markupsafe import Markup
from quart import request

from pointsman.core.events import BackendRef, RouteObserved, WeightsIntended, WeightsRefused, WeightsWritten
from pointsman.core.weights import REASON_MAX, WEIGHT_MAX, Change, Refused, backend_key, interval, plan, shares
from pointsman.eventlog.readmodel import ReadModel
from pointsman.eventlog.rollups import ChangeRow
from pointsman.web import drawing, figures, words
from pointsman.web.access import COOKIE, Refusal
from pointsman.web.console import Console, WeightsNotWritten, short_name
from pointsman.web.pages import BadQuery, Missing, Reply

CHANGES = 20
"""Changes that a route's page lists."""
ACTOR = "someone on this machine"
"""Who changes weights as long as there is no sign-in: nobody is told apart."""


class BackendView(msgspec.Struct, frozen=True):
    """A backend of a rule."""

    key: str
    pool: str
    name: str
    short: str
    weight: int
    desired: str
    observed: str
    share: float | None
    margin: float
    ready: str
    rate: str


class RuleView(msgspec.Struct, frozen=True):
    """A rule of a route."""

    name: str
    href: str
    change: str
    matches: str
    backends: tuple[BackendView, ...]
    in_step: bool
    rate: str
    picture: Markup


async def rules(console: Console, only: str = "") -> list[RuleView]:
    """The rules of all routes (or of one) that have pools behind them."""
    state = console.state()
    seen = await figures.observed(console, sorted(state.pools))
    return [
        _rule(console, route, index, seen)
        for key, route in sorted(state.routes.items())
        if not only or key == only
        for index in range(len(route.rules))
    ]


def rule_name(route: RouteObserved, index: int) -> str:
    """A rule's own name, or its number."""
    return route.rules[index].name or f"{short_name(route.route)}, rule {index + 1}"


def _rule(console: Console, route: RouteObserved, index: int, seen: dict[str, figures.Observed]) -> RuleView:
    state, rule = console.state(), route.rules[index]
    counts = [seen[b.pool].requests if b.pool in seen else 0 for b in rule.backends]
    total = sum(counts)
    views, step = [], True
    for ref, wanted, count in zip(rule.backends, shares(rule.backends), counts, strict=True):
        share, margin = interval(count, total)
        told = seen.get(ref.pool)
        if total and abs(share - wanted.desired) > margin + 0.005:
            step = False
        pool = state.pools.get(ref.pool)
        ready = f"{len(state.ready(ref.pool))} of {len(state.members(ref.pool))} ready" if pool else "no such pool"
        views.append(
            BackendView(
                backend_key(ref),
                ref.pool,
                short_name(ref.pool) if ref.kind == "InferencePool" else f"{short_name(ref.pool)} ({ref.kind})",
                _short(ref, rule.backends),
                ref.weight,
                words.percent(wanted.desired),
                f"{words.percent(share)} ± {100 * margin:.1f}" if total else "nothing yet",
                share if total else None,
                margin,
                ready,
                words.rate(told.rate) if told else "0",
            )
        )
    rate = sum(seen[b.pool].rate for b in rule.backends if b.pool in seen)
    name, href = rule_name(route, index), f"/routes/{route.route}"
    matches = ", ".join(f"{m.path_kind} {m.path}" for m in rule.matches) or "every request"
    picture = _junction(name, matches, rate, rule.backends, views, seen, list(state.pools))
    change = f"{href}/rules/{index}/weights"
    return RuleView(name, href, change, matches, tuple(views), step, words.rate(rate), picture)


def _short(ref: BackendRef, backends: Sequence[BackendRef]) -> str:
    """What tells a backend from its neighbours, for a narrow column."""
    names = [short_name(b.pool) for b in backends]
    mine = short_name(ref.pool)
    start = 0
    while len(names) > 1 and all(len(n) > start and n[start] == names[0][start] for n in names):
        start += 1
    return mine if start < 8 else (mine[start:].lstrip("-") or "first")


def _junction(
    name: str,
    matches: str,
    rate: float,
    backends: Sequence[BackendRef],
    views: Sequence[BackendView],
    seen: dict[str, figures.Observed],
    pools: list[str],
) -> Markup:
    branches = []
    for ref, view in zip(backends, views, strict=True):
        told = seen.get(ref.pool)
        first = f" · first token {words.duration(told.first_token)}" if told and told.first_token is not None else ""
        lines = (
            f"weight {ref.weight} · observed {view.observed}",
            f"{view.ready}{first} · refused {told.refused if told else 0}",
        )
        branches.append(
            drawing.Branch(view.name, ref.weight, drawing.colour_of(ref.pool, pools), view.share, view.margin, lines)
        )
    told_words = ", ".join(f"{v.name} {v.desired} wanted, {v.observed} observed" for v in views)
    return drawing.junction(f"{name}: {told_words}", (name, f"{words.rate(rate)} requests/s", matches[:34]), branches)


async def list_page(console: Console) -> Reply:
    """All routes."""
    found = await rules(console)
    off = [r.name for r in found if not r.in_step]
    headline = (
        f"{', '.join(off)} is not in step with its weights: see what the gateway does."
        if off
        else f"{words.plural(len(found), 'rule')} with pools behind them; the observed shares agree with the weights."
    )
    return Reply("routes.html", "", {"routes": found, "headline": headline}, [bare(r) for r in found])


def bare(rule: RuleView) -> dict[str, object]:
    """A rule without its picture, for the JSON twin."""
    return {k: v for k, v in msgspec.structs.asdict(rule).items() if k != "picture"}


def _route(console: Console, namespace: str, name: str) -> RouteObserved:
    found = console.state().routes.get(f"{namespace}/{name}")
    if found is None:
        raise Missing(f"There is no route {namespace[:100]}/{name[:100]} now.")
    return found


class ChangeView(msgspec.Struct, frozen=True):
    """A change in a route's history."""

    at: str
    actor: str
    reason: str
    weights: tuple[str, ...]
    word: str
    state: str
    cause: str
    position: int


def _change(row: ChangeRow, names: Sequence[str]) -> ChangeView:
    before = {backend_key(b): b.weight for b in row.before}
    after = {backend_key(b): b.weight for b in row.after}
    moves = [f"{before[n]} → {after[n]}" if n in after and n in before else "" for n in names]
    word, kind = {"written": ("written", "good"), "refused": ("not made", "bad")}.get(row.state, ("writing", "warn"))
    return ChangeView(words.moment(row.at), row.actor, row.reason, tuple(moves), word, kind, row.cause, row.position)


async def route_page(console: Console, namespace: str, name: str) -> Reply:
    """One route."""
    route = _route(console, namespace, name)
    found = await rules(console, route.route)
    until = time.time()
    pools = sorted({b.pool for rule in route.rules for b in rule.backends if b.pool in console.state().pools})
    lines = await figures.spans(console, pools, "5m", until)
    labels = {pool: view.short for rule in found for view in rule.backends for pool in [view.pool]}
    colours = {labels[pool]: drawing.colour_of(pool, list(console.state().pools)) for pool in pools}
    named = {labels[pool]: lines[pool] for pool in pools}
    charts = [
        figures.chart(m, named, colours, "5m", until)
        for m in (figures.REQUESTS, figures.FIRST_TOKEN, figures.WAITING, figures.REFUSED)
    ]
    keys = [view.key for view in found[0].backends] if found else []
    history = [_change(row, keys) for row in await trio.to_thread.run_sync(_changes, console, route.route)]
    word, kind, sentence = _words(console, route, found, history)
    here = f"/routes/{route.route}"
    context: dict[str, object] = {
        "route": {"name": name, "namespace": namespace, "word": word, "state": kind, "sentence": sentence},
        "rules": found,
        "charts": charts,
        "changes": history,
        "here": here,
        "done": "The weights were changed: recorded, written and read back." if request.args.get("done") else "",
    }
    data: dict[str, object] = {
        "route": route.route,
        "version": route.version,
        "rules": [bare(r) for r in found],
        "changes": history,
    }
    return Reply("route.html", "_route.html", context, data | {"state": word})


def _changes(console: Console, route: str) -> list[ChangeRow]:
    with ReadModel(console.read_model) as model:
        return model.changes(route, CHANGES)


def _words(
    console: Console, route: RouteObserved, found: list[RuleView], history: list[ChangeView]
) -> tuple[str, str, str]:
    """The state of a route in a word, its colour, and a sentence."""
    if any(c.route == route.route for c in console.state().pending_changes.values()):
        return "writing", "warn", "A change was recorded and is being written."
    last = next((c for c in history if c.word == "written"), None)
    told = f"Last changed here by {last.actor}: “{last.reason}”. " if last else f"As {route.source} says. "
    if not any(view.share is not None for rule in found for view in rule.backends):
        return "not observed yet", "warn", told + "No request has come by this route in the last 5 minutes."
    if all(rule.in_step for rule in found):
        return "in step", "good", told + "The observed shares agree with the weights."
    return "moving", "warn", told + "The observed shares of the last 5 minutes do not agree with the weights yet."


# --- the form -----------------------------------------------------------------------------------------


class FormBackend(msgspec.Struct, frozen=True):
    """A backend in the form."""

    key: str
    name: str
    value: int
    seen: int


async def weights_page(console: Console, namespace: str, name: str, rule: int) -> Reply:
    """The form, with the weights as they are."""
    route = _route(console, namespace, name)
    if rule >= len(route.rules):
        raise Missing(f"The route has {len(route.rules)} rules, wanted number {rule + 1}.")
    return await _form(console, route, rule)


async def _form(
    console: Console,
    route: RouteObserved,
    rule: int,
    *,
    asked: dict[str, int] | None = None,
    change: Change | None = None,
    refused: Refused | None = None,
    form: dict[str, str] | None = None,
) -> Reply:
    """The form at any of its stages; `form` is what was sent, where something was."""
    form = form or {}
    seen = {k.removeprefix("seen:"): v for k, v in form.items() if k.startswith("seen:")}
    backends = tuple(
        FormBackend(
            backend_key(b),
            short_name(b.pool) if b.kind == "InferencePool" else f"{short_name(b.pool)} ({b.kind})",
            (asked or {}).get(backend_key(b), b.weight),
            b.weight,
        )
        for b in route.rules[rule].backends
    )
    visit = request.cookies.get(COOKIE, "")
    if not visit:
        visit = request.visit = console.access.new_visit()  # type: ignore[attr-defined]  # app.py sends it as the cookie
    conflict = [
        {"name": b.name, "seen": seen.get(b.key, "–"), "found": b.seen, "asked": (asked or {}).get(b.key, "–")}  # noqa: RUF001
        for b in backends
    ]
    context: dict[str, object] = {
        "route": {"name": short_name(route.route), "href": f"/routes/{route.route}", "source": route.source},
        "rule": {"name": rule_name(route, rule), "backends": backends},
        "plan": await _plan_view(console, change) if change else None,
        "problem": refused.reason if refused else "",
        "stale": bool(refused and refused.stale),
        "conflict": conflict if refused and refused.stale else [],
        "action": f"/routes/{route.route}/rules/{rule}/weights",
        "token": console.access.token(visit),
        "version": route.version,
        "once": form.get("once") or secrets.token_urlsafe(12),
        "reason": form.get("reason", ""),
    }
    status = 200 if refused is None else 409 if refused.stale else 422
    return Reply("weights.html", "", context, {"rule": rule, "backends": backends, "version": route.version}, status)


async def _plan_view(console: Console, change: Change) -> dict[str, object]:
    """What a change means, in numbers and in traffic."""
    state = console.state()
    pools = sorted({b.pool for b in change.after if b.pool in state.pools})
    seen = await figures.observed(console, pools)
    rate = sum(o.rate for o in seen.values())
    rows, warnings = [], []
    for old, new, was, will in zip(
        change.before, change.after, shares(change.before), shares(change.after), strict=True
    ):
        ready, members = len(state.ready(new.pool)), len(state.members(new.pool))
        name = short_name(new.pool)
        rows.append(
            {
                "name": name,
                "changed": old.weight != new.weight,
                "weight": f"{old.weight} → {new.weight}" if old.weight != new.weight else str(new.weight),
                "share": f"{words.percent(was.desired)} → {words.percent(will.desired)}",
                "rate": f"{words.rate(rate * was.desired)} → {words.rate(rate * will.desired)}",
                "ready": f"{ready} of {members} ready",
            }
        )
        if will.desired > was.desired and new.kind == "InferencePool" and not ready:
            warnings.append(f"{name} has no ready endpoint: its share of the requests would be refused with 503.")
    biggest = max(
        zip(shares(change.before), shares(change.after), strict=True), key=lambda p: abs(p[1].desired - p[0].desired)
    )
    moved = abs(biggest[1].desired - biggest[0].desired)
    sentence = (
        f"{words.percent(moved)} of the requests of {rule_name(change.route, change.rule)} move: about "
        f"{words.rate(moved * rate)} a second at the present rate."
    )
    return {"sentence": sentence, "backends": rows, "warnings": warnings}


async def change_weights(console: Console, namespace: str, name: str, rule: int) -> Reply:
    """Plan, show, and once confirmed: record the intent, write, read back."""
    form = {k: str(v) for k, v in (await request.form).items()}
    headers = {k.lower(): v for k, v in request.headers.items()}
    console.access.check_change(headers, request.cookies.get(COOKIE, ""), form.get("token", ""))
    route = _route(console, namespace, name)
    if rule >= len(route.rules):
        raise Missing(f"The route has {len(route.rules)} rules, wanted number {rule + 1}.")
    asked = _weights(form)
    reason = form.get("reason", "").strip()
    found = plan(route, rule, form.get("version", ""), asked)
    if isinstance(found, Refused):
        return await _form(console, route, rule, asked=asked, refused=found, form=form)
    if not 3 <= len(reason) <= REASON_MAX:
        wanted = Refused(f"a reason of {len(reason)} characters, wanted 3 to {REASON_MAX}: it goes into the log")
        return await _form(console, route, rule, asked=asked, refused=wanted, form=form)
    if form.get("confirmed") != "yes":
        return await _form(console, route, rule, asked=asked, change=found, form=form)
    refused = await _make(console, found, reason, form.get("once", ""))
    if refused is not None:
        return await _form(console, _route(console, namespace, name), rule, asked=asked, refused=refused, form=form)
    return Reply(location=f"/routes/{route.route}?done=1")


def _weights(form: dict[str, str]) -> dict[str, int]:
    """The weights of a form; raises `BadQuery`."""
    asked = {}
    for key, value in form.items():
        if not key.startswith("weight:"):
            continue
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            raise BadQuery(f"weight is {value[:40]!r}, wanted a whole number of 0 to {WEIGHT_MAX:,}")
        asked[key.removeprefix("weight:")] = int(value)
    return asked


async def _make(console: Console, change: Change, reason: str, once: str) -> Refused | None:
    """Make a change: the intent is on disk before the file is touched, its end after it was read back."""
    if not once or len(once) > 40:
        raise Refusal(403, "the form has lost its number: open the page again")
    if once in console.used_forms:
        return Refused("this form was sent before: its change is in the history", stale=True)
    console.used_forms[once] = None
    while len(console.used_forms) > USED_FORMS_MAX:
        del console.used_forms[next(iter(console.used_forms))]
    route = change.route
    intent = WeightsIntended(
        once, route.route, change.rule, route.version, change.before, change.after, ACTOR, reason, time.time()
    )
    await console.append(intent)
    with trio.CancelScope(shield=True):  # whoever asked may go away: what was begun gets its end
        try:
            version = await console.write_weights(route, change.rule, change.touched)
        except WeightsNotWritten as error:
            await console.append(WeightsRefused(once, str(error)))
            return Refused(str(error), stale=error.stale)
        await console.append(WeightsWritten(once, version))
        with trio.move_on_after(SEEN_WITHIN):
            while console.state().routes.get(route.route, route).version == route.version:
                await trio.sleep(0.02)
    return None


USED_FORMS_MAX = 10_000
"""Forms remembered so that none is used twice; a page is left open for hours, not for that many changes."""
SEEN_WITHIN = 3.0
"""Seconds for the written route to come back by way of its source before the page is shown."""
