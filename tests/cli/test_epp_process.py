"""`pointsman epp` does what its command line asks for."""

import asyncio
import datetime
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from worlds.epp_process import EppProcess
from worlds.waiting import HUNG, wait_for
from worlds.wire import connected, destination, hear, open_stream, request_body, request_headers, say


@pytest.mark.parametrize("text", [None, "endpoints: 5\n"])
def test_nothing_is_ready_before_the_endpoints_file_was_right_once(tmp_path: Path, text: str | None) -> None:
    epp = EppProcess(tmp_path)
    if text is not None:
        epp.endpoints.write_text(text)
    with epp.running("--secure-serving=false"):
        epp.until("endpoints.yaml" + (", line 1: " if text else ": cannot be read"))
        epp.until("still waiting for control")
        assert "epp: ready" not in epp.said()
        epp.put("127.0.0.1:1")
        epp.until("epp: ready")


@contextmanager
def model_server(path: str, page: str) -> Iterator[str]:
    """A server that has `page` at `path` and nothing else; `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.encode() if self.path == path else b""
            self.send_response(200 if self.path == path else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def picked(port: int, requests: int) -> list[str]:
    """The endpoints that answer so many requests."""

    async def main() -> list[str]:
        found = []
        async with connected(port) as channel:
            for _ in range(requests):
                async with open_stream(channel) as stream:
                    await say(stream, request_headers(), request_body(b'{"model":"m","prompt":"x"}'))
                    found.append(destination((await hear(stream, 1))[0]))
                    await stream.cancel()
        return found

    return asyncio.run(main())


VLLM = "vllm:num_requests_waiting %d\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n"
OWN = 'own_requests{state="waiting"} %d\nown_requests{state="running"} 0\n'


@pytest.mark.parametrize(
    ("flags", "page"),
    [
        (["--model-server-metrics-path=/prom"], VLLM),
        (
            ["--model-server-metrics-path=/prom", "--total-queued-requests-metric=own_requests{state=waiting}"],
            OWN,
        ),
    ],
)
def test_the_metrics_flags_are_obeyed(tmp_path: Path, flags: list[str], page: str) -> None:
    epp = EppProcess(tmp_path)
    with model_server("/prom", page % 9) as busy, model_server("/prom", page % 0) as idle:
        epp.put(busy, idle)
        with epp.running("--secure-serving=false", *flags):
            epp.until("epp: ready")
            wait_for(lambda: picked(epp.port, 4) == [idle] * 4, HUNG, "the load of the servers")

            assert picked(epp.port, 12) == [idle] * 12
            assert "warning" not in epp.said()


def write_pair(directory: Path, name: str) -> bytes:
    """A new pair of certificate and key in the directory; the certificate as a client sees it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(secret)
    return certificate.public_bytes(serialization.Encoding.DER)


def served_certificate(port: int) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))


def test_a_renewed_certificate_is_taken_up_without_a_restart_and_a_bad_one_is_not(tmp_path: Path) -> None:
    epp, directory = EppProcess(tmp_path), tmp_path / "certificates"
    directory.mkdir()
    epp.put("127.0.0.1:1")
    first = write_pair(directory, "first")
    with epp.running(f"--cert-path={directory}", "--enable-cert-reload=true"):
        epp.until("epp: ready")
        assert served_certificate(epp.port) == first
        second = write_pair(directory, "second")
        wait_for(lambda: served_certificate(epp.port) == second, HUNG, "the renewed certificate")
        (directory / "tls.crt").write_text("no certificate")
        epp.until("are no usable pair")
        assert served_certificate(epp.port) == second
        third = write_pair(directory, "third")
        wait_for(lambda: served_certificate(epp.port) == third, HUNG, "the certificate after the bad one")

        assert "starting it again" not in epp.said()


def test_a_certificate_that_cannot_be_used_is_told_before_anything_starts(tmp_path: Path) -> None:
    epp = EppProcess(tmp_path)
    epp.put("127.0.0.1:1")
    with epp.running(f"--cert-path={tmp_path}"):
        epp.until(f"pointsman: --cert-path: no file {tmp_path}/tls.crt, wanted tls.crt and tls.key in {tmp_path}\n")


def test_a_data_directory_that_vanishes_is_told_in_a_line_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    epp, aside = EppProcess(tmp_path), tmp_path / "aside"
    epp.put("127.0.0.1:1")
    with epp.running("--secure-serving=false"):
        epp.until("epp: ready")
        assert "began log" in epp.said()
        assert "found log" not in epp.said()
        epp.data.rename(aside)
        epp.until(f"pointsman: the data directory {epp.data} is gone: nothing is recorded until it is back")
        assert picked(epp.port, 1) == ["127.0.0.1:1"]
        wait_for(lambda: epp.said().count("is gone") > 2, HUNG, "the next starts")
        aside.rename(epp.data)
        epp.until("found log")

        assert "Traceback" not in epp.said()
        assert picked(epp.port, 1) == ["127.0.0.1:1"]
    [log] = set(re.findall(r"(?:began|found|left) log (\w+)", epp.said()))
    assert log
