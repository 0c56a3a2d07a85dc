"""Waiting for a condition, with limits that hold on a busy machine: time in which work had to wait does not count.

The kernel counts the seconds in which something that could run waited for a core, and those in which something waited
for a disk.  On a machine with nothing else to do a limit is nearly what it says; on a busy one it lasts longer by that
time, up to `STRETCH_MAX` times.  So what a limit proves on a quiet machine it proves still, and a busy one breaks none.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

STRETCH_MAX = 10.0
"""How many times its length a limit may last: what has not come by then hangs."""
HUNG = 60.0
"""Seconds after which what has not come will not, where how long it takes is not the question."""
PRESSURE = [Path("/proc/pressure/cpu"), Path("/proc/pressure/io")]
EVERY = 0.01
"""Seconds between two looks."""


def _waited() -> float:
    """Seconds since the machine started in which work had to wait; 0 where the kernel does not count them."""
    try:
        pages = [path.read_text() for path in PRESSURE]
    except OSError:
        return 0.0
    return sum(int(total) / 1e6 for page in pages for total in re.findall(r"^some .*total=(\d+)", page))


class Stopwatch:
    """Seconds since it was made, without those in which work had to wait."""

    def __init__(self) -> None:
        self._began, self._waited = time.monotonic(), _waited()

    def seconds(self) -> float:
        """How many so far: a tenth of what has passed at least."""
        passed = time.monotonic() - self._began
        return max(passed - (_waited() - self._waited), passed / STRETCH_MAX)


def wait_for(condition: Callable[[], object], within: float = 10.0, what: str | Callable[[], str] = "it") -> float:
    """Look again and again until `condition` holds; the seconds it took.  An error names `what` did not come."""
    watch = Stopwatch()
    while not condition():
        if watch.seconds() > within:
            raise AssertionError(f"{what if isinstance(what, str) else what()} did not come to be within {within:g} s")
        time.sleep(EVERY)
    return watch.seconds()
