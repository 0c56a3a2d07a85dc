"""Which servers to simulate for a set of Pod objects: one for each port of a running pod's containers.

A container's `args` are read as vLLM reads them, as far as they concern a simulator; speeds and sizes
that only hardware decides come from the annotation, a JSON object with fields of `ServerModel`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.server import DEFAULT_MODEL, SimulatorSpec

ANNOTATION = "pointsman.dev/simulated"

PodObject: TypeAlias = Mapping[str, object]


class PodError(ValueError):
    """Raised for a pod that cannot be simulated as it is written; the message names it."""


class _Port(msgspec.Struct):
    container_port: int = msgspec.field(name="containerPort")


class _Container(msgspec.Struct):
    args: list[str] = []
    ports: list[_Port] = []


class _Metadata(msgspec.Struct):
    name: str
    annotations: dict[str, str] = {}


class _PodSpec(msgspec.Struct):
    containers: list[_Container] = []


class _Status(msgspec.Struct):
    pod_ip: str = msgspec.field(name="podIP", default="")


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _PodSpec
    status: _Status = msgspec.field(default_factory=_Status)


def specs_from_pods(objects: Iterable[PodObject]) -> list[SimulatorSpec]:
    """The servers of all Pods among `objects`, in their order; pods without an address have none."""
    return [spec for found in objects if found.get("kind") == "Pod" for spec in _specs(found)]


def _specs(found: PodObject) -> Iterator[SimulatorSpec]:
    try:
        pod = msgspec.convert(found, _Pod)
    except msgspec.ValidationError as error:
        raise PodError(f"a Pod is not readable: {error}") from error
    if not pod.status.pod_ip:
        return
    try:
        hardware = msgspec.json.decode(pod.metadata.annotations.get(ANNOTATION, "{}"), type=dict[str, object])
        for container in pod.spec.containers:
            flags = _flags(container.args)
            numbers = {name: int(flags[flag]) for flag, name in _NUMBERS.items() if flag in flags}
            server = msgspec.convert({**numbers, **hardware}, ServerModel)
            adapters = tuple(module.partition("=")[0] for module in flags.get("lora-modules", "").split())
            model = flags.get("model", DEFAULT_MODEL)
            for port in container.ports:
                yield SimulatorSpec(pod.status.pod_ip, port.container_port, model, adapters, server)
    except (ValueError, msgspec.MsgspecError) as error:
        raise PodError(f"pod {pod.metadata.name!r}: {error}") from error


_NUMBERS = {
    "max-num-seqs": "max_num_seqs",
    "max-num-seq": "max_num_seqs",  # argparse takes a prefix that is unique, and the guide uses one
    "max-loras": "max_loras",
    "max-model-len": "max_model_len",
    "max-num-batched-tokens": "max_num_batched_tokens",
    "block-size": "block_tokens",
    "num-gpu-blocks-override": "num_gpu_blocks",
}


def _flags(args: list[str]) -> dict[str, str]:
    """`--name value ...` and `--name=value`, without the dashes; several values are joined by blanks."""
    found: dict[str, str] = {}
    current = ""
    for word in args:
        if word.startswith("--"):
            current, _, value = word[2:].partition("=")
            found[current] = value
        elif current:
            found[current] = f"{found[current]} {word}".strip()
    return found
