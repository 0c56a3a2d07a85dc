"""The response half of an ext_proc stream, without sockets."""

import pytest
from worlds.exchange import BODY, Talk, kinds, routed_talk
from worlds.wire import (
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
    served,
    set_headers,
    streamed,
)

from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from pointsman.grpc.ext_proc.actions import Routed, Started


def test_a_response_passes_through_as_it_comes() -> None:
    talk = routed_talk()

    replies = talk.say(
        served(response_headers(("set-cookie", "a=1"), ("set-cookie", "b=2")), "10.0.0.1:8000"),
        response_body(b"one", end=False),
        response_body(b"two"),
    )

    assert kinds(replies) == ["response_headers", "response_body", "response_body"]
    assert set_headers(replies[0]) == {"x-went-into-resp-headers": b"true"}
    assert not replies[0].request_headers.response.clear_route_cache
    assert streamed(replies) == (b"onetwo", True)
    assert talk.stream.ended
    assert talk.starts == [Started(200, 0.25, "10.0.0.1:8000")]
    end = talk.ends[0]
    assert (end.cause, end.status, end.duration, end.first_token) == ("complete", 200, 0.5, None)
    assert (end.response_bytes, end.chunks, end.streamed) == (6, 2, False)


def test_the_first_token_is_the_first_content_of_a_stream_and_an_error_in_it_is_told() -> None:
    talk = routed_talk()
    talk.say(response_headers(("content-type", "text/event-stream")), response_body(b": PROCESSING\n\n", end=False))
    talk.now += 1.5

    talk.say(response_body(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', end=False))
    talk.say(response_body(b'data: {"error":{"message":"CUDA out of memory","code":500}}\n\ndata: [DONE]\n\n'))

    [end] = talk.ends
    assert (end.first_token, end.error, end.cause, end.status) == (2.0, "CUDA out of memory", "complete", 200)


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "application/json", b'{"choices":[{"message":{"content":"Hi"}}]}'),
        (200, "text/event-stream", b": PROCESSING\n\ndata: [DONE]\n\n"),
        (404, "text/event-stream", b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'),
        (404, "application/json", b'{"detail":"Not Found"}'),
        (503, "text/plain", b"no healthy upstream"),
    ],
)
def test_an_answer_without_a_streamed_token_has_no_first_token(status: int, kind: str, body: bytes) -> None:
    talk = routed_talk()

    talk.say(response_headers(("content-type", kind), status=status), response_body(body))

    assert (talk.ends[0].first_token, talk.ends[0].error) == (None, "")


def test_a_stream_that_is_compressed_begins_with_its_first_bytes() -> None:
    talk = routed_talk()
    encoded = response_headers(("content-type", "text/event-stream"), ("content-encoding", "gzip"))

    talk.say(encoded, response_body(b"\x1f\x8b", end=False), response_body(b"\x08"))

    assert talk.ends[0].first_token == 0.375


def test_a_last_event_without_its_end_counts() -> None:
    talk = routed_talk()

    talk.say(response_headers(("content-type", "text/event-stream")), response_body(b'data: {"text":"Hi"}'))

    assert talk.ends[0].first_token == 0.375


@pytest.mark.parametrize(
    ("fields", "unanswered"),
    [
        ([("content-type", "text/plain"), ("content-length", "19")], True),
        ([("Content-Type", "text/plain"), ("Date", "Tue, 01 Dec 2026 04:32:19 GMT")], False),
        ([("content-type", "text/plain"), ("server", "uvicorn")], False),
        ([("content-type", "text/plain"), ("x-envoy-upstream-service-time", "7")], False),
        ([("content-type", "application/json")], False),
    ],
)
def test_a_failure_that_the_gateway_made_is_told_from_a_servers(
    fields: list[tuple[str, str]], unanswered: bool
) -> None:
    for status in (200, 404, 500, 503, 504):
        message = ProcessingRequest()
        for name, value in [(":status", str(status)), *fields]:
            header = message.response_headers.headers.headers.add()
            header.key, header.raw_value = name, value.encode()
        talk = routed_talk()

        talk.say(message, response_body(b"no healthy upstream"))

        assert (talk.ends[0].status, talk.ends[0].unanswered) == (status, unanswered and status >= 500)


def test_usage_is_read_from_json_and_from_events() -> None:
    for streaming in (False, True):
        talk = routed_talk()
        usage = b'{"model":"m","usage":{"prompt_tokens":12,"completion_tokens":4,"total_tokens":16}}'
        body = b"data: " + usage + b"\n\ndata: [DONE]\n\n" if streaming else usage
        kind = "text/event-stream; charset=utf-8" if streaming else "application/json"

        talk.say(response_headers(("content-type", kind)), *[response_body(body[i : i + 1], False) for i in range(9)])
        talk.say(response_body(body[9:]))

        assert (talk.ends[0].usage.prompt_tokens, talk.ends[0].usage.completion_tokens) == (12, 4)
        assert talk.ends[0].streamed is streaming


def test_the_clients_model_name_is_restored_across_chunks() -> None:
    body = b'data: {"id":1,"model": "served/m","choices":[]}\n\ndata: {"model":"served/m2","x":"\\"model\\":"}\n\n'
    wanted = body.replace(b'"model": "served/m"', b'"model": "my \\"alias\\""')
    for size in range(1, len(body) + 1):
        talk = routed_talk(Routed("10.0.0.1:8000", rename=('my "alias"', "served/m")))
        chunks = [body[i : i + size] for i in range(0, len(body), size)]

        replies = talk.say(response_headers(("content-type", "text/event-stream")))
        removed = replies[0].response_headers.response.header_mutation.remove_headers
        assert list(removed) == ["content-length"]
        replies += talk.say(*[response_body(c, end=False) for c in chunks], response_body(b""))

        assert streamed(replies) == (wanted, True)


def test_held_back_bytes_precede_the_trailers() -> None:
    talk = routed_talk(Routed("10.0.0.1:8000", rename=("alias", "served")))

    replies = talk.say(response_headers(), response_body(b'{"model":"ser', end=False), response_trailers())

    assert kinds(replies)[-2:] == ["response_body", "response_trailers"]
    assert streamed(replies) == (b'{"model":"ser', False)
    assert talk.ends[0].cause == "complete"


def test_large_chunks_are_split() -> None:
    talk = routed_talk()

    replies = talk.say(response_headers(), response_body(b"y" * 150_000))

    assert streamed(replies) == (b"y" * 150_000, True)
    assert talk.ends[0].chunks == 1


def test_a_response_without_body_is_complete_at_its_headers() -> None:
    talk = routed_talk()

    talk.say(response_headers(status=204, end=True))

    assert [(f.cause, f.status, f.first_token) for f in talk.ends] == [("complete", 204, None)]
    assert talk.stream.ended


def test_trailers_complete_a_response() -> None:
    talk = routed_talk()

    replies = talk.say(response_headers(), response_body(b"x", end=False), response_trailers())

    assert kinds(replies) == ["response_headers", "response_body", "response_trailers"]
    assert talk.stream.ended
    assert talk.ends[0].cause == "complete"


@pytest.mark.parametrize("cause", ["disconnected", "deadline", "drained", "lost"])
def test_a_stream_that_breaks_off_ends_its_request_with_the_cause(cause: str) -> None:
    talk = routed_talk()
    talk.say(response_headers(status=500), response_body(b"x", end=False))

    talk.close(cause)
    talk.close(cause)

    assert [(f.cause, f.status, f.chunks) for f in talk.ends] == [(cause, 500, 1)]
    assert talk.load.streams == 0


def test_an_early_response_belongs_to_no_routed_request() -> None:
    talk = Talk()

    replies = talk.say(
        request_headers(),
        request_body(BODY[:9], end=False),
        response_headers(status=408),
        request_body(BODY[9:]),
        request_trailers(),
        response_body(b"too slow"),
    )
    talk.close()

    assert kinds(replies) == ["response_headers", "response_body"]
    assert talk.decided == []
    assert talk.ends == []
    assert talk.stream.ended
    assert talk.load.held.bytes == 0


def test_a_response_that_overtakes_the_decision_withdraws_the_wish() -> None:
    talk = Talk(answer=None)
    talk.say(request_headers(), request_body(BODY), response_headers(status=504), response_body(b"gone"))

    assert not talk.stream.waiting
    talk.close()
    assert talk.ends == []


def test_a_gateway_that_sends_no_bodies_back_completes_by_closing() -> None:
    message = request_headers()
    message.protocol_config.request_body_mode = ProcessingMode.FULL_DUPLEX_STREAMED
    message.protocol_config.response_body_mode = ProcessingMode.NONE
    talk = Talk()
    talk.say(message, request_body(BODY), response_headers())

    talk.close()

    assert talk.ends[0].cause == "complete"


def test_other_body_modes_of_the_response_are_answered_one_for_one() -> None:
    message = request_headers()
    message.protocol_config.request_body_mode = ProcessingMode.FULL_DUPLEX_STREAMED
    message.protocol_config.response_body_mode = ProcessingMode.STREAMED
    talk = Talk()

    replies = talk.say(message, request_body(BODY), response_headers(), response_body(b"a", False), response_body(b"b"))

    last = [r.response_body.response for r in replies[-2:]]
    assert [r.HasField("body_mutation") for r in last] == [False, False]
    assert talk.ends[0].chunks == 2


@pytest.mark.parametrize("status", ["", "2xx", "-10", "1000", "\uff12\uff10\uff10"])
def test_an_odd_status_is_no_status(status: str) -> None:
    message = ProcessingRequest()
    header = message.response_headers.headers.headers.add()
    header.key, header.raw_value = ":status", status.encode()
    talk = routed_talk()

    talk.say(message, response_body(b""))

    assert talk.ends[0].status == 0
