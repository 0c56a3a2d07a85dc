"""`pointsman replay verify`: decide every recorded request again and compare."""

import sys
import time
from collections import Counter

import msgspec

from pointsman.cli.arguments import Parser, log_directory, position, print_json
from pointsman.cli.failure import Failure
from pointsman.core.deciding.verdict import verify_decision
from pointsman.core.events import Class, EntriesAdopted, PickerStarted, decode
from pointsman.core.state.membership import Epoch
from pointsman.eventlog.decisions import decisions
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader

DIFFERENCES_KEPT = 100

NO_STATE = {
    "adopted": "made on the cluster state of another log",
    "not-kept": "no longer verifiable: the cluster state it was made on is not kept",
}
"""Causes of `Decided` for which nothing can be computed."""


class Difference(msgspec.Struct, frozen=True):
    """A decision that does not come out as it was recorded."""

    position: int
    request_id: str
    message: str


class VerifyReport(msgspec.Struct):
    """What became of the decisions of a log."""

    first: int
    last: int
    checked: int = 0
    same: int = 0
    different: int = 0
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    """By cause."""
    differences: list[Difference] = []
    """The first of them."""

    def differs(self, at: int, request_id: str, message: str) -> None:
        """Count one that was computed again and differs."""
        self.checked += 1
        self.different += 1
        if len(self.differences) < DIFFERENCES_KEPT:
            self.differences.append(Difference(at, request_id, message))


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
    epochs = _epochs(reader)
    told = time.monotonic()
    for decided in decisions(reader, report.first, report.last):
        event, at = decided.event, decided.entry.position
        request_id = event.request.request_id
        if decided.state is None:
            if decided.cause in NO_STATE:
                report.skipped[NO_STATE[decided.cause]] += 1
            else:
                report.differs(at, request_id, f"applied is {event.origin.applied}, wanted a position before its own")
            continue
        verdict = verify_decision(decided.state, event, epochs.get((event.origin.picker, event.origin.epoch)))
        match verdict.kind:
            case "ok":
                report.checked += 1
                report.same += 1
            case "differs":
                report.differs(at, request_id, verdict.message)
            case _:
                report.skipped[verdict.message] += 1
        if time.monotonic() > told + 0.5 and sys.stderr.isatty():
            told = time.monotonic()
            print(f"{report.checked} checked, at position {at} of {report.last}", end="\r", file=sys.stderr, flush=True)
    return report


def _epochs(reader: LogReader) -> dict[tuple[str, int], Epoch]:
    """The epochs of the log: a picker decides before the entry that tells of its start is committed."""
    found: dict[tuple[str, int], Epoch] = {}
    for entry in reader.entries(reader.first(), None, (Class.CONTROL,)):
        match decode(entry.body):
            case PickerStarted(origin, build, scheduler, plugins):
                found[origin.picker, origin.epoch] = Epoch(
                    origin.picker, origin.epoch, origin.n, build, scheduler, plugins
                )
            case EntriesAdopted(picker, epoch, first, last):
                found.setdefault((picker, epoch), Epoch(picker, epoch, first - 1)).adopted_to = last
            case _:
                pass
    return found


def _print(report: VerifyReport, seconds: float) -> None:
    print(f"positions {report.first} to {report.last}, {seconds:.1f} s")
    print(f"  checked {report.checked}: {report.same} the same, {report.different} differ")
    print(f"  skipped {report.skipped.total()}")
    for cause, count in sorted(report.skipped.items()):
        print(f"    {count} {cause}")
    for difference in report.differences:
        print(f"  position {difference.position}, request {difference.request_id}: {difference.message}")
