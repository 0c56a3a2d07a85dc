"""What the cluster state holds beside its columns: endpoints, adapters, epochs."""

from collections.abc import Collection
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
"""Slots: indexes of rows in the cluster state's columns, one row for each endpoint."""


EpochKey: TypeAlias = tuple[str, int]
"""A life of a picker process: its picker's name, and the epoch's number."""


def authority_of(address: str, port: int) -> str:
    """`address:port` as a gateway is told it, with IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member of a pool."""

    number: int
    slot: int
    pool: str
    uid: str
    namespace: str
    name: str
    address: str
    port: int
    rank: int
    labels: dict[str, str]
    ready: bool
    source: str = ""
    """Origin of the pod: the file that names it; empty where the log does not say."""

    @property
    def authority(self) -> str:
        """`address:port` as the gateway is told it, with IPv6 in brackets."""
        return authority_of(self.address, self.port)

    @property
    def full_name(self) -> str:
        """Name in words, the same everywhere: of its pod, and its port, because a pod may have several."""
        return f"{self.name}:{self.port}"


class Adapters(msgspec.Struct, frozen=True):
    """The LoRA adapters of one endpoint."""

    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    max: int = 0
    recent: tuple[str, ...] = ()
    """Adapters that ran and do not run now, newest last: the server still holds as many as there is room for beside."""

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that a request finds loaded."""
        return self.running.union(self.recent)

    def followed(self, running: Collection[str], waiting: Collection[str], room: int) -> "Adapters":
        """The adapters after the server named others.

        vLLM names an adapter only while requests for it run, and keeps the least recently used ones loaded until
        their places are needed (`vllm/lora/model_manager.py`).
        """
        idle = [name for name in (*self.recent, *sorted(self.running)) if name not in running and name not in waiting]
        places = max(room - len({*running, *waiting}), 0)
        recent = tuple(dict.fromkeys(idle))[-places:] if places else ()
        return Adapters(frozenset(running), frozenset(waiting), room, recent)


class ServerProcess(msgspec.Struct, frozen=True, array_like=True):
    """The process that answers at an endpoint."""

    endpoint: int
    started_at: float
    """Time at which it started, as its page tells."""


class Epoch(msgspec.Struct):
    """An open life of a picker process."""

    picker: str
    epoch: int
    highest_n: int
    build: str = ""
    scheduler: int = 0
    plugins: dict[str, int] = {}
    adopted_to: int = 0
    """Highest `n` of the entries that rest on another log's cluster state; 0 where none does."""
