"""Changes of weights, whoever asks for them: drives the machine of `core/rollout/weight_change.py`.

Rules.  It alone writes weights: one change of a rule at a time, one write at a time.
A change that has begun gets its end, even where whoever asked goes away.
An intent that has no end in the log, and that no task here drives, was cut off by the end of an earlier process: it is
given its end before its rule is changed again.
"""

import secrets
import time
from typing import Protocol, assert_never

import trio

from pointsman.core.events import WeightsIntended, WeightsRefused, WeightsWritten
from pointsman.core.rollout.outcome import ChangeDone, ChangeOutcome
from pointsman.core.rollout.weight_change import (
    AppendEnd,
    AppendIntent,
    ChangeFinished,
    ChangeInput,
    ChangeState,
    EndCommitted,
    EndNotCommitted,
    IntentCommitted,
    IntentNotCommitted,
    ReadBackFailed,
    ReadBackNow,
    ReadBackResult,
    WriteResult,
    WriteWeights,
    advance,
    begin,
    resume,
)
from pointsman.core.rollout.weights import WeightsAsked
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogFullError

RECORDED_WITHIN = 5.0
"""Seconds for the disk to take an entry; then the person who asked is told that it does not."""
SEEN_WITHIN = 3.0
"""Seconds for the written route to be seen by its source; then the person who asked is told that it was not."""
SEEN_LOOK = 0.02
"""Seconds between two looks at whether it was seen: short beside the interval at which the source looks."""
SETTLE_AGAIN = 1.0
"""Seconds before the end of a change is offered again to a log that did not take it."""


class WeightActuator(Protocol):
    """Writes weights where routes come from; `source` is that of the route's RouteObserved."""

    async def write(self, source: str, intent: WeightsIntended) -> WriteResult:
        """Write the weights that the intent changes, or leave all as it is."""

    async def read_back(self, source: str, intent: WeightsIntended) -> ReadBackResult:
        """Read which weights the intent's rule has at its source."""


class WeightChanges:
    """The one way by which weights are changed."""

    def __init__(self, appender: Appender, actuator: WeightActuator) -> None:
        self._appender = appender
        self._log = appender.log
        self._actuator = actuator
        self._writing = trio.Lock()
        self._driven: dict[str, WeightsIntended] = {}
        """Changes that a task of this process drives, by name."""
        self._ended: dict[str, int] = {}
        """Positions of queued ends, by name of the change, until they are committed."""

    async def change(self, asked: WeightsAsked) -> ChangeOutcome:
        """Make a change, or say why not; when this returns the cluster state has it, unless its source is slow."""
        # Shielded, because a change that has begun gets its end even where the page that asked is closed.  Each wait
        # for the log has a deadline; those for the file have none, as a thread that writes cannot be cancelled.
        with trio.CancelScope(shield=True):
            for intent in self._cut_off():
                if (intent.route, intent.rule) == (asked.route, asked.rule):
                    await self._look_at(intent)
            route = self._log.state.routes.get(asked.route)
            first = begin(asked, route, self._without_end().values(), secrets.token_hex(8), time.time())
            if isinstance(first, ChangeFinished):
                return first.outcome
            assert route is not None
            outcome = await self._drive(first.intent, first, route.source)
        if isinstance(outcome, ChangeDone):
            await self._wait_seen(asked)
        return outcome

    async def settle(self) -> None:
        """See to the end of every change that was cut off; return when none is left."""
        while cut_off := self._cut_off():
            with trio.CancelScope(shield=True):
                for intent in cut_off:
                    await self._look_at(intent)
            if self._cut_off():
                await trio.sleep(SETTLE_AGAIN)

    async def _look_at(self, intent: WeightsIntended) -> None:
        """Give a change that was cut off its end, unless another task does."""
        if intent not in self._cut_off():
            return
        route = self._log.state.routes.get(intent.route)
        await self._drive(intent, resume(intent), None if route is None else route.source)

    def _without_end(self) -> dict[str, WeightsIntended]:
        """Changes of the log and of this process that have no end, not even a queued one."""
        head = self._log.head.position
        self._ended = {name: position for name, position in self._ended.items() if position > head}
        known = self._log.state.pending_changes | self._driven
        return {name: intent for name, intent in known.items() if name not in self._ended}

    def _cut_off(self) -> list[WeightsIntended]:
        return [intent for name, intent in self._without_end().items() if name not in self._driven]

    async def _drive(self, intent: WeightsIntended, state: ChangeState, source: str | None) -> ChangeOutcome:
        """Do what the machine of `weight_change.py` asks for until it has finished; no `source` where the route is gone."""
        self._driven[intent.change] = intent
        try:
            while not isinstance(state, ChangeFinished):
                state = advance(state, await self._do(state, source))
        finally:
            del self._driven[intent.change]
        return state.outcome

    async def _do(
        self, state: AppendIntent | WriteWeights | ReadBackNow | AppendEnd, source: str | None
    ) -> ChangeInput:
        match state:
            case AppendIntent(intent):
                return await self._append_intent(intent)
            case WriteWeights(intent):
                assert source is not None, "a change that is resumed writes nothing"
                async with self._writing:  # two rules of one file would each replace what the other wrote
                    return await self._actuator.write(source, intent)
            case ReadBackNow(intent):
                if source is None:
                    return ReadBackFailed("the route is gone")
                return await self._actuator.read_back(source, intent)
            case AppendEnd(event):
                return await self._append_end(event)
            case _:
                assert_never(state)

    async def _append_intent(self, intent: WeightsIntended) -> IntentCommitted | IntentNotCommitted:
        try:
            position = self._appender.append_nowait(intent)
        except LogFullError as error:
            return IntentNotCommitted(str(error), queued=False)
        cause = await self._wait_committed(position)
        return IntentNotCommitted(cause, queued=True) if cause else IntentCommitted()

    async def _append_end(self, event: WeightsWritten | WeightsRefused) -> EndCommitted | EndNotCommitted:
        try:
            position = self._appender.append_nowait(event)
        except LogFullError as error:
            return EndNotCommitted(str(error))
        self._ended[event.change] = position
        cause = await self._wait_committed(position)
        return EndNotCommitted(cause) if cause else EndCommitted()

    async def _wait_committed(self, position: int) -> str:
        """Wait until the entry at `position` is committed; return why it was not, empty where it was."""
        with trio.move_on_after(RECORDED_WITHIN):
            try:
                await self._appender.wait_committed(position)
            except LogFullError as error:
                return str(error)
            return ""
        return f"the disk did not take it within {RECORDED_WITHIN:.0f} s"

    async def _wait_seen(self, asked: WeightsAsked) -> None:
        with trio.move_on_after(SEEN_WITHIN):
            while (route := self._log.state.routes.get(asked.route)) is not None and route.version == asked.version:
                await trio.sleep(SEEN_LOOK)
