"""A real API server on loopback: etcd and kube-apiserver, with RBAC on, and a kubeconfig of its administrator."""

import os
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from kube.api_client import ApiClient
from worlds.ports import free_port
from worlds.waiting import wait_for

START_MAX = 120.0
"""Seconds for both to be ready."""

PROGRAMS = ("etcd", "kube-apiserver")


def real_api_programs() -> Path | None:
    """The folder of both programs, as KUBEBUILDER_ASSETS names it; None where they are not there."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    if folder and all(os.access(Path(folder) / name, os.X_OK) for name in PROGRAMS):
        return Path(folder)
    return None


class RealApi(ApiClient):
    """A running API server."""

    def ready(self) -> bool:
        """Whether it answers that it is ready."""
        try:
            request = Request(self.url + "/readyz", headers={"authorization": f"Bearer {self.token}"})
            with urlopen(request, timeout=5, context=ssl._create_unverified_context()) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def real_api(programs: Path, folder: Path) -> Iterator[RealApi]:
    """Run both until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    etcd_client, etcd_peer, port = (free_port("127.0.0.1") for _ in range(3))
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    client, peer = f"http://127.0.0.1:{etcd_client}", f"http://127.0.0.1:{etcd_peer}"
    log = (folder / "programs.log").open("ab")
    etcd = subprocess.Popen(
        [
            str(programs / "etcd"),
            *("--name=one", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync=true", "--log-level=error"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}"),
        ],
        stdout=log,
        stderr=log,
    )
    server = subprocess.Popen(
        [
            str(programs / "kube-apiserver"),
            *(f"--etcd-servers={client}", f"--secure-port={port}", "--bind-address=127.0.0.1"),
            *("--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--cert-dir={folder / 'certs'}", f"--token-auth-file={folder / 'tokens.csv'}"),
            *("--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc"),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            "--disable-admission-plugins=ServiceAccount",
        ],
        stdout=log,
        stderr=log,
    )
    api = RealApi(f"https://127.0.0.1:{port}", token, folder, folder / "certs" / "apiserver.crt")
    try:

        def over() -> bool:
            return server.poll() is not None or etcd.poll() is not None

        wait_for(lambda: api.ready() or over(), START_MAX, "an API server that is ready")
        assert not over(), (folder / "programs.log").read_text()[-2000:]
        api.write_kubeconfig(api.kubeconfig, token)
        yield api
    finally:
        for process in (server, etcd):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        shutil.rmtree(folder / "etcd", ignore_errors=True)
