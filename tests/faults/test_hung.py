"""A picker whose loop does not turn, in the whole product: it is ended and begun anew, and nothing is lost untold.

What makes it hang is a scorer of somebody's own that never returns for some requests.
"""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from worlds.attacker import Attacker, data, prefixed
from worlds.evidence import (
    disagreements,
    entries,
    gather,
    unaccounted,
    undecided,
    verified,
    without_one_end,
)
from worlds.load import Load, completion
from worlds.own_plugin import tree_with
from worlds.system import OLD, System, serve
from worlds.waiting import wait_for
from worlds.wire import request_body, request_headers

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import EntriesLost, PickerEnded, PickerStarted, RequestRouted

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

SCORER = '''\
"""Never done with some requests."""

import time

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Scores, scorer
from pointsman.core.plugin.view import View


@scorer("hanging-scorer", version=1)
class HangingScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores 1 for each."""

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        while request.request_id.startswith("busy"):
            pass
        while request.request_id.startswith("stands"):
            time.sleep(60)
        return np.ones_like(view.waiting, dtype=np.float64)

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return "it is one of all"
'''
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: queue-scorer}, {type: hanging-scorer}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}, {pluginRef: hanging-scorer}]}]
"""
HUNG_AFTER = 2.0
RATE = 150.0
UNNOTICED = 0.3
"""Seconds until the gateway has seen that a picker's connections are gone."""


def asked(port: int, *ids: str) -> socket.socket:
    """A connection to the pool's port on which these requests were sent in one piece, each whole."""
    attacker = Attacker(port)
    said = b""
    streams = attacker.open(len(ids))
    for stream, name in zip(streams, ids, strict=True):
        for message in (
            request_headers(("x-request-id", name), ("content-type", "application/json")),
            request_body(b'{"model":"meta-llama/Llama-3.1-8B-Instruct","prompt":"hello"}'),
        ):
            packed = message.SerializeToString()
            said += data(stream, prefixed(len(packed), packed))
    attacker.send(said)
    return attacker.socket


def picker_port(system: System) -> int:
    """The port of the one pool."""
    text = (system.manifests / "pools.yaml").read_text()
    return int(text.partition("endpointPickerRef:")[2].partition("number: ")[2].split()[0])


@pytest.mark.parametrize("how", ["busy", "stands"])
def test_a_picker_that_a_request_hangs_is_begun_anew_and_the_request_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name, value in tree_with(tmp_path / "tree", "hanging_scorer", SCORER).items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    flags = ("--config-file", str(config), "--hung-after", f"{HUNG_AFTER:g}s")
    with serve(tmp_path, *flags, shares={OLD: 1}) as system:
        hung = system.pids()["picker"]
        with Load(system.gateway, RATE, completion) as load:
            load.wait_sent(200, 20)
            # In one piece, so that the first is decided, and not yet told to the feed, when the second hangs the loop.
            with asked(picker_port(system), "before-1", f"{how}-1"):
                began = time.monotonic()
                wait_for(lambda: system.pids().get("picker", hung) != hung, 30, "another picker")
                ended = time.monotonic() + UNNOTICED
            load.wait_sent(len(load.outcomes) + 400, 30)
        system.stop()
    broken = load.broken()
    log = entries(system.log)
    found = gather(log, system.request_log, system.access_log)
    deaths = [e.event for e in log if isinstance(e.event, PickerEnded) and "SIGKILL" in e.event.cause]
    lost = [e.event for e in log if isinstance(e.event, EntriesLost)]
    print(f"ended after {ended - began:.1f} s; {len(broken)} of {len(load.outcomes)} requests broke; {lost}")

    # It is ended for what it did, the request that did it is named, and where it stood can be read.
    [death] = deaths
    words = f"its loop has not turned for {HUNG_AFTER:g} s, with this request in hand: '{how}-1'"
    assert words in death.cause
    assert words in system.said()
    assert "hanging_scorer.py" in system.said()
    assert ended - began >= HUNG_AFTER
    # What it had given out and told nobody is told as lost, to the last of it.
    assert len(lost) == 1
    assert (lost[0].epoch, lost[0].last) == (death.epoch, death.last_n)
    assert not any(isinstance(e.event, RequestRouted) and e.event.request.request_id == "before-1" for e in log)
    assert unaccounted(found) == []
    # Routing goes on; what broke was there when it hung or came while it did.
    assert len([e for e in log if isinstance(e.event, PickerStarted)]) == 2
    assert [o for o in broken if not began - 2.0 < o.began < ended] == []
    assert len([o for o in load.outcomes if o.began > ended and o.status == 200]) > 200
    assert disagreements(found) == []
    assert undecided(found) == []
    assert without_one_end(found) == []
    assert verified(system.data)["skipped"] == {}


def test_a_picker_that_somebody_stopped_is_left_alone_and_goes_on(tmp_path: Path) -> None:
    with serve(tmp_path, "--hung-after", "1s", shares={OLD: 1}) as system:
        stopped = system.pids()["picker"]
        with Load(system.gateway, RATE, completion, connections_max=400) as load:
            load.wait_sent(200, 20)
            system.send("picker", signal.SIGSTOP)
            began = time.monotonic()
            time.sleep(4.0)
            assert system.pids()["picker"] == stopped
            os.kill(stopped, signal.SIGCONT)
            went_on = time.monotonic()
            load.wait_sent(len(load.outcomes) + 300, 30)
        assert system.pids()["picker"] == stopped
        system.stop()
    log = entries(system.log)
    found = gather(log, system.request_log, system.access_log)

    assert [o for o in load.broken() if not began - 2.0 < o.began < went_on + UNNOTICED] == []
    assert [o for o in load.outcomes if o.began > went_on + UNNOTICED] != []
    assert len([e for e in log if isinstance(e.event, PickerStarted)]) == 1
    assert found.lost == []
    assert disagreements(found) == []
    assert undecided(found) == []
    assert unaccounted(found) == []
    assert verified(system.data)["skipped"] == {}
