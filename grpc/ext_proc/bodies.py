"""Body chunks in and out without protobuf: most messages of a streamed response are nothing else.

A message that holds only a body is read by its bytes, and one that answers it is written around the body, framed;
whatever has any other field goes through protobuf.  Field numbers come from the messages' descriptors.
"""

import struct
from functools import lru_cache
from typing import Final

from google.protobuf.descriptor import Descriptor

from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HttpBody,
    ProcessingRequest,
    ProcessingResponse,
    StreamedBodyResponse,
)

VARINT, BYTES = 0, 2
"""Protobuf's wire types: how a field's value is written."""
SMALL: Final = 128
"""Number that is the first to need two bytes as a varint, so that tags and lengths below take one."""


def tag_of(message: Descriptor, field: str, kind: int) -> int:
    tag = message.fields_by_name[field].number << 3 | kind
    assert tag < SMALL, f"{field} has a tag of more than one byte"
    return tag


REQUEST_BODY: Final = tag_of(ProcessingRequest.DESCRIPTOR, "request_body", BYTES)
RESPONSE_BODY: Final = tag_of(ProcessingRequest.DESCRIPTOR, "response_body", BYTES)
BODIES: Final = (RESPONSE_BODY, REQUEST_BODY)
"""First bytes of the messages that hold a body."""
_BODY: Final = tag_of(HttpBody.DESCRIPTOR, "body", BYTES)
_END: Final = bytes((tag_of(HttpBody.DESCRIPTOR, "end_of_stream", VARINT), 1))

NO_METADATA: Final = bytes((tag_of(ProcessingRequest.DESCRIPTOR, "metadata_context", BYTES), 0))
"""Bytes that Envoy puts behind each body: an empty `metadata_context`."""

_ANSWER_BODY: Final = tag_of(StreamedBodyResponse.DESCRIPTOR, "body", BYTES)
_ANSWER_END: Final = bytes((tag_of(StreamedBodyResponse.DESCRIPTOR, "end_of_stream", VARINT), 1))
_INNER: Final = (
    tag_of(BodyMutation.DESCRIPTOR, "streamed_response", BYTES),
    tag_of(CommonResponse.DESCRIPTOR, "body_mutation", BYTES),
    tag_of(BodyResponse.DESCRIPTOR, "response", BYTES),
)
"""Tags of the messages around a chunk in an answer, from the innermost outwards."""
_OUTER: Final = {
    True: tag_of(ProcessingResponse.DESCRIPTOR, "request_body", BYTES),
    False: tag_of(ProcessingResponse.DESCRIPTOR, "response_body", BYTES),
}


def read_body(message: bytes) -> tuple[bytes, bool] | None:
    """A chunk of a body and whether the body ends with it; None where the message holds anything else.

    Its first byte tells whose body it is: `REQUEST_BODY` or `RESPONSE_BODY`.
    """
    size = len(message)
    if size < 2 or message[0] not in BODIES:
        return None
    length, at = message[1], 2
    if length >= SMALL:
        length, at = varint(message, 1)
    if at + length != size:
        if message[at + length :] != NO_METADATA:
            return None
        size -= len(NO_METADATA)
    chunk = b""
    if at < size and message[at] == _BODY:
        if at + 1 == size:
            return None
        length, at = message[at + 1], at + 2
        if length >= SMALL:
            length, at = varint(message, at - 1)
        chunk = message[at : at + length]
        at += length
    if at == size:
        return chunk, False
    return (chunk, True) if message[at:size] == _END else None


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends; one that no message is long enough for where it is broken."""
    first = data[at]
    if first < SMALL:
        return first, at + 1
    if at + 1 < len(data) and (second := data[at + 1]) < SMALL:
        return first & 127 | second << 7, at + 2
    value = shift = 0
    for position in range(at, min(at + 5, len(data))):
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < SMALL:
            return value, position + 1
        shift += 7
    return 1 << 40, at


_prefix = struct.Struct(">BI").pack


def write_body(request: bool, chunk: bytes, end: bool) -> bytes:
    """The answer that passes on `chunk` of the request's or the response's body, framed."""
    whole = _before(request, len(chunk), end) + chunk
    return whole + _ANSWER_END if end else whole


@lru_cache(maxsize=8192)
def _before(request: bool, size: int, end: bool) -> bytes:
    """What stands before a chunk of `size` bytes."""
    data = bytes((_ANSWER_BODY,)) + _number(size) if size else b""
    inside = len(data) + size + (len(_ANSWER_END) if end else 0)
    for tag in (*_INNER, _OUTER[request]):
        prefix = bytes((tag,)) + _number(inside)
        data = prefix + data
        inside += len(prefix)
    return _prefix(0, inside) + data


def _number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= SMALL:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
