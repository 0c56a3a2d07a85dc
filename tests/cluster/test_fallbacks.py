"""Endpoints of a picker's list after the first, retries and limits of time, in a real Envoy."""

from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path

import pytest
from worlds.envoy import reserve_port
from worlds.pools import two_servers
from worlds.routed import RULE, Broken, applied, list_of, route_text

from pointsman.core.events import RouteRetry


def test_a_connection_that_is_refused_or_reset_goes_to_the_next_endpoint_of_the_list(tmp_path: Path) -> None:
    with two_servers() as (server, _), reserve_port() as dead, Broken(b"") as closing:
        refused = f"127.0.0.1:{dead.getsockname()[1]}"
        with list_of(tmp_path, [refused, closing.name, server]) as (gateway, client):
            for body in (b"{}", b"x" * 3_000_000, None):
                status, headers, _ = client.ask(body=body)
                assert (status, headers["x-server"], headers["x-served"]) == (200, server, server)
            lines = gateway.access_log(3)

        assert [line["endpoint"] for line in lines] == [server] * 3
        assert closing.requests == 3


def test_a_list_that_is_at_its_end_is_503_and_nobody_is_asked_twice(tmp_path: Path) -> None:
    with Broken(b"") as closing, list_of(tmp_path, [closing.name]) as (_, client):
        assert client.ask()[0] == 503
        assert closing.requests == 1


def test_a_request_that_a_server_began_to_answer_is_not_repeated(tmp_path: Path) -> None:
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    with (
        two_servers() as (server, _),
        Broken(begun) as half,
        Broken(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n") as no,
    ):
        with list_of(tmp_path, [half.name, server]) as (_, client), suppress(IncompleteRead):
            assert "x-server" not in client.ask()[1]
        with list_of(tmp_path, [no.name, server]) as (_, client):
            assert client.ask()[0] == 503

        assert (half.requests, no.requests) == (1, 1)


def test_a_rule_that_asks_for_retries_has_them(tmp_path: Path) -> None:
    rule = RULE + "    retry: {codes: [503], attempts: 3, backoff: 1ms}\n"
    with two_servers() as (server, _), Broken(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n") as no:
        with list_of(tmp_path, [no.name], rule) as (_, client):
            assert client.ask()[0] == 503
        assert no.requests == 4
        with list_of(tmp_path, [no.name, server], rule) as (_, client):
            assert client.ask()[1]["x-server"] == server
        assert no.requests == 5


@pytest.mark.parametrize("limit", ["request", "backendRequest"])
def test_a_request_that_takes_longer_than_its_rule_allows_is_504(tmp_path: Path, limit: str) -> None:
    rule = RULE + f"    timeouts: {{{limit}: 300ms}}\n"
    with Broken(b"", linger=30) as hung, list_of(tmp_path, [hung.name], rule) as (_, client):
        assert client.ask()[0] == 504


def test_a_try_that_takes_longer_than_its_rule_allows_is_made_again_where_the_rule_has_retries(tmp_path: Path) -> None:
    rule = RULE + "    timeouts: {request: 20s, backendRequest: 300ms}\n    retry: {attempts: 1}\n"
    with (
        two_servers() as (server, _),
        Broken(b"", linger=30) as hung,
        list_of(tmp_path, [hung.name, server], rule) as (_, client),
    ):
        assert client.ask()[1]["x-server"] == server


def test_retries_and_limits_of_time_are_those_of_the_rule() -> None:
    fields = "    retry: {codes: [503], attempts: 3, backoff: 1s500ms}\n    timeouts: {backendRequest: 30s}\n"
    state, warnings = applied(route_text(RULE + fields + "    sessionPersistence: {sessionName: sticky}\n"))

    [rule] = state.routes["default/r"].rules
    assert (rule.retry, rule.timeout, rule.backend_timeout) == (RouteRetry((503,), 3, 1.5), 0.0, 30.0)
    [warning] = warnings
    assert "sessionPersistence: has no effect" in warning
