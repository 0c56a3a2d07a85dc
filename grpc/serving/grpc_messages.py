"""gRPC messages of `Process` as they come: parsed, decompressed, or refused with a gRPC status."""

import zlib
from collections.abc import Iterable

from google.protobuf.message import DecodeError
from grpclib.const import Status

from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest


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
    """Whether a request for the method is one that can be answered here; what is not, grpclib refuses in its words."""
    found = dict(headers)
    content_type = found.get("content-type", "")
    if found.get(":method") != "POST" or found.get("te") != "trailers":
        return False
    if content_type not in ("application/grpc", "application/grpc+proto"):
        return False
    timeout = found.get("grpc-timeout")
    return timeout is None or (timeout[:-1].isdigit() and timeout[-1:] in "HMSmun")
