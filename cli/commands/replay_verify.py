"""`pointsman replay verify`: decide every recorded request again and compare."""

import sys
import time
from collections import Counter

import msgspec

from pointsman.cli.arguments import Parser, log_directory, position, print_json
from pointsman.cli.failure import Failure
from pointsman.core.deciding.verdict import VerdictKind
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.verifying.verifier import Verified, Verifier

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
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    """Counts of decisions that could not be compared, by cause."""
    differences: list[Difference] = []
    """Decisions that differ, the first DIFFERENCES_KEPT of them."""

    def add(self, found: Verified) -> None:
        """Count one decision."""
        verdict = found.verdict
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


def run(name: str, words: list[str]) -> int:
    """Verify the decisions of a log; 1 where one of them differs."""
    parser = Parser(
        name,
        "Compute every recorded decision again, from the cluster state it had and its own entry, and compare all of it.\n"
        "The log may be in use. Whether its entries are those that were written is what `pointsman log verify` says.",
        f"{name}\n{name} --data-dir .pointsman/demo --from 50000",
    )
    parser.data_option()
    parser.add_argument("--from", dest="first", type=position, default=1, help="the first position to look at")
    parser.add_argument("--to", dest="last", type=position, help="the last one (default: the head)")
    parser.output_option()
    options = parser.parse_args(words)
    started = time.monotonic()
    try:
        with open_reader(log_directory(options.data_dir)) as reader:
            report = verify(reader, options.first, options.last)
    except (LogCorruptError, NotKeptError) as error:
        raise Failure(str(error)) from error
    if options.output == "json":
        print_json(msgspec.to_builtins(report))
    else:
        _print(report, time.monotonic() - started)
    return 1 if report.different else 0


def verify(reader: LogReader, first: int, last: int | None) -> VerifyReport:
    """Verify the decisions at the positions `first` to `last`."""
    head = reader.head().position
    report = VerifyReport(max(first, reader.first()), head if last is None else min(last, head))
    told = time.monotonic()
    for found in Verifier(reader).run(report.first, report.last):
        report.add(found)
        if time.monotonic() > told + 0.5 and sys.stderr.isatty():
            told = time.monotonic()
            progress = f"{report.checked} checked, at position {found.position} of {report.last}"
            print(progress, end="\r", file=sys.stderr, flush=True)
    return report


def _print(report: VerifyReport, seconds: float) -> None:
    print(f"positions {report.first} to {report.last}, {seconds:.1f} s")
    print(f"  checked {report.checked}: {report.same} the same, {report.different} differ")
    print(f"  skipped {report.skipped.total()}")
    for cause, count in sorted(report.skipped.items()):
        print(f"    {count} {cause}")
    for difference in report.differences:
        print(f"  position {difference.position}, request {difference.request_id}: {difference.message}")
