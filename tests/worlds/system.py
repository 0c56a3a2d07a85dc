"""The whole system for tests: `pointsman demo` or `serve` in a directory of its own, with its processes by name.

All ports are this test process's own.  The end of the block ends everything, in order and within seconds,
and looks whether anything was left running: each process carries a mark of its system in its environment.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml
from worlds.ports import free_port
from worlds.waiting import STRETCH_MAX, Stopwatch, wait_for

POINTSMAN = (sys.executable, "-P", "-m", "pointsman.cli")
MARK = "POINTSMAN_TEST_SYSTEM"
START_MAX = 60.0
"""Seconds for everything to be up; three when the machine is idle."""
STOP_MAX = 15.0
OLD, NEW = "vllm-llama3-8b-instruct", "vllm-llama3-8b-instruct-new"
QUICK = {"decode_step": 0.002, "decode_sequence": 0.0, "prefill_token": 0.00001}
"""A simulated server's hardware that takes a few milliseconds for a request."""
ARGS = (
    "--model meta-llama/Llama-3.1-8B-Instruct --max-num-seqs 256 --enable-lora --max-loras 2"
    " --lora-modules food-review-1=/adapters/food-review-1"
).split()


def alive(pid: int) -> bool:
    """It runs: it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(supervisor: int) -> dict[str, int]:
    """The processes under a supervisor, by name: control, picker, gateway, sim."""
    found: dict[str, int] = {}
    try:
        pids = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    except OSError:
        return found
    for pid in map(int, pids.split()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if alive(pid) and len(words) > 4:
            found["gateway" if "envoy" in words[0] else words[4]] = pid
    return found


def pointsman(*words: str | Path, within: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*POINTSMAN, *map(str, words)], capture_output=True, text=True, timeout=within, check=False)


# --- manifests ----------------------------------------------------------------------------------


def pod(name: str, app: str, address: str, port: int, hardware: dict[str, float]) -> dict[str, Any]:
    """A Pod that `pointsman sim` simulates."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "labels": {"app": app},
            "annotations": {"pointsman.dev/simulated": json.dumps(hardware)},
        },
        "spec": {"containers": [{"name": "vllm", "args": ARGS, "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def pool(app: str, port: int, picker_port: int, failure_mode: str = "FailClose") -> dict[str, Any]:
    """An InferencePool."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": app, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "targetPorts": [{"number": port}],
            "endpointPickerRef": {"name": "epp", "port": {"number": picker_port}, "failureMode": failure_mode},
        },
    }


def route(shares: dict[str, int]) -> dict[str, Any]:
    """An HTTPRoute that splits all traffic."""
    group = "inference.networking.k8s.io"
    refs = [{"group": group, "kind": "InferencePool", "name": name, "weight": w} for name, w in shares.items()]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "llm-route", "namespace": "default"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": refs}]},
    }


def write(path: Path, *documents: dict[str, Any]) -> None:
    """A manifest file, replaced in one step."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    new.replace(path)


def manifests(
    directory: Path,
    shares: dict[str, int] | None = None,
    servers: int = 3,
    failure_mode: str = "FailClose",
    hardware: dict[str, float] | None = None,
) -> None:
    """Pods, pools and a route on ports of this machine that are free; server i of pool j is at 127.0.j.i."""
    directory.mkdir(parents=True)
    shares = shares or {OLD: 90, NEW: 10}
    addresses = {app: [f"127.0.{j}.{i}" for i in range(1, servers + 1)] for j, app in enumerate(shares, 1)}
    port = free_port(*(a for each in addresses.values() for a in each))
    pods = [
        pod(f"{app}-{i}", app, address, port, hardware or QUICK)
        for app, each in addresses.items()
        for i, address in enumerate(each)
    ]
    write(directory / "pods.yaml", *pods)
    write(directory / "pools.yaml", *[pool(app, port, free_port("127.0.0.1"), failure_mode) for app in shares])
    write(directory / "route.yaml", route(shares))


# --- the processes ------------------------------------------------------------------------------


class System:
    """A running system."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path, gateway: int, metrics: int) -> None:
        self.process = process
        self.data = home / "data"
        self.output = home / "output"
        self.gateway = gateway
        self.metrics = metrics
        self.manifests = self.data / "manifests"

    @property
    def access_log(self) -> Path:
        """Envoy's."""
        logs = self.data / "logs" / "access.log"
        return logs if logs.exists() else self.data / "access.log"

    @property
    def request_log(self) -> Path:
        """The simulated servers'."""
        return self.data / "logs" / "requests.jsonl"

    @property
    def log(self) -> Path:
        """The event log's directory."""
        return self.data / "log"

    def said(self) -> str:
        """What the supervisor has printed."""
        return self.output.read_text()

    def metrics_page(self) -> str:
        """The page of `/metrics`."""
        connection = HTTPConnection("127.0.0.1", self.metrics, timeout=30)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def pids(self) -> dict[str, int]:
        """The processes under the supervisor, by name."""
        return children(self.process.pid)

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process by its name; its pid."""
        pid = self.pids()[name]
        os.kill(pid, number)
        return pid

    def kill(self, *names: str, within: float = 10.0) -> float:
        """SIGKILL, all at once; the seconds until all of them have another process."""
        before = {name: self.pids()[name] for name in names}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        return wait_for(lambda: all(self.pids().get(n, p) != p for n, p in before.items()), within, f"{names} again")

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """End it in order; the seconds it took."""
        self.process.send_signal(number)
        return ended(self.process, self.output)


def ended(process: subprocess.Popen[Any], output: Path) -> float:
    """Wait until a supervisor that was told to end has ended in order; the seconds it took."""
    watch = Stopwatch()
    code = process.wait(STOP_MAX * STRETCH_MAX)
    took = watch.seconds()
    assert code == 0, f"exit code {code}: {output.read_text()}"
    assert took < STOP_MAX, f"it ended after {took:.1f} s: {output.read_text()}"
    return took


def marked(mark: str) -> dict[int, str]:
    """Every process that carries the mark in its environment, with its command."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes() and alive(int(path.name)):
                found[int(path.name)] = (path / "cmdline").read_bytes().decode().replace("\0", " ")[:120]
        except OSError:
            continue
    return found


def _start(words: Sequence[str], output: Path, mark: str) -> subprocess.Popen[bytes]:
    with open(output, "ab") as file:
        return subprocess.Popen(
            [*POINTSMAN, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | {MARK: mark},
            cwd=output.parent,
        )


@contextmanager
def demo(home: Path, *words: str, **how: Any) -> Iterator[System]:
    """`pointsman demo` without clients of its own, on manifests made for it (`how` is for `manifests`)."""
    data, mark = home / "data", secrets.token_hex(8)
    if not (data / "manifests").exists():
        manifests(data / "manifests", **how)
    ports = {name: free_port("127.0.0.1") for name in ("port", "console-port", "metrics-port", "health-port")}
    flags = [f"--{name}={port}" for name, port in ports.items()]
    command = ["demo", "--data-dir", str(data), "--rate", "0", *flags, *words]
    with _running(command, home, "Ctrl-C ends everything.", mark) as process:
        yield System(process, home, ports["port"], ports["metrics-port"])
    wait_for(lambda: not marked(mark), 5.0, lambda: f"the end of {marked(mark)}")


@contextmanager
def serve(home: Path, *words: str, kubeconfig: Path | None = None, **how: Any) -> Iterator[System]:
    """`pointsman serve` with a gateway, and `pointsman sim` beside it; with `kubeconfig` it follows that cluster."""
    data, mark = home / "data", secrets.token_hex(8)
    if not (data / "manifests").exists():
        manifests(data / "manifests", **how)
    (data / "logs").mkdir(exist_ok=True)
    ports = {name: free_port("127.0.0.1") for name in ("gateway-port", "console-port", "metrics-port", "health-port")}
    flags = [f"--{name}={port}" for name, port in ports.items()]
    source = ["--manifests", str(data / "manifests")]
    if kubeconfig is not None:
        source = ["--kubernetes", "--kubeconfig", str(kubeconfig), "--namespace", "default"]
    flags += [*source, "--data-dir", str(data), "--drain-timeout=0s"]
    log = str(data / "logs" / "requests.jsonl")
    simulators = ["sim", "--manifests", str(data / "manifests"), "--request-log", log]
    with (
        _running(simulators, home, "a model server listens", mark),
        _running(["serve", "--gateway", "envoy", *flags, *words], home, ": ready:", mark) as process,
    ):
        yield System(process, home, ports["gateway-port"], ports["metrics-port"])
    wait_for(lambda: not marked(mark), 5.0, lambda: f"the end of {marked(mark)}")


@contextmanager
def _running(words: Sequence[str], home: Path, ready: str, mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command until the block ends, ended in order where it still runs then."""
    output = home / ("output" if words[0] != "sim" else "simulators")
    before = output.stat().st_size if output.exists() else 0
    process = _start(words, output, mark)
    try:

        def said() -> str:
            return output.read_text()[before:]

        wait_for(lambda: ready in said() or process.poll() is not None, START_MAX, lambda: f"{ready!r} after {said()}")
        assert process.poll() is None, f"it ended with {process.returncode}: {said()}"
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            ended(process, output)
    finally:
        process.kill()
        process.wait()
