"""Endpoints are scraped from real servers, and what those do becomes facts."""

import datetime
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pointsman.cluster.scraping.scraper import Scraper, ScrapeSettings
from pointsman.core.events import (
    EndpointLeft,
    LabelsChanged,
    LoadSampled,
    PrefixBlockSized,
    ScrapeFailed,
    ScrapePaced,
)
from pointsman.core.values.packing import unpack

POOL = "default/llama"
Handler = Callable[[trio.SocketStream], Awaitable[None]]
from worlds.scraped_world import Server, World, chunked, hang, ok, page, scraped


@pytest.mark.parametrize("framing", [ok, chunked])
def test_a_page_becomes_a_sample_and_its_labels_are_told_once(framing: Callable[[bytes], bytes]) -> None:
    async def body(world: World) -> None:
        server = await world.server(framing(page(3, 17, 0.25)))
        await world.until(lambda: len(world.told(LoadSampled)) >= 5)

        assert (world.state.waiting[0], world.state.running[0], world.state.kv_cache[0]) == (3, 17, 0.25)
        assert world.state.age[0] == 0
        assert abs(world.state.sampled_at[0] - time.time()) < 1
        assert world.told(LabelsChanged) == [LabelsChanged(1, ("a",), (), 4, 16, 100)]
        assert server.connections == 1
        assert set(server.paths) == {b"/metrics"}
        server.answer = framing(page(4, lora="b"))
        await world.until(lambda: world.state.waiting[0] == 4)

        assert world.told(LabelsChanged)[1:] == [LabelsChanged(1, ("b",), (), 4, 16, 100)]
        assert world.told(ScrapeFailed) == []

    scraped(body)


def test_endpoints_are_scraped_at_the_interval_and_told_together() -> None:
    async def body(world: World) -> None:
        for _ in range(5):
            await world.server(ok(page()))
        await world.until(lambda: len(world.state.endpoints) == 5)
        await trio.sleep(0.3)
        world.events.clear()
        await trio.sleep(1.0)
        rounds = [e for e in world.told(LoadSampled) if isinstance(e, LoadSampled)]

        assert 14 <= len(rounds) <= 30  # 20 on a machine that does nothing else
        assert sum(len(unpack(e.endpoints)) for e in rounds) >= 4.5 * 14

    scraped(body)


def test_an_ipv6_server() -> None:
    async def body(world: World) -> None:
        server = Server(ok(page(7)))
        listeners = await world.nursery.start(partial(trio.serve_tcp, host="::1"), server.serve, 0)
        world.join(listeners[0].socket.getsockname()[1], "::1")
        await world.until(lambda: world.state.waiting[0] == 7)

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    scraped(body)


def test_a_signal_that_is_missing_stays_as_it_was() -> None:
    async def body(world: World) -> None:
        server = await world.server(ok(page(3, 17)))
        await world.until(lambda: world.state.running[0] == 17)
        server.answer = ok(b"vllm:num_requests_waiting 9\n")
        await world.until(lambda: world.state.waiting[0] == 9)

        assert (world.state.running[0], world.state.cache_blocks[0]) == (17, 100)

    scraped(body)


def test_tls(tmp_path: Path) -> None:

    assert x509 is not None
    certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def body(world: World) -> None:
        server = Server(ok(page(8)))

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            await server.serve(stream)  # type: ignore[arg-type]

        listeners = await world.nursery.start(partial(trio.serve_ssl_over_tcp, host="127.0.0.1"), serve, 0, context)
        world.join(listeners[0].transport_listener.socket.getsockname()[1])
        await world.until(lambda: len(world.told(LoadSampled)) >= 3)

        assert world.state.waiting[0] == 8
        assert server.connections == 1

    scraped(body, ScrapeSettings(scheme="https"))


def _certificate(directory: Path) -> Path:

    from cryptography import x509

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "llama")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    )
    certificate = (
        builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path = directory / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


# --- who is scraped ---------------------------------------------------------------------------------


def test_endpoints_that_leave_are_left_alone() -> None:
    async def body(world: World) -> None:
        server = await world.server(ok(page()))
        await world.until(lambda: bool(world.told(LoadSampled)))
        world.take([EndpointLeft(1)])
        await trio.sleep(0.2)
        asked, results = server.requests, world.results
        world.events.clear()
        await trio.sleep(0.3)

        assert server.requests == asked
        assert world.events == []
        assert world.scraper.statistics().endpoints == 0
        assert world.results > results  # nothing to scrape is no failure

    scraped(body)


def test_an_endpoint_that_leaves_while_it_hangs_is_left_alone() -> None:
    async def body(world: World) -> None:
        server = await world.server(hang)
        await world.until(lambda: server.requests == 1)
        world.take([EndpointLeft(1)])
        await trio.sleep(0.5)

        assert world.told(ScrapeFailed) == []

    scraped(body)


def test_the_metrics_port_stands_in_for_the_only_target_port() -> None:
    async def body(world: World) -> None:
        server = Server(ok(page(5)))
        listeners = await world.nursery.start(trio.serve_tcp, server.serve, 0)
        port = listeners[0].socket.getsockname()[1]
        world.scraper.settings = ScrapeSettings(metrics_port=port, path="/stats?format=text")
        world.join(1)
        await world.until(lambda: world.state.waiting[0] == 5)

        assert set(server.paths) == {b"/stats?format=text"}

    scraped(body)


def test_a_restart_tells_no_labels_again() -> None:
    async def body(world: World) -> None:
        await world.server(ok(page()))
        await world.until(lambda: bool(world.told(LabelsChanged)))
        world.events.clear()
        again = Scraper(
            ScrapeSettings(), lambda: world.state, world.take, last_request=lambda: math.inf, on_result=lambda: None
        )
        world.nursery.start_soon(again.run)
        await world.until(lambda: again.statistics().successes >= 3)

        assert world.told(LabelsChanged) == []
        assert world.told(ScrapePaced) == []

    scraped(body)


# --- staleness --------------------------------------------------------------------------------------


def test_the_size_of_prompt_blocks_is_told_once_for_a_pool() -> None:
    async def body(world: World) -> None:
        for _ in range(2):
            await world.server(ok(page()))
        await world.until(lambda: len(world.told(LoadSampled)) >= 6)

        assert world.told(PrefixBlockSized) == [PrefixBlockSized(POOL, 16)]

    scraped(body)
