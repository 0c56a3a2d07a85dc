"""The first page: what to do, and the state of the whole in one look."""

import time

import trio

from pointsman.eventlog.readmodel import Filters, ReadModel
from pointsman.web import pools, routes, words
from pointsman.web.console import Console, build, strip
from pointsman.web.pages import Reply

KEYS = (
    ("g o, g p, g r, g d, g l", "go to overview, pools, routes, decisions, log"),
    ("j, k", "next and previous row"),
    ("/", "search"),
    ("?", "this page"),
)
WORDS = (
    ("pool", "an InferencePool: interchangeable endpoints behind one picker port"),
    ("endpoint", "one address and port that serves a model"),
    ("decision", "which endpoint a request was sent to, or why it was refused"),
    ("filter, scorer, picker", "the plugins of a scheduling profile: who may answer, how well each fits, who it is"),
    ("desired and observed", "the share that the weights ask for, and the share that the traffic shows"),
    ("verified", "computed again from the log alone, and the same to the last bit"),
    ("degraded", "decided while the picker process had no feed from the control process"),
    ("in flight", "routed and not yet ended"),
)


async def page(console: Console) -> Reply:
    """The overview."""
    pool_rows, rules = await pools.rows(console), await routes.rules(console)
    latest = await trio.to_thread.run_sync(_latest, console)
    state, log, feed = console.state(), console.log(), console.feed()
    members = list(state.endpoints.values())
    rate = sum(float(p.rate.replace(",", "")) for p in pool_rows)
    now = time.time()
    stalled = f"no commit for {words.duration(now - log.stalled_since)}" if log.stalled_since else ""
    totals = {
        "rate": words.rate(rate),
        "requests": words.count(rate * 60),
        "refused": sum(p.refused for p in pool_rows),
        "ready": sum(m.ready for m in members),
        "members": len(members),
        "lag": words.duration(log.commit_duration),
        "stalled": stalled,
        "feed": "connected" if feed.connected else "not connected",
        "feed_note": f"{words.plural(feed.connected, 'picker process', 'picker processes')}, {feed.entries_lost} entries lost",
    }
    ready = all(p.ready for p in pool_rows)
    headline = (
        "Every pool is ready" if pool_rows and ready else "A pool has no ready endpoint" if pool_rows else "No pool yet"
    )
    context: dict[str, object] = {
        "headline": headline,
        "pools": pool_rows,
        "routes": rules,
        "totals": totals,
        "latest": latest,
        "manifests": console.manifests,
        "curl": _curl(console.gateway),
        "verify": f"pointsman replay verify --data-dir {console.data_directory}",
    }
    data = {"pools": pool_rows, "routes": [routes.bare(r) for r in rules], "totals": totals, "strip": strip(console)}
    return Reply("overview.html", "_overview.html", context, data)


def _curl(gateway: str) -> str:
    if not gateway:
        return ""
    body = '{"model": "food-review-1", "prompt": "Write as if you were a critic: San Francisco", "max_tokens": 100, "temperature": 0}'
    return f"curl -i {gateway}/v1/completions -H 'Content-Type: application/json' -d '{body}'"


def _latest(console: Console) -> dict[str, object] | None:
    with ReadModel(console.read_model) as model:
        found = model.decisions(Filters(), limit=1).rows
        if not found:
            return None
        row = found[0]
        name = next((e.name for e in model.endpoints(row.pool) if e.number == row.endpoint), "")
    return {
        "position": row.position,
        "model": row.model,
        "endpoint": name,
        "reason": row.reason,
        "at": words.moment(row.decided_at),
    }


async def strip_page(console: Console) -> Reply:
    """The strip alone, for pages that refresh it."""
    return Reply("_strip.html", "_strip.html", {}, strip(console))


async def help_page(console: Console) -> Reply:
    """Keys and words."""
    return Reply("help.html", "", {"version": build(), "keys": KEYS, "words": WORDS}, {"version": build()})
