"""A data directory that belongs to somebody else, as the volume of a Pod does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import os, sys
from pathlib import Path
from pointsman.cli.supervising.assembly import Deployment
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for _ in range(2):
    with Deployment(Path(sys.argv[1]), logs=False) as found:
        print((found.run / "lock").stat().st_mode & 0o777)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_where_its_mode_cannot_be_changed_every_start_uses_it_all_the_same(tmp_path: Path) -> None:
    shared = Path("/tmp") / f"pointsman-volume-{os.getpid()}"  # what holds tmp_path is closed to others
    shared.mkdir()
    try:
        shared.chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-P", "-c", START, shared], check=False, capture_output=True, text=True, timeout=60
        )

        assert done.stderr == ""
        assert done.stdout.split() == [str(0o600)] * 2
        assert shared.stat().st_mode & 0o777 == 0o777
    finally:
        subprocess.run(["rm", "-r", shared], check=True)
