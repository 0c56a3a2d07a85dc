"""What is on disk is its owner's alone: logs hold what clients asked for, and sockets take orders."""

import http.client
import json
import stat
from pathlib import Path

import pytest
from worlds.load import LLAMA
from worlds.system import System, demo
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")


def open_to_others(data: Path) -> list[str]:
    """What others may read of a data directory, with its mode; the manifests are their author's."""
    found = []
    for path in (data, *data.rglob("*")):
        if path.is_relative_to(data / "manifests") or path.is_symlink():
            continue
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600):
            found.append(f"{path.relative_to(data)} {stat.filemode(mode)}")
    return sorted(found)


def routed(system: System) -> None:
    """Send a request through the gateway, so that there is something to write of it; wait for it in Envoy's log."""

    def answered() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", system.gateway, timeout=20)
        body = json.dumps({"model": LLAMA, "prompt": "what? ", "max_tokens": 1})
        try:
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            return connection.getresponse().status == 200
        finally:
            connection.close()

    wait_for(answered, 20)
    wait_for(lambda: system.access_log.exists() and system.access_log.stat().st_size > 0, 20)


def test_all_that_a_demo_writes_is_its_owners_alone(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        routed(system)
        held = {path.name for path in system.data.rglob("*")}
        running = open_to_others(system.data)
        system.stop()

    assert held >= {"access.log", "gateway.log", "picker-1.log", "requests.jsonl", "readmodel.db", "lock"}, held
    assert [path for path in running if not path.startswith(". ")] == []
    assert [path for path in open_to_others(system.data) if not path.startswith(". ")] == []


def test_a_data_directory_that_an_earlier_run_left_open_is_closed_by_the_next_start(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        system.stop()
    system.data.chmod(0o755)
    with demo(tmp_path) as system:
        found = open_to_others(system.data)

    assert found == []
