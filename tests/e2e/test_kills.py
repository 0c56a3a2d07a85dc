"""Each process killed under load: nothing that reached a server is without its decision, and replay verifies all."""

import os
import time
from pathlib import Path

import pytest
from worlds.evidence import (
    disagreements,
    entries,
    gather,
    lost_while_recorded,
    unaccounted,
    undecided,
    verified,
    without_one_end,
)
from worlds.load import Load, Outcome, some_streamed
from worlds.system import System, demo
from worlds.traffic_model import compare

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

REQUESTS, RATE = int(os.environ.get("POINTSMAN_REQUESTS", "10000")), 400.0
WITHIN = REQUESTS / 80
"""Seconds for any part of them, on a machine that does other work."""
BACK_WITHIN = 10.0
"""Seconds; the budget of two is for a machine that runs nothing else."""
UNFLUSHED = 1.0
"""Seconds of its access log that a killed gateway may take with it; it writes every tenth of one."""


def test_ten_thousand_requests_verify_after_each_process_was_killed(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE, some_streamed(25, 200), limit=REQUESTS) as load:
            gone = killed_one_after_another(system, load)
            load.wait_sent(REQUESTS, WITHIN)
        assert system.stop() < 10
    log = entries(system.log)
    found = gather(log, system.request_log, system.access_log)
    report = verified(system.data)

    assert report["skipped"] == {}
    assert report["checked"] == sum(found.routed.values()) + found.refused.total()
    assert disagreements(found, gateway_killed={outcome.id for outcome in gone}) == []
    assert len(undecided(found)) <= found.entries_lost
    assert lost_while_recorded(found, log) == []
    assert without_one_end(found) == []
    assert unaccounted(found) == []
    assert len(found.served) > 0.9 * REQUESTS
    assert found.refused.total() == 0
    checked = compare(log, True)
    assert checked.differences == []
    assert checked.checked > 10 * checked.skipped


def killed_one_after_another(system: System, load: Load) -> list[Outcome]:
    """Kill all; the requests that the gateway's death met."""
    load.wait_sent(REQUESTS * 15 // 100, WITHIN)
    assert system.kill("control") < BACK_WITHIN
    load.wait_sent(REQUESTS * 35 // 100, WITHIN)
    assert system.kill("picker") < BACK_WITHIN
    load.wait_sent(REQUESTS * 55 // 100, WITHIN)
    assert system.kill("control", "picker") < BACK_WITHIN
    load.wait_sent(REQUESTS * 75 // 100, WITHIN)
    at = time.monotonic()
    assert system.kill("gateway") < BACK_WITHIN
    return [o for o in load.outcomes if o.began < at + UNFLUSHED and not (o.ended and o.ended < at - UNFLUSHED)]
