"""The requests and the configurations of the guides, as they stand there, through the whole system."""

import json
import shutil
import subprocess
from pathlib import Path

import anthropic
import openai
import pytest
from worlds.evidence import entries, verified
from worlds.load import Load
from worlds.system import System, demo, pointsman, serve
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import ConfigAccepted, RequestRouted

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

LLAMA = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "max_tokens": 100,
    "temperature": 0,
    "messages": [
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Linux is said to be an open source kernel because "},
    ],
}
REVIEW = {
    "model": "food-review-1",
    "max_tokens": 100,
    "temperature": 0,
    "messages": [
        {"role": "reviewer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Write a review of the best restaurants in San-Francisco"},
    ],
}
CRITIC = {
    "model": "food-review-1",
    "prompt": "Write as if you were a critic: San Francisco",
    "max_tokens": 100,
    "temperature": 0,
}
GUIDE = (("/v1/completions", CRITIC), ("/v1/chat/completions", LLAMA), ("/v1/chat/completions", REVIEW))
CONFIGS = Path(__file__).parents[1] / "core" / "rollout-guide"


def curl(system: System, path: str, body: object, request_id: str) -> tuple[int, dict[str, object]]:
    """As the guide types it, and an id to find the decision by."""
    url = f"http://127.0.0.1:{system.gateway}{path}"
    words = ["curl", "-s", "-X", "POST", "-i", url, "-H", "Content-Type: application/json"]
    found = subprocess.run(
        [*words, "-H", f"x-request-id: {request_id}", "-d", json.dumps(body)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    head, _, reply = found.partition("\n\n")
    return int(head.split()[1]), json.loads(reply)


def ask_all(system: System) -> None:
    for number, (path, body) in enumerate(GUIDE):
        status, reply = curl(system, path, body, f"guide-{number}")

        assert status == 200, reply
        assert reply["model"] == body["model"]
        usage = reply["usage"]
        assert isinstance(usage, dict)
        assert usage["completion_tokens"] == 100


def answered(words: tuple[str | Path, ...]) -> str:
    """What a command prints once it succeeds."""
    wait_for(lambda: pointsman(*words).returncode == 0, 10)
    return pointsman(*words).stdout


def test_the_requests_of_the_guide_are_answered_and_explained(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        ask_all(system)
        for number, (_, body) in enumerate(GUIDE):
            words = ("replay", "explain", f"guide-{number}", "--data-dir", system.data)
            told = answered(words)
            assert str(body["model"]) in told
            assert "verified: computed again" in told
        assert verified(system.data)["skipped"] == {}


def test_a_newcomers_clients_are_served_through_the_gateway_and_find_their_decisions_by_the_id_they_read(
    tmp_path: Path,
) -> None:
    model = "meta-llama/Llama-3.1-8B-Instruct"
    with demo(tmp_path) as system:
        address = f"http://127.0.0.1:{system.gateway}"
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
            vector = client.embeddings.create(model=model, input="San Francisco")
            assert len(vector.data[0].embedding) == 1_024
            response = client.responses.create(model=model, input="San Francisco", max_output_tokens=5)
            assert len(response.output_text.split()) == 5
            with client.chat.completions.stream(
                model=model, messages=[{"role": "user", "content": "San Francisco"}]
            ) as chat:
                assert chat.get_final_completion().choices[0].finish_reason == "stop"
            with pytest.raises(openai.NotFoundError):
                client.responses.create(model="gpt-5", input="San Francisco")
        with (
            anthropic.Anthropic(base_url=address, api_key="none") as other,
            other.messages.stream(
                model=model, max_tokens=5, messages=[{"role": "user", "content": "San Francisco"}]
            ) as stream,
        ):
            assert stream.get_final_message().usage.output_tokens == 5
            read = stream.request_id
        for found in (vector._request_id, response._request_id, read):
            assert found
            assert "verified: computed again" in answered(("replay", "explain", found, "--data-dir", system.data))


@pytest.mark.parametrize(
    ("name", "plugins"),
    [
        ("default-plugins.yaml", ("low-latency-filter", "random-picker")),
        ("plugins-v2.yaml", ("queue-scorer", "kv-cache-scorer", "prefix-cache-scorer", "max-score-picker")),
    ],
)
def test_the_configurations_of_the_rollout_guide_run_as_they_stand(
    tmp_path: Path, name: str, plugins: tuple[str, ...]
) -> None:
    shutil.copy(CONFIGS / name, tmp_path / name)
    with serve(tmp_path, "--config-file", str(tmp_path / name)) as system:
        ask_all(system)
        with Load(system.gateway, 100, limit=200) as load:
            load.wait_sent(200, 20)
        assert load.broken() == []
        assert system.stop() < 10
    log = entries(system.log)
    accepted = [entry.event for entry in log if isinstance(entry.event, ConfigAccepted)]
    routed = [entry.event for entry in log if isinstance(entry.event, RequestRouted)]

    assert accepted[-1].source.endswith(name)
    assert all(plugin.encode() in accepted[-1].config for plugin in plugins)
    assert len(routed) == 203
    assert len({event.endpoints[0] for event in routed}) > 2
    assert verified(system.data)["skipped"] == {}
