"""What the overview shows once there is traffic: routes, pools and endpoints as one ribbon, figures, what happened."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import trio
from markupsafe import Markup

from pointsman.core.deciding.profile import endpoint_saturations, pool_saturation
from pointsman.core.deciding.refusals import refusal
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.rows import Span
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import svg, words
from pointsman.web.drawing.wall import CELLS_MAX, WallBranch, WallCell, WallPool, WallRule, wall
from pointsman.web.pages import figures, log_page
from pointsman.web.pages.judgement import FILLING, SATURATED, Judgement, unknown
from pointsman.web.pages.routes import BackendView, RuleView

OVER = 300
"""Seconds over which refusals, failures and tokens are counted."""
EVENTS = 10
"""Entries that are told under the figures."""


class EndpointFill(msgspec.Struct, frozen=True):
    """An endpoint on the wall."""

    name: str
    number: int
    saturation: float | None
    """Saturation of it alone by the detector in force; None where its load is not known."""
    waiting: int | None
    kv_cache_share: float | None
    state: str
    words: str


class LoadedAdapter(msgspec.Struct, frozen=True):
    """A LoRA adapter that endpoints hold."""

    name: str
    loaded_on: int
    """Number of endpoints that hold it."""


class PoolFill(msgspec.Struct, frozen=True):
    """A pool on the wall."""

    pool: str
    saturation: float | None
    imbalance: float | None
    """Saturation of the fullest endpoint over the mean of those that are known; None where all are empty."""
    fullest: str
    """Name of the fullest endpoint; empty where nothing is known of any."""
    fullest_saturation: float | None
    endpoints: tuple[EndpointFill, ...]
    adapters: tuple[LoadedAdapter, ...]

    @property
    def headroom(self) -> float | None:
        """Share of the pool that is free until it is saturated."""
        return None if self.saturation is None else max(0.0, SATURATED - self.saturation)

    @property
    def excess(self) -> float:
        """Saturation of the fullest endpoint above the mean: a multiple of next to nothing is no imbalance."""
        full, imbalance = self.fullest_saturation, self.imbalance
        return full - full / imbalance if full is not None and imbalance else 0.0


class WallFigures(msgspec.Struct, frozen=True):
    """The numbers that a team asks for; rates and counts over the last five minutes."""

    requests_per_second: float
    completion_tokens_per_second: float
    first_token: figures.FirstTokens
    refused: int
    refused_by_reason: dict[str, int]
    failed: int
    failed_share: float | None
    """Share of the requests that ended; None where none did."""
    cached_prompt_share: float | None
    """Share of prompt tokens that servers had in their caches; None where no answer told of cached tokens."""
    headroom_share: float | None
    """Headroom of the pool that has least of it, as a share of that pool."""
    headroom_pool: str
    imbalance: float | None
    """Imbalance of the pool whose fullest endpoint is furthest above the mean."""
    imbalance_pool: str
    fullest_endpoint: str
    """Name of the fullest endpoint of that pool."""
    fullest_saturation: float | None
    changing: tuple[str, ...]
    """Routes whose weights are being written."""


class ShownFigure(msgspec.Struct, frozen=True):
    """A figure as it is shown."""

    name: str
    value: str
    note: str
    href: str = ""


class Happening(msgspec.Struct, frozen=True):
    """An entry of the log in words."""

    position: int
    at: str
    words: str


class Wall(msgspec.Struct, frozen=True):
    """The whole."""

    figures: WallFigures
    facts: tuple[ShownFigure, ...]
    rules: tuple[WallRule, ...]
    pools: tuple[WallPool, ...]
    fills: tuple[PoolFill, ...]
    events: tuple[Happening, ...]
    picture: Markup

    def named(self) -> dict[str, object]:
        """The values by name, for the JSON twin."""
        fills = [msgspec.structs.asdict(one) | {"headroom_share": one.headroom} for one in self.fills]
        return {"figures": self.figures, "pools": fills, "events": self.events}


async def found(console: Console, rules: Sequence[RuleView], judgement: Judgement, fills: tuple[PoolFill, ...]) -> Wall:
    """The wall, with pools as full as they were when they were judged."""
    state = console.state()
    traffic = await figures.observed(console, [one.pool for one in fills])
    numbers = await _figures(console, fills, traffic)
    events = tuple(Happening(e.position, e.at, e.words) for e in await log_page.latest(console, EVENTS))
    wanted = tuple(_rule(rule, traffic) for rule in rules if rule.backends)
    pools = (*(_pool(state, one, rules, judgement) for one in fills), *_strangers(rules, state))
    told = "; ".join(f"{rule.name}: {', '.join(_branch(b) for b in rule.backends)}" for rule in rules if rule.backends)
    picture = wall(f"Routes, pools and endpoints. {told or 'No route'}", wanted, pools)
    return Wall(numbers, _facts(numbers, fills), wanted, pools, fills, events, picture)


# --- how full -----------------------------------------------------------------------------------------


def all_fills(state: ClusterState) -> tuple[PoolFill, ...]:
    """Every pool, by name."""
    return tuple(fill(state, pool) for pool in sorted(state.pools))


def fill(state: ClusterState, pool: str) -> PoolFill:
    """How full a pool and its endpoints are, by the detector that refuses for it."""
    known = endpoint_saturations(state, pool)
    endpoints = []
    held: Counter[str] = Counter()
    for member in state.members(pool):
        slot, value = member.slot, known.get(member.slot)
        held.update(state.adapters[slot].loaded)
        told = value is not None and not unknown(state, float(state.age[slot]))
        waiting, used = (int(state.waiting[slot]), float(state.kv_cache[slot])) if told else (None, None)
        if not member.ready:
            kind, said = "bad", "not ready"
        elif value is None or waiting is None or used is None:
            kind, said = "warn", "load not known"
        else:
            kind = "bad" if value >= SATURATED else "warn" if value >= FILLING else ""
            said = f"{words.percent(value, 0)} full, {words.count(waiting)} waiting, KV cache {words.percent(used, 0)}"
        endpoints.append(EndpointFill(member.full_name, member.number, value, waiting, used, kind, said))
    full = {one.name: one.saturation for one in endpoints if one.saturation is not None}
    fullest = max(full, key=lambda name: full[name], default="")
    mean = sum(full.values()) / len(full) if full else 0.0
    adapters = tuple(LoadedAdapter(name, count) for name, count in sorted(held.items()))
    imbalance = full[fullest] / mean if mean else None
    most = full.get(fullest)
    return PoolFill(pool, pool_saturation(state, pool), imbalance, fullest, most, tuple(endpoints), adapters)


# --- the figures --------------------------------------------------------------------------------------


async def _figures(
    console: Console, fills: Sequence[PoolFill], traffic: Mapping[str, figures.PoolTraffic]
) -> WallFigures:
    now = time.time()
    begun = await figures.first_tokens(console)

    def read() -> tuple[list[Span], dict[str, int]]:
        with open_read_model(console.read_model) as model:
            spans = [span for one in fills for span in model.rollups(one.pool, now - OVER, now)]
            return spans, model.refusals(now - OVER, now)

    spans, reasons = await trio.to_thread.run_sync(read)
    ended, failed = sum(s.finished for s in spans), sum(s.errors for s in spans)
    prompt, cached = sum(s.prompt_tokens for s in spans), sum(s.cached_tokens for s in spans)
    age = min(float(OVER), now - min((s.start for s in spans), default=now))
    least = min((one for one in fills if one.headroom is not None), key=lambda one: one.headroom or 0.0, default=None)
    uneven = max((one for one in fills if one.imbalance is not None), key=lambda one: one.excess, default=None)
    return WallFigures(
        requests_per_second=sum(one.rate for one in traffic.values()),
        completion_tokens_per_second=sum(s.completion_tokens for s in spans) / age if age else 0.0,
        first_token=begun,
        refused=sum(reasons.values()),
        refused_by_reason=reasons,
        failed=failed,
        failed_share=failed / ended if ended else None,
        cached_prompt_share=cached / prompt if cached and prompt else None,
        headroom_share=least.headroom if least else None,
        headroom_pool=least.pool if least else "",
        imbalance=uneven.imbalance if uneven else None,
        imbalance_pool=uneven.pool if uneven else "",
        fullest_endpoint=uneven.fullest if uneven else "",
        fullest_saturation=uneven.fullest_saturation if uneven else None,
        changing=tuple(sorted(change.route for change in console.state().pending_changes.values())),
    )


def _facts(found: WallFigures, fills: Sequence[PoolFill]) -> tuple[ShownFigure, ...]:
    """The figures in words."""
    begun, held = found.first_token, _adapters(fills)
    p50 = f"p95 · p50 {words.duration(begun.p50_seconds)} · last {words.plural(begun.streamed, 'streamed answer')}"
    reasons = ", ".join(f"{words.count(n)} {_reason(one)}" for one, n in sorted(found.refused_by_reason.items()))
    failed = "none ended" if found.failed_share is None else f"{words.percent(found.failed_share, 2)} failed"
    imbalance = "–" if found.imbalance is None else f"{found.imbalance:.1f}×"  # noqa: RUF001
    return (
        ShownFigure(
            "requests",
            f"{words.rate(found.requests_per_second)} /s",
            f"{words.count(found.completion_tokens_per_second)} tokens/s out",
            "/decisions",
        ),
        ShownFigure(
            "first token, streamed", words.duration(begun.p95_seconds), p50 if begun.streamed else "nothing streamed"
        ),
        ShownFigure(
            "refused · failed",
            f"{words.count(found.refused)} · {words.count(found.failed)}",
            f"last 5 minutes: {reasons or 'none refused'}; {failed}",
            "/decisions?status=refused",
        ),
        ShownFigure(
            "prefix hits",
            _percent(found.cached_prompt_share),
            "of prompt tokens were in a cache"
            if found.cached_prompt_share is not None
            else "no answer told of cached tokens",
        ),
        ShownFigure(
            "headroom",
            _percent(found.headroom_share),
            f"until {short_name(found.headroom_pool)} is saturated" if found.headroom_pool else "no load is known",
        ),
        ShownFigure(
            "imbalance",
            imbalance,
            f"over the mean: {found.fullest_endpoint}, {_percent(found.fullest_saturation)} full"
            if found.fullest_endpoint
            else "nothing is loaded",
        ),
        ShownFigure(
            "adapters loaded", words.count(len(held)), ", ".join(f"{n} on {c}" for n, c in held.items()) or "none"
        ),
        ShownFigure(
            "change of weights",
            "writing" if found.changing else "none",
            ", ".join(map(short_name, found.changing)) or "being written now",
        ),
    )


def _adapters(fills: Sequence[PoolFill]) -> Mapping[str, int]:
    held: Counter[str] = Counter()
    for one in fills:
        for adapter in one.adapters:
            held[adapter.name] += adapter.loaded_on
    return dict(sorted(held.items()))


def _percent(share: float | None) -> str:
    """A share of 0 to 1 in whole per cents; a dash where it is not known."""
    return words.duration(None) if share is None else words.percent(share, 0)


def _reason(name: str) -> str:
    return refusal(name).brief or name


# --- the ribbon ---------------------------------------------------------------------------------------


def _rule(rule: RuleView, traffic: Mapping[str, figures.PoolTraffic]) -> WallRule:
    pools = {b.pool for b in rule.backends if b.pool in traffic}
    rate = words.rate(sum(traffic[pool].rate for pool in pools))
    branches = tuple(
        WallBranch(
            b.pool if b.href else b.key, b.weight, b.requests / rule.requests if b.href and rule.requests else None
        )
        for b in rule.backends
    )
    return WallRule(rule.name, rule.href, f"{rate} requests/s", branches)


def _branch(backend: BackendView) -> str:
    return f"{backend.name} weight {backend.weight}, observed {backend.observed}"


def _pool(state: ClusterState, one: PoolFill, rules: Sequence[RuleView], judgement: Judgement) -> WallPool:
    wrong = judgement.of(one.pool)
    ready = sum(member.ready for member in state.members(one.pool))
    told = [wrong.word if wrong else f"{ready} of {len(one.endpoints)} ready"]
    for rule in rules:
        told += [f"weight {b.weight} · observed {b.observed}" for b in rule.backends if b.pool == one.pool]
    if one.imbalance is not None and one.saturation is not None:
        told.append(f"{words.percent(one.saturation, 0)} full · fullest {one.fullest}")
    drawn = sorted(one.endpoints, key=_worst)[:CELLS_MAX] if len(one.endpoints) > CELLS_MAX else one.endpoints
    cells = tuple(
        WallCell(f"cell-{e.number}", e.name, f"/pools/{one.pool}#endpoint-{e.number}", e.saturation, e.state, e.words)
        for e in drawn
    )
    return WallPool(
        one.pool,
        short_name(one.pool),
        f"/pools/{one.pool}",
        svg.colour_of(one.pool, list(state.pools)),
        wrong.severity.colour if wrong else "good",
        tuple(told),
        cells,
        len(one.endpoints) - len(cells),
    )


def _worst(endpoint: EndpointFill) -> tuple[bool, float]:
    return endpoint.saturation is not None, -(endpoint.saturation or 0.0)


def _strangers(rules: Sequence[RuleView], state: ClusterState) -> list[WallPool]:
    """Backends that are no pool that is known."""
    seen = {b.key: b for rule in rules for b in rule.backends if not b.href}
    return [
        WallPool(
            key,
            b.name,
            "",
            svg.colour_of(b.pool, list(state.pools)),
            "good",
            (f"weight {b.weight} · not seen here",),
            (),
        )
        for key, b in sorted(seen.items())
    ]
