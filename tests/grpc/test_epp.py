"""Decisions of a pool, from the messages of a stream to the events and the traffic state; no sockets."""

import json
import math

from hypothesis import given, settings, strategies as st
from worlds.pool_port import POOL, Talk, cluster_of
from worlds.wire import (
    destination,
    request_body,
    request_headers,
    response_body,
    response_headers,
    set_headers,
    streamed,
    with_subset,
)

from pointsman.core.config.effective import PickingFlags
from pointsman.core.config.parse import parse_config
from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION
from pointsman.core.deciding.verdict import OK, verify_decision
from pointsman.core.events import (
    ConfigAccepted,
    ObjectiveApplied,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    ResponseStarted,
    encode,
)
from pointsman.core.feed.frames import ENTRY_BYTES_MAX
from pointsman.core.state.membership import Epoch
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import unpack
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

PROMPT = "system prompt, be nice. " * 100


def refusal(replies: list[ProcessingResponse]) -> tuple[int, str, str]:
    """Status, body and dropped reason of an immediate response."""
    assert [r.WhichOneof("response") for r in replies] == ["immediate_response"]
    reply = replies[0].immediate_response
    return (
        reply.status.code,
        reply.body.decode(),
        set_headers(replies[0]).get("x-llm-d-request-dropped-reason", b"").decode(),
    )


def test_a_request_leaves_a_decision_that_can_be_verified() -> None:
    talk = Talk(cluster_of("10.0.0.1", "10.0.0.2"))

    replies = talk.post({"model": "m", "prompt": PROMPT}, ("x-request-id", "r1"), ("x-llm-d-inference-objective", "o"))

    event = talk.feed.of(RequestRouted)[0]
    assert destination(replies[0]) == f"10.0.0.{event.endpoints[0]}:8000"
    assert event.request.request_id == "r1"
    assert event.request.path == "/v1/completions"
    assert event.request.objective == "o"
    assert event.request.prompt_bytes == len(PROMPT)
    assert len(event.request.prefix) == 8 * (len(PROMPT) // 64)
    epoch = Epoch("picker-0", 7, 0, "", SCHEDULER_VERSION, PLUGIN_VERSIONS)
    assert verify_decision(talk.feed.cluster, event, epoch) == OK


def test_decisions_change_the_traffic_state_at_once_and_their_ends_too() -> None:
    talk = Talk(cluster_of("10.0.0.1", "10.0.0.2"))
    exchanges = [talk.open() for _ in range(6)]

    for exchange in exchanges:
        talk.say(exchange, request_headers(), request_body(b'{"model":"m","prompt":"hi"}'))
    assert talk.feed.traffic.statistics().open == 6
    for exchange in exchanges[:3]:
        talk.say(exchange, response_headers(), response_body(b"{}"))
    for exchange in exchanges[3:]:
        exchange.closed("disconnected", talk.now)

    assert talk.feed.traffic.statistics().open == 0
    assert len(talk.feed.of(ResponseStarted)) == 3
    ends = talk.feed.of(RequestFinished)
    assert [e.cause for e in ends] == ["complete"] * 3 + ["disconnected"] * 3
    assert sorted(e.request_n for e in ends) == [e.origin.n for e in talk.feed.of(RequestRouted)]
    assert [e.origin.n for e in talk.feed.events] == list(range(1, len(talk.feed.events) + 1))


def test_the_same_prompt_goes_where_it_went() -> None:
    talk = Talk(cluster_of("10.0.0.1", "10.0.0.2", "10.0.0.3"))

    first = destination(talk.post({"model": "m", "prompt": PROMPT})[0])

    assert {destination(talk.post({"model": "m", "prompt": PROMPT + str(i)})[0]) for i in range(20)} == {first}


def test_an_absent_request_id_is_made_up_and_set() -> None:
    talk = Talk(cluster_of("10.0.0.1"))

    for headers in ((), (("x-request-id", ""),)):
        replies = talk.post({"model": "m", "prompt": "x"}, *headers)

        made = set_headers(replies[0])["x-request-id"].decode()
        assert len(made) == 36
        assert talk.feed.of(RequestRouted)[-1].request.request_id == made


def test_a_bodyless_request_goes_through_the_same_scheduler() -> None:
    talk = Talk(cluster_of("10.0.0.1", "10.0.0.2"))

    for path in ("/v1/models", "/v1/completions"):
        replies = talk.say(talk.open(), with_subset(request_headers(path=path, end=True), ["10.0.0.2:8000"]))

        assert destination(replies[0]) == "10.0.0.2:8000"
        assert unpack(talk.feed.of(RequestRouted)[-1].request.subset or b"").tolist() == [1]
    replies = talk.say(talk.open(), with_subset(request_headers(end=True), ["10.9.9.9"]))
    assert refusal(replies)[0] == 503


def test_ipv6_is_named_in_brackets() -> None:
    talk = Talk(cluster_of("fd00::1"))

    assert destination(talk.post({"model": "m", "prompt": "x"})[0]) == "[fd00::1]:8000"
    assert destination(talk.say(talk.open(), request_headers(end=True))[0]) == "[fd00::1]:8000"


def test_refusals_say_what_happened() -> None:
    sheddable = ObjectiveApplied(POOL, "batch", -1)
    talk = Talk(cluster_of("10.0.0.1", more=(sheddable,)))  # never sampled: saturated
    empty = Talk(cluster_of())
    unknown = Talk(ClusterState())

    assert refusal(talk.post(b"{nonsense"))[::2] == (400, "")
    assert refusal(talk.post({"prompt": "x"})) == (
        400,
        "inference error: BadRequest - model not found in request body",
        "",
    )
    assert refusal(talk.post({"model": "m", "prompt": "x"}, ("x-gateway-inference-objective", "batch"))) == (
        429,
        "inference error: ResourceExhausted - system saturated, sheddable request dropped",
        "rejected-saturated",
    )
    assert refusal(empty.post({"model": "m", "prompt": "x"})) == (
        503,
        "inference error: ServiceUnavailable - failed to find endpoint candidates for serving the request",
        "rejected-no-endpoints",
    )
    assert refusal(unknown.post({"model": "m", "prompt": "x"})) == (
        503,
        "inference error: ServiceUnavailable - pool ns/pool is not known yet",
        "rejected-no-endpoints",
    )
    reasons = [e.reason for t in (talk, empty, unknown) for e in t.feed.of(RequestRefused)]
    assert reasons == ["bad-request", "bad-request", "saturated", "no-endpoints", "not-ready"]
    assert talk.feed.traffic.statistics().open == 0


def test_a_rewritten_model_goes_out_and_its_name_comes_back() -> None:
    talk = Talk(cluster_of("10.0.0.1"))
    body = b'{"prompt":"x", "model" : "alias","seed":12345678901234567890}'
    exchange = talk.open()

    replies = talk.say(exchange, request_headers(("x-gateway-model-name-rewrite", "lora-7")), request_body(body))
    back = talk.say(exchange, response_headers(), response_body(b'{"model":"lora-7","id":1}'))

    assert streamed(replies) == (body.replace(b'"alias"', b'"lora-7"'), True)
    assert streamed(back) == (b'{"model":"alias","id":1}', True)
    facts = talk.feed.of(RequestRouted)[0].request
    assert (facts.model, facts.target_model) == ("alias", "lora-7")


def test_the_new_name_of_a_control_header_wins_even_when_empty() -> None:
    talk = Talk(cluster_of("10.0.0.1"))

    talk.post(
        {"model": "m", "prompt": "x"},
        ("x-gateway-inference-objective", "old"),
        ("x-llm-d-inference-objective", ""),
        ("x-gateway-inference-fairness-id", b"\xff"),
    )

    facts = talk.feed.of(RequestRouted)[0].request
    assert facts.objective == ""
    assert facts.fairness_id == "\\xff"


def config(text: dict[str, object], **flags: bool) -> ConfigAccepted:
    """An accepted configuration for all pools."""
    given = PickingFlags(**flags)  # type: ignore[arg-type]  # the flags that are true or false
    return ConfigAccepted("*", parse_config(text, {}, given).encode(), "test")


def picking_config(*plugins: dict[str, object], handler: str = "max-score-picker") -> dict[str, object]:
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [*plugins],
        "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": p["type"]} for p in plugins]}],
    }


def test_the_configuration_in_force_decides_from_its_entry_on() -> None:
    talk = Talk(cluster_of("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert destination(talk.post({"model": "m", "prompt": "x"})[0]).count(",") == 0
    three: dict[str, object] = {"type": "max-score-picker", "parameters": {"maxNumOfEndpoints": 3}}

    talk.feed.cluster.apply_event(
        talk.feed.cluster.position + 1,
        config(picking_config({"type": "queue-scorer"}, three), emit_endpoint_scores=True),
    )
    reply = talk.post({"model": "m", "prompt": "x"})[0]

    named = set_headers(reply)["x-gateway-destination-endpoint"].decode().split(",")
    assert sorted(named) == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]
    inner = reply.dynamic_metadata.fields["envoy.lb"].struct_value
    scores = inner.fields["x-gateway-destination-endpoint-scores"].struct_value
    assert sorted(scores.fields) == sorted(named)
    assert all(math.isfinite(v.number_value) for v in scores.fields.values())


PATHS = st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/messages", "/odd?x=1", "", "/v1/embeddings"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.binary(max_size=60) | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("model", "prompt", "messages", "stream", "input", "cache_salt"), JSON)
).map(lambda v: json.dumps(v).encode())
NAMES = st.sampled_from(
    [
        "x-request-id",
        "x-llm-d-inference-objective",
        "x-gateway-inference-fairness-id",
        "x-gateway-model-name-rewrite",
        "content-length",
        "x-other",
    ]
)


@given(PATHS, BODIES, st.lists(st.tuples(NAMES, st.binary(max_size=12)), max_size=4), st.booleans())
def test_whatever_a_client_sends_is_decided_once(
    path: str, body: bytes, headers: list[tuple[str, bytes]], rewritten: bool
) -> None:
    talk = Talk(cluster_of("10.0.0.1", "fd00::2"))
    exchange = talk.open()
    more: list[tuple[str, str | bytes]] = [*headers]

    replies = talk.say(exchange, request_headers(*more, path=path), request_body(body))
    exchange.closed("disconnected", talk.now)

    decisions = talk.feed.of(RequestRouted) + talk.feed.of(RequestRefused)
    assert len(decisions) == 1
    assert replies[0].WhichOneof("response") in ("request_headers", "immediate_response")
    assert len(talk.feed.of(RequestFinished)) == len(talk.feed.of(RequestRouted))
    assert talk.load.streams == talk.load.held.bytes == 0


CLIENT_HEADERS = (
    "x-request-id",
    "x-llm-d-inference-objective",
    "x-llm-d-inference-fairness-id",
    "x-llm-d-model-name-rewrite",
)
LENGTHS = st.sampled_from([0, 1, 255, 257, 1023, 1024, 1025, 5_000, ENTRY_BYTES_MAX + 1])
TEXTS = st.builds(lambda of, length: (of * length)[:length], st.sampled_from(["a", "ü", "🦙", '"\\', "\x1b"]), LENGTHS)


@given(TEXTS, TEXTS, st.lists(st.tuples(st.sampled_from(CLIENT_HEADERS), TEXTS), max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_request_is_answered_whose_decision_is_too_large_to_be_recorded(
    model: str, path: str, headers: list[tuple[str, str]], parsed: bool
) -> None:
    talk = Talk(cluster_of("10.0.0.1"))
    ending = "/v1/completions" if parsed else ""
    sent = [(name, value.encode()) for name, value in headers]

    talk.post({"model": model, "prompt": "a" * 20_000}, *sent, path=f"/{path}{ending}")

    [event] = talk.feed.events
    assert len(encode(event)) < ENTRY_BYTES_MAX // 32


def test_a_name_of_more_than_a_kibibyte_is_refused_with_what_was_found_and_wanted() -> None:
    talk = Talk(cluster_of("10.0.0.1"))

    def told(model: str, *headers: tuple[str, str | bytes]) -> str:
        status, body, _ = refusal(talk.post({"model": model, "prompt": "hi"}, *headers))
        assert status == 400
        return body.partition(" - ")[2]

    assert told("m" * 1025) == "model name of 1025 bytes, wanted at most 1024"
    assert told("ü" * 513) == "model name of 1026 bytes, wanted at most 1024"
    for name, header in zip(("objective", "fairness id", "target model name"), CLIENT_HEADERS[1:], strict=True):
        assert told("m", (header, "v" * 5000)) == f"{name} of 5000 bytes, wanted at most 1024"
    assert talk.post({"model": "m" * 1024, "prompt": "hi"})[0].WhichOneof("response") == "request_headers"


def test_of_a_long_path_and_request_id_the_record_holds_the_beginning() -> None:
    talk = Talk(cluster_of("10.0.0.1"))
    path = "/" + "tenant/" * 1000 + "v1/completions"

    replies = talk.post({"model": "m", "prompt": "hi"}, ("x-request-id", "ü" * 5000), path=path)

    [event] = talk.feed.of(RequestRouted)
    assert (event.request.path, event.request.request_id) == (path[:1024], "ü" * 512)
    assert event.request.model == "m", "the whole path says what the body is"
    assert "x-request-id" not in set_headers(replies[0])
