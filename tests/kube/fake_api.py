"""A fake API server on loopback, faithful where the source of a cluster depends on it, with faults on request.

One revision counts all changes; watches begin behind a revision, and get 410 when its events were forgotten; bookmarks,
pages, streaming lists, generations, status as a resource of its own, dry runs.  What the real one does is held to this one
by `test_contract.py`, which runs on both.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kube.api_client import ApiClient
from kube.crds import CRDS
from kube.fake_objects import FakeObjects, Kind, Object, Refused, json_patched, merge_patched

BOOKMARK_EVERY = 1.0
"""Seconds between bookmarks: a minute at the real one."""


class FakeFaults:
    """What goes wrong on request."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        """Plurals that get 403."""
        self.unknown_token = False
        self.answer: int = 0
        """Code that every list and watch gets; 0 for none."""
        self.twice = False
        """Whether each event of a watch comes twice."""
        self.half_line = False
        """Whether the next watch ends within an event."""
        self.silent = False
        """Whether watches say nothing any more, and do not end."""
        self.cut = 0
        """Count that ends all watches when it changes."""


class FakeApi(ApiClient):
    """A running fake."""

    def __init__(self, folder: Path, version: tuple[int, int], port: int) -> None:
        self.objects, self.faults = FakeObjects(), FakeFaults()
        self.version = version
        self.requests: list[str] = []
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.api = self
        self.port: int = self._server.server_address[1]
        super().__init__(f"http://127.0.0.1:{self.port}", "let-me-in", folder)
        self.write_kubeconfig(self.kubeconfig, self.token)
        for group, plural, kind, versions in CRDS:
            self.objects.serve(group, plural, kind, *versions)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def cut_watches(self) -> None:
        """End every watch that is under way."""
        with self.objects.changed:
            self.faults.cut += 1
            self.objects.changed.notify_all()

    def close(self) -> None:
        """Stop to listen, and end every connection."""
        self._server.shutdown()
        self._server.server_close()
        self.cut_watches()
        self._server.end_connections()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    api: FakeApi

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Reset what is open."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


@contextmanager
def fake_api(folder: Path, *, version: tuple[int, int] = (1, 34), port: int = 0) -> Iterator[FakeApi]:
    """Run a fake until the block ends."""
    api = FakeApi(folder, version, port)
    try:
        yield api
    finally:
        api.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_PATCH(self) -> None:
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        api = self.server.api
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        api.requests.append(f"{method} {self.path}")
        try:
            if self.headers.get("authorization", "") != f"Bearer {api.token}" or api.faults.unknown_token:
                raise Refused(401, "Unauthorized", "Unauthorized")
            self._route(method, body)
        except Refused as refused:
            self._send(refused.code, _status(refused))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send(self, code: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, method: str, body: Any) -> None:
        api = self.server.api
        split = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        if split.path == "/version":
            self._send(200, {"major": str(api.version[0]), "minor": str(api.version[1])})
            return
        kind, version, namespace, name, status = _place(split.path)
        served = api.objects.served.get(kind, {})
        if version not in served:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if kind[1] in api.faults.denied:
            message = f'{kind[1]} is forbidden: User "u" cannot list resource "{kind[1]}" in API group "{kind[0]}"'
            raise Refused(403, "Forbidden", message)
        api_version = f"{kind[0]}/{version}" if kind[0] else version
        if method == "GET" and not name:
            if api.faults.answer:
                raise Refused(api.faults.answer, "InternalError", "asked for by a test")
            _Listing(self, kind, (api_version, served[version]), namespace, query).answer()
        elif method == "GET":
            self._send(200, api.objects.get(kind, namespace, name))
        elif method == "POST":
            named = {**body, "apiVersion": api_version, "kind": served[version]}
            self._send(201, api.objects.create(kind, namespace, named))
        elif method == "DELETE":
            self._send(200, api.objects.delete(kind, namespace, name))
        else:
            value = body if method == "PUT" else self._patched(api.objects.get(kind, namespace, name), body)
            dry_run = query.get("dryRun") == "All"
            self._send(200, api.objects.replace(kind, value, status=status, dry_run=dry_run))

    def _patched(self, value: Object, patch: Any) -> Object:
        if self.headers["content-type"] == "application/json-patch+json":
            return json_patched(value, patch)
        found: Object = merge_patched(value, patch)
        return found


class _Listing:
    """A list or a watch."""

    def __init__(
        self, handler: _Handler, kind: Kind, named: tuple[str, str], namespace: str, query: dict[str, str]
    ) -> None:
        self.handler, self.kind = handler, kind
        self.api_version, self.word = named
        self.namespace, self.query = namespace, query
        self.api = handler.server.api

    def answer(self) -> None:
        """Answer it."""
        if self.query.get("watch") != "true":
            self._list()
            return
        self.handler.send_response(200)
        self.handler.send_header("content-type", "application/json")
        self.handler.send_header("transfer-encoding", "chunked")
        self.handler.end_headers()
        self._watch()
        self.handler.close_connection = True

    def _selected(self, value: Object) -> bool:
        selector = self.query.get("fieldSelector", "")
        named = selector.removeprefix("metadata.name=") if selector else ""
        metadata = value["metadata"]
        return self.namespace in ("", metadata["namespace"]) and named in ("", metadata["name"])

    def _list(self) -> None:
        with self.api.objects.changed:
            found = [one for one in self.api.objects.list(self.kind, self.namespace) if self._selected(one)]
            revision = self.api.objects.revision
        begin, limit = int(self.query.get("continue") or 0), int(self.query.get("limit") or 0)
        page = found[begin : begin + limit] if limit else found
        metadata: Object = {"resourceVersion": str(revision)}
        if limit and begin + limit < len(found):
            metadata["continue"] = str(begin + limit)
        items = [{key: part for key, part in one.items() if key not in ("apiVersion", "kind")} for one in page]
        self.handler._send(
            200, {"apiVersion": self.api_version, "kind": f"{self.word}List", "metadata": metadata, "items": items}
        )

    def _watch(self) -> None:
        objects, faults, cut = self.api.objects, self.api.faults, self.api.faults.cut
        until = time.monotonic() + float(self.query.get("timeoutSeconds") or 300)
        version = self.query.get("resourceVersion", "")
        with objects.changed:
            if version and (int(version) < objects.oldest() or int(version) > objects.revision):
                self._event("ERROR", _status(Refused(410, "Expired", f"too old resource version: {version}")))
                return self._end()
            at = int(version) if version else objects.revision
            first = [] if version else objects.list(self.kind, self.namespace)
        for one in first:
            if self._selected(one):
                self._event("ADDED", one)
        if self.query.get("sendInitialEvents") == "true":
            self._bookmark(at, {"k8s.io/initial-events-end": "true"})
        bookmark = time.monotonic() + BOOKMARK_EVERY
        while time.monotonic() < until and faults.cut == cut:
            with objects.changed:
                fresh = [event for event in objects.events if event[0] > at]
                if not fresh and self.kind in objects.served:
                    objects.changed.wait(0.05)
            if self.kind not in objects.served:
                break
            if faults.silent:
                time.sleep(0.02)
                continue
            for revision, event, kind, value in fresh:
                at = revision
                if kind == self.kind and self._selected(value):
                    self._event(event, value)
            if time.monotonic() > bookmark and self.query.get("allowWatchBookmarks") == "true":
                self._bookmark(at, {})
                bookmark = time.monotonic() + BOOKMARK_EVERY
        return self._end()

    def _bookmark(self, at: int, annotations: dict[str, str]) -> None:
        metadata: Object = {"resourceVersion": str(at), **({"annotations": annotations} if annotations else {})}
        self._event("BOOKMARK", {"apiVersion": self.api_version, "kind": self.word, "metadata": metadata})

    def _event(self, event: str, value: Object) -> None:
        data = json.dumps({"type": event, "object": value}).encode() + b"\n"
        if self.api.faults.half_line and event in ("ADDED", "MODIFIED"):
            self.api.faults.half_line = False
            self._chunk(data[: len(data) // 2])
            raise BrokenPipeError
        self._chunk(data)
        if self.api.faults.twice and event not in ("BOOKMARK", "ERROR"):
            self._chunk(data)

    def _chunk(self, data: bytes) -> None:
        self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.handler.wfile.flush()

    def _end(self) -> None:
        self.handler.wfile.write(b"0\r\n\r\n")


def _place(path: str) -> tuple[Kind, str, str, str, bool]:
    """Group and plural, version, namespace, name, and whether it is the status."""
    parts = path.strip("/").split("/")
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    return (group, rest[0]), version, namespace, name, rest[2:] == ["status"]


def _status(refused: Refused) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": refused.code,
        "reason": refused.reason,
        "message": refused.message,
    }
