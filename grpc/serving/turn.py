"""The end of a turn of the loop: what was recorded goes to the feed first, what was answered to the peers second."""

import asyncio
from collections.abc import Callable, Sized
from typing import Protocol


class Sends(Protocol):
    """What has something to send."""

    def send(self) -> None:
        """Send it."""
        ...


class Turn:
    """What a process sends at the end of a turn of the loop: entries first, answers second."""

    def __init__(self, flush_feed: Callable[[], None]) -> None:
        self._flush_feed = flush_feed
        self.dirty: dict[Sends, None] = {}
        """Senders that have something to send, in the order in which they said so."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: Sized | None = None
        """Callbacks that the loop has still to run in this turn; None where the loop does not show them."""
        self._scheduled = False
        self._reading = False
        self.decided = False
        """Whether a decision was recorded in this turn, so that the feed is flushed before anything is sent."""

    def wants(self, sender: Sends) -> None:
        """Have `sender` send what it has when this turn ends."""
        self.dirty[sender] = None
        if not self._reading:
            self._schedule()

    def forget(self, sender: Sends) -> None:
        """Its connection is gone."""
        self.dirty.pop(sender, None)

    def read(self) -> None:
        """A connection's bytes are about to be read: `settle` follows."""
        self._reading = True

    def settle(self) -> None:
        """They were read: send now where nothing else is to be run in this turn, which saves a turn; else at its end."""
        self._reading = False
        if not self.dirty and not self.decided:
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._ready = getattr(self._loop, "_ready", None)
        if self._ready is not None and len(self._ready) <= self._scheduled:
            self._end()
        else:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._later)

    def _later(self) -> None:
        self._scheduled = False
        self._end()

    def _end(self) -> None:
        if self.decided:
            self.decided = False
            self._flush_feed()
        dirty, self.dirty = self.dirty, {}
        for sender in dirty:
            sender.send()
