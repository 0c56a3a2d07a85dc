"""One server of the prefix index: its bit in the sets of holders, and its blocks in the order of their use.

The order is a queue of rows, the least recently used first.  A block that is used again is appended once more, and its
earlier place is left as it is: that costs nothing at the time of use.  `sort` removes the earlier places when somebody
has to know which block is the oldest.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from pointsman.core.prefix.hash_table import Rows

QUEUE: Final = 64
"""Rows that a queue has room for at least."""

Queue = npt.NDArray[np.uint32]


class Lane:
    """One server and its queue of rows.

    `queue[head:end]` is the queue.  `queue[head:sorted_to]` is what the last `sort` left: no row is in it twice, and
    the rows of it that were used again since then are in `moved`.
    """

    __slots__ = (
        "bit",
        "capacity",
        "closed",
        "end",
        "head",
        "length",
        "live",
        "moved",
        "number",
        "queue",
        "slot",
        "sorted_to",
    )

    def __init__(self, number: int, slot: int, capacity: int) -> None:
        self.number = number
        self.bit = 1 << number
        self.slot = slot
        self.capacity = capacity
        """Length that its blocks may have in all, in units of `prompt_blocks.py`."""
        self.length = 0
        self.live = 0
        """Number of its blocks."""
        self.closed = False
        """Whether something older than its blocks had no room, so that nothing that is older still may come in."""
        self.queue: Queue = np.empty(QUEUE, dtype=np.uint32)
        self.head = 0
        self.sorted_to = 0
        self.end = 0
        self.moved: set[int] = set()

    def append(self, rows: Rows) -> None:
        """Put rows behind all others, as the most recently used."""
        end = self.end + len(rows)
        if end > len(self.queue):
            queue: Queue = np.empty(max(end, len(self.queue) * 3 // 2), dtype=np.uint32)
            queue[: self.end] = self.queue[: self.end]
            self.queue = queue
        self.queue[self.end : end] = rows
        self.end = end

    def prepend(self, rows: Rows) -> None:
        """Put rows before all others, as the least recently used; it must hold none of them, and none may come twice."""
        if len(rows) > self.head:
            held = self.queue[self.head : self.end]
            self.unsort()
            at = len(held) + len(rows)  # as many may come again
            self.queue = np.empty(at + len(held) + QUEUE, dtype=np.uint32)
            self.queue[at : at + len(held)] = held
            self.head, self.sorted_to, self.end = at, at, at + len(held)
        head = self.head - len(rows)
        self.queue[head : self.head] = rows
        self.head = head

    def sort(self, scratch: Queue) -> None:
        """Keep each row once, at its latest use; `scratch` has a place for every row of the table."""
        rows = self.queue[self.head : self.end]
        count = np.arange(len(rows), dtype=np.uint32)
        scratch[rows] = count  # of equal indexes the last assignment stays
        rows = rows[scratch[rows] == count]
        assert len(rows) == self.live, f"lane {self.number} holds {len(rows)} blocks, wanted {self.live}"
        self.queue = np.empty(max(QUEUE, len(rows) * 5 // 4), dtype=np.uint32)
        self.queue[: len(rows)] = rows
        self.head, self.sorted_to, self.end = 0, len(rows), len(rows)
        self.moved = set()

    def unsort(self) -> None:
        """Stop keeping track of rows that were used again; the next `sort` begins anew."""
        self.sorted_to = self.head
        if self.moved:
            self.moved = set()
