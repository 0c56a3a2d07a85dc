"""The page of the log: its health, and the entries themselves."""

import shlex
from collections.abc import Sequence
from typing import get_args
from urllib.parse import urlencode

import msgspec
import trio
from quart import request

from pointsman.core.events import Class, Entry, Event, LoadSampled, RequestRefused, RequestRouted, class_of_type
from pointsman.core.values.packing import unpack, unpack_floats
from pointsman.eventlog.chain import check_batch
from pointsman.eventlog.errors import ReadModelUnavailableError
from pointsman.eventlog.named_facts import named
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.console import Console
from pointsman.web.drawing import words
from pointsman.web.pages.reply import BadQuery, Missing, Reply, number
from pointsman.web.pages.sentences import numbers_in, sentence
from pointsman.web.pages.strip import strip

PAGE = 50
"""Entries to a page."""
PEOPLE = (Class.CONTROL, Class.MEMBERSHIP)
"""Classes that the page begins with: what people did, and what became of processes, pools and routes."""
ALL = "all"
CLASSES = tuple(kind.name.lower() for kind in Class)
TEXT_MAX = 240
WHOLE_MAX = 20_000
"""Characters of an entry's fields that its page shows."""
SCAN_MAX = 200_000
"""Entries that are searched for rare ones; then the page is shown with what was found."""


def tag_of(kind: type[Event]) -> str:
    """The tag that events of a type have on disk."""
    return str(kind.__struct_config__.tag)


TYPES: dict[str, Class] = {tag_of(kind): class_of_type(kind) for kind in get_args(Event)}
"""The tags of all events."""


class EntryRow(msgspec.Struct, frozen=True):
    """An entry in the list."""

    position: int
    at: str
    kind: str
    tag: str
    words: str
    decision: bool
    fields: dict[str, object]
    """Fields of its event by name, for the JSON twin."""

    def named(self) -> dict[str, object]:
        """The entry as the JSON twins give it."""
        told = {"position": self.position, "recorded_at": self.at, "class": self.kind, "words": self.words}
        return told | self.fields


class BatchProof(msgspec.Struct, frozen=True):
    """What shows that an entry is as it was committed."""

    first: int
    """First position of its batch."""
    last: int
    recorded_at: str
    entries: int
    """Count of the batch's entries."""
    previous: str
    """Digest of the chain before the batch."""
    digest: str
    """Digest of the chain after it."""
    problem: str
    """Words for what is wrong with the batch; empty where its entries add up to its digest."""


def _rows(console: Console, entries: Sequence[Entry]) -> list[EntryRow]:
    decoded = [(entry, _event(entry)) for entry in entries]
    names = _names(console, [event for _, event in decoded if not isinstance(event, str)])
    found = []
    for entry, event in decoded:
        row = (entry.position, words.moment(entry.recorded_at))
        if isinstance(event, str):
            found.append(EntryRow(*row, "?", "unknown", event, False, {"error": event}))
            continue
        text = sentence(event, names)
        said = text[:TEXT_MAX] + ("…" if len(text) > TEXT_MAX else "")
        decision = isinstance(event, RequestRouted | RequestRefused)
        kind, tag = Class(entry.kind).name.lower(), tag_of(type(event))
        found.append(EntryRow(*row, kind, tag, said, decision, named(event)))
    return found


def _event(entry: Entry) -> Event | str:
    """The event, or why it cannot be read."""
    try:
        return entry.event
    except msgspec.DecodeError as error:
        return str(error)


def _names(console: Console, told: Sequence[Event]) -> dict[int, str]:
    """The names of the endpoints that events are about, as far as the read model knows them."""
    numbers = {number for event in told for number in numbers_in(event)}
    try:
        with open_read_model(console.read_model) as model:
            return {number: row.full_name for number, row in model.endpoint_names(numbers).items()}
    except ReadModelUnavailableError:
        return {}


class Range(msgspec.Struct, frozen=True):
    """What the form asks for; 0 and the empty string ask for nothing."""

    first: int = 0
    last: int = 0
    kind: str = ""
    type: str = ""

    def query(self, **more: object) -> str:
        """The address of the page with these fields."""
        asked = {"first": self.first, "last": self.last, "class": self.kind, "type": self.type} | more
        fields = {k: v for k, v in asked.items() if v}
        return "/log" + (f"?{urlencode(fields)}" if fields else "")

    @property
    def classes(self) -> tuple[Class, ...] | None:
        """The classes of entries that are asked for, by which the log's index finds them; None for all."""
        if self.type:
            return (TYPES[self.type],)
        if self.kind == ALL or (not self.kind and (self.first or self.last)):
            return None
        return (Class[self.kind.upper()],) if self.kind else PEOPLE

    def wants(self, entry: Entry) -> bool:
        """Whether an entry has the type that is asked for; its tag stands behind two or three bytes of MessagePack."""
        tag = self.type.encode()
        return not tag or entry.body[2 : 2 + len(tag)] == tag or entry.body[3 : 3 + len(tag)] == tag


def _asked() -> Range:
    first = number(request.args.get("first"), "first", 0)
    last = number(request.args.get("last"), "last", 0)
    kind, tag = request.args.get("class", ""), request.args.get("type", "")
    if kind and kind not in (ALL, *CLASSES):
        raise BadQuery(f"class is {kind[:40]!r}, wanted one of {', '.join((ALL, *CLASSES))}")
    if tag and tag not in TYPES:
        raise BadQuery(f"type is {tag[:40]!r}, wanted an event such as weights-written")
    if first and last and first > last:
        raise BadQuery(f"the range is {first:,} to {last:,}, wanted the smaller one first")
    return Range(first, last, kind if not tag else "", tag)


async def page(console: Console) -> Reply:
    """The newest entries, or a range."""
    asked = _asked()
    listed, lowest, head = await trio.to_thread.run_sync(_read, console, asked)
    filtered = asked != Range()
    live = not asked.first and not asked.last
    state = await strip(console)
    low, high = (listed[-1].position, listed[0].position) if listed else (0, 0)
    context = {
        "entries": listed,
        "live": live,
        "here": asked.query(),
        "filters": asked,
        "filtered": filtered,
        "classes": [("", "people and control"), (ALL, ALL), *((k, k) for k in CLASSES)],
        "types": [("", "all"), *((t, t) for t in sorted(TYPES))],
        "range": f"#{lowest:,} to #{head:,}",
        "older": asked.query(first=0, last=low - 1) if low > lowest else "",
        "newer": asked.query(first=high + 1, last=0) if listed and high < head and not live else "",
        "health": _health(console, head, state.trouble),
        "facts": _facts(console),
    }
    data = {"entries": [e.named() for e in listed], "head": head, "digest": state.digest, "first": lowest}
    return Reply("log.html", "_log.html", context, data)


def _health(console: Console, head: int, trouble: str) -> dict[str, str]:
    stalled = console.log().stalled_since is not None
    return {
        "word": "not recording" if stalled else "recording",
        "state": "bad" if stalled else "good",
        "sentence": f"{trouble[:1].upper()}{trouble[1:]}."
        if stalled
        else f"{words.count(head)} entries. A hash over each commit covers all before it, so what was changed shows.",
    }


def _facts(console: Console) -> list[tuple[str, str, str]]:
    s = console.log()
    today = sum(s.bytes_today_by_class.values())
    by_class = ", ".join(f"{Class(k).name.lower()} {words.size(v)}" for k, v in sorted(s.bytes_today_by_class.items()))
    return [
        ("chain head", f"#{s.head:,}", s.digest.hex()),
        ("commit", words.duration(s.commit_duration), f"99 % within {words.duration(s.commit_duration_p99)}"),
        ("queued", words.plural(s.queued_events, "entry", "entries"), words.size(s.queued_bytes)),
        ("today", words.size(today), by_class),
        ("refused by a full queue", words.count(s.refused_events), "entries, since this process started"),
        ("segment", f"from #{int(s.segment.partition('.')[0] or 0):,} on", "the file that grows"),
        *([("space", *kept_words(kept))] if (kept := console.kept()) is not None else []),
    ]


def kept_words(kept: Kept) -> tuple[str, str]:
    """What the log takes of what it may, and since when it is kept and how long that goes on."""
    keep, space = kept.keep, kept.space
    takes = words.size(space.size) + (f" of {words.size(keep.size)}" if keep.size else "")
    told = [f"kept since {words.moment(space.since)[:16].replace('T', ' ')}"]
    if space.growth:
        told.append(f"grows {words.size(space.growth)} a day")
    if kept.full_in is not None:
        told.append(f"the disk is full in {words.days(kept.full_in)}")
    elif kept.reach is not None:
        told.append(f"the last {words.days(kept.reach)} stay")
    return takes, ", ".join(told)


def _read(console: Console, asked: Range) -> tuple[list[EntryRow], int, int]:
    with open_reader(console.log_directory) as reader:
        head, lowest = reader.head().position, reader.first()
        last = min(asked.last or head, head)
        if asked.first:
            found = _oldest(reader, max(asked.first, lowest), last, asked)
        else:
            found = _newest(reader, last, lowest, asked)
    return _rows(console, found), lowest, head


async def latest(console: Console, count: int) -> list[EntryRow]:
    """The latest entries about people and processes, and where they are fewer than `count`, about pools and routes."""

    def read() -> list[EntryRow]:
        with open_reader(console.log_directory) as reader:
            head, lowest = reader.head().position, reader.first()
            found: list[Entry] = []
            for kind in PEOPLE:
                asked = Range(kind=kind.name.lower())
                found += _newest(reader, head, lowest, asked)[: count - len(found)]
        return _rows(console, sorted(found, key=lambda entry: -entry.position))

    return await trio.to_thread.run_sync(read)


async def entry_page(console: Console, position: int) -> Reply:
    """One entry: its sentence, its fields, its batch, and whether that is as it was committed."""

    def read() -> tuple[EntryRow, str, list[LoadLine], BatchProof, int, int]:
        with open_reader(console.log_directory) as reader:
            lowest, head = reader.first(), reader.head().position
            if not lowest <= position <= head:
                raise Missing(f"The log has the entries #{lowest:,} to #{head:,}, wanted #{position:,}.")
            [entry] = reader.entries(position, position)
            proof = _proof(reader, position)
        event = _event(entry)
        fields = "" if isinstance(event, str) else json_text(event)
        loads = _loads(console, event) if isinstance(event, LoadSampled) else []
        return _rows(console, [entry])[0], fields, loads, proof, lowest, head

    row, fields, loads, proof, lowest, head = await trio.to_thread.run_sync(read)
    context = {
        "entry": row,
        "fields": fields,
        "loads": loads,
        "proof": proof,
        "before": position - 1 if position > lowest else 0,
        "after": position + 1 if position < head else 0,
        "verify": f"pointsman log verify --data-dir {shlex.quote(str(console.data_directory))}",
    }
    return Reply("entry.html", "", context, {"entry": row.named(), "proof": proof})


class LoadLine(msgspec.Struct, frozen=True):
    """An endpoint's sample, in the table of a load entry."""

    name: str
    waiting: int
    running: int
    kv_cache: str


def _loads(console: Console, event: LoadSampled) -> list[LoadLine]:
    numbers = unpack(event.endpoints).tolist()
    names = _names(console, [event])
    columns = (unpack(event.waiting).tolist(), unpack(event.running).tolist(), unpack_floats(event.kv_cache).tolist())
    return [
        LoadLine(names.get(number, f"endpoint {number}"), waiting, running, words.percent(used))
        for number, waiting, running, used in zip(numbers, *columns, strict=True)
    ]


def json_text(event: Event) -> str:
    """The fields of an event as JSON, as long as a page shows."""
    return msgspec.json.format(msgspec.json.encode(named(event)), indent=2).decode()[:WHOLE_MAX]


def _proof(reader: LogReader, position: int) -> BatchProof:
    """The batch of an entry, computed again from its entries and the digest before it."""
    batch = reader.batch_at(position)
    previous = reader.digest_at(batch.first - 1) or b""
    entries = list(reader.entries(batch.first, batch.last))
    problem = check_batch(batch, previous, entries) if previous else "the digest before it is not kept"
    return BatchProof(
        batch.first,
        batch.last,
        words.moment(batch.recorded_at),
        len(entries),
        previous.hex(),
        batch.digest.hex(),
        problem or "",
    )


def _oldest(reader: LogReader, first: int, last: int, asked: Range) -> list[Entry]:
    """The first entries from `first` on, newest first."""
    found: list[Entry] = []
    start, step = first, PAGE
    while start <= last and len(found) < PAGE and start - first < SCAN_MAX:
        end = min(last, start + step - 1)
        found += filter(asked.wants, reader.entries(start, end, asked.classes))
        start, step = end + 1, step * 4
    return found[:PAGE][::-1]


def _newest(reader: LogReader, last: int, lowest: int, asked: Range) -> list[Entry]:
    """The last entries up to `last`, newest first, looking back in growing steps."""
    found: list[Entry] = []
    end, step = last, PAGE
    while end >= lowest and len(found) < PAGE and last - end < SCAN_MAX:
        start = max(lowest, end - step + 1)
        found += reversed(list(filter(asked.wants, reader.entries(start, end, asked.classes))))
        end, step = start - 1, step * 4
    return found[:PAGE]
