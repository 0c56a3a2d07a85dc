"""A hash table from block hashes to rows, in which all hashes of a request are looked up together.

A row is a place in the table, and stays the same until the table grows; `grow` says where each row went.
Sixteen rows are a bucket, and the low bits of a hash name its bucket.  A hash that finds its bucket full is put into a
later one, and a dictionary says where; few hashes are, and a look-up asks the dictionary only about those it missed.
Before the table is full, one of twice the size is filled beside it, a little with each change: no request waits while
it grows.  The table keeps one column by row, the holders of each block; further columns are the owner's.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.core.prefix.prompt_blocks import lengths_of

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.int64]
"""Block hashes. They are signed, because signed numbers can index arrays without a copy."""
Holders = npt.NDArray[np.object_]

_WAYS: Final = 16
_SHIFT = np.array(4)
_FULL: Final = 0.7
"""Share of rows in use at which the table doubles: one in sixty hashes lives in another bucket then."""
_GROWS: Final = 0.65
"""Share at which the larger table begins to be filled."""
_FILL: Final = 1 << 15
"""Rows copied at a time when the larger table has to be completed at once: larger pieces leave the cache."""
_FREE: Final = bytes(8)
"""The key of a free row."""
_I8 = np.dtype("<i8")
_ZERO, _ONE = np.array(0), np.array(1)


class FoundRows(msgspec.Struct, frozen=True):
    """The places of one request's blocks; good until the table changes."""

    hashes: Hashes
    buckets: Rows
    cells: Hashes
    """Keys in these buckets, 16 for each hash."""
    rows: Rows
    """Row of each hash that is in the table; any number for the others."""
    there: bytes
    """1 for each hash that is in its bucket, 0 for the others; right up to the first that is not in the table."""
    leading: int
    """Number of hashes that are in the table before the first that is not."""


class BlockTable:
    """Hashes to rows; `holders[row]` is the bit set of lanes that hold the block, 0 in free rows."""

    def __init__(self, rows: int = 1 << 13) -> None:
        assert rows & (rows - 1) == 0, "a table has a power of two of rows"
        self.version = 0
        """Rises whenever what `find` returned may be wrong."""
        self.used = 0
        self.larger: Larger | None = None
        """The table that this one grows into; whoever changes a row in `holders` tells it."""
        self._elsewhere: dict[int, int] = {}
        """The rows of hashes that are not in their own bucket."""
        self._use(np.zeros(rows, dtype=_I8), np.zeros(rows, dtype=np.object_))

    def _use(self, flat: Hashes, holders: Holders) -> None:
        self._flat, self.holders = flat, holders
        self._keys = flat.reshape(-1, _WAYS)
        self._mask = np.array(len(self._keys) - 1)
        self._grows = _GROWS * len(flat)

    def __len__(self) -> int:
        return len(self.holders)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, without the bit sets themselves."""
        return self._keys.nbytes + self.holders.nbytes + (0 if self.larger is None else self.larger.nbytes)

    def find(self, packed: bytes) -> FoundRows:
        """Look up chained hashes, 8 bytes each; a hash of 0 counts as 1, because 0 marks a free row."""
        hashes = np.frombuffer(packed, _I8)
        if _FREE in packed:
            hashes = np.where(hashes == _ZERO, _ONE, hashes)
        buckets = hashes & self._mask
        cells = self._keys.take(buckets, 0)
        rows = buckets << _SHIFT
        rows += (cells == hashes[:, None]).argmax(1)
        there = (self._flat.take(rows) == hashes).tobytes()
        leading = there.find(0)
        if leading < 0:
            leading = len(there)
        elif self._elsewhere:
            there, leading = self._find_elsewhere(hashes, rows, there, leading)
        return FoundRows(hashes, buckets, cells, rows, there, leading)

    def lengths(self, rows: list[int]) -> Rows:
        """How long the blocks in these rows are: see `prompt_blocks.py`."""
        return lengths_of(self._flat.take(np.array(rows, dtype=np.int64)))

    def length(self, rows: list[int]) -> int:
        """The same of all of them together."""
        return int(self.lengths(rows).sum()) if rows else 0

    def _find_elsewhere(self, hashes: Hashes, rows: Rows, there: bytes, leading: int) -> tuple[bytes, int]:
        """Go on where the first hash that is not in its bucket is in another one."""
        while leading >= 0 and (row := self._elsewhere.get(hashes.item(leading))) is not None:
            rows[leading] = row
            there = there[:leading] + b"\1" + there[leading + 1 :]
            leading = there.find(0)
        return there, len(there) if leading < 0 else leading

    def insert(self, found: FoundRows) -> Rows:
        """Give the missing hashes rows; returns the rows of all, in order.  There must be room: see `full`."""
        there, leading = found.there, found.leading
        if leading == len(there):
            return found.rows
        self.version += 1
        if 1 not in there[leading:]:  # as nearly always: a prompt goes on where nobody has been
            new = self._place(found.hashes[leading:], found.buckets[leading:], found.cells[leading:])
            return np.concatenate((found.rows[:leading], new)) if leading else new
        missing = (np.frombuffer(there, np.uint8) == _ZERO).nonzero()[0]
        rows = found.rows.copy()
        hashes, buckets = found.hashes.take(missing), found.buckets.take(missing)
        rows[missing] = self._place(hashes, buckets, found.cells.take(missing, 0))
        return rows

    def _place(self, hashes: Hashes, buckets: Rows, cells: Hashes) -> Rows:
        """Write the hashes, none of which is in its bucket, and return their rows."""
        if self._elsewhere and not self._elsewhere.keys().isdisjoint(listed := hashes.tolist()):
            return np.array([self._place_one(value) for value in listed])
        flat = self._flat
        rows: Rows = buckets << _SHIFT
        rows += (cells == _ZERO).argmax(1)
        free, clear = rows, flat.take(rows) == _ZERO
        if 0 in clear.tobytes():  # a bucket is full
            at = clear.nonzero()[0]
            free = rows.take(at)
            flat[free] = hashes.take(at)
        else:
            flat[rows] = hashes
        self.used += len(set(free.tolist()))
        # where two chose one row, the last got it
        if 0 in (flat.take(rows) == hashes).tobytes():
            for i in (flat.take(rows) != hashes).nonzero()[0].tolist():
                rows[i] = self._place_one(hashes.item(i))
        return rows

    def _place_one(self, value: int) -> int:
        """The row of a hash that may be in the table, or else the next free one."""
        if (row := self._elsewhere.get(value)) is not None:
            return row
        last = len(self._keys) - 1
        home = bucket = value & last
        keys: list[int] = self._keys[home].tolist()
        if value in keys:
            return home * _WAYS + keys.index(value)
        while 0 not in keys:
            bucket = (bucket + 1) & last
            keys = self._keys[bucket].tolist()
        row = bucket * _WAYS + keys.index(0)
        self._flat[row] = value
        self.used += 1
        if bucket != home:
            self._elsewhere[value] = row
        return row

    def full(self, more: int) -> bool:
        """`more` rows would fill the table beyond what it takes."""
        return self.used + more > _FULL * len(self)

    def free(self, rows: Rows) -> None:
        """Forget the blocks of these rows; nobody may hold them."""
        self.version += 1
        if self._elsewhere:
            for value in self._flat.take(rows).tolist():
                self._elsewhere.pop(value, None)
        self._flat[rows] = 0
        self.used -= len(rows)

    def prepare(self, rows: int) -> bool:
        """Copy `rows` more rows to the larger table where this one will soon be full; True when the larger one has all."""
        if self.larger is None:
            if self.used <= self._grows:
                return False
            self.larger = Larger(self._flat, self.holders)
        return self.larger.fill(rows)

    def grow(self) -> "Moved":
        """Become the larger table; the result tells the new row of an old one."""
        larger = self.larger or Larger(self._flat, self.holders)
        while not larger.fill(_FILL):
            pass
        self.larger = None
        self.version += 1
        apart = np.array(list(self._elsewhere.values()), dtype=np.int64)
        values, held = self._flat.take(apart), self.holders.take(apart)
        self._elsewhere = {}
        self._use(larger.flat, larger.holders)
        if len(apart):
            wrong = larger.moved[apart]
            self._flat[wrong] = self.holders[wrong] = 0
            self.used -= len(apart)
            buckets = values & self._mask
            rows = self._place(values, buckets, self._keys.take(buckets, 0))
            self.holders[rows] = held
            larger.moved[apart] = rows
        return Moved(larger.moved)


class Larger:
    """The table of twice the size, which is filled while the other is in use and changes."""

    def __init__(self, flat: Hashes, holders: Holders) -> None:
        self._old = flat, holders
        self._size = len(flat)
        self._bit = np.array(self._size // _WAYS)
        """The bit of a hash that the mask gains: where it is set, the bucket is in the upper half."""
        self._filled = 0
        self.flat: Hashes = np.zeros(2 * self._size, dtype=_I8)
        self.holders: Holders = np.zeros(2 * self._size, dtype=np.object_)
        self.moved: npt.NDArray[np.uint32] = np.empty(self._size, dtype=np.uint32)
        """The new row of each old one that is filled."""

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        return self.flat.nbytes + self.holders.nbytes + self.moved.nbytes

    def fill(self, count: int) -> bool:
        """Copy so many more rows; whether all of them are there."""
        start, self._filled = self._filled, min(self._filled + count, self._size)
        self._copy(slice(start, self._filled), np.arange(start, self._filled))
        return self._filled == self._size

    def follow(self, rows: Rows) -> None:
        """These rows of the old table have changed."""
        rows = rows[rows < self._filled]
        if len(rows):
            self._copy(rows, rows)

    def _copy(self, at: slice | Rows, rows: Rows) -> None:
        size, (flat, holders) = self._size, self._old
        up = (flat[at] & self._bit).nonzero()[0]
        rising = rows[up]
        for column, values in ((self.flat, flat[at]), (self.holders, holders[at])):
            low, high = column[:size], column[size:]
            low[at], high[at] = values, 0
            low[rising], high[rising] = 0, values[up]
        self.moved[at] = rows
        self.moved[rising] += size


class Moved:
    """The new row of each row of a table that grew."""

    def __init__(self, rows: npt.NDArray[np.uint32]) -> None:
        self._rows = rows

    def __call__(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.uint32]) -> Rows:
        """The new rows."""
        return self._rows.take(rows).astype(np.int64)
