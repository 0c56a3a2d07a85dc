"""Upgrades to another protocol are decided at their headers, and its bytes pass both ways, without sockets."""

import pytest
from hypothesis import given, strategies as st
from worlds.exchange import BODY, TO, Talk, kinds
from worlds.pool_port import Talk as PoolPort, cluster_of
from worlds.wire import destination, request_body, request_trailers, response_body, response_headers, streamed

from pointsman.core.events import RequestRouted
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

WEBSOCKET = (
    (":method", "GET"),
    (":path", "/v1/realtime?model=m"),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
CONNECT = ((":method", "CONNECT"), (":protocol", "websocket"), (":path", "/v1/realtime?model=m"))


def asked(*headers: tuple[str, str]) -> ProcessingRequest:
    """A request's headers, and no word of its end."""
    message = ProcessingRequest()
    for name, value in headers:
        header = message.request_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    return message


@pytest.mark.parametrize("headers", [WEBSOCKET, CONNECT], ids=["http/1.1", "http/2"])
def test_an_upgrade_gets_its_endpoint_at_once(headers: tuple[tuple[str, str], ...]) -> None:
    talk = Talk()

    replies = talk.say(asked(*headers))

    assert kinds(replies) == ["request_headers"]
    assert destination(replies[0]) == "10.0.0.1:8000"
    assert (talk.decided[0].bodyless, talk.decided[0].upgrade) == (True, True)


@given(st.lists(st.sampled_from(("websocket", "WebSocket", "h2c", "TLS/1.0", "", " foo/2 ")), max_size=3).map(",".join))
def test_whatever_is_asked_for_but_h2c_is_an_upgrade(wanted: str) -> None:
    talk = Talk()

    replies = talk.say(asked((":method", "GET"), (":path", "/v1/realtime"), ("upgrade", wanted)))

    names = {name.strip().lower() for name in wanted.split(",")} - {"", "h2c"}
    assert kinds(replies) == (["request_headers"] if names else [])


@pytest.mark.parametrize("more", [("upgrade", "h2c"), ("content-length", str(len(BODY)))])
def test_a_request_with_a_body_to_come_waits_for_it(more: tuple[str, str]) -> None:
    fields = dict([("upgrade", "websocket"), (":method", "POST"), (":path", "/v1/completions"), more])
    talk = Talk()

    assert talk.say(asked(*fields.items())) == []
    assert streamed(talk.say(request_body(BODY))) == (BODY, True)
    assert not talk.decided[0].bodyless


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=70_000)), max_size=6))
def test_bytes_of_the_other_protocol_pass_both_ways_as_they_come(frames: list[tuple[bool, bytes]]) -> None:
    talk = Talk()
    talk.say(asked(*WEBSOCKET))
    talk.say(response_headers(("upgrade", "websocket"), status=101))

    for from_client, data in frames:
        replies = talk.say(request_body(data, end=False) if from_client else response_body(data, end=False))
        assert set(kinds(replies)) == {"request_body" if from_client else "response_body"}
        assert streamed(replies) == (data, False)
    assert streamed(talk.say(request_body(b"bye"))) == (b"bye", True)
    talk.say(response_body(b""))

    [end] = talk.ends
    assert (end.cause, end.status) == ("complete", 101)
    assert end.response_bytes == sum(len(data) for from_client, data in frames if not from_client)
    assert talk.load.streams == 1
    talk.close()
    assert (talk.load.streams, len(talk.ends)) == (0, 1)


def test_an_upgrade_that_breaks_off_ends_with_its_cause() -> None:
    talk = Talk()
    talk.say(asked(*WEBSOCKET), response_headers(status=101), request_body(b"x", end=False), request_trailers())

    talk.close("disconnected")

    assert [end.cause for end in talk.ends] == ["disconnected"]


def test_nothing_is_passed_on_before_the_decision() -> None:
    talk = Talk(answer=None)

    assert talk.say(asked(*WEBSOCKET), request_body(b"too early", end=False)) == []
    talk.stream.routed(TO)
    assert streamed(talk.say(request_body(b"x", end=False))) == (b"x", False)


@pytest.mark.parametrize("headers", [WEBSOCKET, CONNECT], ids=["http/1.1", "http/2"])
def test_an_upgrades_model_is_that_of_its_address(headers: tuple[tuple[str, str], ...]) -> None:
    port = PoolPort(cluster_of("10.0.0.1"))

    [reply] = port.say(port.open(), asked(*headers))

    assert destination(reply) == "10.0.0.1:8000"
    assert [(event.request.path, event.request.model) for event in port.feed.of(RequestRouted)] == [
        ("/v1/realtime", "m")
    ]
