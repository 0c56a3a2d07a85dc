"""Requests to one API server, with the credentials that the official client's loaders find.

All of it blocks, and runs in threads.  Tokens are refreshed by the loaders: those of a file every minute, those of an
exec plugin when they expire.  `renew` reads everything again, client certificates and authorities included.
"""

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from pointsman.cluster.kubernetes.credentials import find_kubeconfig, home_kubeconfig
from pointsman.core.processes.settings import ClusterSettings
from pointsman.core.values.printable import printable

CONNECT_MAX = 10.0
"""Seconds for a connection to stand."""
ANSWER_MAX = 60.0
"""Seconds in which a request that is no watch is answered: the API server's own limit."""
ERROR_BYTES_MAX = 64 << 10
"""Bytes of an error that are read."""
PAGE_BYTES_MAX = 256 << 20
"""Bytes of one page of a list: 500 objects of the largest size that etcd takes are below."""


T = TypeVar("T")


class AccessError(Exception):
    """What the API server answered instead, or why it was not reached; the text is one line."""

    def __init__(self, message: str, code: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        """HTTP status; 0 where there was no answer."""
        self.retry_after = retry_after
        """Seconds after which it wants to be asked again; 0 where it does not say."""


class ApiStatus(msgspec.Struct):
    """The Status that an API server answers with, or ends a watch with."""

    message: str = ""
    code: int = 0


def decoded(data: bytes | msgspec.Raw, form: type[T]) -> T:
    """Return what JSON of the server says; `AccessError` where it is not of this form."""
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, RecursionError) as error:
        raise AccessError(f"the answer is not as the API has it: {error}") from error


class ApiServer:
    """One API server."""

    def __init__(self, cluster: ClusterSettings) -> None:
        self._cluster = cluster
        self._configuration, self._client = _load(cluster)

    def renew(self) -> None:
        """Read the credentials again; what is under way goes on with the old ones."""
        self._configuration, self._client = _load(self._cluster)

    def get(self, path: str, query: Mapping[str, str] = {}) -> bytes:
        """Return the body of a GET; `AccessError` for every answer but 200."""
        answer = self._request("GET", path, query, timeout=urllib3.Timeout(connect=CONNECT_MAX, read=ANSWER_MAX))
        return self._body(answer)

    def patch(self, path: str, query: Mapping[str, str], operations: object) -> bytes:
        """Return the body of a JSON patch; `AccessError` for every answer but 200."""
        answer = self._request(
            "PATCH",
            path,
            query,
            timeout=urllib3.Timeout(connect=CONNECT_MAX, read=ANSWER_MAX),
            body=msgspec.json.encode(operations),
            headers={"content-type": "application/json-patch+json"},
        )
        return self._body(answer)

    def stream(self, path: str, query: Mapping[str, str], silent_max: float) -> "AnswerStream":
        """Begin a GET whose body comes piece by piece; it ends with an error when nothing came for `silent_max`."""
        answer = self._request("GET", path, query, timeout=urllib3.Timeout(connect=CONNECT_MAX, read=silent_max))
        return AnswerStream(answer)

    def _body(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        try:
            body = answer.read(PAGE_BYTES_MAX + 1, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AccessError(f"the answer broke off: {_cause(error)}") from error
        finally:
            answer.release_conn()
        if len(body) > PAGE_BYTES_MAX:
            raise AccessError(f"the answer has over {PAGE_BYTES_MAX:,} bytes")
        return bytes(body)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        timeout: urllib3.Timeout,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        sent = {"accept": "application/json", "user-agent": "pointsman", **(headers or {})}
        try:
            token = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
            if token:
                sent["authorization"] = token.strip()
        except (OSError, ConfigException) as error:
            raise AccessError(f"the credentials cannot be read: {_cause(error)}") from error
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self._client.pool_manager.request(
                method, url, body=body, headers=sent, timeout=timeout, preload_content=False, retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AccessError(_cause(error)) from error
        if answer.status != 200:
            raise _refusal(answer)
        return answer


class AnswerStream:
    """The body of an answer that does not end by itself."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as they come; `AccessError` where it breaks off or says nothing for too long."""
        try:
            while chunk := self._answer.read1(1 << 20):
                yield bytes(chunk)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise AccessError(f"the watch broke off: {_cause(error)}") from error
        finally:
            self._answer.close()

    def close(self) -> None:
        """End it, from any thread: whoever reads gets an end or an error."""
        with contextlib.suppress(OSError, ValueError, urllib3.exceptions.HTTPError):  # it may have ended
            self._answer.shutdown()


def _load(cluster: ClusterSettings) -> tuple[Configuration, RESTClientObject]:
    configuration = Configuration()
    configuration.connection_pool_maxsize = 64
    try:
        _find(cluster, configuration)
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise AccessError(_cause(error)) from error
    try:
        # The connections notice a peer that is gone without a word; the client's own option does that.
        configuration.keep_alive = True
        return configuration, RESTClientObject(configuration)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise AccessError(f"certificate or key cannot be used: {_cause(error)}") from error


def _find(cluster: ClusterSettings, configuration: Configuration) -> None:
    """Take the credentials from where they are."""
    kubeconfig = find_kubeconfig(cluster)
    if kubeconfig is None:
        raise AccessError(
            f"found no credentials of a cluster: no --kubeconfig, no KUBECONFIG, no {home_kubeconfig()}, and this is no pod"
        )
    if not kubeconfig:
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        return
    if kubeconfig == cluster.kubeconfig and not Path(kubeconfig).is_file():
        raise AccessError(f"found no file {kubeconfig}, wanted a kubeconfig")
    load_kube_config(kubeconfig, cluster.context or None, configuration)  # type: ignore[no-untyped-call]


def _refusal(answer: urllib3.BaseHTTPResponse) -> AccessError:
    """What the server says of a request that it does not answer, as one line."""
    try:
        body = answer.read(ERROR_BYTES_MAX, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    finally:
        answer.close()
    try:
        message = decoded(body, ApiStatus).message
    except AccessError:
        message = body[:200].decode(errors="replace")
    try:
        retry_after = min(600.0, max(0.0, float(answer.headers.get("retry-after", "0"))))
    except ValueError:
        retry_after = 0.0
    return AccessError(printable(f"{answer.status} {message}".strip())[:500], answer.status, retry_after)


def _cause(error: BaseException) -> str:
    """What went wrong, in the words of the innermost cause, as one line."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException) and reason is not error:
        return _cause(reason)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text.replace("\n", " ")).strip()[:300] or type(error).__name__
