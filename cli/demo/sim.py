"""`pointsman sim`: model servers that behave like vLLM without a GPU."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import msgspec
import trio
import yaml

from pointsman.cli.arguments import Parser
from pointsman.cli.failure import Failure
from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.pods import PodError, specs_from_pods
from pointsman.cluster.simulator.server import SimulatorSpec
from pointsman.cluster.simulator.simulators import run_simulators


def run(name: str, words: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _parser(name).parse_args(words)
    try:
        figures = msgspec.convert(dict(options.figure), ServerModel)
    except (msgspec.ValidationError, ValueError) as error:
        raise Failure(f"--set: {error}", 2) from error
    adapters = SimulatorSpec("", 0).adapters if options.adapter is None else tuple(options.adapter)
    if options.manifests is not None:
        specs = _specs(options.manifests)
    else:
        specs = [
            SimulatorSpec(address, port, options.model, adapters, figures)
            for address, port in options.listen or [("127.0.0.1", 8000)]
        ]
    try:
        trio.run(_serve, specs, options.request_log)
    except* OSError as errors:
        raise Failure(f"cannot listen: {_first(errors)}") from errors
    return 0


def _specs(manifests: Path) -> list[SimulatorSpec]:
    """The servers of all Pods in a directory of manifests."""
    objects: list[Mapping[str, object]] = []
    for path in sorted([*manifests.glob("*.yaml"), *manifests.glob("*.yml")]):
        try:
            found = list(yaml.safe_load_all(path.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Failure(f"{path}: {error}") from error
        objects += [one for one in found if isinstance(one, dict)]
    try:
        specs = specs_from_pods(objects)
    except PodError as error:
        raise Failure(f"{manifests}: {error}") from error
    if not specs:
        raise Failure(f"found no Pod with an address in {manifests}, wanted YAML files with Pods")
    return specs


async def _serve(specs: list[SimulatorSpec], request_log: Path | None) -> None:
    async with trio.open_nursery() as nursery:
        for server in await nursery.start(run_simulators, specs, request_log):
            print(f"a model server listens on http://{server}", flush=True)


def _parser(name: str) -> Parser:
    parser = Parser(
        name,
        "Simulate model servers: the OpenAI API with streaming, a queue, a KV cache, LoRA adapters, vLLM's metrics.",
        f"{name} --listen 127.0.0.1:8000 --set max_num_seqs=4\n"
        'curl -s 127.0.0.1:8000/v1/completions -d \'{"model": "meta-llama/Llama-3.1-8B-Instruct", "prompt": "Hi"}\'',
    )
    default = SimulatorSpec("", 0)
    parser.add_argument("--manifests", type=Path, metavar="DIR", help="simulate the servers of all Pods found there")
    parser.add_argument(
        "--listen",
        type=_address,
        action="append",
        metavar="ADDRESS:PORT",
        default=None,
        help="a server; again for one more (default: 127.0.0.1:8000)",
    )
    parser.add_argument("--model", default=default.model, help=f"the base model (default: {default.model})")
    parser.add_argument("--adapter", action="append", default=None, help="a LoRA adapter it knows; may be given again")
    parser.add_argument("--request-log", type=Path, metavar="FILE", help="append one line of JSON for each request")
    parser.add_argument(
        "--set",
        dest="figure",
        type=_figure,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="a figure of the hardware: " + ", ".join(ServerModel.__struct_fields__),
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted ADDRESS:PORT")
    return address.strip("[]"), int(port)


def _figure(text: str) -> tuple[str, float | int]:
    name, _, number = text.partition("=")
    if name not in ServerModel.__struct_fields__:
        raise argparse.ArgumentTypeError(f"found {name!r}, wanted one of {', '.join(ServerModel.__struct_fields__)}")
    try:
        return name, int(number) if number.isdigit() else float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {number!r} for {name}, wanted a number") from None


def _first(errors: BaseExceptionGroup[OSError]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
