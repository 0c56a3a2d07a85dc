"""The bytes that a gateway sends to a picker."""

import hpack

from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HttpHeaders, ProcessingRequest
from pointsman.grpc.epp import METHOD
from pointsman.grpc.http2.frames import DATA, END_HEADERS, HEADERS, RST_STREAM, frame

PATH_HEADERS = (":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1:19100"), (":path", "/v1/completions")
MORE_HEADERS = ("content-type", "application/json"), ("x-forwarded-proto", "http"), ("x-envoy-internal", "true")
STATUS_HEADERS = (
    (":status", "200"),
    ("server", "nginx/1.22.1"),
    ("date", "Sat, 21 Nov 2026 12:34:55 GMT"),
    ("content-length", "2216"),
    ("last-modified", "Sat, 21 Nov 2026 12:34:49 GMT"),
    ("etag", '"6b018fe9-8a8"'),
    ("accept-ranges", "bytes"),
    ("x-envoy-upstream-service-time", "1"),
)


def _headers_of(message: HttpHeaders, fields: tuple[tuple[str, str], ...]) -> None:
    for name, value in fields:
        header = message.headers.headers.add()
        header.key, header.raw_value = name, value.encode()


class Gateway:
    """The bytes that Envoy 1.40 sends for requests one after the other; a body's end is a message of its own."""

    def __init__(self, chunks: int) -> None:
        self._hpack = hpack.Encoder()
        self._stream = -1
        usage = '"usage":{"prompt_tokens":120,"completion_tokens":40,"total_tokens":160}'
        self._json = ('{"id":"cmpl-1","choices":[{"text":"' + "x" * 2000 + '"}],' + usage + "}").encode()
        event = b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" word"}]}\n\n'
        self._chunks = [self._json] if chunks == 1 else [event] * chunks
        self._kind = "application/json" if chunks == 1 else "text/event-stream"

    def _message(self, message: ProcessingRequest) -> bytes:
        message.metadata_context.SetInParent()
        data = message.SerializeToString()
        return frame(DATA, 0, self._stream, b"\0" + len(data).to_bytes(4, "big") + data)

    def request(self, i: int) -> bytes:
        """Headers and body, as they come in one read."""
        self._stream += 2
        path = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "picker")]
        more = [("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "10000m")]
        block = self._hpack.encode([*path, *more, ("x-forwarded-for", "10.0.0.1")])
        first, second, third = ProcessingRequest(), ProcessingRequest(), ProcessingRequest()
        own = ("x-request-id", f"{i:08x}-4b1c-4d6e-9c3f-1f0c5d7a9b2e"), ("content-length", "1200")
        _headers_of(first.request_headers, (*PATH_HEADERS, *MORE_HEADERS, *own))
        mode = ProcessingMode.FULL_DUPLEX_STREAMED
        first.protocol_config.request_body_mode = first.protocol_config.response_body_mode = mode
        prompt = f"system prompt number {i % 20} says be nice. " * 20 + f" question {i}"
        second.request_body.body = f'{{"model":"m","max_tokens":50,"prompt":"{prompt}"}}'.encode()
        third.request_body.end_of_stream = True
        head = frame(HEADERS, END_HEADERS, self._stream, block)
        return head + self._message(first) + self._message(second) + self._message(third)

    def response(self) -> list[bytes]:
        """Headers and body in as many reads as there are chunks, then the gateway's end of the stream."""
        headers = ProcessingRequest()
        _headers_of(headers.response_headers, (*STATUS_HEADERS, ("content-type", self._kind)))
        reads = []
        for chunk in self._chunks:
            body = ProcessingRequest()
            body.response_body.body = chunk
            reads.append(self._message(body))
        end = ProcessingRequest()
        end.response_body.end_of_stream = True
        reads[0] = self._message(headers) + reads[0]
        reads[-1] += self._message(end)
        return [*reads, frame(RST_STREAM, 0, self._stream, bytes(4))]
