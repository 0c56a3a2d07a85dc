"""The leash: a socket pair between the supervisor and each child, with lines of JSON both ways.

Each line is an object of one key, which names the message.
Its end tells a child that the supervisor is gone: the child then flushes and ends.
"""

import json
import os
import socket
from collections.abc import Iterable

LEASH = "POINTSMAN_LEASH"
"""Environment variable with the number of the child's end."""

LINE_BYTES_MAX = 1 << 20
"""No message comes near; what exceeds it is not one of ours."""


class LeashError(Exception):
    """What came over a leash is not what its two ends say to each other."""


class LeashLines:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[str, object]]:
        """The messages that `data` completes, as (name, content)."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise LeashError(f"found a line of over {LINE_BYTES_MAX} bytes, wanted a message")
        return [_message(line) for line in lines]


def _message(line: bytes) -> tuple[str, object]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise LeashError(f"found {line[:80]!r}, wanted JSON") from error
    if not isinstance(found, dict) or len(found) != 1:
        raise LeashError(f"found {line[:80]!r}, wanted an object of one key")
    [(name, content)] = found.items()
    return str(name), content


def encode(name: str, content: object) -> bytes:
    """One message as it travels."""
    return json.dumps({name: content}, separators=(",", ":")).encode() + b"\n"


def say(end: socket.socket, name: str, content: object, handed: Iterable[socket.socket] = ()) -> None:
    """Send one message, with the sockets that it speaks of; `OSError` where the other end is gone or stuck."""
    data = encode(name, content)
    sent = socket.send_fds(end, [data], [s.fileno() for s in handed])
    if sent < len(data):
        end.sendall(data[sent:])


def held_end() -> socket.socket:
    """The child's end of its leash."""
    number = os.environ.get(LEASH, "")
    if not number.isdigit():
        raise LeashError(f"found {LEASH}={number!r}, wanted a file descriptor: the supervisor starts this command")
    end = socket.socket(fileno=int(number))
    os.set_inheritable(end.fileno(), False)
    return end
