"""The end of the control process, which nobody may wait for when the supervisor is gone."""

import subprocess
import sys

ENDLESS = """
import time
from pointsman.cli.control import control
control.END_MAX = 0.2
control._bound_the_end()
time.sleep(600)
"""


def test_an_end_that_waits_for_ever_is_cut_and_says_where_it_waited() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ENDLESS], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "line 6" in done.stderr
