"""The pages of pools: all of them, and one."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from markupsafe import Markup
from quart import request

from pointsman.core.config.effective import decode_config
from pointsman.core.deciding.profile import profile_in_force
from pointsman.core.events import PoolApplied
from pointsman.core.state.membership import Endpoint
from pointsman.core.state.projection import ClusterState
from pointsman.web.console import Console
from pointsman.web.drawing import svg, words
from pointsman.web.pages import figures
from pointsman.web.pages.judgement import Finding, judged, pool_facts, unknown
from pointsman.web.pages.reply import Missing, Reply, number

SAID = 3
"""Findings that a sentence tells, worst first."""


class AdapterUse(msgspec.Struct, frozen=True):
    """A LoRA adapter in a pool."""

    name: str
    running_on: int
    """Number of endpoints on which it runs."""
    waiting_on: int
    endpoints: int
    """Number of the pool's endpoints."""

    @property
    def words(self) -> str:
        """Where it runs and waits."""
        queued = f", waiting on {self.waiting_on}" if self.waiting_on else ""
        return f"{self.name} on {self.running_on} of {self.endpoints}{queued}"


class PoolRow(msgspec.Struct, frozen=True):
    """A pool in a table."""

    name: str
    namespace: str
    href: str
    ready: int
    members: int
    state: str
    word: str
    """Words for the state."""
    waiting: int | None
    """Requests in its servers' queues; None where none of them was sampled."""
    kv_cache_share: float | None
    in_flight: int
    requests_per_second: float
    refused: int
    adapters: tuple[AdapterUse, ...]
    spark: Markup

    @property
    def adapter_words(self) -> str:
        """The adapters, and on how many endpoints each runs or waits."""
        return "; ".join(a.words for a in self.adapters)


class EndpointLine(msgspec.Struct, frozen=True):
    """An endpoint of a pool's page."""

    name: str
    authority: str
    number: int
    word: str
    state: str
    stale: bool
    waiting: int | None
    """Requests in its queue; None where it was never sampled."""
    running: int | None
    kv_cache_share: float | None
    in_flight: int
    adapters: tuple[str, ...]
    """Adapters with what they do there, in words."""
    sample_age_seconds: float | None
    """Age of the latest sample; None where there is none."""


async def rows(console: Console) -> list[PoolRow]:
    """All pools, by name."""
    state, in_flight = console.state(), console.in_flight()
    seen = await figures.observed(console, sorted(state.pools))
    found = await judged(console)
    return [_row(state, in_flight, pool, seen[pool], found.of(pool)) for pool in sorted(state.pools)]


def _row(
    state: ClusterState, in_flight: Mapping[int, int], pool: str, seen: figures.PoolTraffic, found: Finding | None
) -> PoolRow:
    members = state.members(pool)
    ready = [m for m in members if m.ready]
    sampled = [m.slot for m in ready if not math.isinf(state.age[m.slot])]
    namespace, _, name = pool.partition("/")
    return PoolRow(
        name,
        namespace,
        f"/pools/{pool}",
        len(ready),
        len(members),
        found.severity.colour if found else "good",
        found.word if found else f"{len(ready)} of {len(members)} ready",
        sum(int(state.waiting[s]) for s in sampled) if sampled else None,
        math.fsum(float(state.kv_cache[s]) for s in sampled) / len(sampled) if sampled else None,
        sum(in_flight.get(m.number, 0) for m in members),
        seen.rate,
        seen.refused,
        _adapters(state, members),
        svg.sparkline(seen.spark, f"requests a second of {name}", svg.colour_of(pool, list(state.pools))),
    )


def _adapters(state: ClusterState, members: list[Endpoint]) -> tuple[AdapterUse, ...]:
    """Each LoRA adapter of a pool, and on how many of its endpoints it runs or waits."""
    running = Counter(name for m in members for name in state.adapters[m.slot].running)
    waiting = Counter(name for m in members for name in state.adapters[m.slot].waiting)
    return tuple(AdapterUse(name, running[name], waiting[name], len(members)) for name in sorted(running | waiting))


async def list_page(console: Console) -> Reply:
    """All pools."""
    found = await rows(console)
    wrong = (await judged(console)).findings
    of_pools = [one for one in wrong if one.subject in console.state().pools]
    sentence = f"{words.plural(len(found), 'pool')}, {words.plural(sum(p.ready for p in found), 'ready endpoint')}."
    if of_pools:
        sentence = "; ".join(one.sentence for one in of_pools[:SAID]) + "."
        sentence = sentence[0].upper() + sentence[1:]
    return Reply(
        "pools.html", "_pools.html", {"pools": found, "headline": sentence, "manifests": console.manifests}, found
    )


class PoolView(msgspec.Struct, frozen=True):
    """A pool's page."""

    name: str
    namespace: str
    state: str
    state_word: str
    sentence: str
    selector: str


async def pool_page(console: Console, namespace: str, name: str) -> Reply:
    """One pool."""
    state, key = console.state(), f"{namespace}/{name}"
    pool = state.pools.get(key)
    if pool is None:
        raise Missing(f"There is no pool {key[:200]} now.")
    span = figures.asked_span()
    until = float(number(request.args.get("until"), "until", 0, 10**11))
    endpoints = [_endpoint(state, console.in_flight(), member) for member in state.members(key)]
    lines = {name: (await figures.spans(console, [key], span, until or time.time()))[key]}
    colours = {name: svg.colour_of(key, list(state.pools))}
    window = await figures.window(console, span, until or time.time(), [key])
    charts = [figures.chart(m, lines, colours, window) for m in MEASURES]
    at = f"&until={until:.0f}" if until else ""
    about = (await judged(console)).about(key)
    view = PoolView(name, namespace, *_sentence(state, key, about), _selector(pool))
    spec = (
        ("selector", _selector(pool) or "–"),  # noqa: RUF001
        ("target ports", ", ".join(map(str, pool.target_ports))),
        ("endpoint picker", f"{pool.picker_name or 'none'}:{pool.picker_port or 9002}"),
        ("failure mode", pool.failure_mode),
        ("application protocol", pool.app_protocol),
        ("from", pool.source or "–"),  # noqa: RUF001
    )
    config = _config(state, key)
    begun = await figures.first_tokens(console, key)
    context = {
        "pool": view,
        "endpoints": endpoints,
        "charts": charts,
        "first_tokens": begun.sentence,
        "spans": figures.span_links(f"/pools/{key}", span, at),
        "here": f"/pools/{key}?span={span}{at}",
        "until": words.moment(until),
        "now_href": f"/pools/{key}?span={span}#charts",
        "config": config,
        "spec": spec,
        "parameter_words": _parameter_words,
    }
    data = {
        "pool": view,
        "endpoints": endpoints,
        "spec": {
            "selector": pool.selector,
            "target_ports": pool.target_ports,
            "endpoint_picker": {"name": pool.picker_name, "port": pool.picker_port},
            "failure_mode": pool.failure_mode,
            "application_protocol": pool.app_protocol,
            "source": pool.source,
        },
        "config": config,
        "charts": [c.named() for c in charts],
        "first_tokens": begun,
    }
    return Reply("pool.html", "_pool.html", context, data)


def _selector(pool: PoolApplied) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(pool.selector.items()))


MEASURES = (
    figures.REQUESTS,
    figures.REFUSED,
    figures.WAITING,
    figures.KV_CACHE,
    figures.FIRST_TOKEN,
    figures.IN_FLIGHT,
)


def _sentence(state: ClusterState, pool: str, found: Sequence[Finding]) -> tuple[str, str, str]:
    """Colour, word and sentence for the state of a pool."""
    facts = pool_facts(state, pool, None)
    head = f"{facts.ready} of {facts.members} ready"
    if found:
        told = "; ".join(one.sentence for one in found[:SAID]) + "."
        return found[0].severity.colour, found[0].word, told[0].upper() + told[1:]
    waits = "waits" if facts.waiting == 1 else "wait"
    queue = f"{words.plural(facts.waiting, 'request')} {waits}" if facts.waiting else "nobody waits"
    return "good", head, f"{head}, {queue}."


def _endpoint(state: ClusterState, in_flight: Mapping[int, int], member: Endpoint) -> EndpointLine:
    slot, now = member.slot, time.time()
    age = float(state.age[slot])
    never = math.isinf(age)
    stale = unknown(state, age)
    word, kind = ("ready", "good") if member.ready else ("not ready", "bad")
    if member.ready and stale:
        word, kind = ("not sampled yet", "warn") if never else ("sample is stale", "warn")
    adapters = state.adapters[slot]
    held = [
        *sorted(adapters.running),
        *(f"{a} (waiting)" for a in sorted(adapters.waiting)),
        *(f"{a} (idle)" for a in sorted(adapters.recent)),
    ]
    return EndpointLine(
        member.full_name,
        member.authority,
        member.number,
        word,
        kind,
        stale,
        None if never else int(state.waiting[slot]),
        None if never else int(state.running[slot]),
        None if never else float(state.kv_cache[slot]),
        in_flight.get(member.number, 0),
        tuple(held),
        None if never else max(0.0, now - float(state.sampled_at[slot])),
    )


def _config(state: ClusterState, pool: str) -> dict[str, object]:
    """The plugins in force, in the order they run."""
    accepted = state.config(pool)
    profile = profile_in_force(state, pool)
    config = profile.config if accepted is None else decode_config(accepted.config)
    plugins = [
        {
            "name": placed.plugin,
            "type": config.declared(placed.plugin).type,
            "weight": placed.weight if any(placed.plugin == s[0] for s in profile.scorers) else None,
            "parameters": _parameters(config.parameters(placed.plugin)),
        }
        for placed in config.profiles[0].plugins
    ]
    return {"source": accepted.source if accepted else "the built-in default", "plugins": plugins}


def _parameters(plugin: msgspec.Struct) -> dict[str, object]:
    """The parameters that are set."""
    return {k: v for k, v in msgspec.to_builtins(plugin).items() if v is not None and v not in ("", [], {})}


def _parameter_words(parameters: dict[str, object]) -> str:
    """The parameters, each as `name value`."""
    told = parameters.items()
    return ", ".join(f"{k} {v if isinstance(v, str) else msgspec.json.encode(v).decode()}" for k, v in told)
