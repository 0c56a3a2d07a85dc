"""The control process's side of the feed, without I/O: what its connections share, and one end of each.

Rules.
- Whatever is to be appended goes through the backlog of its epoch, in order; the shell empties it into the log's
  queue and reads no more from that picker while something is left in it.  An epoch's backlog outlives its connection.
- `taken` is the highest `n` in the log, its queue or the backlog.  What is not above it came twice; what is above it
  by more than one was lost on the way, and the log is told before what came next.
- Nothing is pushed: an end gives out what its socket has room for, so a picker that does not read costs its place
  in the tail.
- An epoch that was ended does not come back.
"""

from collections import deque
from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from pointsman.core.events import (
    PICKER_EVENTS,
    Class,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EntriesAdopted,
    EntriesLost,
    Event,
    PickerEnded,
    PickerEvent,
    decode,
    encode,
)
from pointsman.core.feed.frames import (
    HEARTBEAT,
    PROTOCOL,
    SEND_BYTES,
    TO_CONTROL_BYTES_MAX,
    UNREADABLE,
    Acknowledged,
    Advice,
    Cold,
    Entries,
    EpochRefused,
    FeedError,
    Foreign,
    Framer,
    Heartbeat,
    Hello,
    OpenEpoch,
    SnapshotFrame,
    ToControl,
    ToPicker,
    Welcome,
    Withdrawn,
    decode_to_control,
    encode_frame,
)
from pointsman.core.feed.tail import Tail, TailBatch
from pointsman.core.state.marks import Mark, decode_mark
from pointsman.core.state.membership import EpochKey
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import encode_snapshot

ENDED_MAX = 64
"""Ended epochs that are remembered, to refuse them; a process that was thought dead says so within seconds."""

_CONTROL, _TRAFFIC = int(Class.CONTROL), int(Class.TRAFFIC)


class LogView(Protocol):
    """The log as the feed sees it: all of it stands at the commit published last."""

    @property
    def log_id(self) -> str:
        """Which log it is."""
        ...

    @property
    def state(self) -> ClusterState:
        """The cluster state at the head."""
        ...

    @property
    def open_requests(self) -> OpenRequests:
        """The routed requests without an end at the head."""
        ...


class FeedHealth(msgspec.Struct, frozen=True):
    """What heartbeats tell of the control process."""

    stalled_for: float = 0.0
    scrape_age: float | None = None
    interval: float = 0.0


class Ledger:
    """What the control process has of one epoch's entries, whichever connection brought them."""

    def __init__(self, key: EpochKey, taken: int, adopted_to: int) -> None:
        self.key = key
        self.taken = taken
        self.committed = taken
        self.adopted_to = adopted_to
        self.backlog: deque[tuple[int, bytes, Event | Mark]] = deque()
        self.ended = False
        self.lost = 0
        """Entries that the log was told are lost."""

    def append(self, event: Event) -> None:
        """Put an event of the control process about this epoch in line."""
        self.backlog.append((_CONTROL, encode(event), event))

    def skip_to(self, n: int) -> None:
        """Tell the log that the entries between what was taken and `n` are lost."""
        if n > self.taken + 1:
            self.append(EntriesLost(*self.key, self.taken + 1, n - 1))
            self.lost += n - 1 - self.taken
            self.taken = n - 1


class ControlFeed:
    """What all connections of a control process share."""

    def __init__(self, log: LogView, tail: Tail, *, warms: bool = False) -> None:
        assert log.state.position == tail.head, "the tail begins at the log's head"
        self.log = log
        self.tail = tail
        self.warms = warms
        """The shell answers what pickers ask with Cold."""
        self.ledgers: dict[EpochKey, Ledger] = {}
        self.advised: dict[int, int] = {}
        """Endpoint to the head at which its removal was seen."""
        self.health = FeedHealth()
        for key, known in log.state.epochs.items():
            self.ledgers[key] = Ledger(key, known.highest_n, known.adopted_to)

    def publish(self, commit: TailBatch) -> None:
        """Take the next commit, which the log has folded."""
        kept = self.tail.add(commit)
        for key, n in kept.highest.items():
            if (ledger := self.ledgers.get(key)) is not None:
                ledger.committed = max(ledger.committed, n)
        if self.advised and Class.MEMBERSHIP in commit.kinds:
            for kind, body in zip(commit.kinds, commit.bodies, strict=True):
                if kind == Class.MEMBERSHIP:
                    match decode(body):
                        case EndpointJoined(number) | EndpointChanged(number) | EndpointLeft(number):
                            self.advised.pop(number, None)
                        case _:
                            pass
            members = self.log.state.endpoints
            self.advised = {number: after for number, after in self.advised.items() if number in members}

    def advise(self, numbers: Collection[int]) -> None:
        """These endpoints are gone or not ready, and the entry that says so is not committed."""
        self.advised.update(dict.fromkeys(numbers, self.tail.head))

    def withdraw(self, numbers: Collection[int]) -> None:
        """The advice about these endpoints does not hold."""
        for number in numbers:
            self.advised.pop(number, None)

    def open_epochs(self) -> list[EpochKey]:
        """The epochs that have not ended."""
        return [key for key, ledger in self.ledgers.items() if not ledger.ended]

    def end_epoch(self, key: EpochKey, cause: str, last_n: int) -> None:
        """Put the end of an epoch in line, after all that its socket brought, and what died with it before that."""
        ledger = self.ledgers.get(key)
        if ledger is None:
            if last_n == 0:
                return  # it never said a word
            ledger = self.ledgers[key] = Ledger(key, 0, 0)
        if ledger.ended:
            return
        ledger.ended = True
        ledger.skip_to(last_n + 1)
        ledger.append(PickerEnded(*key, cause, last_n))
        ended = [other for other, ledger in self.ledgers.items() if ledger.ended and not ledger.backlog]
        for other in ended[:-ENDED_MAX]:
            del self.ledgers[other]

    def ledger_for(self, hello: Hello) -> Ledger:
        """The ledger of the picker that said `hello`; a log that never heard of the epoch has lost nothing of it."""
        key = (hello.picker, hello.epoch)
        ledger = self.ledgers.get(key)
        if ledger is None:
            ledger = self.ledgers[key] = Ledger(key, hello.first_unacknowledged - 1, 0)
        return ledger


class ControlEnd:
    """One connection's end in the control process.

    `receive` returns the picker's Hello once; the shell then looks up the digest of its position, calls `welcome`,
    and from there on sends `data_to_send` until that is empty.  Where `cold` says what a picker's index lacks, the shell
    looks it up in the log, beside all else, and gives it to `warm`.
    """

    def __init__(self, feed: ControlFeed) -> None:
        self.feed = feed
        self.ledger: Ledger | None = None
        self.position = 0
        """Position up to which the picker was sent everything."""
        self.refused: str | None = None
        """Reason that the picker is told before the connection is closed; None while it is taken."""
        self.cold: Cold | None = None
        """Question of the picker for prompt blocks that nobody has begun to answer; None without one."""
        self._warming = b""
        self._framer = Framer(TO_CONTROL_BYTES_MAX)
        self._greeted = False
        self._outbox: list[ToPicker] = []
        self._acknowledge = False
        self._told: dict[int, int] = {}
        self._heartbeat_due = 0.0

    # --- in -------------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray) -> Hello | None:
        """Take what the socket gave: entries go in line.  `FeedError` for what no picker says."""
        hello = None
        for body in self._framer.receive(data):
            frame = decode_to_control(body)
            if isinstance(frame, Hello):
                if self._greeted:
                    raise FeedError("a second Hello on one connection")
                self._greeted = True
                hello = frame
            elif self.ledger is None:
                raise FeedError(f"{type(frame).__name__} before the Welcome, wanted Hello")
            else:
                self._take(self.ledger, frame)
        return hello

    def _take(self, ledger: Ledger, frame: ToControl) -> None:
        if ledger.ended:
            return  # its end is in line already: what comes later was counted there
        match frame:
            case Foreign(first, last, log_id):
                self._adopt(ledger, max(first, ledger.taken + 1), last, log_id)
            case Entries():
                self._enter(ledger, frame)
            case Cold(until, after):
                if not self.feed.warms or not 0 <= after < until <= self.position:
                    raise FeedError(f"Cold above {after} up to {until}, and the picker has position {self.position}")
                self.cold = frame
            case _:
                raise FeedError(f"{type(frame).__name__} on an open connection")

    def _adopt(self, ledger: Ledger, first: int, last: int, log_id: str) -> None:
        if first <= last and ledger.adopted_to < last:
            ledger.append(EntriesAdopted(*ledger.key, first, last, log_id))
            ledger.adopted_to = last

    def _enter(self, ledger: Ledger, frame: Entries) -> None:
        if len(frame.kinds) != len(frame.bodies):
            raise FeedError(f"Entries with {len(frame.kinds)} classes for {len(frame.bodies)} bodies")
        picker, epoch = ledger.key
        append, taken = ledger.backlog.append, ledger.taken
        for n, (kind, body) in enumerate(zip(frame.kinds, frame.bodies, strict=True), frame.first_n):
            if n <= taken:
                self._acknowledge = True
                continue
            try:
                event = decode_mark(body) if kind == _TRAFFIC else _decode_control(n, kind, body)
            except UNREADABLE as error:
                raise FeedError(f"entry {n} of {len(body)} bytes is none of a picker's: {error}") from error
            origin = event.origin
            if origin.n != n or origin.epoch != epoch or origin.picker != picker:
                raise FeedError(
                    f"entry {n} of {picker} {epoch} says it is {origin.n} of {origin.picker} {origin.epoch}"
                )
            if n > taken + 1:
                ledger.skip_to(n)
            append((kind, body, event))
            ledger.taken = taken = n

    # --- the handshake ----------------------------------------------------------------------------

    def welcome(self, hello: Hello, digest: bytes | None) -> None:
        """Answer a Hello; `digest` is that of the log's batch which ended at its position, None where none did."""
        feed, tail = self.feed, self.feed.tail
        if hello.protocol != PROTOCOL:
            self._refuse(f"feed protocol {hello.protocol}, wanted {PROTOCOL}: restart the picker process")
            return
        ledger = feed.ledger_for(hello)
        if ledger.ended:
            self._refuse(f"epoch {hello.epoch} of {hello.picker} has ended")
            return
        self.ledger = ledger
        same_log = hello.log_id == feed.log.log_id and 0 < hello.position <= tail.head
        continues = same_log and digest == hello.digest
        self._outbox.append(
            Welcome(feed.log.log_id, tail.head, tail.digest, continues, ledger.committed, ledger.taken, feed.warms)
        )
        if continues and tail.holds(hello.position) and not hello.snapshot:
            state = encode_snapshot(feed.log.state)
            if tail.shorter_than(len(state), hello.position, ledger.key):
                self.position = hello.position
                return
            self._send_snapshot(state, ledger.key)
        else:
            self._send_snapshot(encode_snapshot(feed.log.state), ledger.key)

    def _send_snapshot(self, state: bytes, key: EpochKey) -> None:
        feed = self.feed
        others: Mapping[EpochKey, dict[int, int]] = feed.log.open_requests.by_epoch
        open_there = tuple(
            [OpenEpoch(*other, dict(requests)) for other, requests in sorted(others.items()) if other != key]
        )
        self._outbox.append(SnapshotFrame(feed.tail.head, feed.tail.digest, state, open_there))
        self.position = feed.tail.head

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        self._outbox.append(EpochRefused(reason))

    # --- out ------------------------------------------------------------------------------------

    def warm(self, frame: bytes) -> None:
        """Send an encoded Warming behind all commits."""
        self._warming = frame

    @property
    def fell_out(self) -> bool:
        """What comes next for this picker is no longer in the tail."""
        return self.ledger is not None and not self.feed.tail.holds(self.position)

    def data_to_send(self, now: float) -> bytes:
        """The next bytes, about SEND_BYTES at most; empty where there is nothing to say yet.

        Advice goes ahead of commits.  `TailFellOutError` where the picker has not kept up.
        """
        frames = [encode_frame(frame) for frame in self._outbox]
        self._outbox.clear()
        if self.ledger is None:
            return b"".join(frames)
        key, tail = self.ledger.key, self.feed.tail
        frames.extend([encode_frame(frame) for frame in self._due(now, self.ledger)])
        size = sum([len(frame) for frame in frames])
        while size < SEND_BYTES and (commit := tail.after(self.position)) is not None:
            frame = commit.frame_for(key)
            frames.append(frame)
            size += len(frame)
            self.position = commit.last
        if self._told and self.position == tail.head:
            frames.extend([encode_frame(frame) for frame in self._withdrawn()])
        if self._warming and self.position == tail.head:
            frames.append(self._warming)
            self._warming = b""
        return b"".join(frames)

    def _due(self, now: float, ledger: Ledger) -> list[ToPicker]:
        due: list[ToPicker] = []
        told = self._told
        by_head: dict[int, list[int]] = {}
        for number, after in self.feed.advised.items():
            if told.get(number) != after:
                by_head.setdefault(after, []).append(number)
                told[number] = after
        due.extend([Advice(tuple(numbers), after) for after, numbers in by_head.items()])
        if self._acknowledge:
            self._acknowledge = False
            due.append(Acknowledged(ledger.committed))
        if now >= self._heartbeat_due:
            self._heartbeat_due = now + HEARTBEAT
            health = self.feed.health
            due.append(Heartbeat(self.feed.tail.head, health.stalled_for, health.scrape_age, health.interval))
        return due

    def _withdrawn(self) -> list[ToPicker]:
        # Behind the commits: an endpoint whose advice ended with an entry is avoided until that entry is there.
        gone = [number for number in self._told if number not in self.feed.advised]
        for number in gone:
            del self._told[number]
        return [Withdrawn(tuple(gone))] if gone else []


def _decode_control(n: int, kind: int, body: bytes) -> PickerEvent:
    if kind != _CONTROL:
        raise FeedError(f"entry {n} has class {kind}, wanted control or traffic")
    event = decode(body)
    if not isinstance(event, PICKER_EVENTS):
        raise FeedError(f"entry {n} is {type(event).__name__}, which pickers do not write")
    return event
