"""One decision in some dozens is timed plugin by plugin; it is the same decision, and `/metrics` has the times."""

from worlds.metrics_page import samples
from worlds.pool_port import Talk as PoolPort, cluster_of

from pointsman.core.deciding.verdict import OK, verify_decision
from pointsman.core.events import Event, RequestRouted, decode, encode
from pointsman.core.plugin.timing import TIMED_EVERY
from pointsman.core.state.marks import skim
from pointsman.web.metrics.counting import Metrics
from pointsman.web.metrics.metrics_text import metrics_page

PROMPT = "hello " * 200


def test_plugins_are_timed_in_one_decision_of_many() -> None:
    state = cluster_of("10.0.0.1", "10.0.0.2")
    port = PoolPort(state)
    for i in range(2 * TIMED_EVERY):
        port.post({"model": "m", "prompt": PROMPT + str(i)})

    routed = port.feed.of(RequestRouted)
    timed = [event for event in routed if event.timed]

    assert [event.origin.n for event in timed] == [1, 1 + TIMED_EVERY]
    profile = {"Scorer": {"queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer"}, "Picker": set()}
    for event in timed:
        points = {point for point, _, _, _ in event.timed}
        assert "Picker" in points
        assert points <= {"Filter", *profile}
        assert all(nanoseconds >= 0 for _, _, _, nanoseconds in event.timed)
    assert {name for event in timed for point, _, name, _ in event.timed if point == "Scorer"} <= profile["Scorer"]
    assert "prefix-cache-scorer" in {kind for event in timed for _, kind, _, _ in event.timed}
    for event in routed:
        read = decode(encode(event))
        assert read == event
        assert verify_decision(state, event) == OK


def test_times_of_plugins_are_on_the_page_under_both_names() -> None:
    state = cluster_of("10.0.0.1", "10.0.0.2")
    port = PoolPort(state)
    port.post({"model": "m", "prompt": PROMPT})
    event: Event = port.feed.of(RequestRouted)[0]
    metrics = Metrics()

    metrics.follow([skim(4, encode(event))], state)
    page = samples("".join(metrics_page(metrics, state, "b")))

    labels = 'extension_point="Scorer",plugin_type="prefix-cache-scorer",plugin_name="prefix-cache-scorer"'
    for name in ("llm_d_epp_plugin_duration_seconds", "inference_extension_plugin_duration_seconds"):
        assert page[f"{name}_count{{{labels}}}"] == 1
        assert 0 < page[f"{name}_sum{{{labels}}}"] < 10
