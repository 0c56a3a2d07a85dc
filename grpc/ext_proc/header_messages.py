"""Header messages read by their bytes: protobuf would make an object of each header to have a few of them read.

A message that holds headers with raw values, and of the rest only what every gateway sends, is read here;
whatever has any other field, or is broken, goes through protobuf.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor

from pointsman.grpc.envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpHeaders,
    ProcessingRequest,
    ProtocolConfiguration,
)
from pointsman.grpc.ext_proc.bodies import BYTES, NO_METADATA, SMALL, VARINT, tag_of, varint
from pointsman.grpc.ext_proc.control_headers import READ

_NAMES_MAX: Final = 4096
"""Names that are remembered as not wanted, and entries that are remembered: clients may send any."""
_VALUE_MAX: Final = 32
"""Bytes of a value that is remembered: dates and hosts come again, request ids do not."""


def _tag(message: Descriptor, field: str) -> int:
    return tag_of(message, field, BYTES)


REQUEST_HEADERS: Final = _tag(ProcessingRequest.DESCRIPTOR, "request_headers")
RESPONSE_HEADERS: Final = _tag(ProcessingRequest.DESCRIPTOR, "response_headers")
"""First byte of a message."""
_MAP: Final = _tag(HttpHeaders.DESCRIPTOR, "headers")
_ENTRY: Final = _tag(HeaderMap.DESCRIPTOR, "headers")
_KEY: Final = _tag(HeaderValue.DESCRIPTOR, "key")
_RAW: Final = _tag(HeaderValue.DESCRIPTOR, "raw_value")
_END: Final = bytes((tag_of(HttpHeaders.DESCRIPTOR, "end_of_stream", VARINT), 1))
_CONFIG: Final = _tag(ProcessingRequest.DESCRIPTOR, "protocol_config")
_MODES: Final = (
    tag_of(ProtocolConfiguration.DESCRIPTOR, "request_body_mode", VARINT),
    tag_of(ProtocolConfiguration.DESCRIPTOR, "response_body_mode", VARINT),
)

Fields = list[tuple[str, bytes]]


class HeaderMessage(NamedTuple):
    """What a header message says."""

    fields: Fields
    """Headers that are wanted, in order, names in lower case."""
    end: bool
    """Whether no body follows."""
    modes: tuple[int, int] | None
    """Modes in which bodies are sent, the request's and the response's; None where that is not told."""


class HeadReader:
    """Reads the messages with a request's headers, or those with a response's, for the headers of some names."""

    def __init__(self, request: bool, names: Iterable[str]) -> None:
        """Names in lower case."""
        self._tag = REQUEST_HEADERS if request else RESPONSE_HEADERS
        self._names: dict[bytes, str | None] = {name.encode(): name for name in names}
        """Names that are wanted, and, as they are met, those that are not, with None."""
        self._entries: dict[bytes, tuple[str, bytes] | None] = {}
        """Entries as they came, and what they say, None where their names are not wanted: most come again and again."""

    def read(self, message: bytes) -> HeaderMessage | None:
        """What `message` says; None where protobuf has to be asked."""
        if not message or message[0] != self._tag:
            return None
        try:
            length, at = varint(message, 1)
            stop = at + length
            if message[at] != _MAP:
                return None
            length, at = varint(message, at + 1)
            fields = self._fields(message, at, at + length)
            if fields is None:
                return None
            at += length
            end = at != stop
            if end and (message[at : at + 2] != _END or at + 2 != stop):
                return None
            modes = None
            if stop != len(message):
                if message[stop : stop + 2] == NO_METADATA:
                    stop += 2
                if stop != len(message) and (modes := _modes(message[stop:])) is None:
                    return None
        except IndexError:
            return None
        return HeaderMessage(fields, end, modes)

    def _fields(self, message: bytes, at: int, stop: int) -> Fields | None:
        fields: Fields = []
        names, entries = self._names, self._entries
        while at < stop:
            length, inner = message[at + 1], at + 2
            if length >= SMALL:
                length, inner = varint(message, at + 1)
            end = inner + length
            entry = message[at:end]
            if entry in entries:
                if (known := entries[entry]) is not None:
                    fields.append(known)
                at = end
                continue
            if message[at] != _ENTRY or message[inner] != _KEY:
                return None
            at = inner
            size = message[at + 1]
            value = at + 2 + size
            if size >= SMALL or value > end:
                return None
            key = message[at + 2 : value]
            if key in names:
                name = names[key]
            elif self._wanted_otherwise(key):
                return None
            else:
                name = None
            if value != end:
                if message[value] != _RAW:
                    return None
                size, value = message[value + 1], value + 2
                if size >= SMALL:
                    size, value = varint(message, value - 1)
                if value + size != end:
                    return None
            field = None if name is None else (name, message[value:end])
            if field is not None:
                fields.append(field)
            if end - value <= _VALUE_MAX and end <= stop:
                self._remember(entry, field)
            at = end
        return fields if at == stop else None

    def _remember(self, entry: bytes, field: tuple[str, bytes] | None) -> None:
        if len(self._entries) >= _NAMES_MAX:
            self._entries.clear()
        self._entries[entry] = field

    def _wanted_otherwise(self, key: bytes) -> bool:
        """Whether an unknown name may be a wanted one in other letters, or none at all; remembers those that are not."""
        if not key.isascii() or key.lower() != key:
            return True
        if len(self._names) < _NAMES_MAX:
            self._names[key] = None
        return False


@lru_cache(maxsize=64)
def _modes(config: bytes) -> tuple[int, int] | None:
    """The body modes of a `protocol_config` that ends the message and holds nothing else."""
    found = [0, 0]
    if len(config) < 2 or config[0] != _CONFIG or config[1] != len(config) - 2 or len(config) % 2:
        return None
    for at in range(2, len(config), 2):
        if config[at] not in _MODES or config[at + 1] >= SMALL:
            return None
        found[_MODES.index(config[at])] = config[at + 1]
    return found[0], found[1]


@lru_cache(maxsize=64)
def request_heads(more: frozenset[str]) -> HeadReader:
    """The reader of requests' headers, the same each time; `more` holds the names that plugins read."""
    return HeadReader(True, READ | more)
