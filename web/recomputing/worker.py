"""The process that recomputes decisions, so that looking at an old one never holds the log up.

It reads the log, folds to a decision's `applied`, verifies and explains; asked for position 0 it verifies the newest.
"""

import struct
import sys
from collections import deque
from pathlib import Path

import msgspec

from pointsman.core.deciding.explanation import Candidate, Explanation
from pointsman.core.deciding.verdict import explain_decision, verify_decision
from pointsman.core.events import Class, Entry, PickerStarted, RequestRefused, RequestRouted
from pointsman.core.state.membership import Epoch
from pointsman.core.state.traffic import NotRecordedError
from pointsman.eventlog.decisions import Fold, decisions
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader

KEPT = 1_000
"""Decisions that the strip speaks of."""
AT_ONCE = 500
"""Decisions verified at a time: a tenth of a second."""
BACK = 20_000
"""Entries before the head in which they are looked for: a fifth of a second to fold."""


class Account(msgspec.Struct, frozen=True):
    """An explanation as it crosses the pipe; fields as in `core.explanation.Explanation`."""

    profile: str
    picker: str
    scorers: tuple[tuple[str, float], ...]
    best_sum: float
    saturation: float | None
    avoided: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    why: str


def _account(told: Explanation) -> Account:
    return Account(*[getattr(told, name) for name in Account.__struct_fields__])


class Replayed(msgspec.Struct, frozen=True):
    """A decision computed again."""

    kind: str
    """`ok`, `differs`, `not-scheduled`, `other-version`, `other-log`, or `unavailable` where it cannot be told."""
    message: str
    explanation: Account | None = None
    sampled_at: dict[int, float] = {}
    """By endpoint number: when the sample was taken that the decision rests on."""


class Checked(msgspec.Struct, frozen=True):
    """What replay found of the newest decisions."""

    decisions: int = 0
    """That could be computed again."""
    differing: int = 0


_encode = msgspec.msgpack.Encoder().encode


def replayed(reader: LogReader, position: int) -> Replayed:
    """Compute the decision at `position` again."""
    try:
        found = next(iter(decisions(reader, position, position)), None)
    except (NotKeptError, LogCorruptError) as error:
        return Replayed("unavailable", f"the log does not tell any more: {error}")
    if found is None:
        return Replayed("unavailable", f"entry {position} is no decision")
    state, event = found.state, found.event
    if state is None:
        return Replayed("unavailable", _CAUSES.get(found.cause, found.cause))
    sampled = {number: float(state.sampled_at[member.slot]) for number, member in state.endpoints.items()}
    key = (event.origin.picker, event.origin.epoch)
    explanation: Account | None = None
    trouble = ""
    try:
        explanation = _account(explain_decision(state, event))
    except (NotRecordedError, ValueError) as error:
        trouble = f"; {error}"
    epoch = state.epochs.get(key) or reader.state_at(position).epochs.get(key)
    verdict = verify_decision(state, event, epoch)
    if verdict.kind in ("not-scheduled", "other-log"):
        return Replayed(verdict.kind, verdict.message)
    return Replayed(verdict.kind, verdict.message + trouble, explanation, sampled)


_CAUSES = {
    "adopted": "it was decided on the cluster state of another log",
    "not-kept": "the part of the log it rests on is not kept any more",
    "not-before": "its entry says that it rests on a later state than its own position",
}


class TailVerifier:
    """Verifies the newest decisions of a growing log, folding forwards and each one once."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._fold = Fold(reader)
        self._next = 1
        self._same: deque[bool] = deque(maxlen=KEPT)
        self._epochs: dict[tuple[str, int], Epoch] = {}

    def look(self) -> Checked:
        """Verify what is new, at most AT_ONCE of it; what was found of the last KEPT."""
        head = self._reader.head().position
        first = max(self._next, self._reader.first(), head - BACK + 1)
        newest: deque[Entry] = deque(maxlen=AT_ONCE)
        for entry in self._reader.entries(first, head, (Class.CONTROL, Class.TRAFFIC)):
            if entry.kind == Class.CONTROL:
                self._follow(entry)
            elif entry.body[2:16] == b"request-routed" or entry.body[2:17] == b"request-refused":
                newest.append(entry)
        decided = [
            (entry, event) for entry in newest if isinstance(event := entry.event, RequestRouted | RequestRefused)
        ]
        for entry, event in sorted(decided, key=lambda pair: (pair[1].origin.applied, pair[0].position)):
            self._verify(entry, event)
        self._next = head + 1
        return Checked(len(self._same), self._same.count(False))

    def _follow(self, entry: Entry) -> None:
        if isinstance(event := entry.event, PickerStarted):
            origin = event.origin
            key = (origin.picker, origin.epoch)
            self._epochs[key] = Epoch(*key, origin.n, event.build, event.scheduler, event.plugins)

    def _verify(self, entry: Entry, event: RequestRouted | RequestRefused) -> None:
        state = self._fold.to(event.origin.applied) if event.origin.applied < entry.position else None
        if state is None:
            return
        verdict = verify_decision(state, event, self._epochs.get((event.origin.picker, event.origin.epoch)))
        if verdict.kind in ("ok", "differs"):
            self._same.append(verdict.kind == "ok")


def serve(directory: Path) -> None:
    """The worker: positions in on standard input, answers out on standard output, until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with open_reader(directory) as reader:
        tail = TailVerifier(reader)
        while len(request := source.read(8)) == 8:
            (position,) = struct.unpack(">Q", request)
            answer = _encode(replayed(reader, position) if position else _looked(tail))
            sink.write(struct.pack(">I", len(answer)) + answer)
            sink.flush()


def _looked(tail: TailVerifier) -> Checked:
    try:
        return tail.look()
    except (NotKeptError, LogCorruptError):
        return Checked()  # nothing was found; the log's own page tells of damage
