"""The page of the log: its health, and the entries themselves."""

import msgspec
import trio
from quart import request

from pointsman.core.events import Class, Entry, Event, RequestRefused, RequestRouted
from pointsman.eventlog.reader import LogReader
from pointsman.web import words
from pointsman.web.console import Console, strip
from pointsman.web.pages import Reply, number

PAGE = 100
"""Entries to a page."""
KINDS = ("", *(kind.name.lower() for kind in Class))
TEXT_MAX = 160
WHOLE_MAX = 20_000


class EntryRow(msgspec.Struct, frozen=True):
    """An entry in the list."""

    position: int
    at: str
    kind: str
    tag: str
    words: str
    decision: bool
    whole: str


def tag_of(event: Event) -> str:
    """The tag that an event has on disk."""
    return str(event.__struct_config__.tag)


def _row(entry: Entry, whole: bool) -> EntryRow:
    try:
        event: Event = entry.event
    except msgspec.DecodeError as error:
        return EntryRow(entry.position, words.moment(entry.recorded_at), "?", "unknown", str(error), False, "")
    text = _text(event)
    return EntryRow(
        entry.position,
        words.moment(entry.recorded_at),
        Class(entry.kind).name.lower(),
        tag_of(event),
        text[:TEXT_MAX] + ("…" if len(text) > TEXT_MAX else ""),
        isinstance(event, RequestRouted | RequestRefused),
        _whole(event) if whole else "",
    )


def _text(event: Event) -> str:
    """The fields in a line."""
    fields = msgspec.structs.asdict(event)
    return ", ".join(
        f"{name} {_value(value)}" for name, value in fields.items() if value not in ("", (), {}, None, b"")
    )


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 16 else f"{len(value)} bytes"
    if isinstance(value, msgspec.Struct):
        inner = ", ".join(
            f"{k} {_value(v)}" for k, v in msgspec.structs.asdict(value).items() if v not in ("", (), {}, None, b"")
        )
        return f"({inner})"
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(v) for v in value[:4]) + (", …" if len(value) > 4 else "") + "]"
    return str(value)


def _whole(event: Event) -> str:
    return msgspec.json.format(msgspec.json.encode(_plain(event)), indent=2).decode()[:WHOLE_MAX]


def _plain(value: object) -> object:
    """A value as JSON can hold it, with field names and bytes in hexadecimal."""
    if isinstance(value, msgspec.Struct):
        return {k: _plain(v) for k, v in msgspec.structs.asdict(value).items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, int) and abs(value) >= 2**53:
        return str(value)  # JSON's readers would round it
    return value


async def page(console: Console) -> Reply:
    """The newest entries, or a range."""
    first = number(request.args.get("first"), "first", 0)
    last = number(request.args.get("last"), "last", 0)
    kind = request.args.get("class", "")
    problem = "" if kind in KINDS else f"There is no class {kind[:40]!r}."
    classes = (Class[kind.upper()],) if kind and not problem else None
    listed, lowest, head = await trio.to_thread.run_sync(_read, console, first, last, classes)
    filtered = bool(first or last or kind)
    suffix = f"&class={kind}" if kind else ""
    oldest = listed[-1].position if listed else 0
    statistics = console.log()
    state = strip(console)
    context = {
        "entries": listed,
        "whole": len(listed) == 1,
        "live": not filtered,
        "here": "/log",
        "problem": problem,
        "filters": {"first": first or "", "last": last or "", "kind": kind},
        "filtered": filtered,
        "classes": [(k, k or "all") for k in KINDS],
        "range": f"{lowest:,} to {head:,}",
        "older": f"/log?last={oldest - 1}{suffix}" if oldest > lowest else "",
        "newer": f"/log?first={listed[0].position + 1}{suffix}"
        if listed and listed[0].position < head and filtered
        else "",
        "health": {
            "word": "not recording" if statistics.stalled_since else "recording",
            "state": "bad" if statistics.stalled_since else "good",
            "sentence": state.trouble
            or f"{words.count(head)} entries, each commit sealed by a hash that covers all before it.",
        },
        "facts": _facts(console),
    }
    data = {"entries": listed, "head": head, "digest": state.digest, "first": lowest}
    return Reply("log.html", "_log.html", context, data)


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
    ]


def _read(
    console: Console, first: int, last: int, classes: tuple[Class, ...] | None
) -> tuple[list[EntryRow], int, int]:
    with LogReader(console.log_directory) as reader:
        head, lowest = reader.head().position, reader.first()
        if first:
            found = []
            for entry in reader.entries(max(first, lowest), min(last or head, head), classes):
                found.append(entry)
                if len(found) == PAGE:
                    break
            found.reverse()
        else:
            found = _newest(reader, min(last or head, head), lowest, classes)
        return [_row(entry, len(found) == 1) for entry in found], lowest, head


SCAN_MAX = 200_000
"""Entries looked through for a rare class before a page is shown as it is."""


def _newest(reader: LogReader, until: int, lowest: int, classes: tuple[Class, ...] | None) -> list[Entry]:
    """The last entries up to `until`, newest first, looking back in growing steps."""
    found: list[Entry] = []
    step, end = PAGE, until
    while end >= lowest and len(found) < PAGE and until - end < SCAN_MAX:
        start = max(lowest, end - step + 1)
        found += reversed(list(reader.entries(start, end, classes)))
        end, step = start - 1, step * 4
    return found[:PAGE]
