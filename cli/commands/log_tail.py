"""`pointsman log tail`: the entries of a log, as they are."""

import argparse
import json
import sys
import time

from pointsman.cli.arguments import Parser, log_directory
from pointsman.cli.failure import Failure
from pointsman.core.events import Class, Entry, decode
from pointsman.core.values.printable import printable
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.named_facts import moment, named
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader

LOOK = 0.2
"""Seconds between two looks for new entries."""

VALUE_CHARACTERS = 60
"""Characters shown of one field in a line of text; `--output json` has all of it."""


def run(name: str, words: list[str]) -> int:
    """Print the last entries, then with `--follow` each as it comes."""
    options = _parser(name).parse_args(words)
    classes = [Class[c.upper()] for c in options.classes] or None
    try:
        with open_reader(log_directory(options.data_dir)) as reader:
            position = _print_last(reader, options, classes)
            while options.follow:
                sys.stdout.flush()
                time.sleep(LOOK)
                for entry in reader.entries(position + 1, None, classes):
                    _print(entry, options.output)
                    position = entry.position
    except (LogCorruptError, NotKeptError) as error:
        raise Failure(str(error)) from error
    return 0


def _parser(name: str) -> Parser:
    parser = Parser(
        name, "Print the last entries of a log, and with --follow those to come.", f"{name} -f --class traffic"
    )
    parser.data_option()
    parser.add_argument("-n", "--lines", type=_count, default=20, help="how many entries to begin with (default: 20)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is committed")
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        choices=[c.name.lower() for c in Class],
        help="only entries of this class; may be given again",
    )
    parser.add_argument("--from", dest="first", type=_count, help="begin at this position")
    parser.output_option()
    return parser


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number from 0")
    return int(text)


def _print_last(reader: LogReader, options: argparse.Namespace, classes: list[Class] | None) -> int:
    """Print the last entries there are; return the position after which following goes on."""
    head = reader.head().position
    if options.first is not None:
        entries = reader.entries(max(options.first, reader.first()), head, classes)
    else:
        entries = iter(_last(reader, head, options.lines, classes))
    for entry in entries:
        _print(entry, options.output)
    return head


def _last(reader: LogReader, head: int, count: int, classes: list[Class] | None) -> list[Entry]:
    """The last `count` entries of these classes, searched backwards in growing spans."""
    span, found = max(count, 64), list[Entry]()
    while count:
        first = max(head - span + 1, reader.first())
        found = list(reader.entries(first, head, classes))[-count:]
        if len(found) == count or first == reader.first():
            break
        span *= 4
    return found


def _print(entry: Entry, output: str) -> None:
    when, kind, fields = moment(entry.recorded_at), Class(entry.kind).name.lower(), named(decode(entry.body))
    if output == "json":
        print(json.dumps({"position": entry.position, "recorded_at": when, "class": kind, **fields}))
        return
    tag = fields.pop("event")
    words = " ".join(f"{name}={_short(value)}" for name, value in fields.items() if value not in (None, "", [], {}))
    print(printable(f"{entry.position} {when} {kind:10} {tag} {words}"))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"
