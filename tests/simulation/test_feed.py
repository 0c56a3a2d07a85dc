"""Both ends of the feed under cuts, delays, kills, stalls and restored logs, against a model of what the log must hold.

The model is slow and obvious: what every picker recorded, what it dropped, and the state at every commit ever made.
"""

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from worlds import feed_world
from worlds.feed_world import POOL, Control, Line, MemoryLog, finish, members, new_picker, numbers_in, refuse, route

from pointsman.core.events import (
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EntriesAdopted,
    EntriesLost,
    Event,
    PickerEvent,
    decode,
)
from pointsman.core.feed.buffer import EntryBuffer
from pointsman.core.feed.picker_end import PickerEnd
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.core.state.traffic import TrafficState

Key = tuple[str, int]
NAMES = ("picker-0", "picker-1")
BUFFER_BYTES = 3000
"""About twenty entries: buffers fill."""


class Life:
    """One epoch, as the model knows it."""

    def __init__(self, name: str, epoch: int) -> None:
        self.key: Key = (name, epoch)
        self.end: PickerEnd
        self.traffic: TrafficState
        self.end, self.traffic = new_picker(name, epoch, buffer_bytes_max=BUFFER_BYTES)
        self.line: Line | None = None
        self.bodies: dict[int, bytes] = {}
        """Every entry that found room, by `n`."""
        self.rests_on: dict[int, bytes] = {}
        """The digest of the state that the picker had, by `n`."""
        self.open: set[int] = set()
        self.note(None)
        self.end.buffer.record = self.note  # type: ignore[method-assign]
        self.forgiven = 0
        """Up to here entries were acknowledged by a log that was since replaced."""

    def note(self, event: PickerEvent | None) -> None:
        """Record, and remember what found room."""
        buffer = self.end.buffer
        if event is not None:
            self.rests_on[event.origin.n] = self.end.state.digest
            EntryBuffer.record(buffer, event)
        if not buffer.dropping:
            entry = buffer._unsent[-1]
            self.bodies[entry.n] = entry.body

    @property
    def last_n(self) -> int:
        return self.end.buffer.last_n

    @property
    def acknowledged(self) -> int:
        return self.end.buffer.first_unacknowledged - 1


class FeedMachine(RuleBasedStateMachine):
    """Two pickers, one control process, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epochs = 0
        self.logs = 0
        self.states: dict[bytes, bytes] = {}
        self.dead: list[Life] = []
        self.control = Control(MemoryLog("log-0"), True)
        self.lives = {name: self.new_life(name) for name in NAMES}

    def new_life(self, name: str) -> Life:
        self.epochs += 1
        return Life(name, self.epochs)

    @initialize()
    def begin(self) -> None:
        self.commit_events(*members(2))
        for _ in range(2):
            self.reconnect()
            self.commit_events()

    def reconnect(self) -> None:
        for name in NAMES:
            self.connect(name)
            self.exchange(name)

    # --- what pickers do --------------------------------------------------------------------------

    def endpoints(self, life: Life) -> list[int]:
        return sorted(life.end.cluster.endpoints) if life.end.cluster is not None else []

    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 9), times=st.integers(1, 8))
    def decide(self, name: str, pick: int, times: int) -> None:
        life = self.lives[name]
        if numbers := self.endpoints(life):
            number = numbers[pick % len(numbers)]
            for i in range(times):
                life.open.add(route(life.end, life.traffic, number, feed_world.prompt_of(number, pick + i)))

    @rule(picks=st.lists(st.integers(0, 9), min_size=1, max_size=4), name=st.sampled_from(NAMES), moved=st.booleans())
    def work(self, picks: list[int], name: str, moved: bool) -> None:
        """What goes on all the time."""
        for pick in picks:
            self.decide(name, pick, 1 + pick % 3)
            self.finish_one(name, pick * 7)
        if moved:
            self.exchange(name)
            self.commit_events()

    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 9), advised=st.booleans())
    def work_while_members_change(self, name: str, pick: int, advised: bool) -> None:
        self.decide(name, pick, 3)
        self.leave(pick, advised, False)
        self.join()
        self.exchange(name)
        self.finish_one(name, pick)

    @rule(name=st.sampled_from(NAMES))
    def refuse_one(self, name: str) -> None:
        refuse(self.lives[name].end)

    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 99))
    def finish_one(self, name: str, pick: int) -> None:
        life = self.lives[name]
        if life.open:
            n = sorted(life.open)[pick % len(life.open)]
            life.open.remove(n)
            finish(life.end, life.traffic, n)

    # --- what the world does ----------------------------------------------------------------------

    def commit_events(self, *events: Event) -> None:
        self.control.commit(*events)
        log = self.control.log
        self.states[log.digest] = encode_snapshot(log.state)

    @rule()
    def commit(self) -> None:
        self.commit_events()

    @rule(ready=st.booleans(), pick=st.integers(0, 9), note=st.integers(0, 1000))
    def change(self, ready: bool, pick: int, note: int) -> None:
        if numbers := sorted(self.control.log.state.endpoints):
            self.commit_events(EndpointChanged(numbers[pick % len(numbers)], ready, {"note": "x" * note}))

    @rule()
    def join(self) -> None:
        state = self.control.log.state
        if len(state.endpoints) < 5:
            n = state.next_endpoint
            self.commit_events(EndpointJoined(n, POOL, f"uid-{n}", "default", f"pod-{n}", f"10.0.0.{n}", 8000))

    @rule(pick=st.integers(0, 9), advised=st.booleans(), withdrawn=st.booleans())
    def leave(self, pick: int, advised: bool, withdrawn: bool) -> None:
        numbers = sorted(self.control.log.state.endpoints)
        if len(numbers) < 2:
            return
        number = numbers[pick % len(numbers)]
        if advised:
            self.control.feed.advise([number])
            for life in self.lives.values():
                if life.line is not None:
                    life.line.send_down(self.now)
        if withdrawn:
            self.control.feed.withdraw([number])
        else:
            self.commit_events(EndpointLeft(number))

    @rule(room=st.sampled_from([0, 3, 1 << 30]))
    def fill_the_queue(self, room: int) -> None:
        self.control.log.room = room

    @rule(seconds=st.sampled_from([0.01, 0.2, 0.6]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for life in self.lives.values():
            life.end.tick(self.now, 1000.0 + self.now)

    # --- what happens to connections --------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES))
    def connect(self, name: str) -> None:
        life = self.lives[name]
        if life.line is None:
            life.line = Line(self.control, life.end, self.now)

    @rule(name=st.sampled_from(NAMES), up=st.booleans(), limit=st.sampled_from([1, 5, 100, 3000, 1 << 30]))
    def move(self, name: str, up: bool, limit: int) -> None:
        line = self.lives[name].line
        if line is None:
            return
        if up:
            line.send_up()
            if not self.control.feed.ledgers.get(self.lives[name].key, _Nobody).backlog:
                line.read_up(self.now, limit)
        elif line.end.fell_out:
            self.cut(name, False)
        else:
            line.send_down(self.now)
            line.read_down(self.now, limit)

    @rule(name=st.sampled_from(NAMES))
    def exchange(self, name: str) -> None:
        for _ in range(3):
            self.move(name, True, 1 << 30)
            self.move(name, False, 1 << 30)

    @rule()
    def go_on(self) -> None:
        for _ in range(2):
            self.reconnect()
            self.commit_events()
        self.reconnect()

    @rule(name=st.sampled_from(NAMES), delivered=st.booleans())
    def cut(self, name: str, delivered: bool) -> None:
        life = self.lives[name]
        if life.line is None:
            return
        if delivered:
            life.line.send_up()
            life.line.read_up(self.now)
        life.line.cut(self.now)
        life.line = None

    # --- what happens to processes ----------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES))
    def kill_picker(self, name: str) -> None:
        life = self.lives[name]
        if life.line is not None:
            life.line.read_up(self.now)  # its socket is read to the end; what it had not sent died with it
        self.control.feed.end_epoch(life.key, "killed", life.last_n)
        self.control.log.take(self.control.feed)
        self.dead.append(life)
        self.lives[name] = self.new_life(name)
        self.connect(name)

    def start_control(self, log: MemoryLog) -> None:
        for name in NAMES:
            self.cut(name, False)
        self.control = Control(log, True)
        self.states[log.digest] = encode_snapshot(log.state)
        for key in self.control.feed.open_epochs():
            ended = [life for life in self.dead if life.key == key]
            if ended:
                self.control.feed.end_epoch(key, "gone when the control process started", ended[0].last_n)

    @rule(at_once=st.booleans())
    def kill_control(self, at_once: bool) -> None:
        self.start_control(self.control.log.reopened())
        if at_once:
            self.reconnect()

    @precondition(lambda self: self.logs < 3)
    @rule(gone=st.integers(1, 5), grown=st.integers(0, 12))
    def restore_an_older_copy(self, gone: int, grown: int) -> None:
        log = self.control.log
        if gone < len(log.commits):
            self.logs += 1
            self.forgive()
            self.start_control(log.older_copy(len(log.commits) - gone))
            for i in range(grown):
                self.change(i % 2 == 0, 0, grown)

    @precondition(lambda self: self.logs < 3)
    @rule()
    def begin_another_log(self) -> None:
        self.logs += 1
        self.forgive()
        self.start_control(MemoryLog(f"log-{self.logs}"))
        self.commit_events(*members(1))

    def forgive(self) -> None:
        self.dead.clear()
        for life in self.lives.values():
            life.forgiven = life.acknowledged

    # --- what must hold -----------------------------------------------------------------------------

    @invariant()
    def every_state_is_that_of_the_log_at_the_same_position(self) -> None:
        for life in self.lives.values():
            if life.end.cluster is not None:
                assert encode_snapshot(life.end.cluster) == self.states[life.end.state.digest]

    @invariant()
    def every_number_is_in_the_log_once_and_in_order(self) -> None:
        for life in (*self.lives.values(), *self.dead):
            numbers = numbers_in(self.control.log, life.key)
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True

    @invariant()
    def what_was_acknowledged_is_committed(self) -> None:
        for life in self.lives.values():
            if life.acknowledged > life.forgiven:
                assert numbers_in(self.control.log, life.key)[-1] >= life.acknowledged

    @invariant()
    def buffers_are_bounded(self) -> None:
        for life in self.lives.values():
            assert life.end.buffer.bytes <= BUFFER_BYTES

    def teardown(self) -> None:
        """Everything heals: then all is accounted for."""
        if not self.control.log.state.endpoints:
            return  # nothing had begun
        self.control.log.room = 1 << 30
        for _ in range(4):
            self.now += 0.11
            for name, life in self.lives.items():
                if life.line is not None and life.line.end.fell_out:
                    self.cut(name, False)
                self.connect(name)
                assert life.line is not None
                life.line.run(self.now)
                life.end.tick(self.now, 1000.0 + self.now)
            self.commit_events()
        for life in self.lives.values():
            assert life.line is not None
            life.line.run(self.now)
            self.check_healed(life)
        for life in (*self.lives.values(), *self.dead):
            self.check_accounts(life)

    def check_healed(self, life: Life) -> None:
        log = self.control.log
        assert len(life.end.buffer) == 0
        assert life.end.cluster is not None
        assert encode_snapshot(life.end.cluster) == encode_snapshot(log.state)
        assert not life.end.degraded, life.end.cause
        assert not len(life.traffic.avoided())
        assert self.logs or not feed_world.unknown_prompts(life.traffic, log)
        others = {key: ns for key, ns in log.open_requests.by_epoch.items() if key != life.key}
        assert life.traffic.statistics().foreign == sum(len(ns) for ns in others.values())
        mine = set(log.open_requests.by_epoch.get(life.key, {}))
        assert mine == {n for n in life.open if n in self.entries_of(life.key)}

    def entries_of(self, key: Key) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for commit in self.control.log.commits:
            for entry in commit.entries:
                origin = getattr(decode(entry.body), "origin", None)
                if origin is not None and (origin.picker, origin.epoch) == key:
                    found[origin.n] = entry.body
        return found

    def covered(self, key: Key, kind: type[EntriesLost | EntriesAdopted]) -> set[int]:
        return {
            n
            for event in self.control.log.events()
            if isinstance(event, kind) and (event.picker, event.epoch) == key
            for n in range(event.first, event.last + 1)
        }

    def check_accounts(self, life: Life) -> None:
        numbers = numbers_in(self.control.log, life.key)
        alive = life in self.lives.values()
        if numbers or alive:
            assert numbers[-1] == life.last_n
            assert numbers[0] == 1 or life.forgiven >= numbers[0] - 1
        entries = self.entries_of(life.key)
        adopted = self.covered(life.key, EntriesAdopted)
        assert self.logs or not adopted
        for n, body in entries.items():
            assert body == life.bodies[n]
            applied = decode(body).origin.applied  # type: ignore[union-attr]
            if applied and n not in adopted:
                assert life.rests_on[n] == self.control.log.digest_at(applied), f"{n} of {life.key} is foreign"
        lost = self.covered(life.key, EntriesLost)
        assert not lost & entries.keys()
        for n in lost:
            died = not alive and n > life.acknowledged
            assert died or n not in life.bodies or n <= life.forgiven, f"{n} of {life.key} is lost and was not dropped"


class _Nobody:
    backlog = ()


TestFeed = FeedMachine.TestCase
TestFeed.settings = settings(
    max_examples=100,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
