"""The form that changes a route's weights: what will change, why, and only then the change.

Rules.  The intent is in the log before the file is touched; the page confirms after the file was read back.
A form is used once, and rests on the version of the route that it showed.
"""

import secrets
import time

import msgspec
import trio
from quart import g, request

from pointsman.core.events import RouteObserved, WeightsIntended, WeightsRefused, WeightsWritten
from pointsman.core.rollout.weights import REASON_MAX, WEIGHT_MAX, Change, Refused, backend_key, plan, shares
from pointsman.eventlog.errors import LogFullError
from pointsman.web.access import COOKIE, AccessRefused
from pointsman.web.console import Console, WeightsNotWritten, short_name
from pointsman.web.drawing import words
from pointsman.web.pages import figures
from pointsman.web.pages.reply import BadQuery, Missing, Reply
from pointsman.web.pages.routes import backend_name, route_of, rule_name

ACTOR = "someone on this machine"
"""Who changes weights as long as there is no sign-in: nobody is told apart."""
REASON_MIN = 3
USED_FORMS_MAX = 10_000
"""Forms remembered so that none is used twice; a page is left open for hours, not for that many changes."""
RECORDED_WITHIN = 5.0
"""Seconds for the disk to take an entry before the page says that it does not."""
SEEN_WITHIN = 3.0
"""Seconds for the written route to come back by way of its source before the page is shown."""


class FormBackend(msgspec.Struct, frozen=True):
    """A backend in the form."""

    key: str
    name: str
    value: int
    seen: int
    share: str


class FormAttempt(msgspec.Struct, frozen=True):
    """What was sent, and what came of it so far."""

    form: dict[str, str] = {}
    asked: dict[str, int] = {}
    change: Change | None = None
    refused: Refused | None = None


async def form_page(console: Console, namespace: str, name: str, rule: int) -> Reply:
    """The form, with the weights as they are."""
    return await _form(console, _route(console, namespace, name, rule), rule, FormAttempt())


def _route(console: Console, namespace: str, name: str, rule: int) -> RouteObserved:
    route = route_of(console, namespace, name)
    if rule >= len(route.rules):
        raise Missing(f"The route has {words.plural(len(route.rules), 'rule')}, wanted number {rule + 1:,}.")
    return route


async def _form(console: Console, route: RouteObserved, rule: int, attempt: FormAttempt) -> Reply:
    """The form at any of its stages."""
    form, asked, refused = attempt.form, attempt.asked, attempt.refused
    seen = {k.removeprefix("seen:"): v[:12] for k, v in form.items() if k.startswith("seen:")}
    backends = tuple(
        FormBackend(
            backend_key(s.backend),
            backend_name(s.backend),
            asked.get(backend_key(s.backend), s.backend.weight),
            s.backend.weight,
            words.percent(s.desired),
        )
        for s in shares(route.rules[rule].backends)
    )
    visit = request.cookies.get(COOKIE, "")
    if not visit:
        visit = g.visit = console.access.new_visit()  # sent as the cookie with this page
    conflict = [
        {"name": b.name, "seen": seen.get(b.key, "–"), "found": b.seen, "asked": asked.get(b.key, "–")}  # noqa: RUF001
        for b in backends
    ]
    stale = refused is not None and refused.stale
    context: dict[str, object] = {
        "route": {"name": short_name(route.route), "href": f"/routes/{route.route}", "source": route.source},
        "rule": {"name": rule_name(route, rule), "backends": backends},
        "plan": await _plan_view(console, attempt.change) if attempt.change else None,
        "problem": refused.reason if refused else "",
        "stale": stale,
        "conflict": conflict if stale and seen else [],
        "action": f"/routes/{route.route}/rules/{rule}/weights",
        "token": console.access.token(visit),
        "version": route.version,
        # A form that was used up, or refused as stale, goes on as a new one.
        "once": secrets.token_urlsafe(12) if stale or not form.get("once") else form["once"],
        "reason": form.get("reason", ""),
    }
    status = 200 if refused is None else 409 if stale else 422
    return Reply("weights.html", "", context, {"rule": rule, "backends": backends, "version": route.version}, status)


async def _plan_view(console: Console, change: Change) -> dict[str, object]:
    """What a change means, in numbers and in traffic."""
    state = console.state()
    seen = await figures.observed(console, sorted({b.pool for b in change.after if b.pool in state.pools}))
    rate = sum(o.rate for o in seen.values())
    rows, warnings, moved = [], [], 0.0
    for was, will in zip(shares(change.before), shares(change.after), strict=True):
        old, new = was.backend, will.backend
        ready, members = len(state.ready(new.pool)), len(state.members(new.pool))
        name = backend_name(new)
        moved = max(moved, abs(will.desired - was.desired))
        rows.append(
            {
                "name": name,
                "changed": old.weight != new.weight,
                "weight": _arrow(str(old.weight), str(new.weight)),
                "share": _arrow(words.percent(was.desired), words.percent(will.desired)),
                "rate": _arrow(words.rate(rate * was.desired), words.rate(rate * will.desired)),
                "ready": f"{ready} of {members} ready",
            }
        )
        if will.desired > was.desired and new.kind == "InferencePool" and not ready:
            warnings.append(f"{name} has no ready endpoint: its share of the requests would be refused with 503.")
    sentence = (
        f"{words.percent(moved)} of the requests of {rule_name(change.route, change.rule)} move: "
        f"about {words.rate(moved * rate)} a second at the present rate of {words.rate(rate)}."
    )
    return {"sentence": sentence, "backends": rows, "warnings": warnings}


def _arrow(old: str, new: str) -> str:
    return f"{old} → {new}" if old != new else old


async def change(console: Console, namespace: str, name: str, rule: int) -> Reply:
    """Plan, show, and once confirmed: record the intent, write, read back."""
    form = {k: str(v) for k, v in (await request.form).items()}
    headers = {k.lower(): v for k, v in request.headers.items()}
    console.access.check_change(headers, request.cookies.get(COOKIE, ""), form.get("token", ""))
    route = _route(console, namespace, name, rule)
    asked = _weights(form)
    reason = form.get("reason", "").strip()
    if form.get("confirmed") == "":
        return await _form(console, route, rule, FormAttempt(form, asked))
    found = plan(route, rule, form.get("version", ""), asked)
    if isinstance(found, Refused):
        return await _form(console, route, rule, FormAttempt(form, asked, refused=found))
    if not REASON_MIN <= len(reason) <= REASON_MAX or not reason.isprintable():
        wanted = f"the reason has {len(reason)} characters, wanted {REASON_MIN} to {REASON_MAX} that can be read"
        return await _form(console, route, rule, FormAttempt(form, asked, refused=Refused(wanted)))
    if form.get("confirmed") != "yes":
        return await _form(console, route, rule, FormAttempt(form, asked, change=found))
    refused = await _make(console, found, reason, form.get("once", ""))
    if refused is not None:
        route = _route(console, namespace, name, rule)
        return await _form(console, route, rule, FormAttempt(form, asked, refused=refused))
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


async def _make(console: Console, wanted: Change, reason: str, once: str) -> Refused | None:
    """Make a change: the intent is on disk before the file is touched, its end after it was read back."""
    if not once or len(once) > 40:
        raise AccessRefused(403, "the form has lost its number: open the page again")
    if once in console.used_forms:
        return Refused("this form was sent before: what came of it is in the route's history", stale=True)
    console.used_forms[once] = None
    while len(console.used_forms) > USED_FORMS_MAX:
        del console.used_forms[next(iter(console.used_forms))]
    route, name = wanted.route, secrets.token_hex(8)
    intent = WeightsIntended(
        name, route.route, wanted.rule, route.version, wanted.before, wanted.after, ACTOR, reason, time.time()
    )
    # Shielded: whoever asked may go away, and what was begun gets its end.  Each wait for the disk has its own.
    try:
        with trio.move_on_after(RECORDED_WITHIN, shield=True) as scope:
            await console.append(intent)
    except LogFullError as error:
        return Refused(f"the change could not be recorded, so it was not made: {error}")
    if scope.cancelled_caught:
        late = f"the disk did not take the intent within {RECORDED_WITHIN:.0f} s, so nothing was written"
        await _end(console, WeightsRefused(name, late))
        return Refused(late)
    try:
        with trio.CancelScope(shield=True):
            version = await console.write_weights(route, wanted.rule, wanted.touched)
    except WeightsNotWritten as error:
        await _end(console, WeightsRefused(name, str(error)))
        return Refused(str(error), stale=error.stale)
    await _end(console, WeightsWritten(name, version))
    with trio.move_on_after(SEEN_WITHIN):
        while console.state().routes.get(route.route, route).version == route.version:
            await trio.sleep(0.02)
    return None


async def _end(console: Console, event: WeightsWritten | WeightsRefused) -> None:
    """Record what became of a change; a disk that stalls takes it later."""
    with trio.move_on_after(RECORDED_WITHIN, shield=True):
        await console.append(event)
