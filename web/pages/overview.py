"""The first page: what to do, and the state of the whole in one look."""

import time
import uuid

import trio

from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters
from pointsman.web.console import Console, build, command_line
from pointsman.web.drawing import words
from pointsman.web.drawing.wall import cell_bar
from pointsman.web.pages import figures, pools, routes, wall
from pointsman.web.pages.judgement import judged
from pointsman.web.pages.reply import Reply
from pointsman.web.pages.strip import strip

KEYS = (
    ("g o, g p, g r, g d, g l", "go to overview, pools, routes, decisions, log"),
    ("j, k", "next and previous row"),
    ("Enter", "open the row"),
    ("/", "search"),
    ("p", "pause what refreshes itself, and resume it"),
    ("?", "this page"),
)
WORDS = (
    ("pool", "an InferencePool: interchangeable endpoints behind one picker port"),
    ("endpoint", "one address and port that serves a model"),
    ("decision", "which endpoint a request was sent to, or why it was refused"),
    ("filter, scorer, picker", "the plugins of a scheduling profile: who may answer, how well each fits, who it is"),
    ("desired and observed", "the share that the weights ask for, and the share that the traffic shows"),
    ("in step", "the observed shares agree with the weights, within the uncertainty of what was observed"),
    ("verified", "computed again from the log alone, and the same to the last bit"),
    ("degraded", "decided while the picker process had no feed from the control process"),
    ("in flight", "routed and not yet ended"),
    ("behind", "how long the last commit took: what was decided since is not in the log yet"),
)


async def page(console: Console) -> Reply:
    """The overview."""
    found = await judged(console)
    fills = wall.all_fills(console.state())  # before anything is waited for: what is judged is what is drawn
    pool_rows, rules = await pools.rows(console), await routes.rules(console)
    seen = await figures.observed(console, sorted(console.state().pools))
    latest = await trio.to_thread.run_sync(_latest, console)
    totals = _totals(console, list(seen.values()))
    now = await wall.found(console, rules, found, fills) if latest else None
    context: dict[str, object] = {
        "headline": found.headline,
        "state": found.severity.colour,
        "pools": pool_rows,
        "routes": rules,
        "totals": totals,
        "latest": latest,
        "wall": now,
        "bar": cell_bar,
        "manifests": console.manifests,
        "curl": _curl(console.gateway),
        "verify": command_line("replay", "verify", "--data-dir", str(console.data_directory)),
    }
    data = {
        "headline": found.headline,
        "findings": found.findings,
        "pools": pool_rows,
        "routes": [routes.bare(r) for r in rules],
        "totals": totals,
        "wall": now.named() if now else None,
        "strip": await strip(console),
    }
    return Reply("overview.html", "_overview.html", context, data)


def _totals(console: Console, seen: list[figures.PoolTraffic]) -> dict[str, object]:
    state, log, feed = console.state(), console.log(), console.feed()
    members = list(state.endpoints.values())
    stalled = f"no commit for {words.duration(time.time() - log.stalled_since)}" if log.stalled_since else ""
    pickers = words.plural(feed.connected, "picker process", "picker processes")
    return {
        "requests_per_second": sum(o.rate for o in seen),
        "requests": sum(o.requests_minute for o in seen),
        "refused": sum(o.refused_minute for o in seen),
        "ready": sum(m.ready for m in members),
        "members": len(members),
        "pools": len(state.pools),
        "behind_seconds": log.commit_duration,
        "stalled": stalled,
        "feed": "connected" if feed.connected else "not connected",
        "feed_note": f"{pickers}, {words.plural(feed.backlog, 'entry', 'entries')} behind, {feed.entries_lost} lost",
        "pickers": feed.connected,
        "entries_behind": feed.backlog,
        "entries_lost": feed.entries_lost,
    }


def _curl(gateway: str) -> tuple[str, str]:
    """A command that sends a request, and the request's id; a new one with each page."""
    if not gateway:
        return "", ""
    name = str(uuid.uuid4())
    body = '{"model": "food-review-1", "prompt": "Write as if you were a critic: San Francisco", "max_tokens": 100}'
    head = f"curl -si {gateway}/v1/completions -H 'content-type: application/json' -H 'x-request-id: {name}'"
    return f"{head} -d '{body}'", name


def _latest(console: Console) -> dict[str, object] | None:
    with open_read_model(console.read_model) as model:
        found = model.decisions(Filters(), limit=1).rows
        if not found:
            return None
        row = found[0]
        names = model.endpoint_names([row.endpoint] if row.endpoint is not None else [])
    return {
        "position": row.position,
        "model": row.model,
        "endpoint": next((e.full_name for e in names.values()), ""),
        "reason": row.reason,
        "at": words.moment(row.decided_at),
    }


async def help_page(console: Console) -> Reply:
    """The page that explains the console's keys and words."""
    data = {"version": build(), "keys": dict(KEYS), "words": dict(WORDS)}
    return Reply("help.html", "", {"version": build(), "keys": KEYS, "words": WORDS}, data)
