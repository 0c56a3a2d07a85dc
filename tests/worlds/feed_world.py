"""A log in memory and a line between the two ends of the feed, for tests without sockets."""

from collections.abc import Iterable
from hashlib import sha256

import msgspec
import numpy as np

from pointsman.core.events import (
    EndpointJoined,
    Entry,
    Event,
    LogCreated,
    PickerEvent,
    PoolApplied,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    class_of,
    decode,
    encode,
)
from pointsman.core.feed.control_end import ControlEnd, ControlFeed
from pointsman.core.feed.frames import Cold, Framer, Hello, Warming, decode_to_picker, encode_frame
from pointsman.core.feed.picker_end import PickerEnd, PickerIdentity
from pointsman.core.feed.tail import Tail
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.core.state.traffic import TrafficState
from pointsman.eventlog.feed.warming_pages import gather

POOL = "default/llama"
KEY = ("picker-0", 7)


class MemoryCommit(msgspec.Struct, frozen=True):
    """A batch of a `MemoryLog`."""

    first: int
    last: int
    recorded_at: float
    digest: bytes
    entries: tuple[Entry, ...]
    events: tuple[Event, ...] = ()

    @property
    def kinds(self) -> list[int]:
        """The class of each entry."""
        return [entry.kind for entry in self.entries]

    @property
    def bodies(self) -> list[bytes]:
        """The bytes of each entry."""
        return [entry.body for entry in self.entries]


class MemoryLog:
    """A log whose disk is a list; what is queued dies with it, what is committed does not."""

    def __init__(self, log_id: str = "log-a", commits: Iterable[MemoryCommit] = (), room: int = 1 << 30) -> None:
        self.log_id = log_id
        self.state = ClusterState()
        self.open_requests = OpenRequests()
        self.commits: list[MemoryCommit] = []
        self.queue: list[tuple[int, bytes]] = []
        self.room = room
        """How many entries the queue takes."""
        for commit in commits:
            self._fold(commit)
        if not self.commits:
            self.append(LogCreated(log_id, "test"))
            self.commit()

    @property
    def digest(self) -> bytes:
        """The chain's head."""
        return self.commits[-1].digest if self.commits else b"genesis " + self.log_id.encode()

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the batch that ends at `position`."""
        return next((c.digest for c in self.commits if c.last == position), None)

    def warming(self, cold: Cold, key: tuple[str, int], piece: int) -> Warming:
        """What answers a picker's Cold, so many positions at a time."""
        first = max(cold.after + 1, cold.until - piece + 1)
        asked = [e for commit in self.commits for e in commit.entries if first <= e.position <= cold.until]
        bodies = [entry.body for entry in reversed(asked) if isinstance(entry.event, RequestRouted)]
        return Warming(cold.until, first, first == cold.after + 1, *gather(bodies, key))

    def append(self, *events: Event) -> None:
        """Queue events of the control process."""
        self.queue.extend((class_of(event), encode(event)) for event in events)

    def take(self, feed: ControlFeed) -> None:
        """Empty the backlogs into the queue, as far as it has room."""
        for ledger in feed.ledgers.values():
            while ledger.backlog and len(self.queue) < self.room:
                self.queue.append(ledger.backlog.popleft()[:2])

    def commit(self) -> MemoryCommit | None:
        """Commit what is queued."""
        if not self.queue:
            return None
        first = self.state.position + 1
        at = 1000.0 + first
        entries = tuple(Entry(first + i, at, kind, body) for i, (kind, body) in enumerate(self.queue))
        digest = sha256(self.digest + msgspec.msgpack.encode(entries)).digest()
        commit = MemoryCommit(first, first + len(entries) - 1, at, digest, entries)
        self.queue = []
        self._fold(commit)
        return commit

    def _fold(self, commit: MemoryCommit) -> None:
        for entry in commit.entries:
            self.state.apply(entry)
            self.open_requests.apply_event(entry.event)
        self.commits.append(commit)

    def reopened(self) -> "MemoryLog":
        """The log as the next control process finds it."""
        return MemoryLog(self.log_id, self.commits, self.room)

    def older_copy(self, commits: int) -> "MemoryLog":
        """The log as a backup has it."""
        return MemoryLog(self.log_id, self.commits[:commits], self.room)

    def events(self) -> list[Event]:
        """Every committed event."""
        return [decode(entry.body) for commit in self.commits for entry in commit.entries]


class Control:
    """A control process without sockets: a log and the feed over it."""

    def __init__(self, log: MemoryLog, warms: bool = False, /, **tail_limits: int) -> None:
        self.log = log
        self.feed = ControlFeed(log, Tail(log.state.position, log.digest, **tail_limits), warms=warms)

    def commit(self, *events: Event) -> None:
        """Append `events`, take what pickers brought, and commit it all."""
        self.log.append(*events)
        self.log.take(self.feed)
        if (commit := self.log.commit()) is not None:
            self.feed.publish(commit)
        self.log.take(self.feed)


class Line:
    """One connection between a picker's end and a control process, with the bytes that are under way."""

    def __init__(self, control: Control, picker: PickerEnd, now: float = 0.0) -> None:
        self.control = control
        self.picker = picker
        self.end = ControlEnd(control.feed)
        self.up = bytearray()
        self.down = bytearray()
        self.piece = 3
        """Positions that a Warming goes back."""
        picker.connected(now)

    def send_up(self) -> None:
        """The picker hands all it has to the socket."""
        while data := self.picker.data_to_send():
            self.up += data

    def send_down(self, now: float = 0.0) -> None:
        """The control process hands all it has to the socket."""
        while data := self.end.data_to_send(now):
            self.down += data

    def read_up(self, now: float = 0.0, limit: int = 1 << 30) -> None:
        """The control process reads."""
        data = bytes(self.up[:limit])
        del self.up[:limit]
        hello = self.end.receive(data)
        if hello is not None:
            self.greet(hello)
        self.control.log.take(self.control.feed)
        cold, self.end.cold = self.end.cold, None
        if cold is not None and self.end.ledger is not None:
            self.end.warm(encode_frame(self.control.log.warming(cold, self.end.ledger.key, self.piece)))

    def greet(self, hello: Hello) -> None:
        """Answer a Hello as the shell does."""
        self.end.welcome(hello, self.control.log.digest_at(hello.position))

    def read_down(self, now: float = 0.0, limit: int = 1 << 30) -> None:
        """The picker reads."""
        data = bytes(self.down[:limit])
        del self.down[:limit]
        if data:
            self.picker.receive(data, now, 1000.0 + now)
        self.warm()

    def warm(self) -> None:
        """The picker takes in what it was given."""
        while self.picker.warmer.pending:
            self.picker.warm()

    def run(self, now: float = 0.0) -> None:
        """Everything said arrives, and what is answered too, until nobody has more to say."""
        while True:
            self.send_up()
            self.send_down(now)
            if not self.up and not self.down:
                return
            if self.up:
                self.read_up(now)
            self.read_down(now)

    def cut(self, now: float = 0.0) -> None:
        """The connection is gone, and what was under way with it."""
        self.up.clear()
        self.down.clear()
        self.picker.disconnected(now, 1000.0 + now)


def identity(picker: str = "picker-0", epoch: int = 7) -> PickerIdentity:
    """One life of a picker process."""
    return PickerIdentity(picker, epoch, "test", 1, {"queue-scorer": 1})


def new_picker(picker: str = "picker-0", epoch: int = 7, **limits: int) -> tuple[PickerEnd, TrafficState]:
    """A picker's end with a live traffic state."""
    traffic = TrafficState()
    return PickerEnd(identity(picker, epoch), traffic, **limits), traffic


def fed_picker(
    control: Control, picker: str = "picker-0", epoch: int = 7, **limits: int
) -> tuple[PickerEnd, TrafficState, Line]:
    """A picker that has its state and nothing unacknowledged."""
    end, traffic = new_picker(picker, epoch, **limits)
    line = Line(control, end)
    line.run()
    control.commit()
    line.run()
    return end, traffic, line


def members(count: int, first: int = 1) -> list[Event]:
    """A pool and its endpoints."""
    joined = [
        EndpointJoined(n, POOL, f"uid-{n}", "default", f"pod-{n}", f"10.0.0.{n}", 8000, labels={"app": "llama"})
        for n in range(first, first + count)
    ]
    return [PoolApplied(POOL, {"app": "llama"}, (8000,)), *joined]


def route(end: PickerEnd, traffic: TrafficState, endpoint: int = 1, prefix: bytes = b"") -> int:
    """Decide for `endpoint`; the `n` of the decision."""
    origin = end.origin()
    event = RequestRouted(origin, 1000.0, RequestFacts("r", POOL, prefix=prefix), (endpoint,))
    assert end.cluster is not None
    end.record(event)
    traffic.routed(origin.n, event, end.cluster)
    return origin.n


def refuse(end: PickerEnd) -> int:
    """Decide for nobody; the `n` of the decision."""
    return record(end, RequestRefused(end.origin(), 1000.0, RequestFacts("r", POOL), "saturated", 429))


def finish(end: PickerEnd, traffic: TrafficState, request_n: int) -> int:
    """End a request; the `n` of that entry."""
    n = record(end, RequestFinished(end.origin(), request_n, "complete", 200, 0.1))
    traffic.finished(request_n)
    return n


def record(end: PickerEnd, event: PickerEvent) -> int:
    """Record any event; its `n`."""
    end.record(event)
    return event.origin.n


def numbers_in(log: MemoryLog, key: tuple[str, int]) -> list[int]:
    """Every `n` of an epoch that the log accounts for, by an entry or by a loss, in log order."""
    found: list[int] = []
    for event in log.events():
        origin = getattr(event, "origin", None)
        if origin is not None and (origin.picker, origin.epoch) == key:
            found.append(origin.n)
        elif type(event).__name__ == "EntriesLost" and (event.picker, event.epoch) == key:  # type: ignore[union-attr]
            found.extend(range(event.first, event.last + 1))  # type: ignore[union-attr]
    return found


def prompt_of(endpoint: int, length: int) -> bytes:
    """Blocks that no other endpoint is given."""
    return np.arange(endpoint << 8, (endpoint << 8) + length + 1, dtype="<u8").tobytes()


def unknown_prompts(traffic: TrafficState, log: MemoryLog) -> list[RequestRouted]:
    """Decisions of anybody for endpoints that are there, whose blocks the index does not have."""
    routed = [event for event in log.events() if isinstance(event, RequestRouted)]
    slots = {number: np.array([member.slot]) for number, member in log.state.endpoints.items()}
    return [
        event
        for event in routed
        if (slot := slots.get(event.endpoints[0])) is not None
        and 8 * traffic.prefix.matches(event.request.prefix, slot)[0] != len(event.request.prefix)
    ]


def control_with(count: int = 3, **tail_limits: int) -> Control:
    control = Control(MemoryLog(), **tail_limits)
    control.commit(*members(count))
    return control


def same_state(picker: PickerEnd, control: Control) -> bool:
    assert picker.cluster is not None
    return encode_snapshot(picker.cluster) == encode_snapshot(control.log.state)


def events_of(control: Control, *kinds: type) -> list[Event]:
    return [event for event in control.log.events() if isinstance(event, kinds)]


def frames_down(line: Line) -> list[object]:
    return [decode_to_picker(body) for body in Framer(1 << 30).receive(bytes(line.down))]
