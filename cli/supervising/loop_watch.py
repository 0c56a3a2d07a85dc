"""Whether a picker's loop turns: one that does not has to be ended by somebody else.

A loop that is caught in a request answers nobody, and no error comes of it.
Counted is the time in which it could have turned.  Not counted: time in which the supervisor itself did not look
(a machine that slept, a frozen container), in which the process is stopped (a debugger, SIGSTOP), or in which it waits
for a core that others have.
"""

import os
from pathlib import Path

from pointsman.core.processes.last_page import read_mark

EVERY = 0.5
"""Seconds between two looks; a loop that turns leaves its mark five times as often."""


class LoopWatch:
    """The watch over one life of a process; limit 0 for none."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._turns = 0
        self._stuck = 0.0
        """Seconds for which the loop could have turned and did not."""
        self._looked = 0.0
        self._cpu = 0.0
        """Seconds of CPU that the process had taken at the last look."""

    def look(self, pid: int, page: bytes, now: float) -> str:
        """Look at the page; words for why the process has to be ended, empty where it has not."""
        passed = min(now - self._looked, 2 * EVERY)
        if not self._limit or passed < EVERY:
            return ""
        self._looked = now
        mark = read_mark(page)
        state, cpu = _process(pid)
        worked, self._cpu = cpu - self._cpu, cpu
        if not mark.turns or mark.turns != self._turns or state in "Tt":
            self._turns, self._stuck = mark.turns, 0.0
            return ""
        self._stuck += min(passed, worked) if state == "R" else passed
        if self._stuck < self._limit:
            return ""
        hand = f", with this request in hand: {mark.in_hand}" if mark.in_hand else ""
        return f"its loop has not turned for {self._limit:g} s{hand}"


def _process(pid: int) -> tuple[str, float]:
    """State of a process, by the kernel's letter, and the seconds of CPU that it has taken."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "S", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
