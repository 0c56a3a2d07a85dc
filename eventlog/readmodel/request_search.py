"""Finding what the log says of one request."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from pointsman.core.events import (
    Class,
    Entry,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ResponseStarted,
    decode,
)
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.stores.reading import LogReader

RECENT = 50_000
"""Entries at the end of the log that are looked through whatever the index says: it is behind by some seconds."""

OUTCOME_WITHIN = 500_000
"""Entries after a decision in which its outcome is looked for: minutes of a busy log, read in seconds."""


class RequestHistory(msgspec.Struct, frozen=True):
    """The entries about one decision."""

    position: int
    recorded_at: float
    decision: RequestRouted | RequestRefused
    started: ResponseStarted | None = None
    finished: RequestFinished | None = None


def find_decisions(reader: LogReader, request_id: str, indexed: list[int]) -> list[int]:
    """Positions of the decisions for a request id, ascending; `indexed` are those that an index knows."""
    head, first = reader.head().position, reader.first()
    recent = max(head - RECENT + 1, first)
    found = {p for p in indexed if p >= first} | set(_search(reader, request_id, recent, head))
    if not found:
        found = set(_search(reader, request_id, first, recent - 1))
    return sorted(found)


def _search(reader: LogReader, request_id: str, first: int, last: int) -> Iterator[int]:
    needle = request_id.encode()
    for entry in reader.entries(first, last, (Class.TRAFFIC,)):
        if needle in entry.body and _decides(entry, request_id):
            yield entry.position


def _decides(entry: Entry, request_id: str) -> bool:
    event = decode(entry.body)
    return isinstance(event, RequestRouted | RequestRefused) and event.request.request_id == request_id


def history(reader: LogReader, position: int) -> RequestHistory:
    """The decision at `position` and its outcome, as far as the log has it."""
    [entry] = reader.entries(position, position)
    decision = decode(entry.body)
    assert isinstance(decision, RequestRouted | RequestRefused), f"entry {position} is no decision"
    started: ResponseStarted | None = None
    if isinstance(decision, RequestRefused):
        return RequestHistory(position, entry.recorded_at, decision)
    life, n = (decision.origin.picker, decision.origin.epoch), decision.origin.n
    for later in reader.entries(position + 1, position + OUTCOME_WITHIN, (Class.TRAFFIC,)):
        if later.body[2:10] == b"request-" and later.body[10:18] != b"finished":
            continue
        event = decode(later.body)
        if isinstance(event, ResponseStarted | RequestFinished) and event.request_n == n:
            if (event.origin.picker, event.origin.epoch) != life:
                continue
            if isinstance(event, RequestFinished):
                return RequestHistory(position, entry.recorded_at, decision, started, event)
            started = event
    return RequestHistory(position, entry.recorded_at, decision, started)


def index_positions(read_model: Path, request_id: str) -> list[int]:
    """Positions that the read model's file has for a request id; empty where there is no such file."""
    if not read_model.exists():
        return []
    with open_read_model(read_model) as model:
        return list(model.find_request(request_id))
