"""`pointsman log verify`: is the log what was written?"""

from pathlib import Path

import msgspec

from pointsman.cli.arguments import Parser, log_directory, print_json
from pointsman.cli.failure import Failure
from pointsman.core.events import Class
from pointsman.core.values.plural import plural
from pointsman.core.values.printable import printable
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import verify_chain
from pointsman.eventlog.stores.chain_walk import ChainReport

UNCHECKED = 3
"""Exit code where a head cannot be checked, and nothing else is wrong."""


def run(name: str, words: list[str]) -> int:
    """Check the whole chain.

    Return 0 where it is sound, 1 where it is not (and print the first fault), and 3 where it is sound and a given
    head is of a time that is not kept, so that nothing can be compared with it.
    """
    parser = Parser(
        name,
        "Walk the hash chain of a log, which may be in use: every batch against its entries and the batch before.",
        f"{name}\n{name} .pointsman/demo --head 1200:5f2c...",
    )
    parser.add_argument("directory", nargs="?", type=Path, help="data directory, or the log's own")
    parser.data_option()
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="POSITION:DIGEST",
        help="a head that was printed or published earlier, to be found again; may be given again",
    )
    parser.output_option()
    options = parser.parse_args(words)
    try:
        report = verify_chain(log_directory(options.directory or options.data_dir), heads_of(options.head))
    except (LogCorruptError, NotKeptError) as error:
        raise Failure(str(error)) from error
    if options.output == "json":
        print_json(msgspec.to_builtins(report, builtin_types=(bytes,), str_keys=True) | {"sound": report.sound})
    else:
        print_chain(report)
    if not report.sound:
        return 1
    return UNCHECKED if report.unchecked else 0


def print_chain(report: ChainReport) -> None:
    """Print what a walk of the chain found."""
    entries = "1 entry" if report.entries == 1 else f"{report.entries} entries"
    batches = "1 batch" if report.batches == 1 else f"{report.batches} batches"
    print(f"log {report.log_id}: {entries} in {batches}, {plural(report.segments, 'segment')}")
    print(f"begins with position {report.first}{_dropped(report)}")
    print(f"head {report.head}:{report.digest.hex()}")
    _print_verdict(report)


def _dropped(report: ChainReport) -> str:
    """How many entries were there before, and why they are gone."""
    if not report.dropped:
        return ""
    causes = ", ".join(sorted({f"for its {drop.cause}" for drop in report.dropped}))
    counts = [
        f"{sum(drop.entries.get(kind, 0) for drop in report.dropped)} {kind.name.lower()}"
        for kind in Class
        if any(drop.entries.get(kind) for drop in report.dropped)
    ]
    segments = plural(len(report.dropped), "segment")
    return (
        f": {segments} before it dropped {causes}, with {', '.join(counts)} entries; "
        "control and membership entries are in the archive, as the log says"
    )


def _print_verdict(report: ChainReport) -> None:
    if (fault := report.fault) is not None:
        where = f", positions {fault.first} to {fault.last}" if fault.last else ""
        print(printable(f"NOT SOUND: segment {fault.segment}{where}: {fault.problem}"))
        return
    print("sound: every batch has the digest that its entries and the batch before give")
    for position in report.unchecked:
        print(f"NOT CHECKED: the head at {position} is before the first position that is kept, {report.first}")


def heads_of(given: list[str]) -> dict[int, bytes]:
    """Heads as arguments: digests by position."""
    return dict(map(_head, given))


def _head(text: str) -> tuple[int, bytes]:
    position, _, digest = text.partition(":")
    try:
        return int(position), bytes.fromhex(digest)
    except ValueError:
        raise Failure(
            f"--head: found {text!r}, wanted POSITION:DIGEST as `pointsman log verify` prints it", 2
        ) from None
