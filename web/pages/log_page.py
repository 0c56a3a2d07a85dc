"""The page of the log: its health, and the entries themselves."""

from collections.abc import Mapping
from typing import get_args
from urllib.parse import urlencode

import msgspec
import trio
from quart import request

from pointsman.core.events import Class, Entry, Event, Origin, RequestRefused, RequestRouted, class_of_type
from pointsman.core.values.facts import Applied, Deleted, subject
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.stores.reading import LogReader
from pointsman.eventlog.stores.retention import Kept
from pointsman.web.console import Console
from pointsman.web.drawing import words
from pointsman.web.pages.reply import BadQuery, Reply, number, plain
from pointsman.web.pages.strip import strip

PAGE = 100
"""Entries to a page."""
CLASSES = tuple(kind.name.lower() for kind in Class)
TEXT_MAX = 240
WHOLE_MAX = 20_000
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
    whole: str


def _row(entry: Entry, whole: bool) -> EntryRow:
    try:
        event: Event = entry.event
    except msgspec.DecodeError as error:
        return EntryRow(entry.position, words.moment(entry.recorded_at), "?", "unknown", str(error), False, "")
    text = told(event)
    return EntryRow(
        entry.position,
        words.moment(entry.recorded_at),
        Class(entry.kind).name.lower(),
        tag_of(type(event)),
        text[:TEXT_MAX] + ("…" if len(text) > TEXT_MAX else ""),
        isinstance(event, RequestRouted | RequestRefused),
        msgspec.json.format(msgspec.json.encode(plain(event)), indent=2).decode()[:WHOLE_MAX] if whole else "",
    )


def told(event: Event | Applied | Deleted) -> str:
    """The fields of an event in a line; for an object, its name and the fields that are not its key."""
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if not _empty(value)}
    if not isinstance(event, Applied | Deleted):
        return _listed(fields)
    rest = {name: value for name, value in fields.items() if name not in event.key_fields()}
    return f"{subject(event)}: {_listed(rest)}" if rest else subject(event)


def _listed(fields: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in fields.items())


def _empty(value: object) -> bool:
    return value is None or value in ("", (), {}, b"")


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 16 else f"{len(value)} bytes"
    if isinstance(value, Origin):
        return f"{value.picker} n {value.n:,} applied #{value.applied:,}"
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value).items()
        return "(" + ", ".join(f"{k} {_value(v)}" for k, v in fields if not _empty(v)) + ")"
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(v) for v in value[:4]) + (", …" if len(value) > 4 else "") + "]"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e8 else words.moment(value)
    return str(value)


class Range(msgspec.Struct, frozen=True):
    """What the form asks for; 0 and the empty string ask for nothing."""

    first: int = 0
    last: int = 0
    kind: str = ""
    type: str = ""

    def query(self, **more: object) -> str:
        """The address of the page with these fields."""
        told = {"first": self.first, "last": self.last, "class": self.kind, "type": self.type} | more
        fields = {k: v for k, v in told.items() if v}
        return "/log" + (f"?{urlencode(fields)}" if fields else "")

    @property
    def classes(self) -> tuple[Class, ...] | None:
        """The classes of entries that are asked for, by which the log's index finds them; None for all."""
        if self.type:
            return (TYPES[self.type],)
        return (Class[self.kind.upper()],) if self.kind else None

    def wants(self, entry: Entry) -> bool:
        """Whether an entry has the type that is asked for; its tag stands behind two or three bytes of MessagePack."""
        tag = self.type.encode()
        return not tag or entry.body[2 : 2 + len(tag)] == tag or entry.body[3 : 3 + len(tag)] == tag


def _asked() -> Range:
    first = number(request.args.get("first"), "first", 0)
    last = number(request.args.get("last"), "last", 0)
    kind, tag = request.args.get("class", ""), request.args.get("type", "")
    if kind and kind not in CLASSES:
        raise BadQuery(f"class is {kind[:40]!r}, wanted one of {', '.join(CLASSES)}")
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
        "whole": len(listed) == 1,
        "live": live,
        "here": asked.query(),
        "filters": asked,
        "filtered": filtered,
        "classes": [("", "all"), *((k, k) for k in CLASSES)],
        "types": [("", "all"), *((t, t) for t in sorted(TYPES))],
        "range": f"#{lowest:,} to #{head:,}",
        "older": asked.query(first=0, last=low - 1) if low > lowest else "",
        "newer": asked.query(first=high + 1, last=0) if listed and high < head and not live else "",
        "health": _health(console, head, state.trouble),
        "facts": _facts(console),
    }
    data = {"entries": listed, "head": head, "digest": state.digest, "first": lowest}
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
        ("segment", s.segment, "the file that grows"),
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
        return [_row(entry, len(found) == 1) for entry in found], lowest, head


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
