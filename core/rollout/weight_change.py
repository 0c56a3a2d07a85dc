"""One change of a rule's weights, from the intent to its end: a machine without I/O.

Rules.  The intent is in the log before the file is touched; the end is recorded after the file was read back.
Every intent that may be in the log gets one end.  What the log holds without an end is looked at, never written again.

A state is what the machine asks for next.  A driver does it and tells `advance` what came of it:

| State          | Told                                   | Next state                                     |
| -------------- | -------------------------------------- | ---------------------------------------------- |
| (`begin`)      | another change of the rule has no end  | `ChangeFinished`: refused                      |
|                | `plan` refuses                         | `ChangeFinished`: refused                      |
|                | `plan` agrees                          | `AppendIntent`                                 |
| (`resume`)     | an intent without an end in the log    | `ReadBackNow`                                  |
| `AppendIntent` | `IntentCommitted`                      | `WriteWeights`                                 |
|                | `IntentNotCommitted`, still queued     | `AppendEnd`: refused, as it may be committed   |
|                | `IntentNotCommitted`, never queued     | `ChangeFinished`: refused                      |
| `WriteWeights` | `WriteDone`                            | `ReadBackNow`                                  |
|                | `WriteFailed`                          | `AppendEnd`: refused                           |
| `ReadBackNow`  | `ReadBack`, the weights as wanted      | `AppendEnd`: done                              |
|                | `ReadBack`, resumed, version as it was | `AppendEnd`: refused, as nothing was written   |
|                | `ReadBack`, any other weights          | `AppendEnd`: unknown                           |
|                | `ReadBackFailed`                       | `AppendEnd`: unknown                           |
| `AppendEnd`    | `EndCommitted`                         | `ChangeFinished`                               |
|                | `EndNotCommitted`                      | `ChangeFinished`: unknown where it was done    |
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct

from pointsman.core.events import BackendRef, RouteObserved, WeightsIntended, WeightsRefused, WeightsWritten
from pointsman.core.rollout.outcome import ChangeCode, ChangeDone, ChangeOutcome, ChangeRefusal
from pointsman.core.rollout.weights import WeightsAsked, plan

# --- what the machine asks for --------------------------------------------------------------------


class AppendIntent(Struct, frozen=True):
    """Append the intent and wait for its commit."""

    intent: WeightsIntended


class WriteWeights(Struct, frozen=True):
    """Write the weights where the route came from, while that still has the intent's version."""

    intent: WeightsIntended


class ReadBackNow(Struct, frozen=True):
    """Read the weights of the rule from where the route came from."""

    intent: WeightsIntended
    resumed: bool = False
    """Whether somebody before this machine recorded the intent, and may have written."""


class AppendEnd(Struct, frozen=True):
    """Append the end and wait for its commit."""

    event: WeightsWritten | WeightsRefused
    outcome: ChangeOutcome
    """Outcome once the end is recorded."""


class ChangeFinished(Struct, frozen=True):
    """Nothing more is to be done."""

    outcome: ChangeOutcome


ChangeState: TypeAlias = AppendIntent | WriteWeights | ReadBackNow | AppendEnd | ChangeFinished

# --- what the machine is told ---------------------------------------------------------------------


class IntentCommitted(Struct, frozen=True):
    """The intent is on disk."""


class IntentNotCommitted(Struct, frozen=True):
    """The log did not take the intent, or not in time."""

    cause: str
    queued: bool
    """Whether it may still be committed."""


class WriteDone(Struct, frozen=True):
    """The file was replaced."""


class WriteFailed(Struct, frozen=True):
    """The file was not touched."""

    refusal: ChangeRefusal


class ReadBack(Struct, frozen=True):
    """The rule as it stands in the file."""

    version: str
    backends: tuple[BackendRef, ...]
    """Backends of the rule; none where the file has no such rule."""


class ReadBackFailed(Struct, frozen=True):
    """The file could not be read."""

    cause: str


class EndCommitted(Struct, frozen=True):
    """The end is on disk."""


class EndNotCommitted(Struct, frozen=True):
    """The log did not take the end, or not in time."""

    cause: str


def not_written(found: str, wanted: str, code: ChangeCode = ChangeCode.NOT_WRITTEN) -> WriteFailed:
    """What an actuator says that wrote nothing: what it found, and what it wanted instead."""
    return WriteFailed(ChangeRefusal(code, found, wanted))


WriteResult: TypeAlias = WriteDone | WriteFailed
ReadBackResult: TypeAlias = ReadBack | ReadBackFailed
ChangeInput: TypeAlias = (
    IntentCommitted | IntentNotCommitted | WriteResult | ReadBackResult | EndCommitted | EndNotCommitted
)

# --- the machine ----------------------------------------------------------------------------------


def begin(
    asked: WeightsAsked, route: RouteObserved | None, without_end: Iterable[WeightsIntended], name: str, at: float
) -> AppendIntent | ChangeFinished:
    """The first state of a change that somebody asks for.

    `route` is the route as it is, `without_end` the intents whose ends are still to come,
    `name` what the change is called in the log, `at` the time.
    """
    if any(other.route == asked.route and other.rule == asked.rule for other in without_end):
        found = "another change of this rule is under way"
        return ChangeFinished(ChangeRefusal(ChangeCode.UNDER_WAY, found, "one after the other"))
    planned = plan(asked, route)
    if isinstance(planned, ChangeRefusal):
        return ChangeFinished(planned)
    before, after = planned.before, planned.after
    return AppendIntent(
        WeightsIntended(
            name, asked.route, asked.rule, asked.version, before, after, asked.actor, asked.reason.strip(), at
        )
    )


def resume(intent: WeightsIntended) -> ReadBackNow:
    """The first state of a change that the log holds without an end."""
    return ReadBackNow(intent, resumed=True)


def advance(state: ChangeState, told: ChangeInput) -> ChangeState:
    """The next state; it is the driver's mistake to tell what the state did not ask for."""
    match state, told:
        case AppendIntent(intent), IntentCommitted():
            return WriteWeights(intent)
        case AppendIntent(intent), IntentNotCommitted(cause, queued):
            found = f"the change could not be recorded, so nothing was written: {cause}"
            refusal = ChangeRefusal(ChangeCode.NOT_RECORDED, found, "a log that takes entries")
            return _end_refused(intent, refusal) if queued else ChangeFinished(refusal)
        case WriteWeights(intent), WriteDone():
            return ReadBackNow(intent)
        case WriteWeights(intent), WriteFailed(refusal):
            return _end_refused(intent, refusal)
        case ReadBackNow(intent, resumed), ReadBack(version, backends):
            return _look(intent, resumed, version, backends)
        case ReadBackNow(intent, resumed), ReadBackFailed(cause):
            found = f"{'it was cut off before it was done, and ' if resumed else ''}it could not be read back: {cause}"
            return _end_refused(
                intent, ChangeRefusal(ChangeCode.NOT_READ_BACK, found, f"weights {_list(intent.after)}")
            )
        case AppendEnd(_, outcome), EndCommitted():
            return ChangeFinished(outcome)
        case AppendEnd(_, outcome), EndNotCommitted(cause):
            return ChangeFinished(_unrecorded(outcome, cause))
    raise AssertionError(f"{type(state).__name__} was told {type(told).__name__}")


def _look(intent: WeightsIntended, resumed: bool, version: str, found: tuple[BackendRef, ...]) -> AppendEnd:
    """What the weights that were read back say."""
    if found == intent.after:
        done = ChangeDone(intent.change, version, intent.before, intent.after)
        return AppendEnd(WeightsWritten(intent.change, version), done)
    wanted = _list(intent.after)
    if resumed and version == intent.version:
        was = f"it was cut off before it was written: the weights are {_list(found)} as they were"
        return _end_refused(intent, ChangeRefusal(ChangeCode.NOT_WRITTEN, was, wanted))
    said = f"the weights that were read back are {_list(found)}" if found else "the rule was gone when it was read back"
    return _end_refused(intent, ChangeRefusal(ChangeCode.READ_BACK_DIFFERS, said, wanted))


def _end_refused(intent: WeightsIntended, refusal: ChangeRefusal) -> AppendEnd:
    return AppendEnd(WeightsRefused(intent.change, refusal.sentence, refusal.code), refusal)


def _unrecorded(outcome: ChangeOutcome, cause: str) -> ChangeOutcome:
    if isinstance(outcome, ChangeRefusal):
        return outcome
    found = f"the weights were written and read back, and the log did not take the end: {cause}"
    return ChangeRefusal(
        ChangeCode.END_NOT_RECORDED, found, "an end in the log, which follows when the file is read again"
    )


def _list(backends: Sequence[BackendRef]) -> str:
    return ", ".join(str(b.weight) for b in backends)
