"""Runs ../shared/bench/compare.py's measurement and tells the processes of a picker apart; prints JSON, a line a row.

Run by run.py in .venv-bench, whose messages the yardstick needs.
"""

import argparse
import json
import re
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "shared/bench"))
import compare  # type: ignore[import-not-found]

ROLES = ("picker", "control")


class Snapshots:
    """What was measured when `compare.cpu` was asked about a picker: twice while idle, then before and after each load."""

    def __init__(self) -> None:
        self._cpu = compare.cpu
        self._root = 0
        self.taken: list[tuple[dict[str, float], dict[str, int], int]] = []
        """Measurements in order: CPU seconds and KiB by role, and the number of samples that the log had taken."""

    def __call__(self, pid: int) -> dict[int, float]:
        """Take the place of `compare.cpu`, which is asked about the picker first and then about the other process."""
        seconds: dict[int, float] = self._cpu(pid)
        if not self._root:
            self._root = pid
        if pid == self._root:
            cpu: dict[str, float] = {}
            memory: dict[str, int] = {}
            for process, used in seconds.items():
                role = role_of(process)
                cpu[role] = cpu.get(role, 0.0) + used
                memory[role] = memory.get(role, 0) + kib_of(process)
            self.taken.append((cpu, memory, samples_taken()))
        return seconds


def role_of(pid: int) -> str:
    """The role of a process, by the command that it was started with."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except FileNotFoundError:
        return "gone"
    return next((role for role in ROLES if role in words), "other")


def samples_taken() -> int:
    """The number of load samples that the metrics page tells; 0 where it tells none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{compare.METRICS}/metrics", timeout=5) as page:
            found = re.search(rb"^pointsman_load_samples_total (\d+)", page.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def kib_of(pid: int) -> int:
    """Resident memory of a process in KiB."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0
    return int(found.group(1)) if found else 0


def main() -> None:
    """Measure every picker in every round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, required=True)
    parser.add_argument("--connections", type=lambda text: [int(x) for x in text.split(",")], required=True)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("pickers", nargs="+")
    options = parser.parse_args()
    for name, value in (("reply_bytes", 2000), ("gap", 0.002), ("log", "/dev/null"), ("keep", False)):
        setattr(options, name, value)
    for _ in range(options.rounds):
        for picker in options.pickers:
            label, _, command = picker.partition("=")
            if label == "yardstick":
                command = f"{{python}} {Path(compare.__file__).parent / 'yardstick.py'} {{port}}"
            snapshots = compare.cpu = Snapshots()
            rows = compare.measure(label, command, options)
            (idle_from, _, samples_from), (idle_to, _, samples_to) = snapshots.taken[:2]
            for at, row in enumerate(rows):
                (before, _, sampled), (after, memory, sampled_to) = snapshots.taken[2 + 2 * at : 4 + 2 * at]
                requests = row["rate"] * options.seconds
                row["endpoints"], row["chunks"] = options.endpoints, options.chunks
                row["by_role"] = {r: 1e6 * (after[r] - before.get(r, 0.0)) / requests for r in after}
                # Work that goes on without requests, most of it scraping: CPU seconds a second, by role.
                row["idle_by_role"] = {r: (idle_to[r] - idle_from.get(r, 0.0)) / 3 for r in idle_to}
                # Under load fewer scrapes find time: the share of samples a second that still came.
                scraped = (sampled_to - sampled) / options.seconds
                row["still_scraped"] = scraped * 3 / (samples_to - samples_from) if samples_to > samples_from else 1.0
                row["memory_by_role"] = {r: kib / 1024 for r, kib in memory.items()}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
