"""HTTP/2 header blocks, for a server: blocks in are remembered, blocks out never touch the peer's table.

A block is a list of headers packed by HPACK (RFC 7541): what occurred before on the connection may be told
by its index in the dynamic table, which both sides keep and which every block may change.
A gateway sends nearly the same block for every stream.
A block that leaves the dynamic table as it was decodes to the same headers until the table changes,
so its bytes are enough to know it again.
Blocks out are literals without indexing (RFC 7541, section 6.2.2): the same headers are always the same bytes.
"""

import hpack
import hpack.table
from h2.errors import ErrorCodes
from h2.exceptions import DenialOfServiceError, ProtocolError

HEADERS_MAX = 256
"""Fields in one block; a gateway's own limit is 100, so more is an attack or a mistake."""
CONTINUATIONS_MAX = 64
"""Frames of one block behind its first, as in h2: a block of LIST_BYTES_MAX needs four."""
LIST_BYTES_MAX = 65_536
"""SETTINGS_MAX_HEADER_LIST_SIZE: h2's default, and what a gateway's own limit (60 KiB in Envoy) fits in."""
REMEMBERED_MAX = 256
"""Blocks remembered at a time, in and out: a gateway uses a handful."""
REMEMBERED_BYTES_MAX = 16_384
"""Bytes of the blocks that one connection has us remember; decoded they are some times as many."""
DIGITS_MAX = 18
"""Digits of a content-length: more bytes than exist."""

Headers = list[tuple[str, str]]
"""Names and values, in the order in which they came or go."""

_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_UPPERCASE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Undecodable(ProtocolError):
    """The block is not HPACK; the connection cannot go on."""

    error_code = ErrorCodes.COMPRESSION_ERROR


class Block:
    """A decoded block: its headers, and what is wrong with it as a request or as trailers (empty where nothing is)."""

    __slots__ = ("as_request", "as_trailers", "content_length", "headers")

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        self.headers: Headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        self.as_request, self.content_length = _fault_as_request(fields)
        self.as_trailers = _fault_as_trailers(fields)


def _fault_as_request(fields: list[tuple[bytes, bytes]]) -> tuple[str, int | None]:
    """What makes these fields no request (RFC 9113, sections 8.2 and 8.3), and their content-length."""
    seen: set[bytes] = set()
    length: int | None = None
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular:
                return f"{name!r} after a regular field", None
            if name not in _REQUEST_PSEUDO:
                return f"{name!r}, wanted a request's pseudo-header", None
            if name in seen:
                return f"{name!r} twice", None
            seen.add(name)
            if name == b":path" and not value:
                return "an empty :path", None
            continue
        regular = True
        if fault := _fault_of_field(name, value):
            return fault, None
        if name == b"content-length":
            if not value.isdigit() or len(value) > DIGITS_MAX or (length is not None and length != int(value)):
                return f"content-length {value[:DIGITS_MAX]!r}, wanted one number", None
            length = int(value)
    missing = {b":method", b":scheme", b":path"} - seen
    if missing and (b":method", b"CONNECT") not in fields:
        return f"no {min(missing)!r}", None
    return "", length


def _fault_as_trailers(fields: list[tuple[bytes, bytes]]) -> str:
    for name, value in fields:
        if name.startswith(b":"):
            return f"{name!r} in trailers"
        if fault := _fault_of_field(name, value):
            return fault
    return ""


def _fault_of_field(name: bytes, value: bytes) -> str:
    if not name or not _UPPERCASE.isdisjoint(name):
        return f"field name {name!r}, wanted lower case"
    if name in _CONNECTION_SPECIFIC:
        return f"{name!r}, which belongs to HTTP/1.1"
    if name == b"te" and value != b"trailers":
        return f"te: {value!r}, wanted trailers"
    return ""


class _Table(hpack.table.HeaderTable):
    """The dynamic table, counting its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    def _shrink(self) -> None:
        self.changes += 1
        super()._shrink()


class HeaderReader:
    """Decodes the blocks of one connection, in order: every one of them, or the table is lost."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(LIST_BYTES_MAX)
        self._table = _Table()
        self._decoder.header_table = self._table
        self._known: dict[bytes, Block] = {}
        self._known_bytes = 0

    def read(self, data: bytes) -> Block:
        """Return the block of `data`; raises `Undecodable`, or `DenialOfServiceError` for more than was advertised."""
        block = self._known.get(data)
        if block is not None:
            return block
        before = self._table.changes
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(data, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise DenialOfServiceError(str(error)) from error
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise Undecodable(str(error)) from error
        if len(fields) > HEADERS_MAX:
            raise DenialOfServiceError(f"{len(fields)} header fields, wanted at most {HEADERS_MAX}")
        block = Block(fields)
        if self._table.changes != before:
            self._known.clear()
            self._known_bytes = 0
        elif len(self._known) < REMEMBERED_MAX and self._known_bytes + len(data) <= REMEMBERED_BYTES_MAX:
            self._known[data] = block
            self._known_bytes += len(data)
        return block


_written: dict[tuple[tuple[str, str], ...], bytes] = {}


def write_block(headers: Headers) -> bytes:
    """Return the block of `headers`, without indexing."""
    key = tuple(headers)
    block = _written.get(key)
    if block is None:
        block = b"".join(
            b"\x88" if field == (":status", "200") else b"\x00" + _text(field[0]) + _text(field[1]) for field in key
        )
        if len(_written) >= REMEMBERED_MAX:  # error texts differ from call to call
            _written.clear()
        _written[key] = block
    return block


def _text(value: str) -> bytes:
    """A string literal without Huffman coding (RFC 7541, section 5.2)."""
    data = value.encode("utf-8")
    if len(data) < 127:
        return bytes((len(data),)) + data
    prefix, rest = bytearray((127,)), len(data) - 127
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    prefix.append(rest)
    return bytes(prefix) + data
