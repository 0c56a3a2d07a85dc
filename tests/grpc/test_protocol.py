"""One ext_proc stream, exchange by exchange, without sockets."""

import itertools

import pytest
from hypothesis import given, strategies as st
from worlds.exchange import BODY, TO, Talk, kinds
from worlds.wire import (
    destination,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
    set_headers,
    streamed,
    with_subset,
)

from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from pointsman.grpc.ext_proc.actions import Routed
from pointsman.grpc.ext_proc.protocol import Load

# --- the request ------------------------------------------------------------------------------------


def test_headers_are_answered_when_the_body_has_ended() -> None:
    talk = Talk()

    assert talk.say(request_headers(), request_body(BODY[:10], end=False)) == []
    replies = talk.say(request_body(BODY[10:]))

    assert kinds(replies) == ["request_headers", "request_body"]
    assert destination(replies[0]) == "10.0.0.1:8000"
    assert replies[0].request_headers.response.clear_route_cache
    assert streamed(replies) == (BODY, True)
    assert talk.decided[0].body == BODY
    assert talk.decided[0].body_bytes == len(BODY)


def test_unchanged_headers_are_not_mentioned() -> None:
    talk = Talk()

    replies = talk.say(request_headers(("x-request-id", "r1"), ("accept", "*/*")), request_body(BODY))

    assert list(set_headers(replies[0])) == ["x-gateway-destination-endpoint"]
    assert not replies[0].request_headers.response.header_mutation.remove_headers
    assert talk.decided[0].headers["x-request-id"] == "r1"


def test_fallbacks_travel_in_header_and_metadata_alike() -> None:
    talk = Talk(Routed("10.0.0.1:8000,[fd00::1]:8000"))

    replies = talk.say(request_headers(), request_body(BODY))

    assert destination(replies[0]) == "10.0.0.1:8000,[fd00::1]:8000"


def test_control_headers_are_removed_before_the_server() -> None:
    talk = Talk()

    replies = talk.say(
        request_headers(
            ("x-gateway-inference-objective", "batch"),
            ("X-LLM-D-Inference-Fairness-Id", b"caf\xe9"),
            ("x-gateway-destination-endpoint-subset", "1.2.3.4"),
        ),
        request_body(BODY),
    )

    assert list(replies[0].request_headers.response.header_mutation.remove_headers) == [
        "x-gateway-inference-objective",
        "x-llm-d-inference-fairness-id",
        "x-gateway-destination-endpoint-subset",
    ]
    assert talk.decided[0].headers["x-gateway-inference-objective"] == "batch"
    assert talk.decided[0].headers["x-llm-d-inference-fairness-id"] == "caf\\xe9"


def test_text_values_are_read_where_raw_ones_are_missing() -> None:
    message = ProcessingRequest()
    header = message.request_headers.headers.headers.add()
    header.key, header.value = "x-request-id", "as-text"
    talk = Talk()

    talk.say(message, request_body(BODY))

    assert talk.decided[0].headers == {"x-request-id": "as-text"}


def test_a_generated_id_is_set() -> None:
    talk = Talk(Routed("10.0.0.1:8000", set_headers=(("x-request-id", "new"),)))

    replies = talk.say(request_headers(), request_body(BODY))

    assert set_headers(replies[0])["x-request-id"] == b"new"


def test_a_request_without_body_is_routed_from_its_headers() -> None:
    talk = Talk()

    replies = talk.say(with_subset(request_headers(path="/v1/models", end=True), ["10.0.0.1:8000"]))

    assert kinds(replies) == ["request_headers"]
    assert talk.decided[0].body == b""
    assert talk.decided[0].subset == ("10.0.0.1:8000",)
    assert talk.decided[0].headers[":path"] == "/v1/models"


def test_an_empty_body_is_one_empty_chunk() -> None:
    talk = Talk()

    replies = talk.say(request_headers(), request_body(b""))

    assert kinds(replies) == ["request_headers", "request_body"]
    assert streamed(replies) == (b"", True)


def test_large_bodies_go_on_in_small_chunks() -> None:
    body = b"x" * 300_001
    talk = Talk()

    replies = talk.say(request_headers(), request_body(body[:100_000], end=False), request_body(body[100_000:]))

    assert len(replies) == 1 + 5
    assert streamed(replies) == (body, True)


def test_trailers_end_a_request_and_are_answered() -> None:
    talk = Talk()

    replies = talk.say(request_headers(), request_body(BODY, end=False), request_trailers())

    assert kinds(replies) == ["request_headers", "request_body", "request_trailers"]
    assert streamed(replies) == (BODY, False)


def test_trailers_after_the_last_chunk_are_answered_once() -> None:
    talk = Talk()

    replies = talk.say(request_headers(), request_body(BODY), request_trailers())

    assert kinds(replies) == ["request_headers", "request_body", "request_trailers"]


def test_trailers_without_a_body_are_routed() -> None:
    talk = Talk()

    replies = talk.say(request_headers(), request_trailers())

    assert kinds(replies) == ["request_headers", "request_trailers"]
    assert len(talk.decided) == 1


def test_trailers_that_come_while_a_decision_is_awaited_are_answered_after_it() -> None:
    talk = Talk(answer=None)
    assert talk.say(request_headers(), request_body(BODY), request_trailers()) == []
    assert talk.stream.waiting

    talk.stream.routed(TO)

    assert kinds(talk.replies) == ["request_headers", "request_body", "request_trailers"]
    assert not talk.stream.waiting


@pytest.mark.parametrize(
    ("hint", "seen"),
    [
        (["10.0.0.1:8000", " 10.0.0.2 "], ("10.0.0.1:8000", "10.0.0.2")),
        ("10.0.0.1:8000, [fd00::1]:8000", ("10.0.0.1:8000", "[fd00::1]:8000")),
        ([], ()),
        ([1.0], ()),
        ("", ()),
        (7.0, None),
    ],
)
def test_subset_hints_are_lists_or_text(hint: str | float | list[str | float], seen: tuple[str, ...] | None) -> None:
    talk = Talk()

    talk.say(request_headers(), with_subset(request_body(BODY), hint))

    assert talk.decided[0].subset == seen


def test_a_hint_on_any_message_of_the_request_counts() -> None:
    for at, tagged in itertools.product(range(3), [["10.0.0.1"]]):
        messages = [request_headers(), request_body(BODY[:5], end=False), request_body(BODY[5:])]
        with_subset(messages[at], tagged)
        talk = Talk()

        talk.say(*messages)

        assert talk.decided[0].subset == ("10.0.0.1",)


def test_a_renamed_model_changes_only_the_names_bytes() -> None:
    body = b'{ "seed" : 12345678901234567890, "model"\t: "alias" , "user":"\\ud800\\u00e9", "x":{"model":"alias"} }'
    talk = Talk(Routed("10.0.0.1:8000", rename=("alias", 'served/"m"')))

    replies = talk.say(request_headers(("content-length", str(len(body)))), request_body(body))

    changed = body.replace(b'"model"\t: "alias"', b'"model"\t: "served/\\"m\\""')
    assert streamed(replies) == (changed, True)
    assert set_headers(replies[0])["content-length"] == str(len(changed)).encode()


# --- refusals ---------------------------------------------------------------------------------------


def test_a_refusal_tells_client_and_reason() -> None:
    talk = Talk(answer=None)
    talk.say(request_headers(), request_body(BODY))

    talk.stream.refused("saturated", "system saturated, sheddable request dropped")

    reply = talk.replies[0].immediate_response
    assert reply.status.code == 429
    assert reply.body == b"inference error: ResourceExhausted - system saturated, sheddable request dropped"
    assert set_headers(talk.replies[0]) == {"x-llm-d-request-dropped-reason": b"rejected-saturated"}
    assert talk.stream.ended
    assert talk.ends == []


def test_a_bad_request_has_no_dropped_reason() -> None:
    talk = Talk(answer=None)
    talk.say(request_headers(), request_body(b"{"))

    talk.stream.refused("bad-request", "no JSON")

    assert talk.replies[0].immediate_response.body == b"inference error: BadRequest - no JSON"
    assert set_headers(talk.replies[0]) == {}


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_as_soon_as_that_is_known(declared: bool) -> None:
    load = Load(StreamLimits(body_bytes_max=1000))
    talk = Talk(load=load)

    if declared:
        talk.say(request_headers(("content-length", "1001")))
    else:
        talk.say(request_headers(), request_body(b"x" * 1000, end=False))
        assert talk.refusals == []
        talk.say(request_body(b"x", end=False))

    assert talk.replies[0].immediate_response.status.code == 413
    assert set_headers(talk.replies[0]) == {"x-llm-d-request-dropped-reason": b"rejected-body-too-large"}
    assert talk.refusals[0].reason == "body-too-large"
    assert load.held.bytes == 0
    assert talk.say(request_body(b"x" * 5000)) == []


def test_a_body_at_the_limit_is_routed() -> None:
    talk = Talk(load=Load(StreamLimits(body_bytes_max=1000)))

    talk.say(request_headers(("content-length", "1000")), request_body(b"x" * 1000))

    assert len(talk.decided) == 1


def test_held_bodies_are_bounded_together() -> None:
    load = Load(StreamLimits(held_bytes_max=1000))
    first, second = Talk(load=load), Talk(load=load)
    first.say(request_headers(), request_body(b"x" * 600, end=False))

    second.say(request_headers(), request_body(b"x" * 600, end=False))

    assert second.refusals[0].reason == "buffers-full"
    assert second.replies[0].immediate_response.status.code == 503
    assert load.held.bytes == 600
    first.say(request_body(b"x" * 300))
    assert len(first.decided) == 1
    assert load.held.bytes == 0


def test_streams_in_flight_are_bounded() -> None:
    load = Load(StreamLimits(streams_max=1))
    first, second = Talk(load=load), Talk(load=load)

    second.say(request_headers(end=True))
    first.say(request_headers(end=True))

    assert [refusal.reason for refusal in second.refusals] == ["too-many-streams"]
    assert second.replies[0].immediate_response.status.code == 503
    assert first.refusals == []
    second.close()
    second.close()
    assert load.streams == 1
    third = Talk(load=load)
    first.close()
    third.say(request_headers(end=True))
    assert third.refusals != []


def test_a_body_mode_that_cannot_work_is_named() -> None:
    message = request_headers()
    message.protocol_config.request_body_mode = ProcessingMode.BUFFERED
    talk = Talk()

    replies = talk.say(message)

    assert replies[0].immediate_response.status.code == 500
    assert b"request_body_mode is BUFFERED, wanted FULL_DUPLEX_STREAMED" in replies[0].immediate_response.body


# --- any order --------------------------------------------------------------------------------------

VALID = (
    request_headers(("content-length", "40")),
    request_body(BODY[:20], end=False),
    request_body(BODY[20:], end=False),
    request_trailers(),
    response_headers(("content-type", "text/event-stream")),
    response_body(b"data: {}\n\n", end=False),
    response_body(b"", end=False),
    response_body(b"data: [DONE]\n\n", end=False),
    response_trailers(),
)


@pytest.mark.parametrize("length", range(len(VALID) + 1))
def test_every_beginning_of_an_exchange_ends_its_request_once(length: int) -> None:
    talk = Talk(Routed("10.0.0.1:8000", rename=("a", "b")))

    talk.say(*VALID[:length])
    talk.close()

    routed = length >= 4
    assert len(talk.decided) == routed
    assert [f.cause for f in talk.ends] == (
        [] if not routed else ["complete" if length == len(VALID) else "disconnected"]
    )
    assert talk.load.streams == 0
    assert talk.load.held.bytes == 0


MESSAGES = st.sampled_from(
    [
        *VALID,
        ProcessingRequest(),
        request_headers(end=True),
        request_body(b"", end=True),
        request_body(BODY, end=True),
        request_body(b"x" * 2000, end=False),
        response_headers(end=True),
        response_headers(status=503),
        response_body(b'{"usage":{"prompt_tokens":"x"}}', end=True),
        response_body(b'{"model":"', end=False),
        with_subset(request_body(b"y", end=False), ["a"]),
    ]
)


@given(
    st.lists(MESSAGES, max_size=12),
    st.sampled_from(["at once", "never", "refused"]),
    st.booleans(),
    st.integers(0, 12),
)
def test_no_order_of_messages_harms(messages: list[ProcessingRequest], when: str, renamed: bool, close_at: int) -> None:
    load = Load(StreamLimits(body_bytes_max=3000, held_bytes_max=5000))
    answer = Routed("10.0.0.1:8000", rename=("a", "b") if renamed else None)
    talk = Talk(answer if when == "at once" else None, load)

    said: int | None = None
    for i, message in enumerate(messages):
        if i == close_at:
            talk.close()
        talk.say(message)
        if when == "refused" and talk.stream.waiting:
            talk.stream.refused("saturated", "x")
        if said is None and talk.stream.ended:
            said = len(talk.stream.out)
    talk.close()
    talk.say(*messages)

    assert len(talk.decided) + len(talk.refusals) <= 1
    answered = len(talk.decided) if when == "at once" else 0
    assert len(talk.ends) == answered
    assert said in (None, len(talk.stream.out)), "nothing is said after the end"
    assert load.streams == 0
    assert load.held.bytes == 0
