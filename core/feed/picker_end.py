"""The picker's end of the feed, without I/O.

Rules.
- `origin` says which entry comes next, `record` gives it out; nothing comes between the two, because a decision does
  not wait.  After entries were dropped, or lost by a log that was restored, one lists the open requests.
- Degraded is what `_trouble` says.  The entry that says so is the picker's own and goes the way of all others.
  A picker that was never fed has nothing to lose and says nothing.
- `now` is monotonic, `at` is seconds since 1970, for people.
"""

import msgspec

from pointsman.core.events import (
    FeedLost,
    FeedRestored,
    OpenRequestsListed,
    Origin,
    PickerEvent,
    PickerStarted,
)
from pointsman.core.feed.buffer import BUFFER_BYTES_MAX, EntryBuffer
from pointsman.core.feed.frames import (
    PROTOCOL,
    SILENCE,
    TO_PICKER_BYTES_MAX,
    Acknowledged,
    Advice,
    BatchFrame,
    EpochRefused,
    EpochRefusedError,
    FeedError,
    Foreign,
    Framer,
    Heartbeat,
    Hello,
    SnapshotFrame,
    ToPicker,
    Warming,
    Welcome,
    Withdrawn,
    decode_to_picker,
    encode_frame,
)
from pointsman.core.feed.picker_state import FedState, TrafficSide, read_snapshot
from pointsman.core.feed.prefix_warming import Warmer
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import pack


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
    """Reason why it is degraded; empty where it is not."""
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
        self.degraded = True
        self.cause = "never fed"
        self.buffer = EntryBuffer(buffer_bytes_max)
        self.state = FedState((me.picker, me.epoch), traffic)
        self.warmer = Warmer(traffic)
        self._traffic = traffic
        traffic.degraded = True
        self._foreign: list[Foreign] = []
        self._started_n = 0
        self._fed = False
        self._lost_at = 0.0
        self._connections = 0
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
        self.warmer.reconnected()

    @property
    def cluster(self) -> ClusterState | None:
        """The cluster state at the last commit that came; None before the first Snapshot."""
        return self.state.cluster

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
        position, digest = self.state.known
        hello = Hello(
            protocol=PROTOCOL,
            picker=self.me.picker,
            epoch=self.me.epoch,
            build=self.me.build,
            log_id=self.state.log_id if position else "",
            position=position,
            digest=digest,
            last_n=self.buffer.last_n,
            first_unacknowledged=self.buffer.first_unacknowledged,
            snapshot=self.state.unreadable,
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
        if isinstance(frame, EpochRefused):
            raise EpochRefusedError(frame.reason)
        if isinstance(frame, Welcome):
            self._welcomed(frame)
        elif self._welcome is None:
            raise FeedError(f"{type(frame).__name__} before the Welcome")
        elif isinstance(frame, SnapshotFrame):
            self._replace(frame, self._welcome)
        elif not self._standing:
            raise FeedError(f"{type(frame).__name__} before the Snapshot")
        else:
            self._follow(frame)

    def _follow(self, frame: ToPicker) -> None:
        match frame:
            case BatchFrame():
                self.state.apply(frame)
                self._acknowledge(frame.acknowledged)
            case Heartbeat():
                self._heartbeat = frame
            case Acknowledged(n):
                self._acknowledge(n)
            case Advice(numbers, after):
                self.state.advise(numbers, after)
            case Withdrawn(numbers):
                self.state.withdraw(numbers)
            case Warming():
                self.warmer.take(frame)
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
        if welcome.continues and not self.state.known[0]:
            raise FeedError("a Welcome that continues a state which was not told")
        self._welcome = welcome
        self.state.clear_advice()
        self._acknowledge(welcome.acknowledged)
        if welcome.continues:
            self._stand(welcome)

    def _replace(self, snapshot: SnapshotFrame, welcome: Welcome) -> None:
        if self._replaced:
            raise FeedError("a second Snapshot on one connection")
        cluster = read_snapshot(snapshot)
        self.warmer.want(snapshot.position, self.state.known[0] if welcome.continues else 0)
        if not welcome.continues:
            self._mark_foreign()
        self.state.replace(cluster, snapshot, welcome.log_id)
        self._replaced = True
        if not self._standing:
            if (
                self.me.picker,
                self.me.epoch,
            ) not in cluster.epochs and self._started_n < self.buffer.first_unacknowledged:
                self._start()  # another log: it too has to know the versions that decide
            self._stand(welcome)
        else:
            self._ask()

    def _mark_foreign(self) -> None:
        """What was decided up to here rests on the state that is replaced."""
        first = max(self.buffer.first_unacknowledged, self._foreign[-1].last + 1 if self._foreign else 1)
        if self.state.log_id and first <= self.buffer.last_n:
            self._foreign.append(Foreign(first, self.buffer.last_n, self.state.log_id))

    def _stand(self, welcome: Welcome) -> None:
        self._standing = True
        self._outbox.extend([encode_frame(foreign) for foreign in self._foreign])
        self.buffer.skip(welcome.taken)
        if welcome.taken < self.buffer.first_unacknowledged - 1:
            self._list_open()  # an older copy of the log, which has lost ends that another had acknowledged
        self._ask()

    # --- the prefix index -------------------------------------------------------------------------

    def warm(self) -> None:
        """Give the prefix index a step's worth of what the log had for it; there is more while `warmer.pending`."""
        if self.cluster is not None:
            self.warmer.step(self.cluster)
            self._ask()

    def _ask(self) -> None:
        if self._standing and self._welcome is not None and self._welcome.warms:
            cold = self.warmer.ask()
            if cold is not None:
                self._outbox.append(encode_frame(cold))

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
            snapshots=self.state.snapshots,
            batches=self.state.batches,
        )
