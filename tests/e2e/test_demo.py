"""`pointsman demo` as a newcomer meets it: a real Envoy, real processes, kills under load, a second run."""

import json
import os
import re
import shlex
import signal
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from worlds.evidence import lines
from worlds.ports import free_port
from worlds.system import POINTSMAN, alive, children, ended, pointsman
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

BACK_WITHIN = 10.0
"""Seconds; the budget of two is for a machine that runs nothing else."""


class Demo:
    """A running demo and what it printed."""

    def __init__(self, process: subprocess.Popen[str], data: Path, output: Path) -> None:
        self.process, self.data, self.output = process, data, output

    def said(self) -> str:
        return self.output.read_text()

    def field(self, name: str) -> str:
        found = re.search(rf"^{name} +(\S+)", self.said(), re.MULTILINE)
        assert found is not None, self.said()
        return found[1]

    def children(self) -> dict[str, int]:
        """The processes under the supervisor, by what they are."""
        return children(self.process.pid)

    def sent(self) -> int:
        """Requests that the traffic generator has had whole answers to."""
        return sum(line["status"] == 200 for line in lines(self.data / "logs/access.log"))

    def stop(self) -> float:
        """Ctrl-C; the seconds it took."""
        self.process.send_signal(signal.SIGINT)
        return ended(self.process, self.output)


@contextmanager
def demo(home: Path, *words: str) -> Iterator[Demo]:
    output = home / "output"
    ports = [f"--{name}={free_port('127.0.0.1')}" for name in ("port", "metrics-port", "health-port")]
    with open(output, "w") as file:
        process = subprocess.Popen(
            [*POINTSMAN, "demo", "--data-dir", str(home / "data"), *ports, *words], stdout=file, stderr=file, text=True
        )
        try:
            running = Demo(process, home / "data", output)
            wait_for(lambda: "Ctrl-C ends everything." in running.said(), 60.0)
            yield running
        finally:
            process.kill()
            process.wait()


def curl(line: str) -> str:
    found = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60, check=True)
    return found.stdout


def test_the_demo_answers_explains_survives_kills_and_resumes(tmp_path: Path) -> None:
    with demo(tmp_path, "--rate", "40") as running:
        answers_and_explains(running)
        killed_under_load(running)
        verified(running)
        pids = running.children().values()
        took = running.stop()
        assert took < 10.0
        assert not any(alive(pid) for pid in pids)
    assert pointsman("log", "verify", tmp_path / "data").returncode == 0
    agree_one_to_one(tmp_path / "data")

    with demo(tmp_path, "--rate", "0") as running:
        assert "going on with its log" in running.said()
        answers_and_explains(running)
        verified(running)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0


def answers_and_explains(running: Demo) -> None:
    [line] = re.findall(r"^  (curl .*)$", running.said(), re.MULTILINE)
    [ask] = re.findall(r"^  \S+ (replay explain .*)$", running.said(), re.MULTILINE)
    answer = curl(line)
    assert answer.startswith("HTTP/1.1 200 OK")
    wait_for(lambda: pointsman(*shlex.split(ask)).returncode == 0, 10.0)

    told = pointsman(*shlex.split(ask)).stdout

    assert "verified: computed again" in told
    assert "chosen" in told
    for column in ("age", "waiting", "KV", "queue-scorer", "prefix-cache-scorer", "sum", "rank"):
        assert column in told
    assert told.count("vllm-llama3-8b-instruct-") >= 3
    page = urllib.request.urlopen(running.field("metrics"), timeout=10).read().decode()
    assert 'inference_pool_ready_pods{name="vllm-llama3-8b-instruct"} 3' in page


def killed_under_load(running: Demo) -> None:
    for name in ("picker", "control", "gateway", "sim"):
        more_sent(running, 40, 60.0)
        kill(running, name)
        more_sent(running, 20, BACK_WITHIN + 20)


def more_sent(running: Demo, count: int, within: float) -> None:
    before = running.sent()
    wait_for(lambda: running.sent() > before + count, within)


def kill(running: Demo, name: str) -> None:
    before = running.children()[name]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: running.children().get(name, before) != before, BACK_WITHIN)


def verified(running: Demo) -> None:
    found = pointsman("replay", "verify", "--data-dir", running.data, "--output", "json")
    report = json.loads(found.stdout)

    assert found.returncode == 0, report
    assert report["checked"] == report["same"] > 0
    assert report["skipped"] == {}


def agree_one_to_one(data: Path) -> None:
    """Envoy's access log, the simulated servers' and the decisions tell of the same requests and servers."""
    entries = pointsman(
        "log", "tail", "--data-dir", data, "--from", "1", "--class", "traffic", "--output", "json"
    ).stdout
    joined = pointsman(
        "log", "tail", "--data-dir", data, "--from", "1", "--class", "membership", "--output", "json"
    ).stdout
    address = {
        e["endpoint"]: f"{e['address']}:{e['port']}"
        for e in map(json.loads, joined.splitlines())
        if e["event"] == "endpoint-joined"
    }
    decided: Counter[tuple[str, str]] = Counter()
    for entry in map(json.loads, entries.splitlines()):
        if entry["event"] == "request-routed":
            decided[entry["request"]["request_id"], address[entry["endpoints"][0]]] += 1
    served = Counter((line["request_id"], line["server"]) for line in lines(data / "logs/requests.jsonl"))
    passed = Counter(
        (line["request_id"], line["endpoint"]) for line in lines(data / "logs/access.log") if line["status"] == 200
    )

    assert sum(served.values()) > 100
    assert served - decided == Counter()
    assert passed - decided == Counter()


def test_busy_ports_become_the_next_free_ones(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    words = ("--rate", "0", f"--port={free_port('127.0.0.1')}")
    with demo(tmp_path / "first", *words) as first, demo(tmp_path / "second", *words) as second:
        assert first.field("gateway") != second.field("gateway")
        assert "is in use: the gateway listens on" in second.said()
        assert "is in use: the simulated servers listen on" in second.said()
        [line] = re.findall(r"^  (curl .*)$", second.said(), re.MULTILINE)
        assert curl(line).startswith("HTTP/1.1 200 OK")
        second.stop()
        first.stop()


def test_one_data_directory_has_one_demo(tmp_path: Path) -> None:
    with demo(tmp_path, "--rate", "0", "--gateway", "none"):
        found = pointsman("demo", "--data-dir", tmp_path / "data")

        assert found.returncode == 1
        assert "is in use by process" in found.stderr
        assert found.stderr.count("\n") == 1
