"""Taking connections from a listening socket, as many as the process has descriptors for.

asyncio's own server tells of each failed `accept` with a traceback, a thousand times a second where descriptors run out.
"""

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from pointsman.grpc.serving.held import CONNECTIONS_MAX

_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors that pass when others let go of what they have."""
_AT_ONCE = 64
"""Connections that are taken in one turn."""
PAUSE = 0.1
"""Seconds without accepting where there is no room; connections wait in the kernel meanwhile."""
SAID_EVERY = 60.0
"""Seconds between two lines that say so."""
DESCRIPTORS_KEPT = 64
"""Descriptors that connections leave for all else: the feed, the listening sockets, certificates."""

_logger = logging.getLogger("pointsman.picker")


def connections_max() -> int:
    """Let this process open as many files as it may, as Go's runtime does, and return how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + DESCRIPTORS_KEPT
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(1, min(CONNECTIONS_MAX, (soft if soft != resource.RLIM_INFINITY else wanted) - DESCRIPTORS_KEPT))


class Accepting:
    """A listening socket whose connections are taken while there is room for them."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        room: Callable[[int], bool],
        tls: ssl.SSLContext | None,
        *,
        handshake: float,
    ) -> None:
        """`room` says whether one more connection can be had beside as many that begin, and may see to it.

        `handshake` is how many seconds a peer has for its part of TLS.
        """
        listening.setblocking(False)
        self._listening = listening
        self._protocol = protocol
        self._room = room
        self._tls = tls
        self._handshake = handshake if tls else None
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._said = -SAID_EVERY
        self._loop.add_reader(listening, self._readable)

    def close(self) -> None:
        """Take no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._room(len(self._beginning)):
                self._wait("as many are open as may be")
                return
            try:
                taken, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._wait(error.strerror or str(error))
                return
            taken.setblocking(False)
            task = self._loop.create_task(self._begin(taken))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol, taken, ssl=self._tls, ssl_handshake_timeout=self._handshake
            )
        except (OSError, TimeoutError) as error:  # a peer that went, or speaks no TLS
            _logger.debug("a connection came to nothing: %s", error)
            taken.close()

    def _wait(self, why: str) -> None:
        now = monotonic()
        if now - self._said >= SAID_EVERY:
            self._said = now
            _logger.warning("no more connections are accepted for now: %s", why)
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._readable)
