"""The console's side of the worker: starts it, asks it one question at a time, and replaces it when it is slow."""

import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
import trio

from pointsman.core.deciding.verdict import VerdictKind
from pointsman.web.recomputing.worker import NewestVerified, Replayed, unavailable

ANSWER_WITHIN = 10.0
"""Seconds for one decision: ten times its budget, because a cold disk is slow."""
WAITING_MAX = 32
"""Decisions that may wait for the worker at a time."""
KEPT = 16
"""Answers kept for whoever asks again: with a thousand candidates each is half a megabyte."""
FRAME_MAX = 64 * 2**20
"""Bytes of an answer, a hundred times what a thousand candidates take: more is not from the worker."""
REASONS_KEPT = 20_000
"""Reasons in three words that are kept: a few lists of decisions for each of many readers, some megabytes."""
REASONS_AT_ONCE = 200
"""Reasons to one question: a page of a list, and half a second at most."""
LOOK = 5.0
"""Seconds between two looks at the newest decisions, while somebody looks at pages."""

_answer = msgspec.msgpack.Decoder(Replayed)
_newest = msgspec.msgpack.Decoder(NewestVerified)
_reasons = msgspec.msgpack.Decoder(dict[int, str])


class ReplayerBusy(Exception):
    """Raised where WAITING_MAX questions wait for the worker already."""


class _Asked:
    """A question that waits for the worker; `done` is set when `answer` is there."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Replayed | None = None


class Replayer:
    """Asks the worker; `run` must be started in a nursery."""

    def __init__(self, command: Sequence[str]) -> None:
        self.newest = NewestVerified()
        """Findings of replay about the newest decisions."""
        self._command = list(command)
        self._process: trio.Process | None = None
        self._waiting: OrderedDict[int, _Asked] = OrderedDict()
        self._answers: OrderedDict[int, Replayed] = OrderedDict()
        self._arrived = trio.Event()
        self._reasons: OrderedDict[int, str] = OrderedDict()
        self._unknown: dict[int, None] = {}
        """Positions of decisions whose reason is asked for, oldest question first."""
        self._told = trio.Event()
        """Event that is set when reasons were found, and then replaced."""

    async def reasons(self, positions: Sequence[int], within: float) -> dict[int, str]:
        """Why the decisions at these positions came out so, in three words; those that are known after `within`.

        The worker then goes on, and asking again gets the rest.
        """
        with trio.move_on_after(within):
            while missing := [position for position in positions if position not in self._reasons]:
                if len(self._unknown) < REASONS_KEPT:
                    self._unknown |= dict.fromkeys(missing)
                self._arrived.set()
                await self._told.wait()
        return {position: self._reasons[position] for position in positions if position in self._reasons}

    async def ask(self, position: int, within: float = ANSWER_WITHIN) -> Replayed | None:
        """Have the decision at `position` computed again; None where that takes longer than `within`.

        The worker then goes on, and asking again gets its answer.  Raises `ReplayerBusy`.
        """
        if (known := self._answers.get(position)) is not None:
            self._answers.move_to_end(position)
            return known
        asked = self._waiting.get(position)
        if asked is None:
            if len(self._waiting) >= WAITING_MAX:
                raise ReplayerBusy(f"{WAITING_MAX} decisions wait for replay")
            asked = self._waiting[position] = _Asked()
            self._arrived.set()
        with trio.move_on_after(within):
            await asked.done.wait()
        return asked.answer

    async def run(self, looked_at: Callable[[], bool], changed: Callable[[], None]) -> None:
        """Answer questions, and while `looked_at()` verify the newest decisions; `changed` is called when that finds more."""
        try:
            look_at = trio.current_time()
            while True:
                if self._waiting:
                    await self._next()
                elif self._unknown:
                    await self._find_reasons()
                elif looked_at() and trio.current_time() >= look_at:
                    before, self.newest = self.newest, await self._check()
                    look_at = trio.current_time() + LOOK
                    if before != self.newest:
                        changed()
                else:
                    self._arrived = trio.Event()
                    with trio.move_on_after(1.0):
                        await self._arrived.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._stop()

    async def _next(self) -> None:
        position = next(iter(self._waiting))
        try:
            answer = _answer.decode(await self._exchange(position))
        except (OSError, trio.ClosedResourceError, EOFError, msgspec.DecodeError) as error:
            await self._stop()
            answer = unavailable(f"the replay process ended: {error}")
        except trio.TooSlowError:
            await self._stop()
            answer = unavailable(f"replay took more than {ANSWER_WITHIN:.0f} s")
        if answer.verdict.kind is not VerdictKind.UNAVAILABLE:
            self._answers[position] = answer
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)
        asked = self._waiting.pop(position)
        asked.answer = answer
        asked.done.set()

    async def _find_reasons(self) -> None:
        asked = list(self._unknown)[-REASONS_AT_ONCE:]
        try:
            found = _reasons.decode(await self._exchange(0, asked))
        except (OSError, trio.ClosedResourceError, EOFError, msgspec.DecodeError, trio.TooSlowError):
            await self._stop()
            found = dict.fromkeys(asked, "")
        for position in found or asked:
            self._unknown.pop(position, None)
        self._reasons.update(found)
        while len(self._reasons) > REASONS_KEPT:
            self._reasons.popitem(last=False)
        self._told.set()
        self._told = trio.Event()

    async def _check(self) -> NewestVerified:
        try:
            return _newest.decode(await self._exchange(0))
        except (OSError, trio.ClosedResourceError, EOFError, msgspec.DecodeError, trio.TooSlowError):
            await self._stop()
            return NewestVerified()

    async def _exchange(self, position: int, more: Sequence[int] = ()) -> bytes:
        with trio.fail_after(ANSWER_WITHIN):
            process = self._process
            if process is None or process.returncode is not None:
                process = self._process = await trio.lowlevel.open_process(self._command, stdin=-1, stdout=-1)
            assert process.stdin is not None
            await process.stdin.send_all(struct.pack(f">QI{len(more)}Q", position, len(more), *more))
            (size,) = struct.unpack(">I", await self._read(process, 4))
            if size > FRAME_MAX:
                raise EOFError(f"an answer of {size} bytes")
            return await self._read(process, size)

    async def _read(self, process: trio.Process, size: int) -> bytes:
        assert process.stdout is not None
        parts = bytearray()
        while len(parts) < size:
            chunk = await process.stdout.receive_some(size - len(parts))
            if not chunk:
                raise EOFError("no answer")
            parts += chunk
        return bytes(parts)

    async def _stop(self) -> None:
        """End the worker, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        await pipe.aclose()
