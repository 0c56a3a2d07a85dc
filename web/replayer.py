"""Decisions recomputed in a process of their own, so that looking at an old one never holds the log up.

The console's side keeps one worker, asks it one thing at a time over its pipes, and replaces it when it is too slow.
The worker's side reads the log, folds to the decision's `applied`, verifies and explains.
"""

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from pointsman.core.explanation import Candidate, Explanation
from pointsman.core.replay import explain_decision, verify_decision
from pointsman.core.traffic import NotRecordedError
from pointsman.eventlog.decisions import decisions
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.reader import LogReader

ANSWER_WITHIN = 10.0
"""Seconds for one decision; the budget is one, a cold disk takes more."""
WAITING_MAX = 32
"""Pages that wait for the worker at a time."""
FRAME_MAX = 64 * 2**20


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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Replayed)


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


def serve(directory: Path) -> None:
    """The worker: positions in on standard input, answers out on standard output, until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with LogReader(directory) as reader:
        while len(request := source.read(8)) == 8:
            (position,) = struct.unpack(">Q", request)
            answer = _encoder.encode(replayed(reader, position))
            sink.write(struct.pack(">I", len(answer)) + answer)
            sink.flush()


class ReplayerBusy(Exception):
    """More pages wait than the worker is given."""


class Replayer:
    """Asks the worker; starts it when first needed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: trio.Process | None = None
        self._turn = trio.Lock()

    async def ask(self, position: int) -> Replayed:
        """Have the decision at `position` computed again; raises `ReplayerBusy`."""
        if self._turn.statistics().tasks_waiting >= WAITING_MAX:
            raise ReplayerBusy(f"{WAITING_MAX} pages wait for replay")
        async with self._turn:
            with trio.move_on_after(ANSWER_WITHIN) as scope:
                try:
                    return await self._exchange(position)
                except (OSError, trio.ClosedResourceError, EOFError, msgspec.DecodeError) as error:
                    await self.stop()
                    return Replayed("unavailable", f"the replay process ended: {error}")
            if scope.cancelled_caught:
                await self.stop()
            return Replayed("unavailable", f"replay took more than {ANSWER_WITHIN:.0f} s")

    async def _exchange(self, position: int) -> Replayed:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await trio.lowlevel.open_process(
                self._command, stdin=-1, stdout=-1, start_new_session=False
            )
        assert process.stdin is not None
        await process.stdin.send_all(struct.pack(">Q", position))
        (size,) = struct.unpack(">I", await self._read(process, 4))
        if size > FRAME_MAX:
            raise EOFError(f"an answer of {size} bytes")
        return _decoder.decode(await self._read(process, size))

    async def _read(self, process: trio.Process, size: int) -> bytes:
        assert process.stdout is not None
        parts = bytearray()
        while len(parts) < size:
            chunk = await process.stdout.receive_some(size - len(parts))
            if not chunk:
                raise EOFError("no answer")
            parts += chunk
        return bytes(parts)

    async def stop(self) -> None:
        """End the worker, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
