"""`pointsman log verify`: is the log what was written?"""

from pathlib import Path

import msgspec

from pointsman.cli.arguments import Parser, log_directory, print_json
from pointsman.cli.failure import Failure
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import verify_chain


def run(name: str, words: list[str]) -> int:
    """Check the whole chain; return 0 where it is sound, and print the first fault and return 1 where it is not."""
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
        report = verify_chain(log_directory(options.directory or options.data_dir), dict(map(_head, options.head)))
    except (LogCorruptError, NotKeptError) as error:
        raise Failure(str(error)) from error
    if options.output == "json":
        print_json(msgspec.to_builtins(report, builtin_types=(bytes,)) | {"sound": report.sound})
    else:
        print(f"log {report.log_id}: {report.entries} entries in {report.batches} batches, {report.segments} segments")
        print(f"head {report.head}:{report.digest.hex()}")
        if report.fault is None:
            print("sound: every batch has the digest that its entries and the batch before give")
        else:
            fault = report.fault
            where = f", positions {fault.first} to {fault.last}" if fault.last else ""
            print(f"NOT SOUND: segment {fault.segment}{where}: {fault.problem}")
    return 0 if report.sound else 1


def _head(text: str) -> tuple[int, bytes]:
    position, _, digest = text.partition(":")
    try:
        return int(position), bytes.fromhex(digest)
    except ValueError:
        raise Failure(
            f"--head: found {text!r}, wanted POSITION:DIGEST as `pointsman log verify` prints it", 2
        ) from None
