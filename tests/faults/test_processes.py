"""Processes stopped and killed under load with streams open: who notices, and what the log says of it afterwards.

`POINTSMAN_FAULTS=full` runs the long forms.
"""

import os
import random
import signal
import time
from collections import Counter
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
from worlds.load import LLAMA, Load, Outcome, some_streamed
from worlds.system import OLD, demo

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import FeedLost, FeedRestored, RequestRouted

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

FULL = os.environ.get("POINTSMAN_FAULTS") == "full"
STOPPED = 60.0 if FULL else 8.0
KILLS = int(os.environ.get("POINTSMAN_KILLS", "1000" if FULL else "50"))
RATE = 500.0
UNNOTICED = 0.1
"""Seconds until the gateway has seen that a picker's connection is gone; what it sends there meanwhile breaks as well."""
UNFLUSHED = 1.0
"""Seconds of its access log that a killed gateway may take with it; it writes every tenth of one."""


def unlike(number: int) -> tuple[str, dict[str, object], dict[str, str]]:
    """Requests that share no prefix, so that to them equal servers are equal."""
    return "/v1/completions", {"model": LLAMA, "prompt": f"{number} {'what? ' * 20}", "max_tokens": 1}, {}


def test_with_the_control_process_stopped_routing_goes_on_evenly_and_all_of_it_is_recorded(tmp_path: Path) -> None:
    with demo(tmp_path, shares={OLD: 1}) as system:
        with Load(system.gateway, 300, unlike) as load:
            load.wait_sent(300, 20)
            stopped = system.send("control", signal.SIGSTOP)
            began = time.monotonic()
            time.sleep(STOPPED)
            ended = time.monotonic()
            os.kill(stopped, signal.SIGCONT)
            load.wait_sent(len(load.outcomes) + 600, 20)
        assert load.broken() == []
        assert system.pids()["control"] == stopped
        system.stop()
    log = entries(system.log)
    found = gather(log, system.request_log, system.access_log)
    meanwhile = {o.id for o in load.outcomes if began + 1.0 < o.began < ended - 0.1}
    routed = [e.event for e in log if isinstance(e.event, RequestRouted) and e.event.request.request_id in meanwhile]
    spread = Counter(event.endpoints[0] for event in routed)
    print(f"{len(routed)} decisions while the control process stood still for {STOPPED:.0f} s, over servers {spread}")

    assert found.refused.total() == 0
    assert len(routed) == len(meanwhile) > 100 * STOPPED
    assert all(event.degraded for event in routed)
    assert len(spread) == 3
    assert max(abs(count / len(routed) - 1 / 3) * 3 for count in spread.values()) < 0.10
    assert [type(e.event) for e in log if isinstance(e.event, FeedLost | FeedRestored)] == [FeedLost, FeedRestored]
    assert found.lost == []
    assert set(found.decided) >= {o.id for o in load.outcomes}
    assert disagreements(found) == []
    assert unaccounted(found) == []
    assert verified(system.data)["skipped"] == {}


def test_a_killed_picker_costs_only_the_streams_that_were_open(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE, some_streamed(20, 400), connections_max=400) as load:
            load.wait_sent(1000, 20)
            assert any(outcome.streamed for outcome in load.under_way())
            system.send("picker", signal.SIGKILL)
            at = time.monotonic() + UNNOTICED
            load.wait_sent(len(load.outcomes) + 1500, 30)
        system.stop()
    broken = load.broken()
    longest = max(o.ended - o.began for o in load.outcomes if not o.streamed)
    print(
        f"{len(broken)} of {len(load.outcomes)} requests broke, all open at the kill; the longest wait {longest:.2f} s"
    )

    assert broken, "what was open had to break"
    assert [outcome for outcome in load.outcomes if outcome.given_up] == []
    assert [outcome for outcome in broken if outcome.began > at] == []
    found = gather(entries(system.log), system.request_log, system.access_log)
    assert disagreements(found) == []
    assert undecided(found) == []
    assert without_one_end(found) == []
    assert unaccounted(found) == []
    assert verified(system.data)["skipped"] == {}


def test_kills_at_random_moments_lose_nothing_that_is_not_told(tmp_path: Path) -> None:
    draw = random.Random(int(os.environ.get("POINTSMAN_SEED", "1")))
    gateway_kills: list[float] = []
    killed: Counter[str] = Counter()
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE, some_streamed(25, 300), connections_max=300) as load:
            load.wait_sent(500, 20)
            for _ in range(KILLS):
                names = draw.choice([("control",), ("picker",), ("control", "picker"), ("gateway",), ("control",)])
                time.sleep(draw.uniform(0.05, 1.6))
                there = {name: system.pids().get(name, 0) for name in names}
                if "gateway" in names:
                    gateway_kills.append(time.monotonic())
                for pid in there.values():
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                killed["+".join(names)] += 1
            load.wait_sent(len(load.outcomes) + 1500, 60)
        system.stop()
    log = entries(system.log)
    found = gather(log, system.request_log, system.access_log)
    report = verified(system.data)
    missing = undecided(found)
    print(f"{dict(killed)}: {len(load.outcomes)} requests, {len(found.served)} reached a server, {len(log)} entries,")
    print(f"{report['checked']} decisions the same, {len(missing)} without one, {found.entries_lost} told as lost")

    assert report["skipped"] == {}
    assert len(missing) <= found.entries_lost
    assert lost_while_recorded(found, log) == []
    assert disagreements(found, gateway_killed={o.id for o in load.outcomes if met(o, gateway_kills)}) == []
    assert without_one_end(found) == []
    assert unaccounted(found) == []


def met(outcome: Outcome, kills: list[float]) -> bool:
    """A kill of the gateway came while the request was under way, or soon after its end."""
    ended = outcome.ended or float("inf")
    return any(outcome.began < kill + UNFLUSHED and ended > kill - UNFLUSHED for kill in kills)
