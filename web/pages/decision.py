"""The page of one decision: what was asked, why it came out as it did, what came of it, and whether replay agrees."""

import msgspec
import trio
from quart import request

from pointsman.core.deciding.telling.in_force import InForce
from pointsman.core.deciding.telling.trouble import trouble
from pointsman.core.events import RequestFinished, RequestRefused, RequestRouted, ResponseStarted
from pointsman.eventlog.named_facts import named
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters
from pointsman.eventlog.readmodel.rows import EndpointRow, RequestRow
from pointsman.eventlog.stores.reading import LogReader
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import words
from pointsman.web.drawing.matrix import RECOMPUTING, Matrix, matrix, verdict_tag
from pointsman.web.pages.decisions import DecisionRow, decision_row
from pointsman.web.pages.reply import Missing, Reply
from pointsman.web.recomputing.replayer import ANSWER_WITHIN, ReplayerBusy
from pointsman.web.recomputing.worker import unavailable

PATIENCE = 0.05
"""Seconds that a page waits for replay, half of what a page may take; after that it is shown without the matrix."""
FRAGMENT_PATIENCE = 3.0
"""Seconds that the fragment with the matrix waits for replay: three times what an old decision takes."""
NEIGHBOURS = 3
"""Number of decisions shown before and after this one."""


LATE = 1.0
"""Seconds between decision and commit from which a page tells of them: a hundred times what they usually are."""


class InForceRow(msgspec.Struct, frozen=True):
    """Something that was in force for a decision."""

    name: str
    value: str
    note: str
    href: str


class Told(msgspec.Struct, frozen=True):
    """What the log and the read model say of a decision."""

    position: int
    recorded_at: float
    decision: RequestRouted | RequestRefused
    started: tuple[int, ResponseStarted] | None
    finished: tuple[int, RequestFinished] | None
    row: RequestRow | None
    """Row of the read model; None where it is not indexed yet."""
    chosen: EndpointRow | None
    before: tuple[DecisionRow, ...]
    """Decisions before it, nearest last."""
    after: tuple[DecisionRow, ...]


async def page(console: Console, position: int) -> Reply:
    """Why one request went where it went."""
    told = await trio.to_thread.run_sync(_read, console, position)
    try:
        replayed = await console.replayer.ask(position, _patience())
    except ReplayerBusy as error:
        replayed = unavailable(str(error))
    decision = told.decision
    explanation = replayed.explanation if replayed else None
    picture: Matrix | None = matrix(explanation, decision.decided_at) if explanation else None
    verdict = verdict_tag(replayed.verdict) if replayed else RECOMPUTING
    title = _title(told)
    why = explanation.why if explanation else _stored_sentence(decision)
    under_way = (
        isinstance(decision, RequestRouted) and told.finished is None and (told.row is None or not told.row.cause)
    )
    here = replayed.in_force if replayed else None
    context: dict[str, object] = {
        "title": title,
        "name": _name(told),
        "sentence": why,
        "warnings": _warnings(decision, here),
        "in_force": _in_force(console, told, here) if here else (),
        "flips": replayed.flips if replayed else (),
        "alone": explanation is not None and sum(c.scored is not None for c in explanation.candidates) == 1,
        "verdict": verdict,
        "matrix": picture,
        "recomputing": replayed is None,
        "under_way": under_way,
        "here": f"/decisions/{position}",
        "position": position,
        "d": _facts(told, picture, here),
        "asked": _asked(decision),
        "recorded": _recorded(told),
        "before": told.before,
        "after": told.after,
    }
    data = {
        "position": position,
        "title": title,
        "why": why,
        "verdict": verdict,
        "decision": named(decision),
        "started": _named(told.started),
        "finished": _named(told.finished),
        "explanation": named(explanation) if explanation else None,
        "in_force": here,
        "flips": replayed.flips if replayed else (),
    }
    return Reply("decision.html", "_decision.html", context, data)


def _named(entry: tuple[int, msgspec.Struct] | None) -> dict[str, object] | None:
    """The fields of an entry that belongs to the decision, with its position."""
    return None if entry is None else {"position": entry[0], **named(entry[1])}


def _patience() -> float:
    if request.path.startswith("/api/"):
        return ANSWER_WITHIN
    return FRAGMENT_PATIENCE if request.headers.get("HX-Request") == "true" else PATIENCE


def _read(console: Console, position: int) -> Told:
    with open_reader(console.log_directory) as reader, open_read_model(console.read_model) as model:
        first, head = reader.first(), reader.head().position
        if not first <= position <= head:
            raise Missing(f"The log has the entries #{first:,} to #{head:,}, wanted #{position:,}.")
        [entry] = reader.entries(position, position)
        event = entry.event
        if not isinstance(event, RequestRouted | RequestRefused):
            raise Missing(f"Entry #{position:,} is no decision; the log's page shows what it is.")
        row = model.decision(position)
        older = model.decisions(Filters(), before=position, limit=NEIGHBOURS).rows
        newer = model.decisions(Filters(), after=position, limit=NEIGHBOURS).rows
        chosen = event.endpoints[0] if isinstance(event, RequestRouted) else None
        numbers = [chosen, *(r.endpoint for r in (*older, *newer))]
        names = model.endpoint_names(number for number in numbers if number is not None)
        started = _entry(reader, row.started if row else None)
        finished = _entry(reader, row.finished if row else None)
    return Told(
        position,
        entry.recorded_at,
        event,
        (started[0], started[1]) if started and isinstance(started[1], ResponseStarted) else None,
        (finished[0], finished[1]) if finished and isinstance(finished[1], RequestFinished) else None,
        row,
        names.get(chosen) if chosen is not None else None,
        tuple(decision_row(r, names) for r in reversed(older)),
        tuple(decision_row(r, names) for r in reversed(newer)),
    )


def _entry(reader: LogReader, position: int | None) -> tuple[int, object] | None:
    if position is None or position < reader.first():
        return None
    [entry] = reader.entries(position, position)
    return position, entry.event


def _title(told: Told) -> str:
    decision = told.decision
    if isinstance(decision, RequestRefused):
        return f"Why this request was refused with {decision.status}"
    name = told.chosen.full_name if told.chosen else f"endpoint {decision.endpoints[0]}"
    return f"Why {name} answered this request"


def _stored_sentence(decision: RequestRouted | RequestRefused) -> str:
    if isinstance(decision, RequestRefused):
        return decision.message or f"The reason is {decision.reason}."
    if not decision.best:
        return "It was picked without a score."
    if decision.best[0][0] == decision.endpoints[0]:
        return f"It had the highest sum, {decision.best[0][1]:.2f}."
    return f"The highest sum was {decision.best[0][1]:.2f}, of another endpoint; it was drawn."


def _name(told: Told) -> str:
    """A name for the page that no other has: a browser's tab and history show it."""
    decision = told.decision
    went = told.chosen.full_name if told.chosen else ""
    if isinstance(decision, RequestRefused):
        went = f"refused with {decision.status}"
    at = words.moment(decision.decided_at)
    return f"{decision.request.request_id[:8] or f'#{told.position}'} → {went} · {at[:10]} {at[11:19]}"


def _warnings(decision: RequestRouted | RequestRefused, here: InForce | None) -> list[str]:
    """What has to be known before the rest is believed."""
    found = []
    if decision.degraded:
        found.append(
            "The picker process had no feed: what it knew of load was old, so the fewest requests in flight decided."
        )
    elif here is not None and here.ready and here.unknown == here.ready:
        every = "the only ready endpoint" if here.ready == 1 else f"all {here.ready} ready endpoints"
        found.append(f"All that it saw was stale: nobody knew the load of {every}, so load told nobody apart.")
    return found


def _in_force(console: Console, told: Told, here: InForce) -> list[InForceRow]:
    """What was in force at the position that it was decided on, beside what is now."""
    rows = []
    for one in here.weights:
        route = console.state().routes.get(one.route)
        now = "no such rule now"
        if route is not None and one.rule < len(route.rules):
            backends = route.rules[one.rule].backends
            weight = sum(b.weight for b in backends if b.pool == told.decision.request.pool)
            total = sum(b.weight for b in backends)
            same = (weight, total) == (one.weight, one.total)
            now = "the same now" if same else f"now {weight} of {total}"
        name = f"weight in {short_name(one.route)}, rule {one.rule + 1}"
        rows.append(InForceRow(name, f"{one.weight} of {one.total}", now, f"/routes/{one.route}"))
    config = f"/log?type=config-accepted&last={here.position}"
    rows.append(InForceRow("configuration", here.config or "the built-in default", "", config if here.config else ""))
    known = f"{here.ready - here.unknown} of {here.ready} ready endpoints"
    rows.append(InForceRow("load known of", known, "", ""))
    state = f"/log/{here.position}"
    rows.append(InForceRow("cluster state", f"#{here.position:,}", "the last entry that it knew", state))
    return rows


def _facts(told: Told, picture: Matrix | None, here: InForce | None) -> dict[str, str]:
    """The line of facts beneath the sentence."""
    decision = told.decision
    facts, finished = decision.request, told.finished[1] if told.finished else None
    return {
        "at": words.moment(decision.decided_at),
        "request_id": facts.request_id,
        "model": facts.model,
        "pool_href": f"/pools/{facts.pool}",
        "pool_name": short_name(facts.pool),
        "share": _share(here),
        "late": _late(told),
        "filtered": picture.remaining if picture else "stored",
        "rejections": ", ".join(f"{count} for {reason}" for reason, count in decision.rejections) or "nobody rejected",
        "margin": picture.margin if picture else _best(decision),
        "took": f"scheduled in {decision.took:,} µs" if decision.took else "not scheduled",
        "first_token": words.duration(finished.streamed_token if finished else None),
        "outcome": _outcome(told),
    }


def _best(decision: RequestRouted | RequestRefused) -> str:
    if isinstance(decision, RequestRefused) or not decision.best:
        return "–"  # noqa: RUF001
    sums = [f"{total:.2f}" for _, total in decision.best]
    return " against ".join(sums[:2])


def _share(here: InForce | None) -> str:
    """The weight of the pool in the first rule that named it then."""
    if here is None:
        return ""
    if not here.weights:
        return "no route named it"
    more = f" (and {len(here.weights) - 1} more)" if len(here.weights) > 1 else ""
    return f"weight {here.weights[0].weight} of {here.weights[0].total} then{more}"


def _late(told: Told) -> str:
    """How long after the decision it was recorded, where that is long."""
    late = told.recorded_at - told.decision.decided_at
    return f"recorded {words.duration(late)} later" if late > LATE else "UTC"


def _outcome(told: Told) -> str:
    if isinstance(told.decision, RequestRefused):
        return f"answered with {told.decision.status}"
    if told.finished is None:
        if told.row is not None and told.row.cause:
            return told.row.cause
        return "under way" if told.started is None else "streaming"
    finished = told.finished[1]
    tokens = f"{words.count(finished.completion_tokens)} tokens, " if finished.completion_tokens is not None else ""
    wrong = f"; {said}" if (said := trouble(finished)) else ""
    return f"{tokens}{words.duration(finished.duration)}, {finished.status or finished.cause}{wrong}"


def _asked(decision: RequestRouted | RequestRefused) -> list[tuple[str, str]]:
    facts = decision.request
    headers = ", ".join(f"{name}: {value}" for name, value in sorted(facts.headers.items()))
    rows = [
        ("request id", facts.request_id),
        ("path", facts.path),
        ("model", facts.model if not facts.target_model else f"{facts.model}, sent as {facts.target_model}"),
        ("objective", f"{facts.objective or 'none'}, priority {facts.priority}"),
        ("fairness id", facts.fairness_id or "none"),
        ("body", words.size(facts.body_bytes)),
        ("prompt", f"{words.size(facts.prompt_bytes)}, {len(facts.prefix) // 8} blocks hashed; its text is not stored"),
        ("stream", "yes" if facts.streamed else "no"),
        ("subset hint", "none" if facts.subset is None else "given by the gateway"),
        ("headers read", headers),
    ]
    return [(name, value) for name, value in rows if value]


class Recorded(msgspec.Struct, frozen=True):
    """An entry that belongs to a decision."""

    position: int
    tag: str
    words: str


def _recorded(told: Told) -> list[Recorded]:
    decision, origin = told.decision, told.decision.origin
    tag = "request-routed" if isinstance(decision, RequestRouted) else "request-refused"
    by = f"{origin.picker}, epoch {origin.epoch:016x}, n {origin.n:,} · applied #{origin.applied:,}"
    digest = f" · digest {decision.digest.hex()}" if decision.digest else ""
    found = [Recorded(told.position, tag, by + digest + (" · degraded" if decision.degraded else ""))]
    if told.started is not None:
        at, started = told.started
        unanswered = told.finished is not None and told.finished[1].unanswered
        served = f"served by {started.served}" if started.served else "endpoint not told"
        served = "made by the gateway" if unanswered else served
        found.append(Recorded(at, "response-started", f"status {started.status}, {served}"))
    if told.finished is not None:
        at, finished = told.finished
        wrong = f"; {said}" if (said := trouble(finished)) else ""
        found.append(
            Recorded(at, "request-finished", f"{finished.cause}, {words.size(finished.response_bytes)}{wrong}")
        )
    return found
