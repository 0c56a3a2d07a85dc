"""gRPC messages and requests as they come and go: parsed, decompressed, framed, or refused with a gRPC status."""

import re
import struct
import zlib
from collections.abc import Container, Iterable

from google.protobuf.message import DecodeError
from grpclib.const import Status

from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from pointsman.grpc.http2.header_blocks import Headers

_CONTENT_TYPES = ("application/grpc", "application/grpc+proto")
_TIMEOUT = re.compile("[0-9]{1,8}[HMSmun]")
"""Pattern of a `grpc-timeout`: "TimeoutValue: positive integer as ASCII string of at most 8 digits" (gRPC over HTTP2)."""


class RefusedMessage(Exception):
    """A message that a call cannot go on with; the call ends with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def parsed(data: bytes) -> ProcessingRequest:
    """The message as protobuf reads it; raises `RefusedMessage` where the bytes are none."""
    try:
        return ProcessingRequest.FromString(data)
    except DecodeError as error:
        raise RefusedMessage(Status.INTERNAL, f"grpc: error unmarshalling request: {error}") from error


def inflated(data: bytes, bytes_max: int) -> bytes:
    """A gzip (or zlib) message, decompressed; `bytes_max` bounds what comes out, so that a small message cannot fill memory."""
    try:
        inflated = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise RefusedMessage(
            Status.UNIMPLEMENTED, f"grpc: compressed message is no gzip, wanted gzip or none: {error}"
        ) from error
    if len(inflated) > bytes_max:
        raise RefusedMessage(
            Status.RESOURCE_EXHAUSTED,
            f"grpc: received message after decompression larger than max ({len(inflated)} vs. {bytes_max})",
        )
    return inflated


def acceptable(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a request for the method is one that can be answered; `refusal` is for those that cannot."""
    found = dict(headers)
    content_type = found.get("content-type", "")
    if found.get(":method") != "POST" or found.get("te") != "trailers":
        return False
    if content_type not in _CONTENT_TYPES:
        return False
    timeout = found.get("grpc-timeout")
    return timeout is None or _TIMEOUT.fullmatch(timeout) is not None


def refusal(headers: Iterable[tuple[str, str]], methods: Container[str]) -> Headers:
    """The whole answer to a request that is not for one of `methods`, or not acceptable: statuses as grpclib gives them."""
    found = dict(headers)
    content_type = found.get("content-type")
    if found.get(":method") != "POST":
        return [(":status", "405")]
    if content_type is None:
        return _refused("415", Status.UNKNOWN, "Missing content-type header")
    if content_type not in _CONTENT_TYPES:
        return _refused("415", Status.UNKNOWN, "Unacceptable content-type header")
    if found.get("te") != "trailers":
        return _refused("400", Status.UNKNOWN, 'Required "te: trailers" header is missing')
    if found.get(":path") not in methods:
        return _refused("200", Status.UNIMPLEMENTED, "Method not found")
    return _refused("200", Status.UNKNOWN, "Invalid grpc-timeout header")


def _refused(http_status: str, status: Status, message: str) -> Headers:
    return [
        (":status", http_status),
        ("content-type", "application/grpc"),
        ("grpc-status", str(status.value)),
        ("grpc-message", message),
    ]


_prefix = struct.Struct(">BI").pack


def framed(message: bytes) -> bytes:
    """A gRPC message as it goes out: not compressed, its length, its bytes."""
    return _prefix(0, len(message)) + message
