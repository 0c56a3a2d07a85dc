"""The picker's end of the feed, without I/O.

Rules.
- `origin` says which entry comes next, `record` gives it out; nothing comes between the two, because a decision does
  not wait.  After entries were dropped, or lost by a log that was restored, one lists the open requests.
- Degraded is what `_trouble` says.  The entry that says so is the picker's own and goes the way of all others.
  A picker that was never fed has nothing to lose and says nothing.
- The cluster state changes only by a Snapshot or a whole Batch, so it always stands where a commit ended.
- After a Batch that does not fold, the state is not trusted to go on from: the next Hello has none.
  After one that cannot be read, the next Hello asks for a Snapshot.
- `now` is monotonic, `at` is seconds since 1970, for people.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from pointsman.core.events import (
    Class,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Event,
    FeedLost,
    FeedRestored,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerEvent,
    PickerStarted,
    decode,
)
from pointsman.core.feed import (
    OWN,
    PROTOCOL,
    SILENCE,
    TO_PICKER_BYTES_MAX,
    UNREADABLE,
    Acknowledged,
    Advice,
    Batch,
    EpochRefusedError,
    FeedError,
    Foreign,
    Framer,
    Heartbeat,
    Hello,
    Refused,
    Snapshot,
    ToPicker,
    Welcome,
    Withdrawn,
    decode_to_picker,
    encode_frame,
)
from pointsman.core.feed_buffer import BUFFER_BYTES_MAX, EntryBuffer
from pointsman.core.marks import RefusedMark
from pointsman.core.packing import Ints, pack
from pointsman.core.projection import ClusterState
from pointsman.core.snapshot import decode_snapshot


class TrafficSide(Protocol):
    """What the feed tells the traffic state."""

    degraded: bool

    def follow(self, cluster: ClusterState) -> None:
        """Clear the rows of endpoints that are gone."""
        ...

    def observe(self, event: Event, cluster: ClusterState) -> None:
        """Take an entry of anybody else."""
        ...

    def replace_foreign(self, requests: Mapping[tuple[str, int], Mapping[int, int]], cluster: ClusterState) -> None:
        """Take the open requests of other epochs in place of what was known."""
        ...

    def advise(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints."""
        ...

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Avoid these endpoints no longer."""
        ...

    def clear_advice(self) -> None:
        """Avoid nobody."""
        ...

    def open_numbers(self) -> Ints:
        """The numbers of the own decisions whose requests are open, ascending."""
        ...


class PickerIdentity(msgspec.Struct, frozen=True):
    """One life of a picker process."""

    picker: str
    epoch: int
    build: str
    scheduler: int
    """Version of `schedule`'s own rules."""
    plugins: dict[str, int]
    """Version of each plugin type it knows."""


class PickerFeedStatistics(msgspec.Struct, frozen=True):
    """How the feed is, as the picker sees it."""

    connected: bool
    degraded: bool
    cause: str
    """Why it is degraded; empty where it is not."""
    position: int
    last_n: int
    unacknowledged: int
    unacknowledged_bytes: int
    dropped: int
    """Entries that found no room, since the epoch began."""
    connections: int
    snapshots: int
    batches: int


class PickerEnd:
    """The feed of one epoch, through all its connections."""

    def __init__(self, me: PickerIdentity, traffic: TrafficSide, buffer_bytes_max: int = BUFFER_BYTES_MAX) -> None:
        self.me = me
        self.cluster: ClusterState | None = None
        self.degraded = True
        self.cause = "never fed"
        self.buffer = EntryBuffer(buffer_bytes_max)
        self._key = (me.picker, me.epoch)
        self._traffic = traffic
        traffic.degraded = True
        self._log_id = ""
        self.digest = b""
        """Of the batch that ended where the cluster state stands."""
        self._trusted = False
        self._unreadable = False
        self._foreign: list[Foreign] = []
        self._started_n = 0
        self._fed = False
        self._lost_at = 0.0
        self._advised: dict[int, int] = {}
        self._snapshots = self._batches = self._connections = 0
        self._connected = False
        self._begin_connection(0.0)
        self._start()

    def _begin_connection(self, now: float) -> None:
        self._framer = Framer(TO_PICKER_BYTES_MAX)
        self._outbox: list[bytes] = []
        self._welcome: Welcome | None = None
        self._standing = False
        """The picker stands on the log of this connection, so that it may send."""
        self._replaced = False
        self._heartbeat: Heartbeat | None = None
        self._heard = now

    # --- entries ----------------------------------------------------------------------------------

    def origin(self) -> Origin:
        """Who writes the next entry, and on which state."""
        applied = 0 if self.cluster is None else self.cluster.position
        return Origin(self.me.picker, self.me.epoch, self.buffer.last_n + 1, applied)

    def record(self, event: PickerEvent) -> None:
        """Give out the `n` that `origin` told, and keep the entry until it is acknowledged."""
        self.buffer.record(event)

    def _start(self) -> None:
        self._started_n = self.buffer.last_n + 1
        self.record(PickerStarted(self.origin(), self.me.build, self.me.scheduler, self.me.plugins))

    def _list_open(self) -> None:
        # Only between decisions: the list and the entries around it have to agree.
        self.record(OpenRequestsListed(self.origin(), pack(self._traffic.open_numbers())))

    # --- the connection ---------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A socket is there: say Hello."""
        self._connected = True
        self._connections += 1
        self._begin_connection(now)
        self.buffer.rewind()
        state = self.cluster if self._trusted else None
        hello = Hello(
            protocol=PROTOCOL,
            picker=self.me.picker,
            epoch=self.me.epoch,
            build=self.me.build,
            log_id=self._log_id if state is not None else "",
            position=state.position if state is not None else 0,
            digest=self.digest if state is not None else b"",
            last_n=self.buffer.last_n,
            first_unacknowledged=self.buffer.first_unacknowledged,
            snapshot=self._unreadable,
        )
        self._outbox.append(encode_frame(hello))

    def disconnected(self, now: float, at: float) -> None:
        """The socket is gone."""
        self._connected = self._standing = False
        self._outbox.clear()
        self._judge(now, at)

    def tick(self, now: float, at: float) -> None:
        """Notice what did not come; called at least five times in SILENCE."""
        if self.buffer.take_up():
            self._list_open()
        self._judge(now, at)

    def data_to_send(self) -> bytes:
        """The next bytes, about SEND_BYTES at most; empty where there is nothing to say or nobody to say it to."""
        frames, self._outbox = self._outbox, []
        if self._standing:
            frames.extend([encode_frame(entries) for entries in self.buffer.next_frames()])
        return b"".join(frames)

    # --- in ---------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float, at: float) -> None:
        """Take what the socket gave; `FeedError` for what no control process says."""
        self._heard = now
        for body in self._framer.receive(data):
            self._take(decode_to_picker(body))
        if self.buffer.take_up():
            self._list_open()
        self._judge(now, at)

    def _take(self, frame: ToPicker) -> None:
        if isinstance(frame, Refused):
            raise EpochRefusedError(frame.reason)
        if isinstance(frame, Welcome):
            self._welcomed(frame)
        elif self._welcome is None:
            raise FeedError(f"{type(frame).__name__} before the Welcome")
        elif isinstance(frame, Snapshot):
            self._replace(frame, self._welcome)
        elif not self._standing:
            raise FeedError(f"{type(frame).__name__} before the Snapshot")
        else:
            self._follow(frame)

    def _follow(self, frame: ToPicker) -> None:
        match frame:
            case Batch():
                self._apply(frame)
            case Heartbeat():
                self._heartbeat = frame
            case Acknowledged(n):
                self._acknowledge(n)
            case Advice(numbers, after):
                self._advised.update(dict.fromkeys(numbers, after))
                self._traffic.advise(numbers)
            case Withdrawn(numbers):
                for number in numbers:
                    self._advised.pop(number, None)
                self._traffic.withdraw(numbers)
            case _:
                raise FeedError(f"{type(frame).__name__} on an open connection")

    def _acknowledge(self, n: int) -> None:
        if n > self.buffer.last_n:
            raise FeedError(f"entry {n} is acknowledged, and {self.buffer.last_n} is the last that was given out")
        self.buffer.acknowledge(n)
        self._foreign = [foreign for foreign in self._foreign if foreign.last > n]

    def _welcomed(self, welcome: Welcome) -> None:
        if self._welcome is not None:
            raise FeedError("a second Welcome on one connection")
        if welcome.continues and not self._trusted:
            raise FeedError("a Welcome that continues a state which was not told")
        self._welcome = welcome
        self._advised.clear()
        self._traffic.clear_advice()
        self._acknowledge(welcome.acknowledged)
        if welcome.continues:
            self._stand(welcome)

    def _replace(self, snapshot: Snapshot, welcome: Welcome) -> None:
        if self._replaced:
            raise FeedError("a second Snapshot on one connection")
        try:
            cluster = decode_snapshot(snapshot.state)
        except (*UNREADABLE, LookupError, ValueError) as error:
            raise FeedError(f"a Snapshot of {len(snapshot.state)} bytes that is none of ours: {error}") from error
        if cluster.position != snapshot.position:
            raise FeedError(f"a Snapshot of position {snapshot.position} that holds {cluster.position}")
        if not welcome.continues:
            self._mark_foreign()
        self.cluster = cluster
        self._replaced = True
        self._unreadable = False
        self._snapshots += 1
        self._log_id, self.digest, self._trusted = welcome.log_id, snapshot.digest, True
        self._traffic.follow(cluster)
        self._traffic.replace_foreign({(o.picker, o.epoch): o.requests for o in snapshot.open}, cluster)
        if not self._standing:
            if self._key not in cluster.epochs and self._started_n < self.buffer.first_unacknowledged:
                self._start()  # another log: it too has to know the versions that decide
            self._stand(welcome)

    def _mark_foreign(self) -> None:
        """What was decided up to here rests on the state that is replaced."""
        first = max(self.buffer.first_unacknowledged, self._foreign[-1].last + 1 if self._foreign else 1)
        if self._log_id and first <= self.buffer.last_n:
            self._foreign.append(Foreign(first, self.buffer.last_n, self._log_id))

    def _stand(self, welcome: Welcome) -> None:
        self._standing = True
        self._outbox.extend([encode_frame(foreign) for foreign in self._foreign])
        self.buffer.skip(welcome.taken)
        if welcome.taken < self.buffer.first_unacknowledged - 1:
            self._list_open()  # an older copy of the log, which has lost ends that another had acknowledged

    def _apply(self, batch: Batch) -> None:
        cluster = self.cluster
        assert cluster is not None, "a picker that stands on a log has a state"
        if batch.first != cluster.position + 1:
            raise FeedError(f"a Batch from {batch.first} after position {cluster.position}")
        if len(batch.kinds) - batch.kinds.count(OWN) != len(batch.bodies):
            raise FeedError(f"a Batch of {len(batch.kinds)} classes with {len(batch.bodies)} bodies")
        try:
            bodies = iter(batch.bodies)
            events = [None if kind == OWN else decode(next(bodies)) for kind in batch.kinds]
        except UNREADABLE as error:
            self._unreadable = True
            raise FeedError(f"the Batch from {batch.first} holds what is no event of ours: {error}") from error
        try:
            for kind, event in zip(batch.kinds, events, strict=True):
                self._fold(cluster, kind, event)
        except (LookupError, ValueError, AssertionError) as error:
            self._trusted = False
            what = f"{type(error).__name__}: {error}"
            raise FeedError(f"the Batch from {batch.first} does not fold at {cluster.position}: {what}") from error
        self.digest = batch.digest
        self._batches += 1
        self._settle(batch, cluster)

    def _settle(self, batch: Batch, cluster: ClusterState) -> None:
        known = cluster.epochs.get(self._key)
        if batch.acknowledged and known is not None and known.highest_n < batch.acknowledged:
            self._trusted = False
            raise FeedError(f"the Batch from {batch.first} acknowledges {batch.acknowledged} after {known.highest_n}")
        self._acknowledge(batch.acknowledged)

    def _fold(self, cluster: ClusterState, kind: int, event: Event | None) -> None:
        position = cluster.position + 1
        if event is None:
            known = cluster.epochs.get(self._key)
            n = 0 if known is None else known.highest_n + 1
            cluster.apply_event(position, RefusedMark(Origin(*self._key, n, 0)))
            return
        cluster.apply_event(position, event)
        self._traffic.follow(cluster)
        match event:
            case PickerEnded(picker, epoch) if (picker, epoch) == self._key:
                raise EpochRefusedError(f"the log says at {position} that this epoch has ended: {event.cause}")
            case FeedLost(origin) | FeedRestored(origin) | PickerStarted(origin) | OpenRequestsListed(origin) if (
                origin.picker,
                origin.epoch,
            ) == self._key:
                pass
            case _:
                self._traffic.observe(event, cluster)
        if kind == Class.MEMBERSHIP and self._advised:
            self._end_advice(cluster, event)

    def _end_advice(self, cluster: ClusterState, event: Event) -> None:
        match event:
            case EndpointJoined(number) | EndpointChanged(number) | EndpointLeft(number):
                after = self._advised.pop(number, None)
                if after is not None and cluster.position <= after and number in cluster.endpoints:
                    self._advised[number] = after  # committed before the removal was seen
                    self._traffic.advise((number,))
                else:
                    self._traffic.withdraw((number,))
            case _:
                pass
        self._advised = {number: after for number, after in self._advised.items() if number in cluster.endpoints}

    # --- degraded ---------------------------------------------------------------------------------

    def _trouble(self, now: float) -> str:
        """What keeps the feed from being fine; empty where nothing does."""
        heartbeat = self._heartbeat
        if not self._connected:
            return "the socket is closed"
        if now - self._heard >= SILENCE:
            return "nothing came"
        if self.cluster is None or self._welcome is None or self.cluster.position < self._welcome.head:
            return "the state is behind"
        if heartbeat is None:
            return "no heartbeat came"
        if heartbeat.stalled_for >= SILENCE:
            return "commits have stalled"
        if heartbeat.scrape_age is not None and heartbeat.scrape_age > max(SILENCE, 3 * heartbeat.interval):
            return "no scrape has a result"
        return ""

    def _judge(self, now: float, at: float) -> None:
        self.cause = self._trouble(now)
        degraded = self.cause != ""
        if degraded == self.degraded:
            return
        self.degraded = self._traffic.degraded = degraded
        if degraded:
            self._lost_at = now
            self.record(FeedLost(self.origin(), at, self.cause))
        elif self._fed:
            self.record(FeedRestored(self.origin(), at, now - self._lost_at))
        self._fed = True

    def statistics(self) -> PickerFeedStatistics:
        """How the feed is."""
        return PickerFeedStatistics(
            connected=self._connected,
            degraded=self.degraded,
            cause=self.cause,
            position=0 if self.cluster is None else self.cluster.position,
            last_n=self.buffer.last_n,
            unacknowledged=len(self.buffer),
            unacknowledged_bytes=self.buffer.bytes,
            dropped=self.buffer.dropped,
            connections=self._connections,
            snapshots=self._snapshots,
            batches=self._batches,
        )
