"""Power cuts: whatever the disk keeps, the log opens with all that was acknowledged, and takes entries again.

`POINTSMAN_CUTS` and `POINTSMAN_SEED` say how many cuts there are, and which.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from worlds import power_lives
from worlds.evidence import entries, verified
from worlds.load import Load, completion
from worlds.logs import same, some, write
from worlds.power import SOURCE, Disk, Op, Record, acknowledged, environment, read_journal, told
from worlds.preloaded import compiled
from worlds.system import demo, pointsman

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import Event, RequestRouted, encode
from pointsman.eventlog.errors import LogCorruptError, NotKeptError, StoreRefusedError
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.readmodel.folding import ReadModelWriter
from pointsman.eventlog.stores.snapshots import Projection

FULL = os.environ.get("POINTSMAN_FAULTS") == "full"
CUTS = max(20, int(os.environ.get("POINTSMAN_CUTS", "3000" if FULL else "100")))
SEED = int(os.environ.get("POINTSMAN_SEED", "1"))
RUNS = 3
"""Of some lives each, that follow each other on what a power cut left."""
CUTS_EACH = 35
"""Of what one run of lives wrote."""
MORE = 40
"""Entries that are appended after a cut."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(SOURCE, tmp_path_factory.mktemp("power"))


@dataclass
class Story:
    """What lives of a control process did below `root`, which held what was on disk before them."""

    root: Path
    seed: int
    segment_bytes: int
    records: list[Record]
    before: Path
    """A copy of what `root` held then."""
    heads: dict[int, bytes] = field(default_factory=dict)
    """What was acknowledged by then."""

    def disk(self, ignored: Callable[[Record], bool] = lambda record: False) -> Disk:
        """The disk before them."""
        return Disk(self.root, self.before, ignored)

    def acknowledged(self, end: int) -> dict[int, bytes]:
        """Positions and digests that a picker had been told before this record."""
        found = (acknowledged(frame) for at, frame in told(self.records[:end]))
        return self.heads | dict(one for one in found if one is not None)


@cache
def written(seed: int) -> list[tuple[Event, bytes]]:
    """What lives append, from position 2 on."""
    return [(event, encode(event)) for event in some(RUNS * 5 * power_lives.EVENTS + MORE, seed)]


def lived(library: Path, root: Path, seed: int, segment_bytes: int, ends: list[str]) -> Story:
    """Have lives with these ends; what they did is all in the journal."""
    home = root.parent
    shutil.copytree(root, home / "before")
    words = ["control", root, seed, segment_bytes, *ends]
    command = [sys.executable, "-m", "worlds.power_lives", *map(str, words)]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    environ = os.environ | paths | environment(library, root, home / "journal")
    subprocess.run(command, check=True, env=environ, timeout=60)
    story = Story(root, seed, segment_bytes, read_journal(home / "journal"), home / "before")
    disk = story.disk()
    for record in story.records:
        disk.apply(record)
    disk.store(home / "now")
    assert contents(home / "now") == contents(root), "the journal says what there is"
    shutil.rmtree(home / "now")
    return story


def contents(root: Path) -> dict[str, bytes]:
    """Every file, but those that are mapped into memory."""
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def some_cuts(draw: random.Random, records: list[Record], count: int) -> list[int]:
    """Before which records the power fails: the kinds of call take turns, each before and after it."""
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        kinds[record.kind].append(index)
    names = sorted(kinds)
    return sorted(draw.choice(kinds[draw.choice(names)]) + draw.randint(0, 1) for _ in range(count))


def ends(draw: random.Random, segment_bytes: int) -> list[str]:
    """How some lives end."""
    if segment_bytes == 1:  # as many segments as commits
        return [f"commit {draw.randint(3, 9)} before" for _ in range(4)] + ["call 400 half"]
    call = f"call {round(1000 ** draw.uniform(0.4, 1.0))} {draw.choice(('half', 'before'))}"
    return draw.sample([call, f"commit {draw.randint(2, 20)} before", draw.choice(("-", "call 1000 half"))], 3)


# --- the claim ----------------------------------------------------------------------------------


def check(root: Path, story: Story, heads: dict[int, bytes], *, readmodel: bool = True) -> None:
    """The claim, of what a power cut left in `root`."""
    log = root / "data" / "log"
    if heads:
        check_chain(log, heads)
    check_entries(log, story, max(heads, default=0))
    if readmodel:
        check_readmodel(root / "data" / "readmodel.db", log)


def check_chain(log: Path, heads: dict[int, bytes]) -> None:
    report = verify_chain(log, heads)
    assert report.sound, report.fault


def check_entries(log: Path, story: Story, acknowledged: int) -> None:
    """What was acknowledged is there, what is there was appended, and more of it can be."""
    limits = power_lives.limits(story.segment_bytes)
    opened = open_log(log, "after the cut", limits)
    opened.close()
    head = opened.head.position
    assert head >= acknowledged
    with open_reader(log) as reader:
        entries = list(reader.entries(1))
    assert [entry.position for entry in entries] == list(range(1, head + 1))
    assert [entry.body for entry in entries[1:]] == [body for _, body in written(story.seed)[: head - 1]]
    folded = Projection()
    for entry in entries:
        folded.apply(entry)
    assert same(folded, opened.projection)

    write(log, [event for event, _ in written(story.seed)[head - 1 : head - 1 + MORE]], limits)
    report = verify_chain(log, {head: opened.head.digest})
    assert (report.fault, report.head) == (None, head + MORE)


def check_readmodel(path: Path, log: Path) -> None:
    """What it holds follows from the log, at once and when it has caught up."""
    at_once = decisions(path)
    fold(path, log)
    fold(fresh := path.with_name("fresh.db"), log)
    assert tables(path) == tables(fresh)
    assert at_once <= decisions(fresh)


def fold(path: Path, log: Path) -> None:
    model = ReadModelWriter(path, log)
    while model.fold():
        pass
    model.close()


def decisions(path: Path) -> set[object]:
    """Positions and requests; none where there is no read model yet."""
    if not path.exists():
        return set()
    connection = sqlite3.connect(path)
    try:
        made = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'requests'").fetchone()[0]
        return set(connection.execute("SELECT position, request_id FROM requests")) if made else set()
    finally:
        connection.close()


def tables(path: Path) -> dict[str, list[str]]:
    """Every row."""
    connection = sqlite3.connect(path)
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}
        # Which decisions a span of time begins with; where there are none, any position says that.
        moments = "SELECT start, (SELECT min(position) FROM requests WHERE position >= first) FROM moments"
        return found | {"moments": sorted(map(repr, connection.execute(moments)))}
    finally:
        connection.close()


# --- the library's level ------------------------------------------------------------------------


def cut_at(story: Story, cuts: list[int], ignored: Callable[[Record], bool] = lambda record: False) -> Iterator[Path]:
    """What is left after a cut before each of these records; it may be changed, and is gone at the next."""
    disk, at = story.disk(ignored), 0
    for number, cut in enumerate(cuts):
        for record in story.records[at:cut]:
            disk.apply(record)
        at = cut
        target = story.root.parent / "cut"
        shutil.rmtree(target, ignore_errors=True)
        disk.cut(random.Random(f"{story.seed} {number}"), target)
        yield target


def checked(story: Story, cuts: list[int]) -> Counter[str]:
    """Check the claim after each of these cuts; how many came after which kind of call."""
    after: Counter[str] = Counter()
    for number, (cut, target) in enumerate(zip(cuts, cut_at(story, cuts), strict=True)):
        kind = story.records[cut - 1].kind if cut else "nothing"
        try:
            check(target, story, story.acknowledged(cut), readmodel=".db" in kind or number % 5 == 0)
        except Exception as error:
            raise AssertionError(f"cut after {kind}, record {cut} of {story.root.parent}") from error
        after[kind] += 1
    return after


def test_whatever_a_power_cut_leaves_the_log_opens_with_all_that_was_acknowledged(
    library: Path, tmp_path: Path
) -> None:
    print(f"POINTSMAN_SEED={SEED} POINTSMAN_CUTS={CUTS}")
    draw, after, calls = random.Random(SEED), Counter[str](), 0
    for number in range(-(-CUTS // (RUNS * CUTS_EACH))):
        seed, heads = draw.getrandbits(32), dict[int, bytes]()
        (left := tmp_path / f"left {number}").mkdir()
        for run in range(RUNS):
            (home := tmp_path / f"{number}.{run}").mkdir()
            left.rename(home / "root")
            segment_bytes = draw.choice((1, 15_000, 60_000))
            story = lived(library, home / "root", seed, segment_bytes, ends(draw, segment_bytes))
            story.heads, calls = heads, calls + len(story.records)
            cuts = some_cuts(draw, story.records, CUTS_EACH)
            after += checked(story, cuts)

            # The next lives go on from what one of these cuts left.
            until = draw.randrange(CUTS_EACH)
            *_, last = cut_at(story, cuts[: until + 1])
            left, heads = last.rename(left), story.acknowledged(cuts[until])
            shutil.rmtree(home)
    print(f"{after.total()} cuts among {calls} calls, after {len(after)} kinds of them")


def after_sends(story: Story) -> list[int]:
    """Cuts right after something was told, three each."""
    return [index + 1 for index, record in enumerate(story.records) if record.op is Op.SEND for _ in range(3)]


def test_a_commit_that_a_kill_left_unsynced_is_on_disk_before_anything_is_told_of_it(
    library: Path, tmp_path: Path
) -> None:
    # Each commit fills a segment, so that the next life begins with a new one, and never writes to the old one.
    (tmp_path / "root").mkdir()
    story = lived(library, tmp_path / "root", SEED, 1, ["commit 5 before", "call 500 before"])
    second = [index for index, record in enumerate(story.records) if record.op is Op.LIFE][1]

    checked(story, [cut for cut in after_sends(story) if cut > second][:9])


def test_a_new_segment_whose_name_the_disk_refuses_to_sync_takes_no_batch(library: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    story = lived(library, tmp_path / "root", SEED, 1, ["named 3 refuse"])

    checked(story, after_sends(story)[:9])


def test_a_commit_that_the_disk_refused_to_sync_is_synced_before_it_is_told(library: Path, tmp_path: Path) -> None:
    # Closing the file cannot sync it either, so the next attempt finds the commit in the file, and not on the disk.
    (tmp_path / "root").mkdir()
    story = lived(library, tmp_path / "root", SEED, 1 << 20, ["commit 4 refuse"])

    checked(story, after_sends(story)[:18])


@pytest.fixture(scope="module")
def lives(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Two of them, with an end in order between."""
    (root := tmp_path_factory.mktemp("lives") / "root").mkdir()
    return lived(library, root, SEED, 15_000, ["-", "call 700 half"])


@pytest.mark.parametrize(
    "kind", ["*", ".segment-wal", ".segment", ".segment.unfinished", "log", "data", "root", ".db*"]
)
def test_a_disk_that_forgets_what_was_synced_loses_the_log(lives: Story, kind: str) -> None:
    # The claim rests on each of these syncs, so this shows that the check would find one missing.
    cuts = some_cuts(random.Random(SEED), lives.records, 60)

    def fails() -> Iterator[bool]:
        for cut, target in zip(cuts, cut_at(lives, cuts, lambda one: fnmatch(one.kind, f"sync {kind}")), strict=True):
            try:
                check(target, lives, lives.acknowledged(cut))
            except (AssertionError, LogCorruptError, NotKeptError, StoreRefusedError, sqlite3.DatabaseError):
                yield True

    assert any(fails())


# --- the system's level -------------------------------------------------------------------------


@pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")
def test_a_system_started_on_what_a_power_cut_left_goes_on(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root := tmp_path / "first" / "data").mkdir(parents=True)
    (before := tmp_path / "before").mkdir()
    with monkeypatch.context() as patched:
        for name, value in environment(library, root, tmp_path / "journal").items():
            patched.setenv(name, value)
        with demo(root.parent) as system, Load(system.gateway, 200, completion) as load:
            load.wait_sent(300, 20)
    kept, below = ("", str(root), f"{root}/log"), (f"{root}/log/", f"{root}/readmodel.db")
    records = [r for r in read_journal(tmp_path / "journal") if r.path in kept or r.path.startswith(below)]
    story = Story(root, SEED, 0, records, before)
    sends = [index + 1 for index, record in enumerate(records) if record.op is Op.SEND]
    cuts = sorted(random.Random(SEED).sample(sends[len(sends) // 2 :], 1 + CUTS // 1000))
    for number, (cut, left) in enumerate(zip(cuts, cut_at(story, cuts), strict=True)):
        second = tmp_path / str(number)
        shutil.copytree(root / "manifests", second / "data" / "manifests")
        shutil.copytree(left, second / "data", dirs_exist_ok=True)
        goes_on(second, story.acknowledged(cut))


def goes_on(home: Path, heads: dict[int, bytes]) -> None:
    """Start it, send requests, and look whether all of them and all that was acknowledged are in the log."""
    words = [f"--head={position}:{digest.hex()}" for position, digest in [*heads.items()][-100:]]
    found = pointsman("log", "verify", home / "data", "--output", "json", *words)
    assert found.returncode == 0, found.stdout
    with demo(home) as system:
        with Load(system.gateway, 200, completion) as load:
            load.wait_sent(100, 20)
        system.stop()
        log = entries(system.log)
        decided = {e.event.request.request_id for e in log if isinstance(e.event, RequestRouted)}
        assert load.broken() == []
        assert {outcome.id for outcome in load.outcomes} <= decided
        check_chain(system.log, heads)
        check_readmodel(system.data / "readmodel.db", system.log)
        assert verified(system.data)["skipped"] == {}
    head = json.loads(found.stdout)["head"]
    print(f"{max(heads)} entries acknowledged, {head} there after the cut, {len(log)} at the end")
