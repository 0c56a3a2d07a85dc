"""A hash table from prompt blocks to rows, made for 64 look-ups at once.

Each hash has a bucket of sixteen.  Where that is full when the hash comes, it lives in another bucket,
and a dictionary tells where: that is so for few, and look-ups ask it only about those they did not find.
A row is a place in the table: it stays the same until the table grows, and `grow` says where each went.
Columns by row are the owner's, beside `holders`.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.int64]
"""As signed numbers, so that they make indexes."""

_WAYS: Final = 16
_SHIFT = np.array(4)
_FULL: Final = 0.7
"""Share of rows in use at which the table doubles: one in sixty hashes lives in another bucket then."""
_FREE: Final = bytes(8)
"""The key of a free row."""
_I8 = np.dtype("<i8")
_ZERO, _ONE = np.array(0), np.array(1)


class Found(msgspec.Struct, frozen=True):
    """Where the blocks of one request are; good until the table changes."""

    hashes: Hashes
    buckets: Rows
    cells: Hashes
    """The keys in the buckets, 16 for each hash."""
    rows: Rows
    """Of the hashes that are in the table; anything for the others."""
    there: bytes
    """1 for each hash that is in its bucket, 0 for the others; right up to the first that is not in the table."""
    leading: int
    """How many hashes are in the table before the first that is not."""


class BlockTable:
    """Hashes to rows; `holders[row]` is the bit set of lanes that hold the block, 0 in free rows."""

    def __init__(self, rows: int = 1 << 13) -> None:
        assert rows & (rows - 1) == 0, "a table has a power of two of rows"
        self.version = 0
        """Rises whenever what `find` returned may be wrong."""
        self.used = 0
        self._elsewhere: dict[int, int] = {}
        """The rows of hashes that are not in their own bucket."""
        self._make(rows)

    def _make(self, rows: int) -> None:
        self._flat: Hashes = np.zeros(rows, dtype=_I8)
        self._keys = self._flat.reshape(-1, _WAYS)
        self._mask = np.array(len(self._keys) - 1)
        self.holders: npt.NDArray[np.object_] = np.zeros(rows, dtype=np.object_)

    def __len__(self) -> int:
        return len(self.holders)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, without the bit sets themselves."""
        return self._keys.nbytes + self.holders.nbytes

    def find(self, packed: bytes) -> Found:
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
        return Found(hashes, buckets, cells, rows, there, leading)

    def _find_elsewhere(self, hashes: Hashes, rows: Rows, there: bytes, leading: int) -> tuple[bytes, int]:
        """Go on where the first hash that is not in its bucket is in another one."""
        while leading >= 0 and (row := self._elsewhere.get(hashes.item(leading))) is not None:
            rows[leading] = row
            there = there[:leading] + b"\1" + there[leading + 1 :]
            leading = there.find(0)
        return there, len(there) if leading < 0 else leading

    def insert(self, found: Found) -> Rows:
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

    def grow(self) -> "Moved":
        """Double the table; what is returned tells the new row of an old one."""
        size, keys, holders = len(self), self._flat, self.holders
        apart = np.array(list(self._elsewhere.values()), dtype=np.int64)
        values, held = keys.take(apart), holders.take(apart)
        keys[apart] = holders[apart] = 0
        self.version += 1
        self._elsewhere = {}
        self._make(2 * size)
        up = (keys & np.array(size // _WAYS)) != _ZERO  # the bit of the hash that the mask gains
        for half, here in ((slice(0, size), ~up), (slice(size, 2 * size), up)):
            np.copyto(self._flat[half], keys, where=here)
            np.copyto(self.holders[half], holders, where=here)
        moved = np.arange(size, dtype=np.uint32)
        moved[up] += size
        if len(apart):
            self.used -= len(apart)
            buckets = values & self._mask
            rows = self._place(values, buckets, self._keys.take(buckets, 0))
            self.holders[rows] = held
            moved[apart] = rows
        return Moved(moved)


class Moved:
    """Where the rows of a table went when it grew."""

    def __init__(self, rows: npt.NDArray[np.uint32]) -> None:
        self._rows = rows

    def __call__(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.uint32]) -> Rows:
        """The new rows."""
        return self._rows.take(rows).astype(np.int64)
