"""What a picker process holds for its peers, in bytes: one limit for all, one account for each connection.

Counted is whatever a peer decides the size of: messages that have not come whole, bodies that are not routed yet,
answers that were not read yet, and each open stream as such.
Where the limit is reached, the connection that holds the most gives up its largest streams, so that it is not a small one
that pays; who holds the most gets no more.
"""

from collections.abc import Callable

CONNECTIONS_MAX = 16_384
"""Connections of a process, where the system allows so many: with some 50 KiB each they are most of a gigabyte."""
STREAM_BYTES = 4096
"""Bytes that an open stream counts for, whatever was sent on it: about what its objects take."""


class Account:
    """The bytes that one connection has us hold."""

    __slots__ = ("bytes", "held", "shed")

    def __init__(self, held: "Held", shed: Callable[[bool], bool]) -> None:
        self.held = held
        self.bytes = 0
        self.shed = shed
        """Function that gives up the stream that holds the most, or, asked so, one that has said nothing; false without any."""

    def take(self, size: int) -> None:
        """Hold so many bytes more."""
        self.bytes += size
        self.held.bytes += size

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        self.bytes -= size
        self.held.bytes -= size

    def beyond(self) -> bool:
        """Whether the limit is passed and nobody who holds more can give way."""
        held = self.held
        return held.bytes > held.bytes_max and not held.make_room(self)

    def displace(self) -> bool:
        """Whether a stream that has said nothing gave way to one of ours, on a connection that holds more."""
        largest = max(self.held.accounts, key=_bytes)
        return largest.bytes > self.bytes and largest.shed(True)

    def close(self) -> None:
        """The connection is gone, and all that was held for it."""
        self.held.bytes -= self.bytes
        self.bytes = 0
        self.held.accounts.discard(self)


class Held:
    """The accounts of one process."""

    def __init__(self, bytes_max: int, connections_max: int = CONNECTIONS_MAX) -> None:
        self.bytes_max = bytes_max
        self.connections_max = connections_max
        """Number of accounts that may be open."""
        self.bytes = 0
        """Bytes of all accounts."""
        self.accounts: set[Account] = set()

    def open(self, shed: Callable[[bool], bool] = lambda _: False) -> Account:
        """An account for a new connection."""
        account = Account(self, shed)
        self.accounts.add(account)
        return account

    def make_room(self, asking: Account) -> bool:
        """Have those who hold more than `asking` give way until the limit holds; whether it does."""
        while self.bytes > self.bytes_max:
            largest = max(self.accounts, key=_bytes)
            if largest.bytes <= asking.bytes or not largest.shed(False):
                return False
        return True


def _bytes(account: Account) -> int:
    return account.bytes
