"""The form that changes a route's weights, and its JSON twin: parsed, asked for, and the outcome shown.

Rules.  Nothing is asked for before the page has shown what will change and that was confirmed.
What is filled in stands in the address until then, so that it can be reloaded, and gone back to.
A form is used once; form and twin rest on the version of the route that they showed.
A form of an earlier life of this process is shown once more with what was filled in, and changes nothing.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from quart import g, request

from pointsman.core.events import RouteObserved
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal
from pointsman.core.rollout.weights import WEIGHT_MAX, PlannedChange, WeightsAsked, backend_key, plan, shares
from pointsman.web.access import COOKIE, AccessRefused, TokenRefused
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import words
from pointsman.web.pages import figures
from pointsman.web.pages.reply import BadQuery, Missing, Reply
from pointsman.web.pages.routes import backend_name, route_of, rule_name

ACTOR = "someone on this machine"
"""Name recorded for whoever changes weights: without sign-in, people cannot be told apart."""
KEPT = ("version", "reason", "show")
"""Fields of the form that its address holds, beside weights; never its token."""
AGAIN = (
    "Nothing was changed: Pointsman was started again after this form was opened."
    " What you filled in is kept; look at it and send it once more."
)
USED_FORMS_MAX = 10_000
"""Forms remembered so that none is used twice; a page is left open for hours, not for that many changes."""


class FormBackend(msgspec.Struct, frozen=True):
    """A backend in the form."""

    key: str
    pool: str
    name: str
    value: int
    seen: int
    share: float


class FormAttempt(msgspec.Struct, frozen=True):
    """A form as it was sent, and what came of it so far."""

    form: dict[str, str] = {}
    asked: dict[str, int] = {}
    change: PlannedChange | None = None
    refused: ChangeRefusal | None = None
    note: str = ""
    """Words for what has to be known of the form; empty for nothing."""
    status: int = 200


class JsonChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of the twin's POST."""

    token: str
    """Token from the answer to the GET before, which also set the cookie."""
    version: str
    weights: dict[str, Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]]
    """New weights by the backends' keys; those that are not named stay."""
    reason: str


async def form_page(console: Console, namespace: str, name: str, rule: int) -> Reply:
    """The form with the weights as they are, or as the address fills it in; with `show=change` what would change."""
    route = _route(console, namespace, name, rule)
    theirs = request.headers.get("Sec-Fetch-Site", "") in ("cross-site", "same-site")  # a link that fills in for us
    given = {} if theirs else request.args
    form = {name: value for name, value in given.items() if name in KEPT or name.startswith(("weight:", "seen:"))}
    weights = _weights(form)
    attempt = FormAttempt(form, weights)
    backends = route.rules[rule].backends
    if form.get("show") == "change":
        same = all(weights.get(backend_key(b), b.weight) == b.weight for b in backends)
        if weights and same and form.get("version") != route.version:  # gone back to after it was done
            return await _form(console, route, rule, FormAttempt({}, note="These are the weights of the route now."))
        asked = WeightsAsked(route.route, rule, form.get("version", ""), weights, form.get("reason", ""), ACTOR)
        planned = plan(asked, route)
        refused = isinstance(planned, ChangeRefusal)
        attempt = FormAttempt(form, weights, *((None, planned) if refused else (planned, None)))
    return await _form(console, route, rule, attempt)


def _address(path: str, form: Mapping[str, str], **more: str) -> str:
    """The address of the form filled in."""
    kept = {k: v for k, v in form.items() if k in ("version", "reason") or k.startswith(("weight:", "seen:"))}
    return f"{path}?{urlencode(kept | more)}"


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
            s.backend.pool,
            backend_name(s.backend),
            asked.get(backend_key(s.backend), s.backend.weight),
            s.backend.weight,
            s.desired,
        )
        for s in shares(route.rules[rule].backends)
    )
    visit = request.cookies.get(COOKIE, "")
    if not visit:
        visit = g.visit = console.access.new_visit()  # sent as the cookie with this page
    token = console.access.token(visit)
    conflict = [
        {"name": b.name, "seen": seen.get(b.key, "–"), "found": b.seen, "asked": asked.get(b.key, "–")}  # noqa: RUF001
        for b in backends
    ]
    stale = refused is not None and refused.stale
    path = f"/routes/{route.route}/rules/{rule}/weights"
    context: dict[str, object] = {
        "route": {"name": short_name(route.route), "href": f"/routes/{route.route}", "source": route.source},
        "rule": {"name": rule_name(route, rule), "backends": backends},
        "plan": await _plan_view(console, attempt.change) if attempt.change else None,
        "unwritable": route.rules[rule].unwritable,
        "problem": refused.sentence if refused else "",
        "stale": stale,
        "unknown": refused is not None and refused.unknown,
        "conflict": conflict if stale and seen else [],
        "note": attempt.note,
        "action": path,
        "edit": _address(path, form),
        "token": token,
        "version": route.version,
        # A form that was used, or refused as stale, gets a new number and can be sent again.
        "once": secrets.token_urlsafe(12) if stale or not form.get("once") else form["once"],
        "reason": form.get("reason", ""),
    }
    data = {
        "route": route.route,
        "rule": rule,
        "name": rule_name(route, rule),
        "backends": backends,
        "version": route.version,
        "unwritable": route.rules[rule].unwritable,
        "token": token,
    }
    return Reply("weights.html", "", context, data, attempt.status if refused is None else _status(refused))


def _status(refused: ChangeRefusal) -> int:
    return 409 if refused.stale else 422


async def _plan_view(console: Console, change: PlannedChange) -> dict[str, object]:
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
    """Ask for the change that was shown and confirmed; a form that was not shown yet is shown."""
    form = {k: str(v) for k, v in (await request.form).items()}
    route, weights = _route(console, namespace, name, rule), _weights(form)
    if form.get("confirmed") != "yes":
        shown = {} if form.get("confirmed") == "" else {"show": "change"}
        return Reply(location=_address(f"/routes/{route.route}/rules/{rule}/weights", form, **shown))
    try:
        _check_access(console, form.get("token", ""))
    except TokenRefused as error:
        # Whoever came here from a page of ours has lost nothing but the page.
        kept = {k: v for k, v in form.items() if k != "once"}
        return await _form(console, route, rule, FormAttempt(kept, weights, note=f"{AGAIN} ({error}.)", status=403))
    asked = WeightsAsked(route.route, rule, form.get("version", ""), weights, form.get("reason", ""), ACTOR)
    planned = plan(asked, route)
    if isinstance(planned, ChangeRefusal):
        return await _form(console, route, rule, FormAttempt(form, weights, refused=planned))
    outcome = _use_up(console, form.get("once", "")) or await console.change_weights(asked)
    if isinstance(outcome, ChangeRefusal):
        route = _route(console, namespace, name, rule)
        return await _form(console, route, rule, FormAttempt(form, weights, refused=outcome))
    return Reply(location=f"/routes/{route.route}?done=1")


async def change_by_json(console: Console, namespace: str, name: str, rule: int) -> Reply:
    """Ask for the change that a POST of JSON tells, and answer with the outcome."""
    # A browser sends this content type for a page of another site only if we allow it when asked, which we never do.
    if request.mimetype != "application/json":
        raise AccessRefused(415, f"content type is {request.mimetype[:100]!r}, wanted application/json")
    try:
        body = msgspec.json.decode(await request.get_data(), type=JsonChange)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadQuery(f"the body is not what a change of weights has: {error}") from error
    _check_access(console, body.token)
    route = _route(console, namespace, name, rule)
    asked = WeightsAsked(route.route, rule, body.version, body.weights, body.reason, ACTOR)
    outcome = await console.change_weights(asked)
    told: dict[str, object] = {"route": route.route, "rule": rule, "name": rule_name(route, rule)}
    if isinstance(outcome, ChangeRefusal):
        status = _status(outcome)
        told |= {"outcome": "unknown" if outcome.unknown else "refused", "error": outcome.sentence, "status": status}
        return Reply(data=told | msgspec.structs.asdict(outcome), status=status)
    backends = [
        {
            "key": backend_key(new),
            "pool": new.pool,
            "name": backend_name(new),
            "before": old.weight,
            "after": new.weight,
        }
        for old, new in zip(outcome.before, outcome.after, strict=True)
    ]
    told |= {"outcome": "done", "change": outcome.change, "version": outcome.version, "backends": backends}
    return Reply(data=told)


def _check_access(console: Console, token: str) -> None:
    headers = {k.lower(): v for k, v in request.headers.items()}
    console.access.check_change(headers, request.cookies.get(COOKIE, ""), token)


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


def _use_up(console: Console, once: str) -> ChangeRefusal | None:
    """Remember that the form with this number was sent; return why it is refused where it was sent before."""
    if not once or len(once) > 40:
        raise AccessRefused(403, "the form has lost its number: open the page again")
    if once in console.used_forms:
        found = "this form was sent before: what came of it is in the route's history"
        return ChangeRefusal(ChangeCode.FORM_USED, found, "a form that was not sent yet")
    console.used_forms[once] = None
    while len(console.used_forms) > USED_FORMS_MAX:
        del console.used_forms[next(iter(console.used_forms))]
    return None
