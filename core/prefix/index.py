"""The prefix index itself: what is asked of it, what changes it, and what it gives up.

Each server remembers its most recently used blocks up to its capacity, exactly (LRU).
Capacity is a length: blocks that lie deep in a prompt are long, and take as much of a server's cache as many short ones.
Blocks of one prompt are used in one moment; among them, those further back in the prompt count as more recent.
When all servers together hold more than `blocks_max`, the one that holds the most gives up its oldest.
When a server leaves, it is no longer matched from that moment on.  Its bits are cleared a little with each update,
and its lane is given to another server only after the last of them.
"""

import heapq
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from pointsman.core.prefix.hash_table import BlockTable, FoundRows, Rows
from pointsman.core.prefix.lane import QUEUE, Lane, Queue
from pointsman.core.prefix.lane_sets import counted, numbers_of, runs_of
from pointsman.core.prefix.prompt_blocks import REQUEST_BLOCKS_MAX
from pointsman.core.values.packing import Ints

SERVER_BLOCKS: Final = 31250
"""Capacity of a server that does not tell its own, in blocks of the pool's size: the Go EPP's default."""
INDEX_BLOCKS_MAX: Final = 4_000_000
"""Blocks over all servers: 400 MB at the most, 100 bytes each; 128 servers with the default capacity."""
_SWEEP: Final = 64
"""Blocks of servers that left which each update clears: as many as a request of 4 KiB brings."""
_AHEAD: Final = 32
"""Rows copied to the larger table for each block that comes: it is ready before this one is full."""
_PIECE: Final = 512
"""Blocks looked at together when a lane gives up its oldest: a prompt brings half as many."""
_INTERNED: Final = 4096
_FEW: Final = 16
"""Slots up to which plain numbers are sooner done than arrays."""

_FEW_LANES: Final = 4
_ASKED_SETS: Final = 64
"""Sets of lanes kept as a number for each slot: 512 KB for 1,000 slots."""


class PrefixStatistics(msgspec.Struct, frozen=True):
    """How large the index is and what it had to give up."""

    servers: int
    blocks: int
    """Blocks over all servers, those still to be cleaned up included."""
    distinct: int
    blocks_max: int
    evicted: int
    """Blocks given up because a server reached its capacity."""
    squeezed: int
    """Blocks given up because the whole index reached `blocks_max`."""
    warmed: int
    """Blocks that came from the log: of requests before this process began, or while it was cut off."""
    bytes: int
    """Bytes of its arrays."""


class PrefixIndex:
    """Blocks by server; see the module."""

    def __init__(self, blocks_max: int = INDEX_BLOCKS_MAX) -> None:
        self.blocks_max = blocks_max
        self.blocks = 0
        self._table = BlockTable()
        self._scratch: Queue = np.zeros(len(self._table), dtype=np.uint32)
        self._by_slot: dict[int, Lane] = {}
        self._lanes: list[Lane | None] = []
        self._free: list[int] = []
        self._let_go: list[Lane] = []
        self._alive = 0
        self._lane_of: Ints = np.full(16, -1, dtype=np.int64)
        self._live: Ints = np.zeros(16, dtype=np.int64)
        self._interned: dict[int, int] = {}
        self._latest: tuple[bytes, int, FoundRows] | None = None
        self._asked: Ints | None = None
        self._asked_bits: list[int] = []
        self._asked_at: dict[int, int] = {}
        self._asked_sets: dict[int, Ints] = {}
        self._asked_lanes: Ints = np.zeros(0, dtype=np.int64)
        self._evicted = 0
        self._squeezed = 0
        self._warmed = 0

    # --- questions ------------------------------------------------------------------------------

    def matches(self, hashes: bytes, slots: Ints) -> Ints:
        """How much of the prompt each slot's server holds, in units of `prompt_blocks.py`, up to the first block nobody holds."""
        if not hashes or not self._by_slot:
            return np.zeros(len(slots), dtype=np.int64)
        found = self._find(hashes)
        held: list[int] = self._table.holders.take(found.rows[: found.leading]).tolist()
        weights = counted(held, self._alive)
        if not weights:
            return np.zeros(len(slots), dtype=np.int64)
        if slots is not self._asked:
            self._ask(slots)
        if len(slots) <= _FEW:  # the same result, sooner
            if len(weights) == 1:
                ((lanes, weight),) = weights.items()
                return np.array([weight if lanes & bit else 0 for bit in self._asked_bits])
            parts = list(weights.items())
            return np.array([sum([w for lanes, w in parts if lanes & bit]) for bit in self._asked_bits])
        counts = np.zeros(len(slots), dtype=np.int64)
        for lanes, weight in weights.items():
            if lanes.bit_count() <= _FEW_LANES:
                for lane in numbers_of(lanes):
                    if (at := self._asked_at.get(lane)) is not None:
                        counts[at] += weight
            else:
                counts += self._spread(lanes) * weight
        return counts

    def _spread(self, lanes: int) -> Ints:
        """1 for each of the asked slots whose lane is in `lanes`, 0 for the others; kept, because many blocks share a set."""
        found = self._asked_sets.get(lanes)
        if found is None:
            packed = np.frombuffer(lanes.to_bytes(len(self._lanes) // 8 + 1, "little"), np.uint8)
            found = np.unpackbits(packed, bitorder="little").take(self._asked_lanes).astype(np.int64)
            if len(self._asked_sets) >= _ASKED_SETS:
                self._asked_sets.clear()
            self._asked_sets[lanes] = found
        return found

    def _ask(self, slots: Ints) -> None:
        """Keep the lanes of `slots` at hand: one decision after the other asks about the same ones."""
        # Slots never seen are clipped to the last one, which has no lane; whoever has none gets a spare bit.
        lanes = self._lane_of.take(slots, mode="clip")
        listed = lanes.tolist()
        self._asked_sets.clear()
        if len(slots) <= _FEW:
            self._asked_bits = [1 << lane if lane >= 0 else 0 for lane in listed]
        else:
            self._asked_at = {lane: i for i, lane in enumerate(listed) if lane >= 0}
            self._asked_lanes = np.where(lanes < 0, len(self._lanes), lanes)
        self._asked = None if slots.flags.writeable else slots

    def held(self, slot: int) -> int:
        """How many blocks the slot's server holds."""
        lane = self._by_slot.get(slot)
        return 0 if lane is None else lane.live

    def full(self, slots: Iterable[int]) -> bool:
        """None of the slots' servers may hold more blocks."""
        lanes = [self._by_slot.get(slot) for slot in slots]
        return self.blocks >= self.blocks_max or all(
            lane is not None and (lane.closed or lane.length >= lane.capacity) for lane in lanes
        )

    def statistics(self) -> PrefixStatistics:
        """Its size and what it gave up."""
        queues = sum(lane.queue.nbytes for lane in [*self._by_slot.values(), *self._let_go])
        return PrefixStatistics(
            servers=len(self._by_slot),
            blocks=self.blocks,
            distinct=self._table.used,
            blocks_max=self.blocks_max,
            evicted=self._evicted,
            squeezed=self._squeezed,
            warmed=self._warmed,
            bytes=queues + self._scratch.nbytes + self._table.nbytes,
        )

    # --- changes --------------------------------------------------------------------------------

    def record(self, slot: int, hashes: bytes, capacity: int = SERVER_BLOCKS) -> None:
        """The slot's server was given these blocks; its capacity is that of the first time."""
        if not hashes:
            return
        lane = self._by_slot.get(slot) or self._join(slot, capacity)
        rows = self._insert(self._find(hashes))
        touched = rows.tolist()
        if len(set(touched)) != len(touched):  # the same block twice: its last place counts
            touched = list(dict.fromkeys(reversed(touched)))[::-1]
            rows = np.array(touched, dtype=np.int64)
        known = self._hold(lane, rows, touched)
        if lane.head < lane.sorted_to:
            lane.moved.update(known)
        lane.append(rows)
        if lane.length > lane.capacity:
            self._evicted += self._evict(lane, lane.length - lane.capacity)
            lane.closed = True
        if self._let_go:
            self._sweep(_SWEEP)
        if self.blocks > self.blocks_max:
            self._squeeze()
        if lane.end - lane.head > 2 * lane.live + QUEUE:
            lane.sort(self._scratch)
        if lane.length < lane.capacity or len(lane.moved) > lane.live // 8 + QUEUE:
            lane.unsort()

    def warm(self, slot: int, hashes: bytes, capacity: int = SERVER_BLOCKS) -> int:
        """Put these blocks behind all that the slot's server holds, as older ones; returns how many found room.

        Prompts given in this way from the newest to the oldest leave the index as `record` would have left it
        from the oldest to the newest, as long as `blocks_max` is not reached.
        """
        while self._let_go and self.blocks + len(hashes) // 8 > self.blocks_max:
            self._sweep(16 * _SWEEP)
        lane, room = self._by_slot.get(slot), self.blocks_max - self.blocks
        if not hashes or room <= 0 or (lane is not None and (lane.closed or lane.length >= lane.capacity)):
            return 0
        lane = lane or self._join(slot, capacity)
        touched: list[int] = self._insert(self._table.find(hashes)).tolist()
        touched = list(dict.fromkeys(reversed(touched)))[::-1]
        known = set(self._hold(lane, np.array(touched, dtype=np.int64), touched))
        fresh = [row for row in touched if row not in known] if known else touched
        over = max(0, len(fresh) - room)
        excess = lane.length - lane.capacity - self._table.length(fresh[:over])
        if excess > 0:
            over += int(np.searchsorted(np.cumsum(self._table.lengths(fresh[over:])), excess)) + 1
            lane.closed = True
        lane.live -= over
        lane.length -= self._table.length(fresh[:over])
        self._drop(lane, fresh[:over])
        lane.prepend(np.array(fresh[over:], dtype=np.int64))
        self._warmed += len(fresh) - over
        return len(fresh) - over

    def let_go(self, slot: int) -> None:
        """The slot's server is gone."""
        lane = self._by_slot.pop(slot, None)
        if lane is None:
            return
        self._alive &= ~lane.bit
        self._asked = None
        self._lane_of[slot] = -1
        self._live[slot] = 0
        self._let_go.append(lane)

    def _find(self, hashes: bytes) -> FoundRows:
        # A decision matches and then records the same blocks.
        latest = self._latest
        if latest is not None and latest[1] == self._table.version and latest[0] == hashes:
            return latest[2]
        found = self._table.find(hashes[: 8 * REQUEST_BLOCKS_MAX])
        self._latest = (hashes, self._table.version, found)
        return found

    def _insert(self, found: FoundRows) -> Rows:
        table, count = self._table, len(found.there)
        if found.leading < count:
            while table.prepare(_AHEAD * count) or table.full(count):
                self._grow()
                found = table.find(found.hashes.tobytes())
        return table.insert(found)

    def _grow(self) -> None:
        moved = self._table.grow()
        self._scratch = np.zeros(len(self._table), dtype=np.uint32)
        for lane in [*self._by_slot.values(), *self._let_go]:
            lane.queue[lane.head : lane.end] = moved(lane.queue[lane.head : lane.end])
            if lane.moved:
                lane.moved = set(moved(np.array(list(lane.moved), dtype=np.int64)).tolist())

    def _join(self, slot: int, capacity: int) -> Lane:
        assert capacity > 0, f"capacity of slot {slot} is {capacity}, wanted at least 1"
        if slot + 1 >= len(self._lane_of):
            self._widen(slot + 2)
        if self._free:
            number = heapq.heappop(self._free)
        else:
            number = len(self._lanes)
            self._lanes.append(None)
        self._asked = None
        lane = Lane(number, slot, capacity)
        self._lanes[number] = self._by_slot[slot] = lane
        self._lane_of[slot] = number
        self._alive |= lane.bit
        return lane

    def _widen(self, slots: int) -> None:
        more = max(slots, 2 * len(self._lane_of)) - len(self._lane_of)
        self._lane_of = np.concatenate((self._lane_of, np.full(more, -1, dtype=np.int64)))
        self._live = np.concatenate((self._live, np.zeros(more, dtype=np.int64)))

    def _hold(self, lane: Lane, rows: Rows, touched: list[int]) -> list[int]:
        """Set the lane's bit in the rows; returns those where it was set."""
        bit, holders = lane.bit, self._table.holders
        masks = holders.take(rows).tolist()
        if masks[0] & bit and masks.count(masks[0]) == len(masks):
            return touched
        known: list[int] = []
        fresh: list[int] = []
        for mask, start, end in runs_of(masks):
            if mask & bit:
                known += touched[start:end]
            else:
                fresh += touched[start:end]
                holders[rows[start:end]] = self._intern(mask | bit)
        if self._table.larger is not None:
            self._table.larger.follow(rows)
        lane.length += self._table.length(fresh)
        lane.live += len(fresh)
        self.blocks += len(fresh)
        self._live[lane.slot] = lane.live
        return known

    def _intern(self, mask: int) -> int:
        if len(self._interned) >= _INTERNED:
            self._interned.clear()
        return self._interned.setdefault(mask, mask)

    def _evict(self, lane: Lane, excess: int, *, blocks: bool = False) -> int:
        """Take the oldest blocks from a lane until it is shorter by `excess`, or until so many `blocks` are gone.

        Returns how many were taken.
        """
        victims: list[int] = []
        taken = 0
        while excess > 0:
            if lane.head == lane.sorted_to:
                self._give_up(lane, victims)
                victims = []
                lane.sort(self._scratch)
            stop = min(lane.sorted_to, lane.head + min(excess, _PIECE))
            piece = lane.queue[lane.head : stop].tolist()
            found = [row for row in piece if row not in lane.moved]
            lengths = self._table.lengths(found)
            if blocks:
                lengths[:] = 1
            total = int(lengths.sum())
            if total > excess:
                found = found[: int(np.searchsorted(np.cumsum(lengths), excess)) + 1]
                stop = lane.head + piece.index(found[-1]) + 1
            lane.head = stop
            victims += found
            taken += len(found)
            excess -= total
        self._give_up(lane, victims)
        return taken

    def _give_up(self, lane: Lane, victims: list[int]) -> None:
        lane.live -= len(victims)
        lane.length -= self._table.length(victims)
        self._drop(lane, victims)

    def _drop(self, lane: Lane, touched: list[int]) -> None:
        """Clear the lane's bit in these rows where it is set; rows that nobody holds become free."""
        if not touched:
            return
        bit, holders = lane.bit, self._table.holders
        rows = np.array(touched, dtype=np.int64)
        cleared = 0
        for mask, start, end in runs_of(holders.take(rows).tolist()):
            if mask & bit:
                left = holders[rows[start:end]] = self._intern(mask ^ bit)
                cleared += end - start
                if not left:
                    self._table.free(rows[start:end])
        if self._table.larger is not None:
            self._table.larger.follow(rows)
        self.blocks -= cleared
        if self._by_slot.get(lane.slot) is lane:
            self._live[lane.slot] = lane.live

    def _sweep(self, count: int) -> None:
        """Clean up some blocks of the lane that was let go first."""
        lane = self._let_go[0]
        stop = min(lane.end, lane.head + count)
        self._drop(lane, list(dict.fromkeys(lane.queue[lane.head : stop].tolist())))
        lane.head = stop
        if lane.head == lane.end:
            self._let_go.pop(0)
            self._lanes[lane.number] = None
            heapq.heappush(self._free, lane.number)

    def _squeeze(self) -> None:
        """Come back to `blocks_max`: first from lanes let go, then from the server that holds most."""
        while self.blocks > self.blocks_max and self._let_go:
            self._sweep(16 * _SWEEP)
        while (over := self.blocks - self.blocks_max) > 0:
            lane = self._by_slot[int(self._live.argmax())]
            count = min(over, lane.live)
            self._squeezed += self._evict(lane, count, blocks=True)
