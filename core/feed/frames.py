"""What the control process and a picker process say to each other: frames on one Unix socket.

A frame is its length in four bytes, most significant first, and one tagged msgpack array.
The picker speaks first.  The two ends are state machines without I/O: `core/feed/control_end.py` and
`core/feed/picker_end.py`; they take monotonic seconds as a parameter.
Frames are called here by their tags: Batch is `BatchFrame`, Snapshot `SnapshotFrame`, Refused `EpochRefused`.

    picker                                  control process
    Hello                              ->
                                       <-   Welcome, and a Snapshot unless it says `continues`;
                                            or Refused, which ends this epoch
    Foreign, where entries rest on
    another log's cluster state        ->
    Entries                            ->
                                       <-   Batch for every commit, Heartbeat, Advice, Withdrawn, Acknowledged
    Cold, where the Welcome `warms`    ->
                                       <-   Warming, one for each Cold

Rules.
- A picker sends nothing but its Hello before it stands on this log: after Welcome where it continues,
  after the Snapshot where it does not.
- `continues` means that the picker's last batch is in this log, digest and all.  Otherwise its state is of another
  log or of an older copy, and everything it decided until the Snapshot came is Foreign.
- A Snapshot replaces the cluster state and the open requests of other epochs.  It is sent where it is shorter than
  the entries since, where these are no longer in the tail, where the picker does not continue or asks for one.
- Of a picker's own traffic entries a Batch holds only that they are there.  Their numbers follow from the fold,
  because the log has the entries of an epoch in the order of `n`, with what was lost named before what came next;
  so the cluster state is the same at every position, inside a batch too.
- An entry is acknowledged by the Batch it is in, by the Welcome, or, when it came twice, by Acknowledged.
- Advice names the head at which it was given: only a later entry about the endpoint ends it.  It does not outlive
  the connection; the control process gives again what still holds.
- Warming gives way to all commits, and a picker has one Cold on its way at most.  A picker asks only after a Welcome
  that says `warms`; a build that does not know Cold ignores that field, and so never meets Warming.
- Whoever receives what it cannot read or did not expect raises `FeedError`, and the connection is closed.
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

PROTOCOL = 1
"""Version of the frames; a picker that speaks another one is refused, and its process is replaced by one that fits."""

TO_CONTROL_BYTES_MAX = 8 << 20
"""Bytes of a frame to the control process: a frame of Entries holds at most SEND_BYTES and one more entry."""
TO_PICKER_BYTES_MAX = 64 << 20
"""Bytes of a frame to a picker: a Snapshot of 100,000 endpoints has 40 MB."""
ENTRY_BYTES_MAX = 1 << 20
"""Bytes of one entry; a larger one is dropped like one that finds the buffer full, so that nothing waits behind it."""
SEND_BYTES = 256 << 10
"""Bytes that an end hands to its socket at a time: all that it holds beside its buffer or its place in the tail."""

HEARTBEAT = 0.1
SILENCE = 0.5
"""Seconds without a frame, or without a commit, after which the feed is lost."""

OWN = 0
"""The class of an entry that the picker wrote and of which only the place is sent."""


class FeedError(Exception):
    """The other end said something that cannot be: the connection is closed, the processes go on."""


class EpochRefusedError(FeedError):
    """The control process does not take this epoch: the picker process has to end and begin another."""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What all frames share: the encoding."""


# --- from the picker ------------------------------------------------------------------------------


class Hello(Frame, frozen=True, tag="hello"):
    """Who the picker is and what it has."""

    protocol: int
    picker: str
    epoch: int
    build: str
    log_id: str
    """Id of the log that its cluster state was folded from; empty where it has no cluster state."""
    position: int
    """Last position applied."""
    digest: bytes
    """Digest of the batch that ended at `applied`."""
    last_n: int
    """The last `n` given out."""
    first_unacknowledged: int
    """Every entry before this one is in the log that acknowledged it."""
    snapshot: bool = False
    """The entries since hold what this picker cannot read: only a Snapshot leads past them."""


class Foreign(Frame, frozen=True, tag="foreign"):
    """Unacknowledged entries `first` to `last` were decided on the cluster state of another log."""

    first: int
    last: int
    log_id: str


class Entries(Frame, frozen=True, tag="entries"):
    """Contiguous entries from `first_n`: the class of each, one byte, and its bytes."""

    first_n: int
    kinds: bytes
    bodies: tuple[bytes, ...]


class Cold(Frame, frozen=True, tag="cold"):
    """The picker's prefix index lacks the decisions at positions above `after`, up to `until`."""

    until: int
    after: int


ToControl: TypeAlias = Hello | Foreign | Entries | Cold


# --- from the control process ---------------------------------------------------------------------


class Welcome(Frame, frozen=True, tag="welcome"):
    """Which log this is, and what it has of the picker's entries."""

    log_id: str
    head: int
    digest: bytes
    continues: bool
    acknowledged: int
    """The highest `n` of this epoch that is committed."""
    taken: int
    """The highest `n` that need not be sent again while this control process lives."""
    warms: bool = False
    """Cold is answered."""


class OpenEpoch(msgspec.Struct, frozen=True, array_like=True):
    """The open requests of one epoch: the decision's `n` to the endpoint's number."""

    picker: str
    epoch: int
    requests: dict[int, int]


class SnapshotFrame(Frame, frozen=True, tag="snapshot"):
    """The cluster state at a position, and the open requests of other epochs."""

    position: int
    digest: bytes
    state: bytes
    open: tuple[OpenEpoch, ...]


class BatchFrame(Frame, frozen=True, tag="batch"):
    """One commit: a byte for the class of each entry, OWN for the picker's own traffic, and the other bodies."""

    first: int
    recorded_at: float
    digest: bytes
    acknowledged: int
    """The highest `n` of this picker's entries in this batch; 0 where it has none."""
    kinds: bytes
    bodies: tuple[bytes, ...]


class Acknowledged(Frame, frozen=True, tag="acknowledged"):
    """Entries up to `n` came twice and are committed."""

    n: int


class Heartbeat(Frame, frozen=True, tag="heartbeat"):
    """How the control process is; sent every HEARTBEAT."""

    head: int
    stalled_for: float
    """Seconds that queued entries have waited without any commit."""
    scrape_age: float | None
    """Seconds since any scrape had a result; None where nothing is scraped."""
    interval: float
    """The scrape interval in force, in seconds."""


class Advice(Frame, frozen=True, tag="advice"):
    """These endpoints are gone or not ready, and the entry that says so is not committed."""

    endpoints: tuple[int, ...]
    after: int
    """The head when the removal was seen."""


class Withdrawn(Frame, frozen=True, tag="withdrawn"):
    """The advice about these endpoints does not hold."""

    endpoints: tuple[int, ...]


class GivenBlocks(msgspec.Struct, frozen=True, array_like=True):
    """The prompt blocks that decisions gave an endpoint, in the order in which it was given them."""

    endpoint: int
    pool: str
    """Pool of the last of these decisions."""
    hashes: bytes


class Warming(Frame, frozen=True, tag="warming"):
    """What decisions at positions `first` to `until` gave endpoints; the picker's own epoch is left out."""

    until: int
    first: int
    last: bool
    """There is nothing older to give."""
    decisions: int
    given: tuple[GivenBlocks, ...]


class EpochRefused(Frame, frozen=True, tag="refused"):
    """The control process does not take this epoch."""

    reason: str


ToPicker: TypeAlias = (
    Welcome | SnapshotFrame | BatchFrame | Acknowledged | Heartbeat | Advice | Withdrawn | Warming | EpochRefused
)


# --- bytes ----------------------------------------------------------------------------------------

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was asked for."""

_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_to_control: msgspec.msgpack.Decoder[ToControl] = msgspec.msgpack.Decoder(ToControl)
_to_picker: msgspec.msgpack.Decoder[ToPicker] = msgspec.msgpack.Decoder(ToPicker)


def encode_frame(frame: ToControl | ToPicker) -> bytes:
    """The frame's bytes with their length before them; `FeedError` where that is more than the other end takes."""
    data = _encoder.encode(frame)
    if len(data) > TO_PICKER_BYTES_MAX:
        raise FeedError(f"a {type(frame).__name__} frame of {len(data)} bytes, wanted at most {TO_PICKER_BYTES_MAX}")
    return _LENGTH.pack(len(data)) + data


def decode_to_control(data: bytes) -> ToControl:
    """The frame of a picker; `FeedError` where the bytes are none."""
    try:
        return _to_control.decode(data)
    except UNREADABLE as error:
        raise FeedError(f"a frame of {len(data)} bytes that is none of a picker's: {error}") from error


def decode_to_picker(data: bytes) -> ToPicker:
    """The frame of a control process; `FeedError` where the bytes are none."""
    try:
        return _to_picker.decode(data)
    except UNREADABLE as error:
        raise FeedError(f"a frame of {len(data)} bytes that is none of a control process's: {error}") from error


class Framer:
    """Cuts what a socket gives into frames."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def receive(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Yield each frame that `data` completes, to be taken to the last; `FeedError` at a length over the limit."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= 4:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length > self._bytes_max:
                    raise FeedError(f"a frame of {length} bytes, wanted at most {self._bytes_max}")
                end = start + 4 + length
                if len(buffer) < end:
                    return
                frame = bytes(memoryview(buffer)[start + 4 : end])
                start = end
                yield frame
        finally:
            del buffer[:start]
