"""Clocks, model servers and clients that misbehave while requests are served."""

import json
import os
import socket
import struct
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest
from worlds.evidence import all_is_told, entries, gather, unaccounted, verified, without_one_end
from worlds.load import LLAMA, Load, some_streamed
from worlds.system import OLD, System, demo

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import ClockStepped, FeedLost, FeedRestored, ScrapeFailed
from pointsman.core.values.packing import unpack

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

RATE = 200.0

STEPPED = """
import os, threading, time
flag, as_it_was, offset = os.environ["STEPPED_CLOCK"], time.time, 0.0

def look():
    global offset
    while True:
        try:
            offset = float(open(flag).read())
        except (OSError, ValueError):
            pass
        time.sleep(0.05)

time.time = lambda: as_it_was() + offset
threading.Thread(target=look, daemon=True).start()
"""


def test_a_stepped_clock_is_recorded_and_changes_no_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(STEPPED)
    flag = tmp_path / "offset"
    monkeypatch.setenv("STEPPED_CLOCK", str(flag))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            for offset in ("3600", "-3600", "0"):
                load.wait_sent(len(load.outcomes) + 400, 20)
                flag.write_text(offset)
                time.sleep(2.5)
            load.wait_sent(len(load.outcomes) + 200, 20)
        system.stop()
    steps = [round(e.event.seconds) for e in entries(system.log) if isinstance(e.event, ClockStepped)]
    assert steps == [3600, -7200, 3600]
    assert not [e for e in entries(system.log) if isinstance(e.event, FeedLost | FeedRestored)]
    all_is_told(system, load)


def order(system: System, server: int, fault: str) -> None:
    """Have the n-th server misbehave on scrapes."""
    text = (system.manifests / "pods.yaml").read_text()
    [port] = {line.split(":")[1].strip() for line in text.splitlines() if "containerPort" in line}
    connection = HTTPConnection(f"127.0.1.{server}", int(port), timeout=10)
    connection.request("POST", "/sim/fault", json.dumps({"fault": fault, "path": "/metrics"}))
    assert connection.getresponse().status == 200
    connection.close()


def test_servers_that_hang_or_lie_on_scrapes_do_not_stop_the_traffic(tmp_path: Path) -> None:
    with demo(tmp_path, shares={OLD: 1}, servers=4) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            for server, fault in ((1, "hang"), (2, "garbage"), (3, "reset")):
                order(system, server, fault)
            load.wait_sent(len(load.outcomes) + 800, 30)
        system.stop()
    log = entries(system.log)
    failed = {n for e in log if isinstance(e.event, ScrapeFailed) for n in unpack(e.event.endpoints).tolist()}
    assert failed == {1, 2, 3}
    all_is_told(system, load)


def streamed(number: int, tokens: int) -> bytes:
    body = {"model": LLAMA, "prompt": f"{number} tell me all", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\nx-request-id: odd-{number}\r\n"
    return head.encode() + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data


def asking(system: System, number: int, tokens: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", system.gateway), timeout=10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(streamed(number, tokens))
    return connection


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


def test_bursts_of_streams_that_are_reset_at_once_leave_nothing_open(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, 100) as load:
            for number in range(10):
                for connection in [asking(system, 1000 * number + i, 500) for i in range(200)]:
                    reset(connection)
            load.wait_sent(len(load.outcomes) + 200, 30)
        assert load.broken() == []
        time.sleep(1)
        system.stop()
    found = gather(entries(system.log), system.request_log, system.access_log)
    assert without_one_end(found) == []
    assert unaccounted(found) == []
    assert verified(system.data)["skipped"] == {}


def test_readers_that_do_not_read_cost_bounded_memory_and_nobody_else(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        pids = system.pids()
        with Load(system.gateway, 100, some_streamed(20, 20)) as load:
            load.wait_sent(200, 20)
            before = resident(pids["picker"])
            slow = [asking(system, i, 4000) for i in range(50)]
            load.wait_sent(len(load.outcomes) + 600, 30)
            grown = resident(pids["picker"]) - before
            for connection in slow:
                reset(connection)
            load.wait_sent(len(load.outcomes) + 100, 30)
        assert load.broken() == []
        time.sleep(1)
        system.stop()
    print(f"50 readers that read nothing: the picker grew by {grown >> 20} MiB")
    assert grown < 50 << 20
    found = gather(entries(system.log), system.request_log, system.access_log)
    assert without_one_end(found) == []
    assert verified(system.data)["skipped"] == {}
