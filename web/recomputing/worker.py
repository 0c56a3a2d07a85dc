"""The process that recomputes decisions, so that looking at an old one never holds the log up.

Asked for a position it verifies and explains the decision there; asked for position 0 it verifies the newest ones,
or, where positions follow, tells in three words each why those came out as they did.
"""

import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pointsman.core.deciding.explanation import Explanation
from pointsman.core.deciding.telling.flips import Flip
from pointsman.core.deciding.telling.in_force import InForce
from pointsman.core.deciding.verdict import Verdict, VerdictKind
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.verifying.verifier import Verifier

KEPT = 1_000
"""Number of newest decisions that the strip speaks of."""
AT_ONCE = 500
"""Number of decisions verified at a time, which takes a tenth of a second."""
BACK = 20_000
"""Entries before the head in which decisions are looked for: folding them takes a fifth of a second."""
REASONS_WITHIN = 0.5
"""Seconds for the reasons of a list: those that lie far apart in the log come with the next look."""


class Replayed(msgspec.Struct, frozen=True):
    """A decision computed again."""

    verdict: Verdict
    explanation: Explanation | None = None
    """Explanation of the decision; None where the verdict says why there is none."""
    flips: tuple[Flip, ...] = ()
    """Changes that would have brought another outcome."""
    in_force: InForce | None = None
    """What was in force for it; None where its cluster state cannot be had."""


class NewestVerified(msgspec.Struct, frozen=True):
    """What replay found of the newest decisions."""

    decisions: int = 0
    """Number of decisions that could be compared."""
    differing: int = 0
    """Number of them that differ from what was recorded."""


_encode = msgspec.msgpack.Encoder().encode


def unavailable(cause: str) -> Replayed:
    """The answer where nothing can be computed this time."""
    return Replayed(Verdict(VerdictKind.UNAVAILABLE, cause=cause))


def replayed(reader: LogReader, position: int) -> Replayed:
    """Compute the decision at `position` again."""
    try:
        found = Verifier(reader).at(position)
        if found is None:
            return unavailable(f"entry {position} is no decision")
        return Replayed(found.verdict, found.explanation(), found.flips(), found.in_force())
    except (NotKeptError, LogCorruptError) as error:
        return unavailable(f"the log does not tell any more: {error}")


def reasons(verifier: Verifier, positions: Sequence[int]) -> dict[int, str]:
    """Why the decisions at these positions came out so, in three words, of as many as REASONS_WITHIN allows."""
    found: dict[int, str] = {}
    until = time.monotonic() + REASONS_WITHIN
    try:
        for position, words in verifier.reasons(positions):
            found[position] = words
            if time.monotonic() > until:
                break
    except (NotKeptError, LogCorruptError):
        return found | {position: "" for position in positions if position not in found}
    return found


class TailVerifier:
    """Verifies the newest decisions of a growing log, folding forwards and each one once."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._verifier = Verifier(reader)
        self._same: deque[bool] = deque(maxlen=KEPT)

    def look(self) -> NewestVerified:
        """Verify what is new, at most AT_ONCE of it; what was found of the last KEPT."""
        first = max(self._verifier.done_to, self._reader.head().position - BACK) + 1
        for found in self._verifier.newest(AT_ONCE, first):
            if found.verdict.kind.compared:
                self._same.append(found.verdict.kind is VerdictKind.SAME)
        return NewestVerified(len(self._same), self._same.count(False))


def serve(directory: Path) -> None:
    """Be the worker: positions in on standard input, answers out on standard output, until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with open_reader(directory) as reader:
        tail, lists = TailVerifier(reader), Verifier(reader)
        while len(request := source.read(12)) == 12:
            position, count = struct.unpack(">QI", request)
            more = struct.unpack(f">{count}Q", source.read(8 * count))
            answer = _encode(
                replayed(reader, position) if position else reasons(lists, more) if more else _looked(tail)
            )
            sink.write(struct.pack(">I", len(answer)) + answer)
            sink.flush()


def _looked(tail: TailVerifier) -> NewestVerified:
    try:
        return tail.look()
    except (NotKeptError, LogCorruptError):
        return NewestVerified()  # nothing was found; the log's own page tells of damage
