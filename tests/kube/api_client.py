"""How a test asks an API server, and what a program needs to ask it: a kubeconfig."""

import base64
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml


class ApiClient:
    """An API server, asked as its administrator."""

    def __init__(self, url: str, token: str, folder: Path, authority: Path | None = None) -> None:
        self.url, self.token = url, token
        self.kubeconfig = folder / "kubeconfig"
        self.authority = authority
        """Certificate of the server; None where it speaks without TLS."""

    def write_kubeconfig(self, path: Path, token: str) -> Path:
        """Write a kubeconfig that shows `token`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        cluster = {"server": self.url}
        if self.authority is not None:
            cluster["certificate-authority-data"] = base64.b64encode(self.authority.read_bytes()).decode()
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(value))
        return path

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """One request; `urllib.error.HTTPError` where it is refused."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": content_type}
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, method=method, data=data, headers=headers)
        context = None if self.authority is None else ssl.create_default_context(cafile=str(self.authority))
        with urlopen(request, timeout=30, context=context) as answer:
            return json.loads(answer.read())
