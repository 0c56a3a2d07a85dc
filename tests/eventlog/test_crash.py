"""Killed at any moment, the log opens with everything that was acknowledged."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from worlds.logs import CHILD, SMALL

from pointsman.eventlog.opening import open_log, open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import segment_paths

KILLS = 12


def test_killed_under_load_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    rng = random.Random(20)
    acknowledged: dict[int, str] = {}
    paths = os.pathsep.join([str(Path(__file__).parent.parent)])
    for life in range(KILLS):
        command = [sys.executable, "-P", "-c", CHILD, str(tmp_path), str(life + 1)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("open"), "the log must open after each kill"
            time.sleep(rng.uniform(0.0, 0.25))
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                with contextlib.suppress(ValueError):  # the last line may be cut
                    position, digest = line.split()
                    if len(digest) == 64:
                        acknowledged[int(position)] = digest
        heads = {position: bytes.fromhex(digest) for position, digest in acknowledged.items()}

        report = verify_chain(tmp_path, heads)

        assert report.sound, report.fault
        assert report.head >= max(acknowledged, default=1)
    log = open_log(tmp_path, "test", SMALL)
    log.close()
    with open_reader(tmp_path) as reader:
        assert reader.projection_at(log.head.position).totals.entries  # from a snapshot
        assert all(reader.digest_at(position) == digest for position, digest in heads.items())
    assert len(acknowledged) > 50
    assert len(segment_paths(tmp_path)) > 3, "kills must have met the step to a new segment too"
