"""The supervisor's end of a leash: sending without waiting for a child."""

import socket
from collections.abc import Iterable

from pointsman.core.processes.leash import LeashMessage, encode


def say(end: socket.socket, message: LeashMessage, handed: Iterable[socket.socket] = ()) -> None:
    """Send one message, with the sockets that it speaks of; `OSError` where the other end is gone or stuck."""
    data = encode(message)
    sent = socket.send_fds(end, [data], [s.fileno() for s in handed])
    if sent < len(data):
        end.sendall(data[sent:])
