"""`pointsman log retain`: drop the oldest segments of a log, or say which would go."""

import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from pointsman.cli.arguments import Parser, log_directory, print_json
from pointsman.cli.control.retaining import Retention, bytes_beside
from pointsman.cli.failure import Failure
from pointsman.cli.version import build
from pointsman.core.processes.settings import KeepLimits
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogCorruptError, LogLockedError, NotKeptError, StoreRefusedError
from pointsman.eventlog.opening import open_log, open_reader
from pointsman.eventlog.stores.retention import Due, LogSpace, due, look, store_limits
from pointsman.web.drawing import words


def run(name: str, given: list[str]) -> int:
    """Say what is due, and without `--dry-run` drop it."""
    options = _parser(name).parse_args(given)
    directory = log_directory(options.directory or options.data_dir)
    keep = KeepLimits(options.keep_age, options.keep_size)
    read_model = directory.parent / "readmodel.db"
    try:
        with open_reader(directory) as reader:
            space = look(reader, bytes_beside(directory, read_model))
        going = due(space, keep, time.time())
        if not options.dry_run and going:
            _drop(directory, read_model, keep)
    except (LogCorruptError, LogLockedError, NotKeptError, StoreRefusedError, OSError) as error:
        raise Failure(str(error)) from error
    if options.output == "json":
        print_json(
            {"dry_run": options.dry_run, "log_bytes": space.size, "growth_bytes_per_day": round(space.growth)}
            | {"dropped": [{"cause": one.cause, **msgspec.structs.asdict(one.span)} for one in going]}
        )
    else:
        _print(space, going, "would go" if options.dry_run else "is dropped")
    return 0


def _parser(name: str) -> Parser:
    parser = Parser(
        name,
        "Drop the oldest segments of a log that nobody writes, as a running system does by itself.\n"
        "With --dry-run, say which would go; the log may be in use then.",
        f"{name} --dry-run --keep-age 24h\n{name} .pointsman/demo --keep-size 1Gi",
    )
    parser.add_argument("directory", nargs="?", type=Path, help="data directory, or the log's own")
    parser.data_option()
    parser.keep_options()
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.output_option()
    return parser


def _drop(directory: Path, read_model: Path, keep: KeepLimits) -> None:
    async def work() -> None:
        log = open_log(directory, build(), store_limits(keep))
        try:
            async with trio.open_nursery() as nursery:
                appender = Appender(log, lambda _: None)
                await nursery.start(appender.run)
                await Retention(keep, appender, read_model, print).once()
                appender.close()
        finally:
            log.close()

    trio.run(work)


def _print(space: LogSpace, going: list[Due], does: str) -> None:
    for one in going:
        span = one.span
        print(
            f"positions {span.first} to {span.last}, until {_moment(span.ended_at)}, {words.size(span.size)}: {does} for its {one.cause}"
        )
    rest = space.size - sum(one.span.size for one in going)
    growth = f", {words.size(space.growth)} a day" if space.growth else ""
    print(
        f"the log takes {words.size(space.size)}{growth}; {words.size(rest)} {'would stay' if does == 'would go' else 'stay'}"
    )


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
