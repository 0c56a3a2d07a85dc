"""A WAL that something changed after a kill: told, where commits behind the change were on disk."""

import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from worlds.logs import CHILD

from pointsman.eventlog.errors import LogCorruptError
from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import segment_paths, wal_path
from pointsman.eventlog.sqlite.wal import _checksum, lost_commits

FLIPS = 20
PLAIN = 8
WORD = st.integers(0, 2**32 - 1)


def killed_under_load(directory: Path, seed: int) -> None:
    paths = str(Path(__file__).parent.parent)
    child = CHILD.replace("70_000", "100_000_000")
    command = [sys.executable, "-P", "-c", child, str(directory), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"open"), "no alarm where nothing was changed"
        time.sleep(0.1 + 0.02 * (seed % 5))
        process.send_signal(signal.SIGKILL)
        process.stdout.read()


def test_kills_alone_raise_no_alarm(tmp_path: Path) -> None:
    for seed in range(1, PLAIN + 1):
        killed_under_load(tmp_path, seed)
        assert lost_commits(wal_path(segment_paths(tmp_path)[-1])) is None
        assert verify_chain(tmp_path).sound


def test_a_flipped_bit_takes_no_more_than_the_last_commit_unsaid(tmp_path: Path) -> None:
    killed_under_load(tmp_path, 1)
    wal = wal_path(segment_paths(tmp_path)[-1])
    held = wal.read_bytes()
    with open_reader(tmp_path) as reader:
        head = reader.head().position
        last = reader.batch_at(head)
    rng = random.Random(5)
    told = 0
    for _ in range(FLIPS):
        bit = rng.randrange(len(held) * 8)
        changed = bytearray(held)
        changed[bit // 8] ^= 1 << bit % 8
        wal.write_bytes(changed)
        for shared in tmp_path.glob("*-shm"):
            shared.unlink()
        report = verify_chain(tmp_path)
        if report.fault is None:
            assert report.head >= last.first - 1, f"bit {bit} took entries away, and nothing says so"
            continue
        with pytest.raises(LogCorruptError, match="pointsman log verify"):
            open_log(tmp_path, "test")
        told += 1
    assert told > FLIPS // 2


@given(st.lists(st.tuples(WORD, WORD), max_size=40), WORD, WORD, st.booleans())
def test_the_checksum_is_that_of_sqlites_definition(
    words: list[tuple[int, int]], low: int, high: int, big: bool
) -> None:
    content = b"".join(struct.pack(">2I" if big else "<2I", *pair) for pair in words)
    wanted = (low, high)
    for one, two in words:
        low = (low + one + high) % 2**32
        high = (high + two + low) % 2**32

    assert _checksum(content, wanted, big=big) == (low, high)
