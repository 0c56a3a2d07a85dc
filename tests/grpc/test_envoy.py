"""Requests of every kind through a real Envoy, with the picker's service between it and a model server."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import h2.connection
import h2.events
import pytest
from worlds.envoy import envoy_binary
from worlds.gateway import Site, envoy_config
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import envoy_command
from pointsman.core.events import RequestFinished, RequestRefused, RequestRouted, ResponseStarted

BODY = b'{"model":"m","seed":12345678901234567890,"prompt":"h\xc3\xa9llo","x":1e400}'


@pytest.fixture(scope="module", params=["pointsman", "h2"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    binary = envoy_binary()
    home = tmp_path_factory.mktemp("envoy")
    site = Site(request.param)
    config = home / "envoy.json"
    config.write_text(json.dumps(envoy_config(site.port, site.picker.getsockname()[1])))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(envoy_command(binary, config), stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or answers(site.port), 20, "Envoy listens")
            assert process.poll() is None, (home / "log").read_text()
            yield site
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            site.close()


@pytest.fixture
def site(running: Site) -> Site:
    """The site, with nothing recorded yet."""
    wait_for(lambda: running.load.streams == 0, 5, "no stream of an earlier test")
    running.feed.events.clear()
    running.feed.restart()
    return running


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_post_reaches_the_server_byte_for_byte(site: Site) -> None:
    response = site.ask("POST", "/v1/completions", BODY, content_type="application/json")
    seen = response.echo()

    assert response.status == 200
    assert seen["body"][0].encode("latin-1") == BODY
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-went-into-resp-headers"] == "true"
    assert "x-request-id" in seen
    end = site.events(RequestFinished)[0]
    assert (end.cause, end.status) == ("complete", 200)
    assert site.feed.of(RequestRouted)[0].request.body_bytes == len(BODY)


def test_a_get_is_routed_too(site: Site) -> None:
    seen = site.ask("GET", "/v1/models").echo()

    assert seen["line"] == ["GET /v1/models HTTP/1.1"]
    assert site.events(RequestFinished)[0].cause == "complete"


def test_an_empty_post_and_a_head_come_through(site: Site) -> None:
    assert site.ask("POST", "/v1/completions", b"").echo()["body"] == [""]
    assert site.ask("HEAD", "/empty").status == 204
    assert [e.cause for e in site.events(RequestFinished, 2)] == ["complete", "complete"]


def test_a_chunked_upload_and_a_large_reply_come_through(site: Site) -> None:
    pieces = [b"%06d" % i * 20_000 for i in range(25)]

    response = site.ask("POST", "/raw", iter(pieces))

    assert response.body == b"".join(pieces)
    end = site.events(RequestFinished)[0]
    assert (end.cause, end.response_bytes) == ("complete", 3_000_000)


def test_events_are_streamed_as_they_come(site: Site) -> None:
    with site.asking("POST", "/sse", BODY) as response:
        first = response.readline()
        early = not site.feed.of(RequestFinished)
        rest = response.read()

    assert first == b'data: {"i":0}\n'
    assert early, "the first event came before the response had ended"
    assert rest.endswith(b"data: [DONE]\n\n")
    end = site.events(RequestFinished)[0]
    assert end.streamed
    assert end.chunks >= 5
    assert end.first_token is not None
    assert end.duration - end.first_token > 0.3


def test_control_headers_do_not_reach_the_server(site: Site) -> None:
    names = {"x-llm-d-inference-objective": "batch", "x-gateway-model-name-rewrite": "x", "x-slo-ttft-ms": "5"}
    seen = site.ask("POST", "/v1/completions", BODY, **names, x_mine="kept").echo()

    assert seen["x-mine"] == ["kept"]
    assert [n for n in seen if "objective" in n or "rewrite" in n or "slo" in n] == []


def test_header_bytes_that_are_no_text_pass(site: Site) -> None:
    response = site.ask("POST", "/v1/completions", BODY, x_gateway_inference_fairness_id="caf\xe9", x_odd="\xff\xfe")

    assert response.echo()["x-odd"] == ["\xff\xfe"]
    assert site.events(RequestFinished)[0].cause == "complete"


def test_repeated_headers_stay_repeated(site: Site) -> None:
    connection = HTTPConnection("127.0.0.1", site.port, timeout=15)
    connection.putrequest("POST", "/v1/completions")
    for name, value in (("x-twice", "1"), ("x-twice", "2"), ("content-length", str(len(BODY)))):
        connection.putheader(name, value)
    connection.endheaders(BODY)

    with connection.getresponse() as response:
        seen = json.loads(response.read())
    connection.close()

    assert [v for n, v in seen["headers"] if n == "x-twice"] == ["1", "2"]


def test_a_body_over_the_limit_gets_413(site: Site) -> None:
    for body in (b"x" * 10_000_001, iter([b"x" * 1_000_000] * 11)):
        site.feed.restart()
        response = site.ask("POST", "/v1/completions", body)

        assert response.status == 413
        assert response.headers["x-llm-d-request-dropped-reason"] == "rejected-body-too-large"
        assert b"inference error: PayloadTooLarge" in response.body
        assert [e.reason for e in site.feed.of(RequestRefused)] == ["body-too-large"]
        assert site.load.held.bytes == 0


def test_a_servers_error_is_seen(site: Site) -> None:
    assert site.ask("POST", "/fail", BODY).status == 500
    assert site.events(RequestFinished)[0].status == 500
    assert not site.events(RequestFinished)[0].unanswered
    assert site.feed.of(ResponseStarted)[0].status == 500


def test_a_client_that_leaves_ends_its_request(site: Site) -> None:
    with site.asking("POST", "/sse", BODY) as response:
        response.readline()

    assert site.events(RequestFinished)[0].cause == "disconnected"


def test_a_server_that_cannot_be_reached_is_an_early_reply(site: Site) -> None:
    good, site.picking.destination = site.picking.destination, "127.0.0.1:1"
    try:
        response = site.ask("POST", "/v1/completions", BODY)
    finally:
        site.picking.destination = good

    assert response.status == 503
    [end] = site.events(RequestFinished)
    assert (end.cause, end.status, end.unanswered, end.first_token) == ("complete", 503, True, None)


def test_a_request_over_http2_that_ends_with_trailers_is_answered(site: Site) -> None:
    for body in (BODY, b""):
        sock = socket.create_connection(("127.0.0.1", site.port), timeout=10)
        client = h2.connection.H2Connection()
        client.initiate_connection()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/v1/completions")]
        client.send_headers(1, head)
        if body:
            client.send_data(1, body)
        client.send_headers(1, [("x-sum", "7")], end_stream=True)
        reply, ended = b"", False
        while not ended:
            sock.sendall(client.data_to_send())
            for event in client.receive_data(sock.recv(65_536)):
                if isinstance(event, h2.events.DataReceived):
                    reply += event.data
                ended = ended or isinstance(event, h2.events.StreamEnded)
        sock.close()

        assert json.loads(reply)["body"].encode("latin-1") == body


def test_a_websocket_is_granted_and_its_bytes_pass_both_ways(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as client:
        client.sendall(
            b"GET /v1/realtime?model=m HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = read_until(client, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        for message in (b"one", b"two" * 1000):
            client.sendall(message + b"\n")
            assert read_until(client, b"\n") == message + b"\n"
        assert [start.status for start in site.feed.of(ResponseStarted)] == [101]

    assert site.events(RequestFinished)[0].response_bytes == len(b"one\n") + 3001


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = client.recv(65_536)
        assert more, f"the connection ended after {data!r}"
        data += more
    return data


def test_a_burst_over_cold_connections_is_served_whole(site: Site) -> None:
    results: list[int] = []

    def one() -> None:
        results.append(site.ask("POST", "/v1/completions", BODY).status)

    threads = [threading.Thread(target=one) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)

    assert results == [200] * 60
    assert len(site.events(RequestFinished, 60)) == 60


def test_a_drain_does_not_break_replies_in_progress(site: Site) -> None:
    async def leave() -> None:
        await site.server.disconnect()

    with site.asking("POST", "/sse", BODY) as response:
        response.readline()
        site.run(leave())
        rest = response.read()

    assert rest.endswith(b"data: [DONE]\n\n")
    assert site.events(RequestFinished)[0].cause == "drained"
    assert site.ask("POST", "/v1/completions", BODY).status == 200
