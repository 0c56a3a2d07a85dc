"""A hash table from prompt blocks to rows, made for 64 look-ups at once.

Each hash has two buckets of eight, one in either half of the table, and lives in the emptier one.
A row is a place in the table: it stays the same until the table grows, and `grow` says where each went.
Columns by row are the owner's, beside `holders`.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_WAYS: Final = 8
_FULL: Final = 0.7
"""Share of rows in use at which the table doubles: two choices of eight overflow only well above it."""
_AT_ONCE: Final = 1024
"""Hashes in one look-up: four times what a request has."""
_FREE: Final = bytes(8)
"""The key of a free row."""
_U8, _U4 = np.dtype("<u8"), np.dtype("<u4")
_ONE = np.uint64(1)
_COUNT = np.arange(_AT_ONCE, dtype=np.int64)


class TableFullError(Exception):
    """Both buckets of a hash are full: the table must grow."""


class Found(msgspec.Struct, frozen=True):
    """Where the blocks of one request are; good until the table changes."""

    hashes: Hashes
    buckets: npt.NDArray[np.int64]
    """Two for each hash."""
    cells: Hashes
    """The keys in both buckets, 16 for each hash."""
    blocks: Rows
    """Indexes of the hashes that are in the table, ascending."""
    rows: Rows
    """Their rows."""

    @property
    def leading(self) -> int:
        """How many hashes are in the table before the first that is not."""
        if len(self.rows) == len(self.hashes):
            return len(self.rows)
        return int(np.count_nonzero(self.blocks == _COUNT[: len(self.blocks)]))


class BlockTable:
    """Hashes to rows; `holders[row]` is the bit set of lanes that hold the block, 0 in free rows."""

    def __init__(self, rows: int = 1 << 13) -> None:
        self._half = rows // (2 * _WAYS)
        assert self._half & (self._half - 1) == 0, "the halves of a table are powers of two"
        self.version = 0
        """Rises whenever what `find` returned may be wrong."""
        self.used = 0
        self._keys: Hashes = np.zeros((2 * self._half, _WAYS), dtype=np.uint64)
        self.holders: npt.NDArray[np.object_] = np.zeros(rows, dtype=np.object_)
        self._prepare()

    def _prepare(self) -> None:
        self._flat = self._keys.reshape(-1)
        self._mask = np.uint32(self._half - 1)
        self._choice = np.tile(np.array([0, self._half], dtype=np.int64), _AT_ONCE)

    def __len__(self) -> int:
        return len(self.holders)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, without the bit sets themselves."""
        return self._keys.nbytes + self.holders.nbytes

    def find(self, packed: bytes) -> Found:
        """Look up chained hashes, 8 bytes each; a hash of 0 counts as 1, because 0 marks a free row."""
        if _FREE in packed:
            hashes = np.frombuffer(packed, _U8).copy()
            hashes[hashes == 0] = 1
            packed = hashes.tobytes()
        hashes = np.frombuffer(packed, _U8)
        n = len(hashes)
        buckets = (np.frombuffer(packed, _U4) & self._mask) + self._choice[: 2 * n]
        cells = self._keys.take(buckets, axis=0).reshape(n, 2 * _WAYS)
        hits = (cells == hashes[:, None]).ravel().nonzero()[0]
        rows = buckets.take(hits >> 3) * _WAYS + (hits & 7)
        return Found(hashes, buckets, cells, hits >> 4, rows)

    def insert(self, found: Found) -> Rows:
        """Give the missing hashes rows; returns the rows of all, in order.  There must be room: see `full`."""
        n = len(found.hashes)
        if len(found.rows) == n:
            return found.rows
        self.version += 1
        if not len(found.rows):
            return self._place(found.hashes, found.buckets, found.cells)
        rows = np.full(n, -1, dtype=np.int64)
        rows[found.blocks] = found.rows
        missing = (rows < 0).nonzero()[0]
        buckets = found.buckets.reshape(n, 2).take(missing, axis=0).ravel()
        rows[missing] = self._place(found.hashes.take(missing), buckets, found.cells.take(missing, axis=0))
        return rows

    def _place(self, hashes: Hashes, buckets: Rows, cells: Hashes) -> Rows:
        """Write the hashes, none of which is in the table, and return their rows."""
        free = (cells == 0).view(np.uint64)  # a byte for each way, 1 where it is free; two buckets for each hash
        way = np.bitwise_count((free & -free) - _ONE) >> 3  # bytes before the first that is 1; 8 where none is
        if way.max() == _WAYS and (way.min(axis=1) == _WAYS).any():
            raise TableFullError
        place = (buckets * _WAYS).reshape(-1, 2) + way
        rows: Rows = np.where(way[:, 1] < way[:, 0], place[:, 1], place[:, 0])
        distinct = len(set(rows.tolist()))
        self._flat[rows] = hashes
        self.used += distinct
        if distinct < len(hashes):  # two chose one row: the last got it, the others choose again
            lost = (self._flat.take(rows) != hashes).nonzero()[0]
            if len(lost):
                again = buckets.reshape(-1, 2).take(lost, axis=0)
                cells = self._keys.take(again.ravel(), axis=0).reshape(-1, 2 * _WAYS)
                rows[lost] = self._place(hashes.take(lost), again.ravel(), cells)
        return rows

    def full(self, more: int) -> bool:
        """`more` rows would fill the table beyond what it takes."""
        return self.used + more > _FULL * len(self)

    def free(self, rows: list[int]) -> None:
        """Forget the blocks of these rows; nobody may hold them."""
        self.version += 1
        self._flat[rows] = 0
        self.used -= len(rows)

    def grow(self) -> "Moved":
        """Double the table; what is returned tells the new row of an old one."""
        half, keys, holders = self._half, self._keys, self.holders.reshape(-1, _WAYS)
        self.version += 1
        self._half = 2 * half
        self._keys = np.zeros((4 * half, _WAYS), dtype=np.uint64)
        self.holders = np.zeros(4 * half * _WAYS, dtype=np.object_)
        wide = self.holders.reshape(-1, _WAYS)
        up = np.zeros((2 * half, _WAYS), dtype=np.bool_)
        for choice, bit in ((0, half), (1, half << 32)):  # the bit of the hash that the mask gains
            old = slice(choice * half, (choice + 1) * half)
            stay = slice(2 * choice * half, (2 * choice + 1) * half)
            rise = slice((2 * choice + 1) * half, (2 * choice + 2) * half)
            np.not_equal(keys[old] & np.uint64(bit), 0, out=up[old])
            np.copyto(self._keys[stay], keys[old], where=~up[old])
            np.copyto(self._keys[rise], keys[old], where=up[old])
            np.copyto(wide[stay], holders[old], where=~up[old])
            np.copyto(wide[rise], holders[old], where=up[old])
        self._prepare()
        return Moved(half * _WAYS, up.reshape(-1))


class Moved:
    """Where the rows of a table went when it grew."""

    def __init__(self, half: int, up: npt.NDArray[np.bool_]) -> None:
        self._half = half
        self._up = up

    def __call__(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.uint32]) -> Rows:
        """The new rows: the second half starts twice as far on, and in either half some rose by its old size."""
        old = rows.astype(np.int64)
        return old + self._half * ((old >= self._half).astype(np.int64) + self._up.take(old))
