"""`pointsman replay explain`: why a request went where it went."""

import math
from pathlib import Path

from pointsman.cli.arguments import Parser, log_directory, print_json
from pointsman.cli.failure import Failure
from pointsman.core.deciding.explanation import Candidate, Explanation
from pointsman.core.deciding.telling.trouble import trouble
from pointsman.core.deciding.verdict import VerdictKind
from pointsman.core.events import RequestRouted
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.printable import printable
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.named_facts import moment, named
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.readmodel.request_search import RequestHistory, find_decisions, history, index_positions
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.verifying.verifier import Verified, Verifier


def run(name: str, words: list[str]) -> int:
    """Print the decisions for a request id; return 1 where there is none, or one differs from its record."""
    parser = Parser(
        name,
        "Show the candidates of a request, with the score of every plugin, reasons, and the age of each sample:\n"
        "computed again from the log and compared with what was recorded.",
        f"{name} 7d3f8d0e-52a4-4c1f-9a52-0f6c1f4f6c11",
    )
    parser.add_argument("request_id", metavar="REQUEST-ID", help="the x-request-id of the answer")
    parser.data_option()
    parser.output_option()
    options = parser.parse_args(words)
    directory = log_directory(options.data_dir)
    try:
        with open_reader(directory) as reader:
            return _explain(reader, directory.parent / "readmodel.db", options.request_id, options.output)
    except (LogCorruptError, NotKeptError) as error:
        raise Failure(str(error)) from error


def _explain(reader: LogReader, read_model: Path, request_id: str, output: str) -> int:
    positions = find_decisions(reader, request_id, index_positions(read_model, request_id))
    if not positions:
        raise Failure(f"found no request {request_id!r} in {reader.directory}, wanted the x-request-id of an answer")
    verifier, worst = Verifier(reader), 0
    documents: list[dict[str, object]] = []
    for position in positions:
        told, found = history(reader, position), verifier.at(position)
        assert found is not None, "positions are of decisions"
        explanation = found.explanation()
        if output == "json":
            documents.append(_document(told, found, explanation))
        else:
            print("\n".join(map(printable, _text(told, found, explanation))))
        worst = max(worst, int(found.verdict.kind is VerdictKind.DIFFERS))
    if output == "json":
        print_json({"request_id": request_id, "decisions": documents})
    return worst


def _document(told: RequestHistory, found: Verified, explanation: Explanation | None) -> dict[str, object]:
    return {
        "position": told.position,
        "recorded_at": moment(told.recorded_at),
        "decision": named(told.decision),
        "response_started": None if told.started is None else named(told.started),
        "request_finished": None if told.finished is None else named(told.finished),
        "verdict": {"kind": found.verdict.kind, "message": found.verdict.message},
        "explanation": None if explanation is None else named(explanation),
    }


# --- as text ------------------------------------------------------------------------------------


def _text(told: RequestHistory, found: Verified, explanation: Explanation | None) -> list[str]:
    event, state = told.decision, found.state
    request, origin = event.request, event.origin
    when = moment(event.decided_at)
    lines = [
        f"request {request.request_id}",
        f"  {when} · pool {request.pool} · model {request.model or '(none)'}"
        + (f" as {request.target_model}" if request.target_model else "")
        + f" · {request.path} · {request.body_bytes} bytes, prompt {request.prompt_bytes}"
        + (" · streamed" if request.streamed else ""),
        f"  entry {told.position}, decided at position {origin.applied} by {origin.picker}"
        f" (epoch {origin.epoch:016x}, n {origin.n}) in {event.took} µs" + (" · degraded" if event.degraded else ""),
    ]
    if isinstance(event, RequestRouted):
        lines.append(f"  to {', then '.join(_endpoint(state, number) for number in event.endpoints)}")
    else:
        lines.append(f"  refused: {event.reason} ({event.status}) {event.message}".rstrip())
    lines += _outcome(told)
    lines.append(f"  {found.verdict.sentence}")
    if explanation is not None:
        lines += ["", explanation.why, "", *_matrix(explanation, event.decided_at)]
    return lines


def _endpoint(state: ClusterState | None, number: int) -> str:
    member = state.endpoints.get(number) if state is not None else None
    return f"endpoint {number}" if member is None else f"{member.full_name} ({member.authority})"


def _outcome(told: RequestHistory) -> list[str]:
    if told.finished is None:
        return ["  no end of it is recorded yet"] if isinstance(told.decision, RequestRouted) else []
    done = told.finished
    words = [f"  {done.cause}, status {done.status or '-'}, {done.duration * 1000:.1f} ms"]
    if (first := done.streamed_token) is not None:
        words.append(f"first token after {first * 1000:.1f} ms")
    if said := trouble(done):
        words.append(said)
    if done.prompt_tokens is not None or done.completion_tokens is not None:
        words.append(f"{_known(done.prompt_tokens)} tokens in, {_known(done.completion_tokens)} out")
    if done.cached_tokens is not None:
        words.append(f"{done.cached_tokens} cached")
    if told.started is not None and told.started.served:
        words.append(f"served by {told.started.served}")
    return [" · ".join(words)]


def _known(count: int | None) -> str:
    return "?" if count is None else str(count)


def _matrix(explanation: Explanation, decided_at: float) -> list[str]:
    """Lines of a table: for each candidate its raw and weighted scores, sum, rank, and the age of its sample then."""
    head = ["candidate", "age", "waiting", "running", "KV", "in flight", "prefix"]
    head += [f"{name} by {weight:g}" for name, weight in explanation.scorers]
    head += ["sum", "rank", "p", ""]
    rows = [head, *(_row(candidate, explanation, decided_at) for candidate in _ordered(explanation))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(w) for cell, w in zip(row[1:-1], widths[1:-1], strict=True)),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
    if explanation.saturation is not None:
        lines.append(f"saturation {explanation.saturation:.3f}")
    if explanation.avoided:
        lines.append(f"left out, about to leave the pool: {', '.join(explanation.avoided)}")
    lines += _words(explanation)
    return lines


def _ordered(explanation: Explanation) -> list[Candidate]:
    """The candidates by rank; rejected ones come last."""
    return sorted(explanation.candidates, key=lambda c: (c.scored.rank if c.scored else math.inf, c.slot))


def _load(candidate: Candidate) -> list[str]:
    if candidate.sample_age is None:
        return ["-", "-", "-"]
    return [str(candidate.waiting), str(candidate.running), f"{candidate.kv_cache:.0%}"]


def _row(candidate: Candidate, explanation: Explanation, decided_at: float) -> list[str]:
    age = "never"
    if candidate.sample_age is not None:
        age = f"{max(0.0, decided_at - candidate.sampled_at) * 1000:.0f} ms"
        if candidate.sample_age > 0:
            age += f" (failing for {candidate.sample_age * 1000:.0f} ms)"
    cells = [
        candidate.name,
        age,
        *_load(candidate),
        "-" if candidate.in_flight is None else str(candidate.in_flight),
        "-" if candidate.prefix_blocks is None else str(candidate.prefix_blocks),
    ]
    if candidate.scored is None:
        why = (
            ""
            if candidate.rejection is None
            else f"rejected by {candidate.rejection.plugin}: {candidate.rejection.words}"
        )
        return [*cells, *("" for _ in explanation.scorers), "", "", "", why]
    scored = candidate.scored
    by_plugin = {score.plugin: score for score in scored.scores}
    for name, _ in explanation.scorers:
        score = by_plugin.get(name)
        cells.append("-" if score is None else f"{score.raw:.4f} → {score.weighted:.4f}")
    mark = {0: "", 1: "◀ chosen"}.get(scored.chosen, f"fallback {scored.chosen - 1}")
    return [
        *cells,
        f"{scored.sum:.4f}",
        f"{scored.rank}{'=' if scored.tied else ''}",
        f"{scored.probability:.2f}",
        mark,
    ]


def _words(explanation: Explanation) -> list[str]:
    """The values that scores rest on, plugin by plugin."""
    lines: list[str] = []
    for index, (plugin, _) in enumerate(explanation.scorers):
        reasons = [f"  {c.name}: {c.scored.scores[index].words}" for c in _ordered(explanation) if c.scored is not None]
        if reasons:
            lines += ["", plugin, *reasons]
    return lines
