"""A real API server on loopback: etcd and kube-apiserver, with RBAC on, and a kubeconfig of its administrator."""

import base64
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

START_MAX = 120.0
"""Seconds for both to be ready."""

PROGRAMS = ("etcd", "kube-apiserver")


def real_api_programs() -> Path | None:
    """The folder of both programs, as KUBEBUILDER_ASSETS names it; None where they are not there."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    if folder and all(os.access(Path(folder) / name, os.X_OK) for name in PROGRAMS):
        return Path(folder)
    return None


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class RealApi:
    """A running API server."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.token = token
        self.kubeconfig = folder / "kubeconfig"
        self._ca = folder / "certs" / "apiserver.crt"

    def write_kubeconfig(self, path: Path, token: str, context_namespace: str = "default") -> Path:
        """Write a kubeconfig that shows `token`."""
        authority = base64.b64encode(self._ca.read_bytes()).decode()
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {"name": "c", "cluster": {"server": self.url, "certificate-authority-data": authority}}
                    ],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [
                        {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": context_namespace}}
                    ],
                    "current-context": "x",
                }
            )
        )
        return path

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> object:
        """One request as the administrator; `urllib.error.HTTPError` where it is refused."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.token}", "content-type": content_type},
        )
        context = ssl.create_default_context(cafile=str(self._ca))
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return json.loads(answer.read())

    def ready(self) -> bool:
        """Whether it answers that it is ready."""
        try:
            request = urllib.request.Request(self.url + "/readyz", headers={"authorization": f"Bearer {self.token}"})
            with urllib.request.urlopen(request, timeout=5, context=ssl._create_unverified_context()) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@contextmanager
def real_api(programs: Path, folder: Path, *, port: int = 0) -> Iterator[RealApi]:
    """Run both until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    etcd_client, etcd_peer, free = _free_ports(3)
    port = port or free
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
    api = RealApi(folder, port, token)
    try:
        until = time.monotonic() + START_MAX
        while not api.ready():
            if server.poll() is not None or etcd.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "programs.log").read_text()[-2000:])
            time.sleep(0.1)
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
