"""Processes that end, are ended and begin again: what comes back, what is left, what goes on."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from worlds.evidence import entries, verified
from worlds.load import LLAMA, Load
from worlds.ports import free_port
from worlds.system import MARK, OLD, System, demo, manifests, marked, pointsman
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import (
    ControlStarted,
    ControlStopped,
    EntriesAdopted,
    Entry,
    LogCreated,
    PickerEnded,
    ProcessEnded,
    RequestRouted,
)
from pointsman.core.state.traffic import Column
from pointsman.core.values.packing import unpack
from pointsman.eventlog.sqlite.segments import segment_paths

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

BACK_WITHIN = 6.0
"""Seconds until requests are answered again; the budget of two is for a machine that runs nothing else."""


def answered_after(load: Load, at: float, within: float) -> float:
    """Seconds from `at` to the first whole reply to a request that was sent after it."""

    def answered() -> bool:
        return any(o.began > at and o.whole and o.status == 200 for o in list(load.outcomes))

    wait_for(answered, within, "a reply")
    return min(o.ended for o in load.outcomes if o.began > at and o.whole and o.status == 200) - at


def test_whatever_is_killed_is_back_and_serves(tmp_path: Path) -> None:
    with demo(tmp_path) as system, Load(system.gateway, 50) as load:
        for name in ("control", "picker", "gateway", "sim"):
            load.wait_sent(len(load.outcomes) + 30, 10)
            at = time.monotonic()
            system.kill(name)
            took = answered_after(load, at, BACK_WITHIN)
            print(f"{name} was killed: the first reply to a new request came after {took:.2f} s")
        load.stop()
        assert len(load.broken()) < 0.5 * len(load.outcomes)
        assert system.stop() < 10
    causes = {e.event.name: e.event.cause for e in entries(system.log) if isinstance(e.event, ProcessEnded)}
    assert causes == {"gateway": "signal SIGKILL", "simulators": "signal SIGKILL"} | causes
    assert verified(system.data)["skipped"] == {}


def test_after_its_picker_was_killed_a_prompt_goes_to_the_server_that_has_it(tmp_path: Path) -> None:
    prompts = [f"Document {n}: " + f"the line of track {n} is long and straight. " * 60 for n in range(8)]

    def ask(number: int) -> tuple[str, dict[str, object], dict[str, str]]:
        body = {"model": LLAMA, "prompt": f"{prompts[number % 8]} Question {number}.", "max_tokens": 1}
        return "/v1/completions", body, {}

    def asked(name: str) -> dict[int, list[RequestRouted]]:
        with Load(system.gateway, 20, ask, limit=16, prefix=name) as load:
            load.wait_sent(16, 10)
        assert load.broken() == []
        wait_for(lambda: len(routed(name)) == 16, 5, "the decisions in the log")
        return {n: [e for e in routed(name) if int(e.request.request_id.rpartition("-")[2]) % 8 == n] for n in range(8)}

    def routed(name: str) -> list[RequestRouted]:
        events = [entry.event for entry in entries(system.log)]
        return [e for e in events if isinstance(e, RequestRouted) and e.request.request_id.startswith(name)]

    with demo(tmp_path, shares={OLD: 1}, servers=4) as system:
        before = asked("before")
        at = time.monotonic()
        system.kill("picker")
        with Load(system.gateway, 5, prefix="other") as load:
            answered_after(load, at, BACK_WITHIN)
            time.sleep(1.0)  # its index is warm after a hundredth of that
        after = asked("after")
        system.stop()
    for number in range(8):
        first, second = before[number]
        servers = {event.endpoints[0] for event in after[number]}
        assert servers == {first.endpoints[0]} == {second.endpoints[0]}
        assert first.origin.epoch != after[number][0].origin.epoch
        blocks = [unpack(read.values).max() for read in after[number][0].reads if read.column == Column.PREFIX_BLOCKS]
        assert blocks[0] > 30, "chosen for the blocks that its server was given before the picker was killed"
    assert verified(system.data)["skipped"] == {}


def test_nothing_is_left_when_the_supervisor_is_killed_and_the_next_start_goes_on(tmp_path: Path) -> None:
    with demo(tmp_path) as system, Load(system.gateway, 100) as load:
        load.wait_sent(100, 10)
        mark = mark_of(system)
        assert len(marked(mark)) >= 5
        system.process.kill()
        system.process.wait()
        took = wait_for(lambda: not marked(mark), 8, "the end of all processes")
        print(f"the supervisor was killed: nothing ran after {took:.2f} s")
    before = entries(system.log)
    with demo(tmp_path) as system:
        assert "going on with its log" in system.said()
    log = entries(system.log)
    assert log[: len(before)] == before
    assert [e for e in log[len(before) :] if isinstance(e.event, LogCreated)] == []
    ends = [e.event for e in log if isinstance(e.event, PickerEnded)]
    assert len(ends) == 2
    assert verified(system.data)["skipped"] == {}


def mark_of(system: System) -> str:
    environment = Path(f"/proc/{system.process.pid}/environ").read_bytes().split(b"\0")
    [found] = [word for word in environment if word.startswith(MARK.encode())]
    return found.partition(b"=")[2].decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_under_load_ends_all_within_seconds(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as system, Load(system.gateway, 200) as load:
        load.wait_sent(200, 10)
        pids = system.pids().values()
        took = system.stop(number)
        assert took < 8
        load.stop()
        print(f"{number.name}: ended after {took:.2f} s, {len(load.broken())} of {len(load.outcomes)} not answered")
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    log = entries(system.log)
    last = [entry.event for entry in log if isinstance(entry.event, ControlStopped | PickerEnded)]
    assert [type(event) for event in last] == [PickerEnded, ControlStopped]
    routed = {e.event.request.request_id for e in log if isinstance(e.event, RequestRouted)}
    assert {o.id for o in load.outcomes if o.whole and o.status == 200} <= routed
    assert "exit code 0" in last[0].cause


def test_busy_ports_of_pickers_become_the_next_free_ones(tmp_path: Path) -> None:
    manifests(tmp_path / "data" / "manifests")
    port = free_port("127.0.0.1")
    pools = tmp_path / "data" / "manifests" / "pools.yaml"
    busy = [int(line.split(":")[1]) for line in pools.read_text().splitlines() if "number:" in line][1]
    with (
        socket.create_server(("127.0.0.1", busy)),
        socket.create_server(("127.0.0.1", port)),
        demo(tmp_path, f"--port={port}") as system,
    ):
        said = system.said()
        assert f"port {busy} of pool default/vllm-llama3-8b-instruct is in use: its picker listens on" in said
        assert f"port {port} is in use: the gateway listens on" in said
        gateway = int(said.partition("gateway         http://127.0.0.1:")[2].split()[0])
        with Load(gateway, 50, limit=50) as load:
            load.wait_sent(50, 10)
        assert load.broken() == []


def test_an_older_copy_of_the_log_put_in_place_is_noticed(tmp_path: Path) -> None:
    older = tmp_path / "older"
    with demo(tmp_path) as system:
        with Load(system.gateway, 100, limit=100) as load:
            load.wait_sent(100, 10)
        wait_for(lambda: decisions(entries(system.log)) >= 100, 5)
        system.stop()
    shutil.copytree(system.log, older)
    with demo(tmp_path) as system, Load(system.gateway, 100) as load:
        load.wait_sent(100, 10)
        newer = put_in_place(system, older)
        load.wait_sent(len(load.outcomes) + 200, 20)
        load.stop()
        system.stop()
    log = entries(system.log)

    adopted = [entry.event for entry in log if isinstance(entry.event, EntriesAdopted)]
    assert adopted, "decisions on the state of the log that was taken away are told apart"
    report = json.loads(pointsman("replay", "verify", "--data-dir", system.data, "--output", "json").stdout)
    assert report["different"] == 0, report
    assert set(report["skipped"]) == {"made on the cluster state of another log"}
    assert pointsman("log", "verify", system.data).returncode == 0
    found = pointsman("log", "verify", system.data, "--head", newer)
    assert found.returncode == 1
    assert "NOT SOUND" in found.stdout


def put_in_place(system: System, older: Path) -> str:
    """Exchange the log for an older copy while the control process is down; the head that was there."""
    control = system.send("control", signal.SIGSTOP)
    found = json.loads(pointsman("log", "verify", system.data, "--output", "json").stdout)
    os.kill(control, signal.SIGKILL)  # nothing of it runs any more: it was stopped
    system.log.rename(system.data / "newer")
    shutil.copytree(older, system.log)
    wait_for(lambda: system.pids().get("control", control) != control, 5)
    head, digest = found["head"], found["digest"]
    return f"{head}:{digest if isinstance(digest, str) else bytes(digest).hex()}"


def decisions(log: list[Entry]) -> int:
    return sum(isinstance(entry.event, RequestRouted) for entry in log)


def test_a_corrupt_log_is_refused_by_name_and_left_untouched(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, 100, limit=100) as load:
            load.wait_sent(100, 10)
        system.stop()
    [segment] = segment_paths(system.log)
    whole = segment.read_bytes()
    head = [e for e in entries(system.log) if isinstance(e.event, RequestRouted)][-1]
    at = whole.rindex(head.body)
    broken = whole[: at + 40] + bytes([whole[at + 40] ^ 0xFF]) + whole[at + 41 :]
    segment.write_bytes(broken)

    found = pointsman("demo", "--data-dir", system.data, "--gateway", "none", within=60)

    assert found.returncode == 1
    told = found.stdout + found.stderr
    assert segment.name in told
    assert "batch of positions" in told
    assert segment.read_bytes() == broken


def test_a_second_control_process_finds_the_log_taken(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        starts = [e for e in entries(system.log) if isinstance(e.event, ControlStarted)]
        found = pointsman("demo", "--data-dir", system.data)

        assert found.returncode == 1
        assert f"in use by process {system.process.pid}" in found.stderr
        assert [e for e in entries(system.log) if isinstance(e.event, ControlStarted)] == starts
    assert threading.active_count() == 1
