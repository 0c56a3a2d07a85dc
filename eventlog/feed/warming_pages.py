"""What warms a picker's prefix index: the newest decisions of the log, read backwards, a piece at a time.

Rules.  Each piece is read in a thread, through a connection of its own, in a transaction that lasts milliseconds.
SQLite looks for the decisions without holding up Python, so that the loop beside it gets its turns.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pointsman.core.events import Class, Origin
from pointsman.core.feed.frames import Cold, GivenBlocks, Warming, encode_frame
from pointsman.core.feed.tail import Key
from pointsman.core.state.marks import FactsMark
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.sqlite.reader import LogReader
from pointsman.eventlog.sqlite.segments import first_position

AGE_MAX = 600.0
"""Seconds before the head: what a server under load was given earlier, it has given up since."""
PIECE_POSITIONS = 8192
PIECE_DECISIONS = 512
PIECE_BYTES = 256 << 10
"""Bytes of prompt blocks in one answer: as much as an end hands to its socket at a time."""

_ROUTED = msgspec.msgpack.encode("request-routed")
"""The tag, behind the one byte that says how many fields there are."""
_DECISIONS = (
    f"SELECT position, body FROM entries WHERE position BETWEEN ? AND ? AND kind = {int(Class.TRAFFIC)}"
    f" AND recorded_at >= ? AND substr(body, 2, {len(_ROUTED)}) = ? ORDER BY position DESC LIMIT {PIECE_DECISIONS}"
)
_BEFORE = "SELECT recorded_at FROM entries WHERE position < ? ORDER BY position DESC LIMIT 1"

_logger = logging.getLogger("pointsman.feed")


class _Facts(FactsMark, frozen=True, array_like=True, gc=False):
    prompt_bytes: int = 0
    streamed: bool = False
    prefix: bytes = b""


class _Routed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="request-routed"):
    """What is read of a RequestRouted here."""

    origin: Origin
    decided_at: float
    request: _Facts
    endpoints: tuple[int, ...]


_decode = msgspec.msgpack.Decoder(_Routed).decode


def read_warming(directory: Path, key: Key, cold: Cold) -> bytes:
    """The encoded Warming that answers `cold` of the epoch `key`: the newest of what is asked for, and how far it goes."""
    try:
        with LogReader(directory) as reader:
            return encode_frame(_read(reader, key, cold))
    except NotKeptError:
        pass  # retention was there first
    except (LogCorruptError, msgspec.DecodeError, OSError) as error:
        _logger.warning("the prefix index of %s is not warmed further: %s", key[0], error)
    return encode_frame(Warming(cold.until, cold.until, last=True, decisions=0, given=()))


def _read(reader: LogReader, key: Key, cold: Cold) -> Warming:
    path = reader.holding(cold.until)
    since = reader.head().recorded_at - AGE_MAX
    first = max(cold.after + 1, first_position(path), cold.until - PIECE_POSITIONS + 1)
    rows = reader.query(path, _DECISIONS, (first, cold.until, since, _ROUTED))
    taken, given = gather([body for _, body in rows], key)  # type: ignore[misc]  # the schema says what it is
    if taken < len(rows) or taken == PIECE_DECISIONS:
        first = rows[taken - 1][0]  # type: ignore[assignment]
    before = reader.query(path, _BEFORE, (first,))
    too_old = bool(before) and before[0][0] < since  # type: ignore[operator]
    return Warming(cold.until, first, first <= max(cold.after + 1, reader.first()) or too_old, taken, given)


def gather(newest_first: Iterable[bytes], key: Key) -> tuple[int, tuple[GivenBlocks, ...]]:
    """How many of the decisions make a piece, and what they gave endpoints; the epoch `key` is left out."""
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
