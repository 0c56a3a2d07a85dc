"""The bytes of what we answer: every `ProcessingResponse` is built here, as a gRPC message with its prefix.

Rules.  Header values go into `raw_value`; Envoy reads nothing else.
Headers that stay as they are, are not mentioned.  A set without `append_action` overwrites.
"""

from functools import lru_cache

from pointsman.core.deciding.refusals import refusal
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HeaderMutation, ProcessingResponse
from pointsman.grpc.ext_proc.bodies import write_body
from pointsman.grpc.ext_proc.control_headers import DESTINATION, DROPPED_REASON, SCORES
from pointsman.grpc.serving.grpc_messages import framed

CHUNK_BYTES_MAX = 62_000
"""Most body bytes in one answer: what the Go EPP sends, below Envoy's and gRPC's frame buffers of 64 KiB."""

METADATA_NAMESPACE = "envoy.lb"


def set_header(mutation: HeaderMutation, name: str, value: bytes) -> None:
    """Overwrite one header."""
    header = mutation.set_headers.add().header
    header.key = name
    header.raw_value = value


Pairs = tuple[tuple[str, str], ...]


def routed(
    destination: str, set_headers: Pairs, remove_headers: tuple[str, ...], scores: tuple[tuple[str, float], ...] = ()
) -> bytes:
    """The answer to the headers of a request that goes to `destination`, a comma-separated list.

    `scores` tell the gateway what each endpoint was worth.
    """
    if scores or set_headers:
        return _routed(destination, set_headers, remove_headers, scores)
    return _kept(destination, (), remove_headers)


def _routed(
    destination: str, set_headers: Pairs, remove_headers: tuple[str, ...], scores: tuple[tuple[str, float], ...] = ()
) -> bytes:
    reply = ProcessingResponse()
    response = reply.request_headers.response
    response.clear_route_cache = True
    mutation = response.header_mutation
    set_header(mutation, DESTINATION, destination.encode())
    for name, value in set_headers:
        set_header(mutation, name, value.encode())
    mutation.remove_headers.extend(remove_headers)
    inner = reply.dynamic_metadata.fields[METADATA_NAMESPACE].struct_value
    inner.fields[DESTINATION].string_value = destination
    if scores:
        told = inner.fields[SCORES].struct_value
        for endpoint, score in scores:
            told.fields[endpoint].number_value = score
    return framed(reply.SerializeToString())


_kept = lru_cache(maxsize=4096)(_routed)
"""Endpoints times the few combinations of control headers: the answer to most requests is there already."""


def response_headers(remove_length: bool) -> bytes:
    """The answer to a response's headers; `remove_length` where the body's length will differ."""
    reply = ProcessingResponse()
    mutation = reply.response_headers.response.header_mutation
    set_header(mutation, "x-went-into-resp-headers", b"true")
    if remove_length:
        mutation.remove_headers.append("content-length")
    return framed(reply.SerializeToString())


def _chunks(request: bool, body: bytes, end: bool) -> list[bytes]:
    size = len(body)
    if size <= CHUNK_BYTES_MAX:
        return [write_body(request, body, end)]
    return [
        write_body(request, body[start : start + CHUNK_BYTES_MAX], end and start + CHUNK_BYTES_MAX >= size)
        for start in range(0, size, CHUNK_BYTES_MAX)
    ]


def request_chunks(body: bytes, end: bool) -> list[bytes]:
    """The request's body in chunks that the server gets; an empty body is one empty chunk."""
    return _chunks(True, body, end)


def response_chunks(body: bytes, end: bool) -> list[bytes]:
    """Bytes of the response's body in chunks that the client gets."""
    return _chunks(False, body, end)


def whole_response_body(body: bytes | None) -> bytes:
    """The answer to a body message in BUFFERED or STREAMED mode; None leaves the bytes as they are."""
    reply = ProcessingResponse()
    response = reply.response_body.response
    if body is None:
        response.SetInParent()
    elif body:
        response.body_mutation.body = body
    else:
        response.body_mutation.clear_body = True
    return framed(reply.SerializeToString())


def immediate(reason: str, message: str) -> bytes:
    """The HTTP reply to a request that is refused."""
    told = refusal(reason)
    reply = ProcessingResponse()
    response = reply.immediate_response
    response.status.code = told.status  # type: ignore[assignment]  # an open enum: any HTTP status may be sent
    response.body = f"inference error: {told.code} - {message}".encode()
    if told.dropped_reason:
        set_header(response.headers, DROPPED_REASON, told.dropped_reason.encode())
    return framed(reply.SerializeToString())


def _empty(name: str) -> bytes:
    reply = ProcessingResponse()
    getattr(reply, name).SetInParent()
    return framed(reply.SerializeToString())


REQUEST_TRAILERS = _empty("request_trailers")
RESPONSE_TRAILERS = _empty("response_trailers")
RESPONSE_HEADERS = response_headers(remove_length=False)
RESPONSE_HEADERS_NO_LENGTH = response_headers(remove_length=True)
