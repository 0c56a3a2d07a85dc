"""The command `pointsman`: a table of commands, each in a module of its own that only its use imports."""

import argparse
import sys
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from importlib import import_module

from pointsman.cli.failure import Failure
from pointsman.cli.version import build
from pointsman.core.values.distance import nearest
from pointsman.core.values.printable import PrintableStream, printable

COMMANDS = {
    "demo": ("demo.demo", "the whole system on this machine, with simulated model servers"),
    "serve": ("commands.serve", "pick endpoints for all pools in a directory of manifests"),
    "epp": ("commands.epp", "an endpoint picker for one pool, with the flags of the Go EPP"),
    "sim": ("demo.sim", "model servers that behave like vLLM without a GPU"),
    "traffic": ("demo.traffic_command", "requests with shared prefixes, as clients send them"),
    "replay verify": ("commands.replay_verify", "decide every recorded request again and compare"),
    "replay explain": ("commands.replay_explain", "why a request went where it went"),
    "status": ("commands.status", "how a running system is"),
    "weights set": ("commands.weights_set", "other weights for a route's rule, recorded and read back"),
    "audit": ("commands.audit", "check all that can be checked of a log, and say it in one sentence"),
    "log tail": ("commands.log_tail", "the last entries of a log, and those to come"),
    "log retain": ("commands.log_retain", "drop the oldest segments of a log, or say which would go"),
    "log verify": ("commands.log_verify", "walk the chain of a log"),
    "config check": ("commands.config_check", "is this EndpointPickerConfig right?"),
    "bench": ("bench.command", "what it costs on this machine, beside the budgets"),
}

PROCESSES = {
    "control": ("control.control", "the control process; `serve` starts it"),
    "picker": ("commands.picker_process", "a picker process; `serve` starts it"),
    "replay worker": ("commands.replay_worker", "recomputes decisions for the console"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 where what it asked for failed, 2 where the command line is wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] in (["--version"], ["version"]):
        print(build())
        return 0
    found = _find(words)
    if found is None:
        return _overview(words)
    name, module, rest = found
    command = import_module(f"pointsman.cli.{module}")
    try:
        with ExitStack() as stack:
            if sys.stdout is not None and sys.stderr is not None:
                stack.enter_context(redirect_stdout(PrintableStream(sys.stdout)))
                stack.enter_context(redirect_stderr(PrintableStream(sys.stderr)))
            code: int = command.run(f"pointsman {name}", rest)
    except Failure as failure:
        print(f"pointsman: {printable(str(failure))}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has closed it, so nothing may be written to it at exit.
        sys.stdout = None
        return 0
    return code


def _find(words: list[str]) -> tuple[str, str, list[str]] | None:
    """The command's name, its module, and the words that are its own."""
    for count in (2, 1):
        name = " ".join(words[:count])
        for table in (COMMANDS, PROCESSES):
            if len(words) >= count and name in table:
                return name, table[name][0], words[count:]
    return None


def _overview(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pointsman",
        description="Picks the endpoint for every LLM request, and keeps the register.",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:16} {about}" for name, (_, about) in COMMANDS.items()),
                "",
                "`pointsman COMMAND --help` says more, with an example.",
            ]
        ),
        usage="pointsman [--version] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    if not words:
        parser.print_help()
        return 2
    if words[0] in ("-h", "--help", "help"):
        parser.print_help()
        return 0
    group = [name for name in COMMANDS if name.split()[0] == words[0]]
    if group and words[1:2] in (["-h"], ["--help"]):
        for name in group:
            print(f"pointsman {name:16} {COMMANDS[name][1]}")
        return 0
    if group:
        wanted = " or ".join(name.split()[1] for name in group)
        hint = _near(" ".join(words[:2]), group) if words[1:] else ""
        print(
            f"pointsman {words[0]}: found {' '.join(words[1:2]) or 'nothing more'}, wanted {wanted}{hint}",
            file=sys.stderr,
        )
        return 2
    hint = _near(" ".join(words[:2]), [name for name in COMMANDS if " " in name]) or _near(words[0], COMMANDS)
    print(f"pointsman: found {words[0]!r}, wanted a command: {', '.join(COMMANDS)}{hint}", file=sys.stderr)
    return 2


def _near(words: str, names: Iterable[str]) -> str:
    """The nearest of the commands, as a question; empty where none is near."""
    near = nearest(words, names)
    return f"; did you mean {near}?" if near else ""
