"""The picker process, which the supervisor starts."""

import logging
import sys

import msgspec

from pointsman.cli.arguments import Parser
from pointsman.core.processes.settings import PickerSettings
from pointsman.grpc.picker import run_picker


def run(name: str, words: list[str]) -> int:
    """Run as a picker process until the supervisor says stop or is gone."""
    parser = Parser(name, "A picker process; `pointsman serve` starts it.", f"{name} --settings '{{...}}'")
    parser.add_argument("--settings", required=True, help="JSON")
    settings = msgspec.json.decode(parser.parse_args(words).settings, type=PickerSettings)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    run_picker(settings)
    return 0
