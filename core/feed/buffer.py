"""Entries that a picker has recorded and the log has not acknowledged.

Every entry gets the next number `n`, whether it finds room or not.  One that finds none is dropped, and so are all that
follow until an eighth of the buffer is free: a loss is then one gap in `n`, which the control process sees and records.
"""

from collections import deque

import msgspec

from pointsman.core.events import PickerEvent, class_of, encode
from pointsman.core.feed.frames import ENTRY_BYTES_MAX, SEND_BYTES, Entries

BUFFER_BYTES_MAX = 64 << 20
"""Bytes kept: about a minute at 1,000 requests/s."""


class Unacknowledged(msgspec.Struct, frozen=True, gc=False):
    """An entry that the log may not have."""

    n: int
    kind: int
    body: bytes


class EntryBuffer:
    """The entries of one epoch between being recorded and being acknowledged."""

    def __init__(self, bytes_max: int) -> None:
        self.last_n = 0
        """The last `n` given out."""
        self.first_unacknowledged = 1
        self.dropped = 0
        self.dropping = False
        """Whether the next entry is dropped; `take_up` ends that."""
        self.bytes = 0
        self._bytes_max = bytes_max
        self._sent: deque[Unacknowledged] = deque()
        self._unsent: deque[Unacknowledged] = deque()

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    def record(self, event: PickerEvent) -> None:
        """Give out the next `n`, which `event` carries, and keep the entry where there is room."""
        n = self.last_n + 1
        assert event.origin.n == n, f"entry {event.origin.n} where {n} comes next"
        self.last_n = n
        body = encode(event)
        size = len(body)
        if self.dropping or size > ENTRY_BYTES_MAX or self.bytes + size > self._bytes_max:
            self.dropping = True
            self.dropped += 1
            return
        self.bytes += size
        self._unsent.append(Unacknowledged(n, class_of(event), body))

    def take_up(self) -> bool:
        """Whether something was dropped and there is room again: the next entry is kept."""
        if not self.dropping or self.bytes * 8 > self._bytes_max * 7:
            return False
        self.dropping = False
        return True

    def acknowledge(self, n: int) -> None:
        """Let go of everything up to `n`."""
        if n < self.first_unacknowledged:
            return
        for entries in (self._sent, self._unsent):
            while entries and entries[0].n <= n:
                self.bytes -= len(entries.popleft().body)
        self.first_unacknowledged = n + 1

    def rewind(self) -> None:
        """Everything unacknowledged is to be sent again."""
        self._sent.extend(self._unsent)
        self._sent, self._unsent = deque(), self._sent

    def skip(self, n: int) -> None:
        """What is not above `n` need not be sent, and is kept all the same."""
        while self._unsent and self._unsent[0].n <= n:
            self._sent.append(self._unsent.popleft())

    def next_frames(self) -> list[Entries]:
        """What is to be sent next, about SEND_BYTES at most; one frame for each run without a gap."""
        frames: list[Entries] = []
        unsent, sent = self._unsent, self._sent
        size = 0
        while unsent and size < SEND_BYTES:
            first_n = expected = unsent[0].n
            kinds, bodies = bytearray(), []
            while unsent and unsent[0].n == expected and size < SEND_BYTES:
                entry = unsent.popleft()
                sent.append(entry)
                kinds.append(entry.kind)
                bodies.append(entry.body)
                size += len(entry.body)
                expected += 1
            frames.append(Entries(first_n, bytes(kinds), tuple(bodies)))
        return frames
