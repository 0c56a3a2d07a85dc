"""An independent model of the traffic state: plain dictionaries, slow and obvious.

It is fed with the entries of a log and says, for every decision, which traffic values it must have read.
What a picker process knew at a decision: its own entries before it, by `n`, and those of all others up to `applied`.
It shares no code with `core/state/traffic.py`, `core/prefix/index.py` or `core/state/projection.py`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pointsman.core.events import (
    ConfigAccepted,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EntriesAdopted,
    Entry,
    Event,
    FeedRestored,
    LabelsChanged,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    PickerStarted,
    PoolDeleted,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ResponseStarted,
    ServerStarted,
)
from pointsman.core.values.packing import unpack

Epoch = tuple[str, int]
IN_FLIGHT, PREFIX_BLOCKS, FAILING, KEEPS_RESPONSE = 1, 2, 3, 4

SNAPSHOT_AGE_MAX = 0.1
"""Seconds from a picker's snapshot to the commit of its first entry."""
WARM_WITHIN = 3.0
"""Seconds from the commit of a picker's first entry until its index has what the log had for it."""


@dataclass
class Server:
    """One endpoint."""

    pool: str
    slot: int
    ready: bool = True
    cache_blocks: int = 0
    capacity: int = 0
    """Of its blocks, from the first request on."""
    authority: str = ""
    errors: int = 0
    """How many of its last answers, one after the other, were errors within a second, or a fallback's."""
    started_at: float | None = None
    blocks: list[bytes] = field(default_factory=list)
    """The least recently used first."""


@dataclass
class Model:
    """What one picker process knows."""

    capacity: int = 31250
    auto_tune: bool = True
    blocks_max: int = 4_000_000
    servers: dict[int, Server] = field(default_factory=dict)
    open: dict[Epoch, dict[int, int]] = field(default_factory=dict)
    """n of each open request to the number of its endpoint."""
    whole_subset: dict[str, bool] = field(default_factory=dict)
    """By pool: the subset hint is ignored."""

    def fold(self, event: Event) -> None:
        """An entry of the cluster state, or the end of a picker process."""
        match event:
            case EndpointJoined():
                taken = {server.slot for server in self.servers.values()}
                slot = min(set(range(len(taken) + 1)) - taken)
                self.servers[event.endpoint] = Server(
                    event.pool, slot, event.ready, authority=f"{event.address}:{event.port}"
                )
            case EndpointChanged():
                self.servers[event.endpoint].ready = event.ready
            case EndpointLeft():
                del self.servers[event.endpoint]
            case PoolDeleted():
                self.servers = {n: s for n, s in self.servers.items() if s.pool != event.pool}
            case ServerStarted(number, at) if number in self.servers:
                server = self.servers[number]
                if server.started_at not in (None, at):
                    server.blocks, server.capacity, server.cache_blocks, server.errors = [], 0, 0, 0
                server.started_at = at
            case LabelsChanged():
                if event.endpoint in self.servers:
                    self.servers[event.endpoint].cache_blocks = event.cache_blocks
            case ConfigAccepted():
                flags = json.loads(event.config or b"{}").get("flags", {})
                self.whole_subset[event.pool] = bool(flags.get("disable_endpoint_subset_filter"))
            case PickerEnded():
                self.open.pop((event.picker, event.epoch), None)
            case _:
                pass

    def request(self, event: Event, remember: bool = True) -> None:
        """An entry of a picker process about a request; its blocks are remembered or not."""
        match event:
            case RequestRouted():
                key = (event.origin.picker, event.origin.epoch)
                self.open.setdefault(key, {})[event.origin.n] = event.endpoints[0]
                if remember:
                    self.remember(event.endpoints[0], event.request)
            case ResponseStarted():
                number = self.open.get((event.origin.picker, event.origin.epoch), {}).get(event.request_n, 0)
                if (server := self.servers.get(number)) is not None:
                    elsewhere = event.served not in ("", server.authority)
                    server.errors = server.errors + 1 if elsewhere or (event.status >= 500 and event.after < 1) else 0
            case RequestFinished():
                self.open.get((event.origin.picker, event.origin.epoch), {}).pop(event.request_n, None)
            case OpenRequestsListed():
                key = (event.origin.picker, event.origin.epoch)
                listed = unpack(event.open).tolist()
                self.open[key] = {n: e for n, e in self.open.get(key, {}).items() if n in listed}
            case _:
                pass

    def remember(self, number: int, request: RequestFacts) -> None:
        """The endpoint was given the request's blocks."""
        server = self.servers.get(number)
        blocks = hashes(request.prefix)
        if server is None or not blocks:
            return
        if not server.capacity:
            server.capacity = (server.cache_blocks if self.auto_tune else 0) or self.capacity
        for block in blocks:
            if block in server.blocks:
                server.blocks.remove(block)
            server.blocks.append(block)
        while sum(map(length, server.blocks)) > server.capacity:
            del server.blocks[0]
        while (over := sum(len(s.blocks) for s in self.servers.values()) - self.blocks_max) > 0:
            fullest = min(self.servers.values(), key=lambda s: (-len(s.blocks), s.slot))
            del fullest.blocks[:over]

    def candidates(self, request: RequestFacts, avoided: bytes) -> list[int]:
        """The endpoints that a decision chooses from, in slot order."""
        allowed = None if request.subset is None else set(unpack(request.subset).tolist())
        if self.whole_subset.get(request.pool, self.whole_subset.get("*", False)):
            allowed = None
        out = set(unpack(avoided).tolist())
        return sorted(
            (
                number
                for number, server in self.servers.items()
                if server.pool == request.pool
                and server.ready
                and server.slot not in out
                and (allowed is None or server.slot in allowed)
            ),
            key=lambda number: self.servers[number].slot,
        )

    def column(self, column: int, request: RequestFacts, numbers: list[int]) -> list[int]:
        """The values that a decision must have read."""
        if column == IN_FLIGHT:
            held = [endpoint for requests in self.open.values() for endpoint in requests.values()]
            return [held.count(number) for number in numbers]
        if column == FAILING:  # at the most: it is tried now and then
            return [int(self.servers[number].errors >= 3) for number in numbers]
        if column == KEEPS_RESPONSE:  # no request of the model goes on from another
            return [0] * len(numbers)
        assert column == PREFIX_BLOCKS, f"column {column} has no model"
        matches = dict.fromkeys(numbers, 0)
        for block in hashes(request.prefix):  # a block of growing length, which its number tells
            holders = [number for number, server in self.servers.items() if block in server.blocks]
            if not holders:
                break
            for number in holders:
                if number in matches:
                    matches[number] += length(block)
        return [matches[number] for number in numbers]


def length(block: bytes) -> int:
    """How long a block is, as its last byte tells which one it is."""
    depth = 0
    for _ in range(block[7]):
        depth += 1 + max(0, depth - 128) // 16
    return 1 + max(0, depth - 128) // 16


def hashes(packed: bytes) -> list[bytes]:
    """The blocks of a request."""
    return [packed[start : start + 8] for start in range(0, len(packed) - 7, 8)]


@dataclass
class Process:
    """One epoch as the log shows it."""

    model: Model
    warm: Model | None = None
    """What it knows once its index is warm; None where nothing warms it."""
    read: int = 0
    """Position up to which the entries of others were folded."""
    n: int = 0
    knows_prefixes: bool = True
    knows_requests: bool = True
    fed: bool = False
    """It has had a cluster state."""
    started_at: float = 0.0
    """When the log had its first entry."""

    @property
    def models(self) -> list[Model]:
        """All there are."""
        return [self.model] if self.warm is None else [self.model, self.warm]


@dataclass
class LogCheck:
    """What became of comparing a log's decisions with the model."""

    differences: list[str] = field(default_factory=list)
    checked: int = 0
    """Columns compared."""
    skipped: int = 0
    """Columns of which the log does not tell what the picker process knew."""


def check_log(entries: Iterable[Entry], **limits: int | bool) -> list[str]:
    """Where the traffic values that decisions recorded are not those of the model."""
    return compare(entries, **limits).differences


def compare(entries: Iterable[Entry], warmed: bool = False, /, **limits: int | bool) -> LogCheck:
    """Compare every decision of a log, which must begin at position 1; `limits` are fields of `Model`.

    Where pickers are `warmed`, their first decisions read something between what they saw and what the log had.
    """
    listed = list(entries)
    log = [(entry.position, entry.event) for entry in listed]
    assert not log or log[0][0] == 1, f"the log begins at {log[0][0]}, wanted 1"
    check = LogCheck()
    processes: dict[Epoch, Process] = {}
    adopted = {(e.picker, e.epoch): e.last for _, e in log if isinstance(e, EntriesAdopted)}
    for entry, (_, event) in zip(listed, log, strict=True):
        origin = getattr(event, "origin", None)
        if not isinstance(origin, Origin):
            continue
        key = (origin.picker, origin.epoch)
        if origin.n <= adopted.get(key, 0):  # decided on the cluster state of another log
            check.skipped += len(getattr(event, "reads", ()))
            continue
        if key not in processes:
            processes[key] = Process(Model(**limits), started_at=entry.recorded_at)  # type: ignore[arg-type]
            processes[key].warm = Model(**limits) if warmed else None  # type: ignore[arg-type]
            _catch_up(processes[key], log, origin.applied, key, remember=False)
            if not isinstance(event, PickerStarted):
                processes[key].knows_prefixes = processes[key].knows_requests = False
        if origin.applied and not processes[key].fed:
            _feed(processes[key], key, listed[: origin.applied], log)
        _own(processes[key], event, origin, log, check)
    return check


def _feed(process: Process, mine: Epoch, before: list[Entry], log: list[tuple[int, Event]]) -> None:
    """The first cluster state: a snapshot, which holds no blocks of requests before it."""
    process.fed = True
    if process.read:
        return  # it began with a state, and said so in its first entry
    _catch_up(process, log, len(before), mine, remember=False)
    if process.warm is not None:
        return
    for entry in reversed(before):
        if entry.recorded_at < process.started_at - SNAPSHOT_AGE_MAX:
            return
        event = entry.event
        if isinstance(event, RequestRouted) and (event.origin.picker, event.origin.epoch) != mine:
            process.knows_prefixes = False  # was it before the snapshot or behind it?
            return


def _catch_up(
    process: Process, log: list[tuple[int, Event]], applied: int, mine: Epoch, *, remember: bool = True
) -> None:
    """Fold what others wrote up to `applied`."""
    for _, event in log[process.read : applied]:
        origin = getattr(event, "origin", None)
        for model in process.models:
            if not isinstance(origin, Origin):
                model.fold(event)
            elif (origin.picker, origin.epoch) != mine:
                model.request(event, remember or model is process.warm)
    process.read = max(process.read, applied)


def _own(process: Process, event: Event, origin: Origin, log: list[tuple[int, Event]], check: LogCheck) -> None:
    key = (origin.picker, origin.epoch)
    _catch_up(process, log, origin.applied, key)
    if process.n and origin.n != process.n + 1:  # entries were lost: what they said is not known
        process.knows_prefixes = process.knows_requests = False
    process.n = origin.n
    model = process.model
    match event:
        case RequestRouted() | RequestRefused():
            _compare(process, event, check)
        case OpenRequestsListed():
            listed = set(unpack(event.open).tolist())
            process.knows_requests = listed <= set(model.open.get(key, {}))
        case FeedRestored() if len(model.open) > 1:
            process.knows_prefixes = False  # the entries of others may have been passed over by a snapshot
        case _:
            pass
    for model in process.models:
        model.request(event)


def _compare(process: Process, event: RequestRouted | RequestRefused, check: LogCheck) -> None:
    numbers = process.model.candidates(event.request, event.avoided)
    for read in event.reads:
        if not (process.knows_prefixes if read.column == PREFIX_BLOCKS else process.knows_requests):
            check.skipped += 1
            continue
        check.checked += 1
        found = unpack(read.values).tolist()
        least = most = process.model.column(read.column, event.request, numbers)
        if read.column == FAILING:
            least = [0] * len(most)
        elif process.warm is not None:
            most = process.warm.column(read.column, event.request, numbers)
            if event.decided_at > process.started_at + WARM_WITHIN:
                least = most
        wanted = least
        if len(found) == len(least):
            wanted = [min(max(value, low), high) for value, low, high in zip(found, least, most, strict=True)]
        if found != wanted:
            where = f"decision {event.origin.n} of {event.origin.picker} on {event.origin.applied}"
            check.differences.append(f"{where}: column {read.column} {differing(found, wanted, numbers)}")


def differing(found: list[int], wanted: list[int], numbers: list[int]) -> str:
    """The first difference in words."""
    if len(found) != len(wanted):
        return f"has {len(found)} values, wanted {len(wanted)}"
    pairs: Mapping[int, tuple[int, int]] = dict(zip(numbers, zip(found, wanted, strict=True), strict=True))
    number, (has, should) = next((number, pair) for number, pair in pairs.items() if pair[0] != pair[1])
    return f"of endpoint {number} is {has}, wanted {should}"
