"""What the commands' argument parsers share."""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from pointsman.cli.failure import Failure
from pointsman.core.values.quantities import parse_duration, parse_quantity
from pointsman.eventlog.opening import holds_log

DEFAULT_DATA = ".pointsman"
"""The directory in which a command looks for a log when it is not told where; the demo keeps its own inside."""


class Parser(argparse.ArgumentParser):
    """Errors in one line, an example at the end of the help."""

    def __init__(self, name: str, about: str, example: str) -> None:
        super().__init__(
            prog=name,
            description=about,
            epilog="example:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def data_option(self) -> None:
        """`--data-dir`, for commands that read a log."""
        self.add_argument(
            "--data-dir",
            type=Path,
            metavar="DIR",
            help="data directory (default: the demo's, .pointsman/demo, or .pointsman where that holds a log)",
        )

    def keep_options(self, size_default: str = "20Gi") -> None:
        """`--keep-age` and `--keep-size`, for commands that keep a log within limits."""
        self.add_argument(
            "--keep-age",
            type=duration,
            default="168h",
            metavar="TIME",
            help="how long the log is kept; 0 for ever (default: 168h)",
        )
        self.add_argument(
            "--keep-size",
            type=size_or_none,
            default=size_default,
            metavar="SIZE",
            help=f"of log and read model together, at most; 0 for any (default: {size_default})",
        )

    def output_option(self) -> None:
        """`--output json`."""
        self.add_argument("--output", choices=("text", "json"), default="text", help="what to print (default: text)")


def log_directory(given: Path | None) -> Path:
    """The directory of the log to read: `given`, its `log/`, or where the demo and `serve` put theirs."""
    candidates = [Path(DEFAULT_DATA), Path(DEFAULT_DATA) / "demo"] if given is None else [given]
    for candidate in candidates:
        for directory in (candidate / "log", candidate):
            if holds_log(directory):
                return directory
    found = " and ".join(str(c) for c in candidates)
    raise Failure(f"found no log in {found}, wanted a data directory that Pointsman wrote: name it with --data-dir")


def size(text: str) -> int:
    """Bytes, as an argument that is a Kubernetes quantity."""
    found = size_or_none(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted at least one byte")
    return found


def size_or_none(text: str) -> int:
    """Bytes, as an argument that may be 0."""
    try:
        found = parse_quantity(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found < 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number of bytes")
    return found


def duration(text: str) -> float:
    """Seconds, as an argument that is a Go duration; not negative."""
    try:
        found = float(parse_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found < 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a time that is not negative")
    return found


def position(text: str) -> int:
    """A position in a log, as an argument."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a position, a number from 0")
    return int(text)


def print_json(value: object) -> None:
    """One value, readable by people too."""
    print(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
