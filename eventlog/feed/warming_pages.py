"""What warms a picker's prefix index: the newest decisions of the log, read backwards, a piece at a time.

Rules.  Each piece is read in a thread, through a connection of its own, in a transaction that lasts milliseconds.
The store looks for the decisions without holding up Python, so that the loop beside it gets its turns.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pointsman.core.events import Origin
from pointsman.core.feed.frames import Cold, GivenBlocks, Warming, encode_frame
from pointsman.core.state.marks import FactsMark
from pointsman.core.state.membership import EpochKey
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader

AGE_MAX = 600.0
"""Seconds before the head that are read: a server under load has since dropped what it was given earlier."""
PIECE_POSITIONS = 8192
PIECE_DECISIONS = 512
"""Entries, and decisions among them, that one piece looks at: a read of some milliseconds."""
PIECE_BYTES = 256 << 10
"""Bytes of prompt blocks in one answer: as much as an end hands to its socket at a time."""
ROUTED = "request-routed"
"""Tag of the decisions that warm."""

_logger = logging.getLogger("pointsman.feed")


class _Facts(FactsMark, frozen=True, array_like=True, gc=False):
    prompt_bytes: int = 0
    streamed: bool = False
    prefix: bytes = b""


class _Routed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=ROUTED):
    """The fields of a RequestRouted that are read here."""

    origin: Origin
    decided_at: float
    request: _Facts
    endpoints: tuple[int, ...]


_decode = msgspec.msgpack.Decoder(_Routed).decode


def read_warming(directory: Path, key: EpochKey, cold: Cold) -> bytes:
    """The encoded Warming that answers `cold` of the epoch `key`: the newest blocks asked for, and how far back they go."""
    try:
        with open_reader(directory) as reader:
            return encode_frame(_read(reader, key, cold))
    except NotKeptError:
        pass  # retention has dropped these entries meanwhile
    except (LogCorruptError, msgspec.DecodeError, OSError) as error:
        _logger.warning("the prefix index of %s is not warmed further: %s", key[0], error)
    return encode_frame(Warming(cold.until, cold.until, last=True, decisions=0, given=()))


def _read(reader: LogReader, key: EpochKey, cold: Cold) -> Warming:
    since = reader.head().recorded_at - AGE_MAX
    span = (max(cold.after + 1, cold.until - PIECE_POSITIONS + 1), cold.until)
    page = reader.tagged(ROUTED, span, since, PIECE_DECISIONS)
    taken, given = gather([body for _, body in page.entries], key)
    first, too_old = page.first, page.before is not None and page.before < since
    if taken < len(page.entries):
        first, too_old = page.entries[taken - 1][0], False
    return Warming(cold.until, first, first <= max(cold.after + 1, reader.first()) or too_old, taken, given)


def gather(newest_first: Iterable[bytes], key: EpochKey) -> tuple[int, tuple[GivenBlocks, ...]]:
    """How many decisions make a piece, and the blocks that they gave endpoints, less those of the epoch `key`."""
    blocks: dict[int, list[bytes]] = {}
    pools: dict[int, str] = {}
    size = taken = 0
    for body in newest_first:
        routed = _decode(body)
        prefix, endpoint = routed.request.prefix, routed.endpoints[0]
        taken += 1
        if prefix and (routed.origin.picker, routed.origin.epoch) != key:
            blocks.setdefault(endpoint, []).append(prefix)
            pools.setdefault(endpoint, routed.request.pool)
            size += len(prefix)
            if size >= PIECE_BYTES:
                break
    given = [GivenBlocks(endpoint, pools[endpoint], b"".join(prefixes[::-1])) for endpoint, prefixes in blocks.items()]
    return taken, tuple(given)
