"""`pointsman replay verify`: decide every recorded request again and compare."""

import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from pointsman.cli.arguments import Parser, log_directory, position, print_json
from pointsman.cli.failure import Failure
from pointsman.core.deciding.verdict import VerdictKind
from pointsman.core.values.plural import plural
from pointsman.core.values.printable import printable
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.verifying.access_log import AgainstReport, compare
from pointsman.eventlog.verifying.completeness import CompletenessReport, check_completeness
from pointsman.eventlog.verifying.verifier import Verified, Verifier

UNCHECKED = 3
"""Exit code where nothing is wrong, and some decisions could not be compared."""

DIFFERENCES_KEPT = 100
"""Differences that are listed: enough to see what they have in common."""


class Difference(msgspec.Struct, frozen=True):
    """A decision that does not come out as it was recorded."""

    position: int
    request_id: str
    message: str


class VerifyReport(msgspec.Struct):
    """Counts of a log's decisions, by what comes out when they are decided again."""

    first: int
    last: int
    checked: int = 0
    same: int = 0
    different: int = 0
    not_scheduled: int = 0
    """Count of requests that were refused before there was anything to decide."""
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    """Counts of decisions that could not be compared, by cause."""
    differences: list[Difference] = []
    """Decisions that differ, the first DIFFERENCES_KEPT of them."""

    def add(self, found: Verified) -> None:
        """Count one decision."""
        verdict = found.verdict
        if verdict.kind is VerdictKind.NOT_SCHEDULED:
            self.not_scheduled += 1
            return
        if not verdict.kind.compared:
            self.skipped[verdict.message] += 1
            return
        self.checked += 1
        if verdict.kind is VerdictKind.SAME:
            self.same += 1
            return
        self.different += 1
        if len(self.differences) < DIFFERENCES_KEPT:
            request_id = found.event.request.request_id
            self.differences.append(Difference(found.position, request_id, verdict.message))


class Proof(msgspec.Struct, frozen=True):
    """All that is said of a log's decisions."""

    decisions: VerifyReport
    complete: CompletenessReport | None = None
    """None where a part of the log was asked for: what is missing shows in the whole alone."""
    against: AgainstReport | None = None

    @property
    def code(self) -> int:
        """Exit code of the command."""
        against, complete = self.against, self.complete
        if self.decisions.different or (complete is not None and complete.problems):
            return 1
        if against is not None and against.without_decision + against.without_line + against.elsewhere:
            return 1
        return UNCHECKED if self.decisions.skipped else 0


def run(name: str, words: list[str]) -> int:
    """Verify the decisions of a log.

    Return 1 where one of them differs, an entry is missing, or the access log and the log disagree; 3 where none does,
    and some could not be compared.
    """
    options = _parser(name).parse_args(words)
    started = time.monotonic()
    try:
        with open_reader(log_directory(options.data_dir)) as reader:
            found = prove(reader, options.first, options.last, options.against)
    except (LogCorruptError, NotKeptError, OSError) as error:
        raise Failure(str(error)) from error
    if options.output == "json":
        print_json(msgspec.to_builtins(found.decisions) | parts_of(found))
    else:
        print_decisions(found.decisions, time.monotonic() - started)
        print_rest(found)
    return found.code


def _parser(name: str) -> Parser:
    parser = Parser(
        name,
        "Compute every recorded decision again, from the cluster state it had and its own entry, and compare all of it.\n"
        "Over the whole log, say whether an entry is missing, or a request has no end or two.\n"
        "The log may be in use. Whether its entries are those that were written is what `pointsman log verify` says.",
        f"{name}\n{name} --data-dir .pointsman/demo --from 50000\n"
        f"{name} --data-dir .pointsman/demo --against .pointsman/demo/logs/access.log",
    )
    parser.data_option()
    parser.add_argument("--from", dest="first", type=position, help="the first position to look at")
    parser.add_argument("--to", dest="last", type=position, help="the last one (default: the head)")
    against_option(parser)
    parser.output_option()
    return parser


def against_option(parser: Parser) -> None:
    """`--against`, for commands that compare with a gateway's story."""
    parser.add_argument(
        "--against",
        type=Path,
        metavar="ACCESS-LOG",
        help="of Envoy, JSON with a request_id or text in its default format: name each request that a server was asked "
        "for and that has no decision, and the reverse",
    )


def prove(reader: LogReader, first: int | None, last: int | None, against: Path | None) -> Proof:
    """Verify the decisions at the positions `first` to `last`, and where both are None, that nothing is missing."""
    decisions = verify(reader, 1 if first is None else first, last)
    complete = check_completeness(reader) if first is None and last is None else None
    if against is None:
        return Proof(decisions, complete)
    with against.open(errors="replace") as lines:
        return Proof(decisions, complete, compare(reader, lines))


def verify(reader: LogReader, first: int, last: int | None) -> VerifyReport:
    """Verify the decisions at the positions `first` to `last`."""
    head = reader.head().position
    if first > head:
        raise Failure(f"--from: found position {first}, wanted one of the log, which ends with {head}", 2)
    if last is not None and last < first:
        raise Failure(f"--to: found position {last}, wanted {first} or a later one", 2)
    report = VerifyReport(max(first, reader.first()), head if last is None else min(last, head))
    told = time.monotonic()
    for found in Verifier(reader).run(report.first, report.last):
        report.add(found)
        if time.monotonic() > told + 0.5 and sys.stderr.isatty():
            told = time.monotonic()
            progress = f"{report.checked} checked, at position {found.position} of {report.last}"
            print(progress, end="\r", file=sys.stderr, flush=True)
    return report


def parts_of(found: Proof) -> dict[str, object]:
    """What is said beside the decisions, for JSON."""
    parts = {"complete": found.complete, "against": found.against}
    return {name: msgspec.to_builtins(part) for name, part in parts.items() if part is not None}


def print_decisions(report: VerifyReport, seconds: float) -> None:
    """Print what came of computing decisions again."""
    print(f"positions {report.first} to {report.last}, {seconds:.1f} s")
    print(f"  checked {report.checked}: {report.same} the same, {report.different} differ")
    if report.not_scheduled:
        print(f"  {report.not_scheduled} refused before there was anything to decide")
    print(f"  skipped {report.skipped.total()}")
    for cause, count in sorted(report.skipped.items()):
        print(printable(f"    {count} {cause}"))
    for difference in report.differences:
        print(printable(f"  position {difference.position}, request {difference.request_id}: {difference.message}"))


def print_rest(found: Proof) -> None:
    """Print what is said of missing entries, and of an access log."""
    if (complete := found.complete) is not None:
        lost = f", {complete.lost} more told as lost" if complete.lost else ""
        print(
            f"  {complete.numbered} entries of {plural(complete.epochs, 'picker life').replace('lifes', 'lives')}{lost}"
        )
        print(f"  {complete.routed} requests routed, {complete.open} still open")
        print(
            "  complete: each entry is there once, each request has one end"
            if not complete.problems
            else "  NOT COMPLETE:"
        )
        for one in complete.listed:
            where = f"position {one.position}" if one.position else "the end"
            who = f"{one.picker} epoch {one.epoch:x}: " if one.picker else ""
            print(printable(f"    {where}: {who}{one.problem}"))
        if complete.problems > len(complete.listed):
            print(f"    and {complete.problems - len(complete.listed)} more")
    if (against := found.against) is not None:
        after = f", {against.after_end} of them after the log's last entry" if against.after_end else ""
        print(f"  access log: {against.served} served, {against.without_decision} without a decision{after}")
        for request_id in against.undecided:
            print(printable(f"    no decision: {request_id}"))
        print(f"  {against.decided} answered by decision, {against.without_line} not in the access log")
        for request_id in against.unserved:
            print(printable(f"    not in the access log: {request_id}"))
        if against.elsewhere:
            print(f"  {against.elsewhere} went to a server that no decision named")
        if against.unread:
            print(f"  {plural(against.unread, 'line')} without a request id")
