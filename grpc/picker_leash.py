"""The picker process's end of its leash: messages from the supervisor, some with a listening socket."""

import os
import socket
from collections import deque
from contextlib import suppress

from pointsman.core.processes.leash import (
    TO_PICKER,
    ChildMessage,
    LeashError,
    LeashLines,
    Listen,
    ListenHealth,
    PickerMessage,
    Stop,
    encode,
    held_descriptor,
)

_SOCKETS_MAX = 32
"""Sockets in one read; a message hands over one at most, and a read of this size holds fewer messages at a start."""


class PickerLeash:
    """The picker's end; `receive` never waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self._lines = LeashLines(TO_PICKER)
        self._sockets: deque[socket.socket] = deque()

    def receive(self) -> list[tuple[PickerMessage, socket.socket | None]]:
        """The messages that are there, each with the socket it came with; at the end of the leash `Stop` at once."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.end, 1 << 16, _SOCKETS_MAX)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data, descriptors = b"", []
        self._sockets += [socket.socket(fileno=number) for number in descriptors]
        if not data:
            return [(Stop(), None)]
        return [(message, self._socket_of(message)) for message in self._lines.feed(data)]

    def _socket_of(self, message: PickerMessage) -> socket.socket | None:
        if not isinstance(message, Listen | ListenHealth):
            return None
        if not self._sockets:
            raise LeashError(f"found {message} without a socket, wanted one with it")
        return self._sockets.popleft()

    def say(self, message: ChildMessage) -> None:
        """Tell the supervisor something; nothing where it is gone."""
        with suppress(OSError):  # the end of the leash will be read next
            self.end.sendall(encode(message))

    def close(self) -> None:
        """Let go of the leash and of sockets that no message named."""
        self.end.close()
        for sock in self._sockets:
            sock.close()


def held_leash() -> PickerLeash:
    """The leash that the environment names."""
    end = socket.socket(fileno=held_descriptor(os.environ))
    os.set_inheritable(end.fileno(), False)
    return PickerLeash(end)
