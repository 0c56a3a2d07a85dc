"""The archive: what is kept for ever of segments that were dropped, a file for each.

A file holds the control and membership entries of one segment, bytes unchanged, and the ends of the chain there.
It is JSON, a value to a line, so that it can be read without Pointsman; the log holds its SHA-256.
"""

import base64
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

from pointsman.core.events import Class, Entry, SegmentDropped
from pointsman.eventlog.errors import corrupt
from pointsman.eventlog.stores.reading import LogReader

FOLDER = "archive"
KEPT = (Class.CONTROL, Class.MEMBERSHIP)
"""Classes that are archived: few entries, and all that people did."""


class _Heading(msgspec.Struct, frozen=True):
    """The first line of a file."""

    log_id: str
    first: int
    last: int
    previous_digest: str
    """Digest of the chain before `first`, hexadecimal."""
    digest: str
    """Digest of the chain at `last`, hexadecimal."""


class _Line(msgspec.Struct, frozen=True, rename={"kind": "class"}):
    """Every other line: an entry."""

    position: int
    recorded_at: float
    kind: int
    body: str
    """Bytes of the entry in base 64."""


def archive_path(directory: Path, first: int) -> Path:
    """The file of the segment that began with `first`, in the archive of the log in `directory`."""
    return directory / FOLDER / f"{first:020d}.jsonl"


def write_archive(reader: LogReader, drop: SegmentDropped) -> SegmentDropped:
    """Write the file of a segment that is to be dropped, on disk when this returns; the drop, which then names it."""
    path = archive_path(reader.directory, drop.first)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    heading = _Heading(reader.log_id, drop.first, drop.last, drop.previous_digest.hex(), drop.digest.hex())
    lines = [msgspec.json.encode(heading)]
    for entry in reader.entries(drop.first, drop.last, KEPT):
        body = base64.b64encode(entry.body).decode()
        lines.append(msgspec.json.encode(_Line(entry.position, entry.recorded_at, entry.kind, body)))
    data = b"\n".join((*lines, b""))
    unfinished = path.with_suffix(".unfinished")
    with open(
        unfinished, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)
    ) as file:  # its owner's, as the log
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    for folder in (path.parent, reader.directory):
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return msgspec.structs.replace(drop, archive=path.name, archive_digest=sha256(data).digest())


def archived(directory: Path, drop: SegmentDropped) -> list[Entry]:
    """The entries that the archive has of a dropped segment; `LogCorruptError` where its file is not what was written."""
    path = directory / FOLDER / drop.archive
    try:
        data = path.read_bytes()
    except OSError as error:
        raise corrupt(directory, f"archive {path}", f"it cannot be read: {error.strerror}") from error
    if sha256(data).digest() != drop.archive_digest:
        raise corrupt(directory, f"archive {path}", "it does not have the SHA-256 that the log has of it")
    lines = (msgspec.json.decode(line, type=_Line) for line in data.splitlines()[1:])
    return [Entry(one.position, one.recorded_at, one.kind, base64.b64decode(one.body)) for one in lines]


_TAG = msgspec.msgpack.encode(str(SegmentDropped.__struct_config__.tag))


def drops(entries: Iterator[Entry] | list[Entry]) -> list[SegmentDropped]:
    """What entries say of dropped segments; only those that do are decoded."""
    # Behind the one byte that says how many fields there are.
    found = (one.event for one in entries if one.kind == Class.CONTROL and one.body[1 : 1 + len(_TAG)] == _TAG)
    return [event for event in found if isinstance(event, SegmentDropped)]


def dropped_before(directory: Path, known: list[SegmentDropped]) -> Iterator[tuple[SegmentDropped, list[Entry]]]:
    """Every segment that was dropped with its archived entries, newest first, given what the kept log says of drops.

    What the log no longer holds of earlier drops, the archive does.
    """
    waiting = sorted(known, key=lambda drop: drop.first)
    while waiting:
        drop = waiting.pop()
        entries = archived(directory, drop)
        waiting = sorted([*waiting, *drops(entries)], key=lambda drop: drop.first)
        yield drop, entries
