"""One simulated model server, as its connections see it: its engine, its models, its faults.

Every request for tokens leaves one line in the request log, which knows nothing of gateways and pickers:
that makes it a witness of where requests went.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from pointsman.cluster.simulator.apis.request_body import ApiError, JsonObject
from pointsman.cluster.simulator.engine.batching import ServerModel, SimulatedEngine
from pointsman.cluster.simulator.engine.page import MetricsPage
from pointsman.cluster.simulator.engine.sequence import Sequence
from pointsman.cluster.simulator.faults import StandingFaults

QUANTUM = 0.002
"""Seconds between two looks at an engine, at least: tokens of faster steps are sent together."""

DEFAULT_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
"""The base model of the guides."""


class Asker(Protocol):
    """The connection that asked for tokens."""

    def notify(self) -> None:
        """Hear that more tokens of its sequences are there, or that one of them has ended."""
        ...


class SimulatorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server to simulate."""

    address: str
    port: int
    """Port to listen on; 0 lets the operating system choose."""
    model: str = DEFAULT_MODEL
    adapters: tuple[str, ...] = ("food-review-1",)
    """LoRA adapters it knows from the start."""
    server: ServerModel = ServerModel()


class RequestLog:
    """JSON lines, one a request, each written whole before the next: a killed process loses none it wrote."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, line: JsonObject) -> None:
        """Append one line."""
        if self._file is not None:
            os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


class SimulatedServer:
    """One server: its engine, its models, its faults."""

    def __init__(self, spec: SimulatorSpec, request_log: RequestLog) -> None:
        self.spec = spec
        self.name = ""
        """`address:port` it really listens on."""
        self.engine = SimulatedEngine(spec.server)
        self.page = MetricsPage(self.engine, spec.model, time.time())
        self.faults = StandingFaults()
        self.request_log = request_log
        self.models = {spec.model: False, **dict.fromkeys(spec.adapters, True)}
        """Names of the models that are served, each with whether it is an adapter; the base model first."""
        self.requests = 0
        self._askers: dict[Sequence, Asker] = {}
        self._kick = trio.Event()

    def submit(self, sequences: list[Sequence], asker: Asker) -> None:
        """Queue a request's sequences; `asker` is told of each token."""
        now = trio.current_time()
        for sequence in sequences:
            self._askers[sequence] = asker
            self.engine.submit(now, sequence)
        self._kick.set()

    def withdraw(self, sequences: list[Sequence]) -> None:
        """Forget a request's sequences, done or not."""
        now = trio.current_time()
        for sequence in sequences:
            if self._askers.pop(sequence, None) is not None:
                self.engine.abort(now, sequence)

    async def run(self) -> None:
        """Take the engine's steps when they are due; sleeps while it is idle."""
        engine = self.engine
        while True:
            while math.isinf(engine.next_event):  # also where what was submitted was withdrawn before we looked
                self._kick = trio.Event()
                await self._kick.wait()
            await trio.sleep_until(max(engine.next_event, trio.current_time() + QUANTUM))
            told = {self._askers[s] for s in engine.advance(trio.current_time()) if s in self._askers}
            for asker in told:
                asker.notify()

    def load_adapter(self, request: JsonObject) -> str:
        """`POST /v1/load_lora_adapter`."""
        name, path = request.get("lora_name"), request.get("lora_path")
        if not isinstance(name, str) or not isinstance(path, str) or not name or not path:
            raise ApiError(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.models:
            raise ApiError(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        self.models[name] = True
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload_adapter(self, request: JsonObject) -> str:
        """`POST /v1/unload_lora_adapter`."""
        name = request.get("lora_name")
        if not isinstance(name, str) or not name:
            raise ApiError(400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")
        if not self.models.get(name, False):
            raise ApiError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.models[name]
        return f"Success: LoRA adapter '{name}' removed successfully."
