"""A kept connection to one model server, and the page it gives."""

import errno
import os
import socket
import ssl
from urllib.parse import urljoin, urlsplit

import msgspec
import trio

from pointsman.cluster.scraping.http_page import HttpError, PageResponse, ResponseReader

REDIRECTS_MAX = 3
"""Redirects followed for one page: servers add a slash, seldom more."""

_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}

RECEIVE_BYTES = 64 * 1024
"""Bytes that one read takes at most: three times a usual page."""


class FetchError(Exception):
    """The page did not come; the message is the same for the same cause."""


class UnreadableError(FetchError):
    """The server answered, only not with a page that can be taken."""


class _Dropped(FetchError):
    """A connection ended before the first byte of the response."""


class PageAddress(msgspec.Struct, frozen=True):
    """Where a page is."""

    address: str
    """IPv4 or IPv6."""
    port: int
    path: str = "/metrics"
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The address in one piece."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def request(self) -> bytes:
        """The request, as it goes out each time."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nAccept: text/plain;version=0.0.4\r\n"
            "Accept-Encoding: identity\r\nUser-Agent: pointsman\r\n\r\n"
        ).encode("ascii")

    def redirected(self, location: bytes) -> "PageAddress | None":
        """The page that a redirect from here leads to; None where that is another server's, or no address."""
        try:
            here = urlsplit(urljoin(self.url, location.decode("ascii")))
            own = urlsplit(self.url)
            if (here.scheme, here.hostname, here.port or _PORTS[here.scheme]) != (own.scheme, own.hostname, own.port):
                return None
        except (ValueError, KeyError):
            return None
        path = (here.path or "/") + (f"?{here.query}" if here.query else "")
        return msgspec.structs.replace(self, path=path) if path.isprintable() and " " not in path else None


class PageClient:
    """Fetches one page again and again, one fetch at a time."""

    def __init__(self, page: PageAddress, page_bytes_max: int, tls: ssl.SSLContext | None = None) -> None:
        self._page, self._page_bytes_max, self._tls = page, page_bytes_max, tls
        self._request = page.request
        self._socket: socket.socket | None = None
        self._stream: trio.SSLStream[trio.SocketStream] | None = None

    async def fetch(self) -> PageResponse:
        """Return the response, after redirects that stay on the server's own port.

        Where a page is found so, the next fetch begins there, and at the first place again where none is.
        """
        response = await self._fetch(self._request)
        for _ in range(REDIRECTS_MAX):
            moved = self._page.redirected(response.location) if response.status in _REDIRECTS else None
            if moved is None:
                break
            self._request = moved.request
            response = await self._fetch(self._request)
        if response.status != 200:
            self._request = self._page.request
        return response

    async def _fetch(self, request: bytes) -> PageResponse:
        """Return the response, whatever its status; `FetchError` where none came.

        Cancelled or failed, the connection is closed.  A kept connection that the server closed in between is
        replaced at once: that is not the server's failure.
        """
        kept = self._socket is not None or self._stream is not None
        try:
            try:
                response = await self._exchange(request)
            except _Dropped:
                if not kept:
                    raise
                self.close()
                response = await self._exchange(request)
        except HttpError as error:
            self.close()
            raise FetchError(str(error)) from error
        except ssl.SSLError as error:
            self.close()
            raise FetchError(f"TLS: {error.reason or 'failed'}") from error
        except BaseException:
            self.close()
            raise
        if not response.keep:
            self.close()
        return response

    def close(self) -> None:
        """Drop the connection; the next fetch opens another."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        if self._stream is not None:
            self._stream.transport_stream.socket.close()
        self._socket = self._stream = None

    async def _exchange(self, request: bytes) -> PageResponse:
        reader = ResponseReader(self._page_bytes_max)
        try:
            if self._socket is None and self._stream is None:
                await self._connect()
            await self._send(request)
            while True:
                data = await self._receive()
                response = reader.feed(data) if data else reader.end()
                if response is not None:
                    return response
        except HttpError as error:
            if reader.answered:
                raise UnreadableError(str(error)) from error
            if reader.started:
                raise
            raise _Dropped("connection closed before the response") from None
        except (OSError, trio.BrokenResourceError) as error:
            cause = _cause(error)
            raise (FetchError if reader.started else _Dropped)(cause) from error

    async def _connect(self) -> None:
        family = socket.AF_INET6 if ":" in self._page.address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = opened.connect_ex((self._page.address, self._page.port))
            if code == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(opened)
                code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code != 0:
                raise OSError(code, os.strerror(code))
            if self._tls is not None:
                plain = trio.SocketStream(trio.socket.from_stdlib_socket(opened))
                stream = trio.SSLStream(plain, self._tls, server_hostname=self._page.address, https_compatible=True)
                await stream.do_handshake()
                self._stream = stream
                return
        except BaseException:
            opened.close()
            raise
        self._socket = opened

    async def _send(self, data: bytes) -> None:
        if self._stream is not None:
            await self._stream.send_all(data)
            return
        assert self._socket is not None
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def _receive(self) -> bytes:
        # Straight on the socket: Trio's own `recv` passes the scheduler twice.
        if self._stream is not None:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        assert self._socket is not None
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:  # woken for nothing
                continue


def _cause(error: OSError | trio.BrokenResourceError) -> str:
    """In words that do not change from one attempt to the next."""
    inner = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    if isinstance(inner, OSError) and inner.errno is not None:
        return os.strerror(inner.errno).lower()
    return "connection broken"
