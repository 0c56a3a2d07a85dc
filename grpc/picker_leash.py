"""The picker process's end of its leash: orders from the supervisor, some with a listening socket.

Each order is a line of JSON, an object of one key.  The end of the leash is an order too: the supervisor is gone.
"""

import json
import os
import socket
from collections import deque
from contextlib import suppress
from typing import TypeAlias

import msgspec

LEASH = "POINTSMAN_LEASH"
"""Environment variable with the number of the leash's file descriptor."""

LINE_BYTES_MAX = 1 << 20
"""No order comes near."""

_SOCKETS_MAX = 32
"""In one read; each order hands over one."""


class LeashError(Exception):
    """What came is not what a supervisor says."""


class Listen(msgspec.Struct, frozen=True):
    """Serve a pool on a socket."""

    pool: str
    port: int = 0
    tls: bool = False


class ListenHealth(msgspec.Struct, frozen=True):
    """Serve health on a socket."""

    port: int = 0


class Unlisten(msgspec.Struct, frozen=True):
    """Serve a pool no longer."""

    pool: str
    port: int = 0


class Drain(msgspec.Struct, frozen=True):
    """Tell probes that we are leaving, and go on serving until `Stop`, which comes after these seconds."""

    seconds: float


class Stop(msgspec.Struct, frozen=True):
    """End; streams in progress have so many seconds."""

    seconds: float


Order: TypeAlias = Listen | ListenHealth | Unlisten | Drain | Stop

_KINDS: dict[str, type[Listen | ListenHealth | Unlisten]] = {
    "listen": Listen,
    "listen_health": ListenHealth,
    "unlisten": Unlisten,
}


class Leash:
    """One end; `receive` never waits."""

    def __init__(self, end: socket.socket, stop_within: float) -> None:
        end.setblocking(False)
        self.end = end
        self._stop_within = stop_within
        """Seconds for streams in progress where `stop` names none."""
        self._rest = b""
        self._sockets: deque[socket.socket] = deque()

    def receive(self) -> list[tuple[Order, socket.socket | None]]:
        """The orders that are there, each with the socket it came with; at the end of the leash `Stop` at once."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.end, 1 << 16, _SOCKETS_MAX)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data, descriptors = b"", []
        self._sockets += [socket.socket(fileno=number) for number in descriptors]
        if not data:
            return [(Stop(0.0), None)]
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise LeashError(f"found a line of over {LINE_BYTES_MAX} bytes, wanted an order")
        return [self._order(line) for line in lines]

    def _order(self, line: bytes) -> tuple[Order, socket.socket | None]:
        try:
            found = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            [(name, content)] = found.items()
            if name == "drain":
                return Drain(msgspec.json.decode(content, type=float)), None
            if name == "stop":
                told = msgspec.json.decode(content, type=bool | float)
                return Stop(self._stop_within if told is True else float(told)), None
            order = msgspec.json.decode(content, type=_KINDS[name])
        except (msgspec.DecodeError, ValueError, KeyError) as error:
            wanted = ", ".join((*_KINDS, "drain", "stop"))
            raise LeashError(f"found {line[:80]!r}, wanted one of {wanted}: {error}") from error
        if isinstance(order, Unlisten):
            return order, None
        if not self._sockets:
            raise LeashError(f"found {line[:80]!r} without a socket, wanted one with it")
        return order, self._sockets.popleft()

    def say(self, name: str, content: object) -> None:
        """Tell the supervisor something; nothing where it is gone."""
        with suppress(OSError):  # its end is the order that follows
            self.end.sendall(json.dumps({name: content}).encode() + b"\n")

    def close(self) -> None:
        """Let go of the leash and of sockets that no order named."""
        self.end.close()
        for sock in self._sockets:
            sock.close()


def held_leash(stop_within: float) -> Leash:
    """The leash that the environment names."""
    number = os.environ.get(LEASH, "")
    if not number.isdigit():
        raise LeashError(f"found {LEASH}={number!r}, wanted a file descriptor: the supervisor starts this process")
    end = socket.socket(fileno=int(number))
    os.set_inheritable(end.fileno(), False)
    return Leash(end, stop_within)
