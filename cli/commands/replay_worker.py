"""`pointsman replay worker`: recomputes decisions for the console, a position at a time, over its pipes."""

import signal
from pathlib import Path

from pointsman.cli.arguments import Parser
from pointsman.web.recomputing.worker import serve


def run(name: str, words: list[str]) -> int:
    """Answer until the input ends; the control process starts it."""
    parser = Parser(
        name, "Recomputes decisions for the console; the control process starts it.", f"{name} --data-dir DIR"
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches this process too, but its asker ends it
    serve(parser.parse_args(words).data_dir / "log")
    return 0
