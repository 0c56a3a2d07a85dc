"""What a request costs, beside a bare gRPC echo that schedules and records nothing.

Uses the rig in ../shared/bench where it is there; without it, the benchmarks of the parts.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RIG = ROOT.parent / "shared/bench/compare.py"
PARTS = ("schedule.py", "log.py", "scrape.py")


def main() -> int:
    """Run the rig, or the parts; the exit code of what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, action="append", help="(default: 5, 100 and 1000)")
    parser.add_argument("--parts", action="store_true", help="only the benchmarks of the parts")
    parser.add_argument("rig", nargs="*", metavar="ARGUMENT", help="for the rig, after --: -- --chunks 100")
    options = parser.parse_args()
    code = 0
    if RIG.exists() and not options.parts:
        for endpoints in options.endpoints or (5, 100, 1000):
            code = code or rig(endpoints, options.rig)
        return code
    if not options.parts:
        print(f"no rig at {RIG}: measuring the parts by themselves", flush=True)
    for part in PARTS:
        print(f"\n== {part}", flush=True)
        code = code or subprocess.run([sys.executable, ROOT / "benchmarks" / part], check=False).returncode
    return code


def rig(endpoints: int, more: list[str]) -> int:
    """Measure yardstick and Pointsman behind the same Envoy."""
    python = ROOT / ".venv-bench/bin/python"
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as data:
        picker = (
            f"{shlex.quote(sys.executable)} -P -m pointsman.cli epp --pool-name bench --config-file {{config}}"
            " --grpc-port {port} --grpc-health-port {health} --metrics-port {metrics} --secure-serving=false"
            f" --data-dir {shlex.quote(data)}/data"
        )
        words = [str(python), str(RIG), "--endpoints", str(endpoints), *more, "yardstick", f"pointsman={picker}"]
        return subprocess.run(words, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
