"""`pointsman config check`: is this EndpointPickerConfig right?"""

import json
import sys
from pathlib import Path

import msgspec

from pointsman.cli.arguments import Parser, print_json
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.config_file import errors_of, parse_text
from pointsman.core.config.document import place_of
from pointsman.core.config.parse import ConfigError, EffectiveConfig, PickingFlags


def run(name: str, words: list[str]) -> int:
    """Print the configuration that would be in force; where the file is wrong, print each error and return 1."""
    parser = Parser(
        name,
        "Read an EndpointPickerConfig as `serve` and `epp` do, and print what would be in force, or all that is wrong.",
        f"{name} default-plugins.yaml\nkubectl get configmap plugins-config -o jsonpath='{{.data.default-plugins\\.yaml}}' | {name} -",
    )
    parser.add_argument("file", help="the file; - for standard input")
    parser.output_option()
    options = parser.parse_args(words)
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{options.file}: {getattr(error, 'strerror', None) or error}") from error
    if errors := errors_of(text, PickingFlags()):
        _print_errors(errors, options.file, options.output)
        return 1
    config = parse_text(text, PickingFlags())
    if options.output == "json":
        print_json(msgspec.to_builtins(msgspec.json.decode(config.encode())))
        return 0
    _print(config)
    return 0


def _print_errors(errors: list[ConfigError], file: str, output: str) -> None:
    """Print each error with its line: for people on standard error, as JSON on standard output."""
    if output == "json":
        told = [{"line": e.line, "place": place_of(e.path), "message": e.message} for e in errors]
        print_json({"file": file, "errors": told})
        return
    for error in errors:
        print(f"pointsman: {file}, {error}", file=sys.stderr)


def _print(config: EffectiveConfig) -> None:
    for profile in config.profiles:
        print(f"scheduling profile {profile.name}")
        for placed in profile.plugins:
            weight = f", weight {placed.weight:g}" if "scorer" in config.kinds(placed.plugin) else ""
            print(f"  {_described(config, placed.plugin)}{weight}")
    print(f"saturation\n  {_described(config, config.saturation_detector)}")
    for warning in config.warnings:
        print(f"warning: {warning}")
    print("right")


def _described(config: EffectiveConfig, name: str) -> str:
    plugin = config.declared(name)
    kind = "" if plugin.type == name else f" ({plugin.type})"
    given = {key: value for key, value in plugin.parameters.items() if value not in (None, "")}
    return f"{name}{kind}" + (f" {json.dumps(given)}" if given else "")
