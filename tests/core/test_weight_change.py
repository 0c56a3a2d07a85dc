"""The machine of a change of weights: intent before file, end after reading back, whatever happens in between."""

import pytest
from hypothesis import given, strategies as st

from pointsman.core.events import (
    BackendRef,
    Event,
    RouteObserved,
    RouteRule,
    WeightsIntended,
    WeightsRefused,
    WeightsWritten,
)
from pointsman.core.rollout.outcome import UNKNOWN_CODES, ChangeCode, ChangeDone, ChangeOutcome, ChangeRefusal
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
    ReadBack,
    ReadBackFailed,
    ReadBackNow,
    WriteDone,
    WriteFailed,
    WriteWeights,
    advance,
    begin,
    resume,
)
from pointsman.core.rollout.weights import WeightsAsked, backend_key

BEFORE = (BackendRef("default/old", 90), BackendRef("default/new", 10))
AFTER = (BackendRef("default/old", 50), BackendRef("default/new", 50))
OTHERS = (BackendRef("default/old", 70), BackendRef("default/new", 30))
RULE = RouteRule((), BEFORE)
ROUTE = RouteObserved("default/r", (RULE, RULE), version="v1")
FAILED = ChangeRefusal(ChangeCode.NOT_WRITTEN, "the disk is full", "room")
ANSWERS: dict[type, tuple[ChangeInput, ...]] = {
    AppendIntent: (IntentCommitted(), IntentNotCommitted("late", True), IntentNotCommitted("the queue is full", False)),
    WriteWeights: (
        WriteDone(),
        WriteFailed(FAILED),
        WriteFailed(ChangeRefusal(ChangeCode.STALE, "r.yaml was changed", "the file that the change rests on")),
    ),
    ReadBackNow: (
        ReadBack("v2", AFTER),
        ReadBack("v1", BEFORE),
        ReadBack("v3", BEFORE),
        ReadBack("v3", OTHERS),
        ReadBack("v3", ()),
        ReadBackFailed("r.yaml: no such file"),
    ),
    AppendEnd: (EndCommitted(), EndNotCommitted("the queue is full")),
}
"""All that a state may be told."""


def asked(rule: int = 0, version: str = "v1", weights: tuple[BackendRef, ...] = AFTER) -> WeightsAsked:
    wanted = {backend_key(b): b.weight for b in weights}
    return WeightsAsked("default/r", rule, version, wanted, " because ", "somebody")


INTENT = WeightsIntended("c", "default/r", 0, "v1", BEFORE, AFTER, "somebody", "because", 12.0)


def paths(state: ChangeState) -> list[list[ChangeState | ChangeInput]]:
    """Every way from a state to its finish, as what was asked for and told in turn."""
    if isinstance(state, ChangeFinished):
        return [[state]]
    return [[state, told, *rest] for told in ANSWERS[type(state)] for rest in paths(advance(state, told))]


BEGUN = paths(begin(asked(), ROUTE, [], "c", 12.0))
RESUMED = paths(resume(INTENT))


def outcome(path: list[ChangeState | ChangeInput]) -> ChangeOutcome:
    last = path[-1]
    assert isinstance(last, ChangeFinished)
    return last.outcome


def test_what_is_asked_for_is_intended_as_it_was_asked() -> None:
    assert begin(asked(), ROUTE, [], "c", 12.0) == AppendIntent(INTENT)


def test_nothing_is_written_before_its_intent_is_committed() -> None:
    for path in BEGUN:
        writes = [i for i, one in enumerate(path) if isinstance(one, WriteWeights)]
        assert all(IntentCommitted() in path[:i] for i in writes)
        assert len(writes) <= 1


def test_an_intent_that_may_be_in_the_log_gets_one_end_and_no_other_does() -> None:
    for path in BEGUN:
        ends = [one.event for one in path if isinstance(one, AppendEnd)]
        assert len(ends) == (IntentNotCommitted("the queue is full", False) not in path)
        assert all(end.change == "c" for end in ends)
    for path in RESUMED:
        assert len([one for one in path if isinstance(one, AppendEnd)]) == 1


def test_a_change_is_done_where_it_was_read_back_as_asked_and_its_end_is_recorded() -> None:
    for path in BEGUN + RESUMED:
        written = [one for one in path if isinstance(one, AppendEnd) and isinstance(one.event, WeightsWritten)]
        assert bool(written) == (ReadBack("v2", AFTER) in path)
        assert isinstance(outcome(path), ChangeDone) == (bool(written) and EndCommitted() in path)
        if isinstance(outcome(path), ChangeDone):
            assert outcome(path) == ChangeDone("c", "v2", BEFORE, AFTER)


def test_what_may_have_been_written_is_never_told_as_refused() -> None:
    for path in BEGUN:
        found = outcome(path)
        if isinstance(found, ChangeRefusal):
            assert found.unknown == (WriteDone() in path)


def test_an_end_that_is_refused_has_the_code_and_the_words_of_the_outcome() -> None:
    for path in BEGUN + RESUMED:
        for one in path:
            if isinstance(one, AppendEnd) and isinstance(one.event, WeightsRefused):
                found = outcome(path)
                assert isinstance(found, ChangeRefusal)
                assert one.event == WeightsRefused("c", found.sentence, found.code)


def test_what_was_cut_off_is_looked_at_and_never_written() -> None:
    for path in RESUMED:
        assert isinstance(path[0], ReadBackNow)
        assert not any(isinstance(one, WriteWeights | AppendIntent) for one in path)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (ReadBack("v1", BEFORE), ChangeCode.NOT_WRITTEN),
        (ReadBack("v3", BEFORE), ChangeCode.READ_BACK_DIFFERS),
        (ReadBack("v3", OTHERS), ChangeCode.READ_BACK_DIFFERS),
        (ReadBack("v3", ()), ChangeCode.READ_BACK_DIFFERS),
        (ReadBackFailed("r.yaml: no such file"), ChangeCode.NOT_READ_BACK),
    ],
)
def test_what_was_cut_off_is_ended_by_what_is_there(told: ChangeInput, code: ChangeCode) -> None:
    end = advance(resume(INTENT), told)

    assert isinstance(end, AppendEnd)
    assert isinstance(end.outcome, ChangeRefusal)
    assert end.outcome.code is code


def test_an_input_that_was_not_asked_for_is_the_drivers_mistake() -> None:
    every = [told for answers in ANSWERS.values() for told in answers]
    states = {type(one): one for path in BEGUN for one in path if isinstance(one, (*ANSWERS, ChangeFinished))}
    for kind, state in states.items():
        for told in every:
            if told not in ANSWERS.get(kind, ()):
                with pytest.raises(AssertionError, match=f"{kind.__name__} was told"):
                    advance(state, told)  # type: ignore[arg-type]


def test_one_change_of_a_rule_at_a_time() -> None:
    found = begin(asked(), ROUTE, [INTENT], "d", 0.0)

    assert isinstance(found, ChangeFinished)
    assert isinstance(found.outcome, ChangeRefusal)
    assert found.outcome.code is ChangeCode.UNDER_WAY
    assert isinstance(begin(asked(rule=1), ROUTE, [INTENT], "d", 0.0), AppendIntent)


def test_a_stale_change_is_refused_without_a_trace_in_the_log() -> None:
    found = begin(asked(version="v0"), ROUTE, [], "c", 0.0)

    assert isinstance(found, ChangeFinished)
    assert isinstance(found.outcome, ChangeRefusal)
    assert found.outcome.code is ChangeCode.STALE


class Disk:
    """A log and a file under several machines at once; what is not on them is gone at a restart."""

    def __init__(self) -> None:
        self.version = 1
        self.rules: list[tuple[BackendRef, ...]] = [BEFORE, BEFORE]
        self.wrote: set[str] = set()
        """Names of the changes that reached the file."""
        self.log: list[Event] = []

    @property
    def route(self) -> RouteObserved:
        rules = tuple(RouteRule((), backends) for backends in self.rules)
        return RouteObserved("default/r", rules, version=f"v{self.version}")

    def without_end(self) -> dict[str, WeightsIntended]:
        ended = {e.change for e in self.log if isinstance(e, WeightsWritten | WeightsRefused)}
        return {e.change: e for e in self.log if isinstance(e, WeightsIntended) and e.change not in ended}

    def perform(self, state: ChangeState, fails: bool) -> ChangeInput:
        """Do what a machine asks for, or fail."""
        match state:
            case AppendIntent(intent):
                if fails:
                    return IntentNotCommitted("the queue is full", False)
                self.log.append(intent)
                return IntentCommitted()
            case WriteWeights(intent):
                if fails:
                    return WriteFailed(FAILED)
                if intent.version != f"v{self.version}":
                    return WriteFailed(ChangeRefusal(ChangeCode.STALE, "changed", "the same"))
                assert intent in self.log
                self.wrote.add(intent.change)
                self.edit(intent.rule, intent.after)
                return WriteDone()
            case ReadBackNow(intent):
                return ReadBackFailed("gone") if fails else ReadBack(f"v{self.version}", self.rules[intent.rule])
            case AppendEnd(event):
                if fails:
                    return EndNotCommitted("the queue is full")
                self.log.append(event)
                return EndCommitted()
            case _:
                raise AssertionError(state)

    def edit(self, rule: int, backends: tuple[BackendRef, ...]) -> None:
        self.rules[rule] = backends
        self.version += 1


class Lives:
    """Machines as the driver runs them, their steps in any order, with restarts between them."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.disk = Disk()
        self.running: dict[str, ChangeState] = {}
        self.intents: dict[str, WeightsIntended] = {}
        self.outcomes: dict[str, ChangeOutcome] = {}
        self.names = 0

    def ask(self) -> None:
        self.names += 1
        rule, weight = self.data.draw(st.integers(0, 1)), self.data.draw(st.integers(1, 9))
        version = self.disk.version - self.data.draw(st.integers(0, 1))
        wanted = asked(rule, f"v{version}", (BackendRef("default/old", weight), BackendRef("default/new", 5)))
        name = f"c{self.names}"
        known = self.disk.without_end() | {n: self.intents[n] for n in self.running}
        first = begin(wanted, self.disk.route, known.values(), name, 0.0)
        if isinstance(first, AppendIntent):
            self.running[name], self.intents[name] = first, first.intent
        else:
            self.outcomes[name] = first.outcome

    def step(self) -> None:
        if not self.running:
            return
        name = self.data.draw(st.sampled_from(sorted(self.running)))
        state = self.running[name]
        state = advance(state, self.disk.perform(state, self.data.draw(st.integers(0, 5)) == 0))
        if isinstance(state, ChangeFinished):
            self.outcomes[name] = state.outcome
            del self.running[name]
        else:
            self.running[name] = state

    def restart(self) -> None:
        self.running = {name: resume(intent) for name, intent in self.disk.without_end().items()}
        self.intents |= self.disk.without_end()

    def edit(self) -> None:
        self.disk.edit(self.data.draw(st.integers(0, 1)), OTHERS)


@given(st.data())
def test_in_any_order_and_through_restarts_each_intent_gets_one_end_that_is_true(data: st.DataObject) -> None:
    lives = Lives(data)
    for act in data.draw(st.lists(st.sampled_from(["ask", "step", "step", "step", "restart", "edit"]), max_size=40)):
        getattr(lives, act)()
        rules = [(intent.route, intent.rule) for intent in (lives.intents[name] for name in lives.running)]
        assert len(rules) == len(set(rules))
    while lives.disk.without_end() or lives.running:
        lives.restart()
        for _ in range(5):
            lives.step()

    log = lives.disk.log
    intended = [e.change for e in log if isinstance(e, WeightsIntended)]
    ended = [e.change for e in log if isinstance(e, WeightsWritten | WeightsRefused)]
    assert sorted(intended) == sorted(ended)
    assert len(set(intended)) == len(intended)
    for end in log:
        if isinstance(end, WeightsWritten):
            assert end.change in lives.disk.wrote
        elif isinstance(end, WeightsRefused):
            assert end.change not in lives.disk.wrote or end.code in UNKNOWN_CODES
    for name, found in lives.outcomes.items():
        assert not isinstance(found, ChangeDone) or WeightsWritten(name, found.version) in log
