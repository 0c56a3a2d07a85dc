"""The hash chain over commit batches.

A class record digests what one class has in a batch: SHA-256 over each entry's position, time, class,
length and bytes.  A batch's digest is SHA-256 over the digest before it, its bounds, its time and its class
records.  Entries leave the log by whole segments only, and an entry says so before.
A snapshot steers whoever starts from it, so the batch after it has its digest among the records, as of class 0.
The chain shows tampering to whoever holds an earlier head; it is no signature.
"""

import struct
from collections.abc import Sequence
from hashlib import sha256
from itertools import compress, groupby, repeat

import msgspec

from pointsman.core.events import Entry

_ENTRY = struct.Struct("<QdBI")
_BOUNDS = struct.Struct("<QQd")
_RECORD = struct.Struct("<BIQ32s")


SNAPSHOT = 0
"""Class number of the records that are about snapshots."""


class ClassRecord(msgspec.Struct, frozen=True):
    """What one class has in a batch."""

    kind: int
    """Number of the class."""
    entries: int
    """Count of its entries."""
    body_bytes: int
    """Bytes of their bodies."""
    digest: bytes
    """Digest over each entry's position, time, class, length and body."""


class Batch(msgspec.Struct, frozen=True):
    """One commit: the entries `first` to `last`."""

    first: int
    last: int
    recorded_at: float
    """Time of the commit, seconds since 1970."""
    digest: bytes
    """Digest of the chain after the batch."""
    classes: bytes
    """Packed records, ascending by class."""

    @property
    def records(self) -> list[ClassRecord]:
        """The class records; `struct.error` where the bytes are not packed records."""
        return [ClassRecord(*values) for values in _RECORD.iter_unpack(self.classes) if values[0] != SNAPSHOT]

    @property
    def snapshots(self) -> dict[int, bytes]:
        """The digests of the snapshots that the batch covers, by position; `struct.error` as for `records`."""
        found = _RECORD.iter_unpack(self.classes)
        return {position: digest for kind, _, position, digest in found if kind == SNAPSHOT}


def genesis(log_id: str) -> bytes:
    """The digest that the first batch follows."""
    return sha256(b"pointsman log " + log_id.encode()).digest()


def covering(position: int, digest: bytes) -> bytes:
    """The packed record of a snapshot."""
    return _RECORD.pack(SNAPSHOT, 0, position, digest)


def seal(
    previous: bytes,
    first: int,
    recorded_at: float,
    kinds: Sequence[int],
    bodies: Sequence[bytes],
    *,
    covers: bytes = b"",
) -> Batch:
    """Return the batch of entries from `first` on, given their classes and bodies; there is at least one.

    `covers` are the packed records of snapshots that were written since the batch before.
    """
    assert kinds, "a batch holds at least one entry"
    last = first + len(kinds) - 1
    # No Python loop over the entries: this runs for every entry that is ever written.
    heads = list(map(_ENTRY.pack, range(first, last + 1), repeat(recorded_at), kinds, map(len, bodies)))
    present = sorted(set(kinds))
    if len(present) == 1:
        classes = _record(present[0], heads, bodies)
    else:
        classes = b""
        for kind in present:
            mine = list(map(kind.__eq__, kinds))
            classes += _record(kind, list(compress(heads, mine)), list(compress(bodies, mine)))
    classes = covers + classes
    return Batch(first, last, recorded_at, batch_digest(previous, first, last, recorded_at, classes), classes)


def runs(kinds: Sequence[int]) -> list[tuple[int, int]]:
    """Split classes into runs of the same: each run's class, and how many it has.  Nearly always there is one."""
    if kinds.count(kinds[0]) == len(kinds):
        return [(kinds[0], len(kinds))]
    return [(kind, len(list(group))) for kind, group in groupby(kinds)]


def _record(kind: int, heads: Sequence[bytes], bodies: Sequence[bytes]) -> bytes:
    pieces = [b""] * (2 * len(heads))
    pieces[::2], pieces[1::2] = heads, bodies
    data = b"".join(pieces)
    return _RECORD.pack(kind, len(heads), len(data) - len(heads) * _ENTRY.size, sha256(data).digest())


def batch_digest(previous: bytes, first: int, last: int, recorded_at: float, classes: bytes) -> bytes:
    """The chain's value after a batch."""
    return sha256(previous + _BOUNDS.pack(first, last, recorded_at) + classes).digest()


def class_records(entries: Sequence[Entry]) -> dict[int, ClassRecord]:
    """What the entries of one batch add up to, by class."""
    found: dict[int, tuple[list[bytes], list[bytes]]] = {}
    for entry in entries:
        heads, bodies = found.setdefault(entry.kind, ([], []))
        heads.append(_ENTRY.pack(entry.position, entry.recorded_at, entry.kind, len(entry.body)))
        bodies.append(entry.body)
    return {kind: ClassRecord(*_RECORD.unpack(_record(kind, *mine))) for kind, mine in found.items()}


def check_batch(batch: Batch, previous: bytes, entries: Sequence[Entry]) -> str | None:
    """What is wrong with a batch that should follow `previous` and hold `entries`; None where nothing is."""
    try:
        wanted = {record.kind: record for record in batch.records}
        digest = batch_digest(previous, batch.first, batch.last, batch.recorded_at, batch.classes)
    except struct.error:
        return f"its class records are {len(batch.classes)} bytes, wanted a multiple of {_RECORD.size}"
    if digest != batch.digest:
        return f"its digest is {batch.digest.hex()[:16]}, wanted {digest.hex()[:16]} after {previous.hex()[:16]}"
    if sum(record.entries for record in wanted.values()) != batch.last - batch.first + 1:
        return "its class records count other entries than its positions"
    try:
        problem = _check_positions(batch, entries)
        if problem is not None:
            return problem
        found = class_records(entries)
    except (struct.error, TypeError):
        return "its entries hold values of other types than were written"
    for kind in sorted(wanted.keys() | found.keys()):
        mine, theirs = found.get(kind), wanted.get(kind)
        if mine == theirs:
            continue
        if mine is None or theirs is None or mine.entries != theirs.entries:
            counts = (mine.entries if mine else 0, theirs.entries if theirs else 0)
            return f"class {kind} has {counts[0]} entries, wanted {counts[1]}"
        return f"the entries of class {kind} have digest {mine.digest.hex()[:16]}, wanted {theirs.digest.hex()[:16]}"
    return None


def _check_positions(batch: Batch, entries: Sequence[Entry]) -> str | None:
    """What is wrong with the positions of the entries; None where they are all there and in order."""
    expected = batch.first
    for entry in entries:
        if entry.position != expected:
            return f"entry {entry.position} stands where entry {expected} should"
        expected += 1
    return None if expected == batch.last + 1 else f"entry {expected} is missing"
