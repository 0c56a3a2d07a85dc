"""Power cuts: a library that is preloaded and writes down all that its process does to files (`power.c`), and a disk
that tells from it what is there after a cut.

What was synced is there.  Of what was not, any part may be: each piece of 512 or 4096 bytes of a file as any write
since the last sync left it, any size that the file had since, and any of the changes to a directory since its last
sync, a rename as a whole.  Where a file grew and the piece did not survive, there are zeros, or noise.
"""

import random
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

from pointsman.core.feed.frames import TO_PICKER_BYTES_MAX, BatchFrame, Framer, ToPicker, Welcome, decode_to_picker

SOURCE = Path(__file__).with_name("power.c")
PIECE = 512
"""Bytes of a sector, which is on the disk or is not."""


class Op(IntEnum):
    """What a record is of; the numbers are those of `power.c`."""

    LIFE, OPEN, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, MKDIR, SEND = range(9)


@dataclass(frozen=True)
class Record:
    """One call that succeeded."""

    op: Op
    directory: bool
    inode: int
    offset: int
    """Where it writes; the size that the file has after it is opened or truncated."""
    path: str
    data: bytes
    """What is written or sent; the new name of what is renamed."""

    @property
    def kind(self) -> str:
        """The call, and of what sort of file."""
        name, dot, sort = self.path.rpartition("/")[2].partition(".")
        return f"{self.op.name.lower()} {dot + sort or name}".strip()


_HEADER = struct.Struct("<BBHIQQ")


def read_journal(path: Path) -> list[Record]:
    """All records, in order."""
    data, at = path.read_bytes(), 0
    found: list[Record] = []
    while at < len(data):
        op, directory, path_size, size, inode, offset = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name, at = data[at : at + path_size].decode(), at + path_size
        body, at = data[at : at + size], at + size
        found.append(Record(Op(op), bool(directory), inode, offset, name, body))
    return found


def environment(library: Path, root: Path, journal: Path) -> dict[str, str]:
    """What has a control process write down all that it does below `root`."""
    return {"LD_PRELOAD": str(library), "POWER_ROOT": str(root.resolve()), "POWER_JOURNAL": str(journal)}


# --- what a process said ------------------------------------------------------------------------


def told(records: list[Record]) -> list[tuple[int, ToPicker]]:
    """The frames that had left for a picker, each with the index of the record that completed it."""
    framers: defaultdict[tuple[int, int], Framer] = defaultdict(lambda: Framer(TO_PICKER_BYTES_MAX))
    life = 0
    found: list[tuple[int, ToPicker]] = []
    for index, record in enumerate(records):
        if record.op is Op.LIFE:
            life = record.inode
        elif record.op is Op.SEND:
            frames = framers[life, record.inode].receive(record.data)
            found.extend((index, decode_to_picker(frame)) for frame in frames)
    return found


def acknowledged(frame: ToPicker) -> tuple[int, bytes] | None:
    """The position up to which a picker was told that the log goes, and the digest there."""
    match frame:
        case BatchFrame():
            return frame.first + len(frame.kinds) - 1, frame.digest
        case Welcome() if frame.head > 0:
            return frame.head, frame.digest
        case _:
            return None


# --- the disk -----------------------------------------------------------------------------------


@dataclass
class Change:
    """Of a file since its last sync."""

    size: int
    pieces: dict[int, bytes]
    """What the pieces that it touched hold after it."""


@dataclass
class File:
    """A file as its process sees it, and as it was synced."""

    now: bytearray
    kept: bytes = b""
    changes: list[Change] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """As `pwrite`."""
        if len(self.now) < offset:
            self.now.extend(bytes(offset - len(self.now)))
        self.now[offset : offset + len(data)] = data
        touched = range(offset // PIECE, (offset + len(data) - 1) // PIECE + 1)
        self._changed({at: bytes(self.now[at * PIECE : (at + 1) * PIECE]) for at in touched})

    def truncate(self, size: int) -> None:
        """As `ftruncate`."""
        before = len(self.now)
        self.now = self.now[:size] + bytes(max(0, size - before))
        gone = range(min(size, before) // PIECE, -(-max(size, before) // PIECE))
        self._changed({at: bytes(self.now[at * PIECE : (at + 1) * PIECE]) for at in gone})

    def _changed(self, pieces: dict[int, bytes]) -> None:
        self.changes.append(Change(len(self.now), pieces))

    def sync(self) -> None:
        """As `fsync`."""
        if self.changes:
            self.kept, self.changes = bytes(self.now), []

    def cut(self, draw: random.Random) -> bytes:
        """What is there after a power cut."""
        count = len(self.changes)
        match how_much(draw) if count else 0.0:
            case 0.0:
                return self.kept
            case 1.0:
                return bytes(self.now)
            case None:
                return self._in_order(draw.randint(0, count))
            case share:
                return self._in_pieces(draw, share)

    def _in_order(self, count: int) -> bytes:
        result = bytearray(self.kept)
        for change in self.changes[:count]:
            result.extend(bytes(max(0, change.size - len(result))))
            for at, piece in change.pieces.items():
                result[at * PIECE : at * PIECE + len(piece)] = piece
            del result[change.size :]
        return bytes(result)

    def _in_pieces(self, draw: random.Random, share: float) -> bytes:
        unit = draw.choice((1, 8))
        history: defaultdict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
        for number, change in enumerate(self.changes):
            for at, piece in change.pieces.items():
                history[at // unit].append((number, at, piece))
        size = draw.choice([len(self.kept), *(change.size for change in self.changes), *[len(self.now)] * 3])
        longest = max(len(self.kept), len(self.now), *(change.size for change in self.changes))
        result = bytearray(self.kept.ljust(-(-longest // PIECE) * PIECE, b"\0"))
        first_new = -(-len(self.kept) // PIECE) * PIECE
        if draw.random() < 0.3:
            result[first_new:] = draw.randbytes(len(result) - first_new)
        for touched in history.values():
            if draw.random() >= share:
                continue
            until = draw.choice(touched)[0] if draw.random() < 0.5 else touched[-1][0]
            for number, at, piece in touched:
                if number <= until:
                    result[at * PIECE : (at + 1) * PIECE] = piece.ljust(PIECE, b"\0")
        return bytes(result[:size].ljust(size, b"\0"))


@dataclass
class Directory:
    """A directory as its process sees it, and as it was synced."""

    now: "Names" = field(default_factory=dict)
    kept: "Names" = field(default_factory=dict)
    changes: list[list[tuple[str, "File | Directory | None"]]] = field(default_factory=list)
    """Each with the names that it sets, or takes away."""

    def change(self, *names: tuple[str, "File | Directory | None"]) -> None:
        """Set or take away names, all at once."""
        self.changes.append(list(names))
        _apply(self.now, self.changes[-1])

    def sync(self) -> None:
        """As `fsync`."""
        self.kept, self.changes = dict(self.now), []

    def cut(self, draw: random.Random) -> "Names":
        """What is there after a power cut."""
        result, share, count = dict(self.kept), how_much(draw), len(self.changes)
        some = self.changes
        if share is None:
            some = some[: draw.randint(0, count)]  # as a file system with a journal does
        elif share < 1.0:
            some = [change for change in some if draw.random() < share]
        for change in some:
            _apply(result, change)
        return result


Names: TypeAlias = dict[str, File | Directory]


def _apply(names: Names, change: list[tuple[str, File | Directory | None]]) -> None:
    for name, found in change:
        if found is None:
            names.pop(name, None)
        else:
            names[name] = found


def how_much(draw: random.Random) -> float | None:
    """The share of what was not synced that survives; None for what came first."""
    return draw.choice((0.0, 0.0, 1.0, None, 0.1, 0.5, 0.5, 0.9))


class Disk:
    """What is below `root`: at first what is in `before`, all of it synced."""

    def __init__(self, root: Path, before: Path, ignored: Callable[[Record], bool] = lambda record: False) -> None:
        """`ignored` are syncs that the disk confirms, and forgets."""
        self._root = str(root.resolve())
        self._ignored = ignored
        self._nodes: dict[int, File | Directory] = {}
        """By inode; one that is used again is bound anew when it is opened under its new name."""
        self._top = self._load(before)

    def _load(self, path: Path) -> Directory:
        names: Names = {}
        for one in sorted(path.iterdir()):
            if one.is_dir():
                names[one.name] = self._load(one)
            elif one.is_file():
                names[one.name] = File(bytearray(one.read_bytes()), one.read_bytes())
        return Directory(dict(names), names)

    def apply(self, record: Record) -> None:
        """Follow the next call."""
        match record.op:
            case Op.OPEN | Op.MKDIR:
                self._open(record)
            case Op.WRITE:
                self._file(record).write(record.offset, record.data)
            case Op.TRUNCATE:
                self._file(record).truncate(record.offset)
            case Op.SYNC if not self._ignored(record):
                self._nodes[record.inode].sync()
            case Op.UNLINK:
                directory, name = self._place(record.path)
                directory.change((name, None))
            case Op.RENAME:
                directory, name = self._place(record.path)
                target, new = self._place(record.data.decode())
                assert target is directory, "what is renamed stays in its directory"
                directory.change((name, None), (new, directory.now[name]))
            case _:
                pass

    def _file(self, record: Record) -> File:
        found = self._nodes[record.inode]
        assert isinstance(found, File), record.path
        return found

    def _place(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        found = self._at(above)
        assert isinstance(found, Directory), path
        return found, name

    def _at(self, path: str) -> File | Directory | None:
        node: File | Directory | None = self._top
        for name in path.removeprefix(self._root).split("/")[1:]:
            assert isinstance(node, Directory), path
            node = node.now.get(name)
        return node

    def _open(self, record: Record) -> None:
        node = self._at(record.path)
        if node is None:
            directory, name = self._place(record.path)
            node = Directory() if record.directory or record.op is Op.MKDIR else File(bytearray(record.offset))
            directory.change((name, node))
        self._nodes[record.inode] = node

    def cut(self, draw: random.Random, target: Path) -> None:
        """Put into `target`, which is not there, what is left after a power cut."""
        _store(self._top, target, lambda directory: directory.cut(draw), lambda file: file.cut(draw))

    def store(self, target: Path) -> None:
        """Put into `target`, which is not there, what its processes see."""
        _store(self._top, target, lambda directory: directory.now, lambda file: file.now)


def _store(
    directory: Directory, target: Path, names: Callable[[Directory], Names], data: Callable[[File], bytes | bytearray]
) -> None:
    target.mkdir()
    for name, node in names(directory).items():
        if isinstance(node, Directory):
            _store(node, target / name, names, data)
        else:
            (target / name).write_bytes(data(node))
