"""The response half of an ext_proc stream: passes through as it comes, and is observed.

Whatever a server sends, the client gets: nothing here waits for the end of a body.
"""

from pointsman.core.request import text
from pointsman.core.usage import Usage, UsageReader
from pointsman.grpc import replies
from pointsman.grpc.actions import Action, End, Finished, Reply, Started
from pointsman.grpc.bodies import write_body
from pointsman.grpc.control_headers import DESTINATION_SERVED
from pointsman.grpc.envoy.config.core.v3.base_pb2 import Metadata
from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HttpHeaders
from pointsman.grpc.model_name import NameRestorer

_HEADERS = Reply(replies.RESPONSE_HEADERS)
_HEADERS_NO_LENGTH = Reply(replies.RESPONSE_HEADERS_NO_LENGTH)
_TRAILERS = Reply(replies.RESPONSE_TRAILERS)
_END = End()
_PLAIN = ("", "identity")

ONE_ANSWER_EACH = (ProcessingMode.STREAMED, ProcessingMode.BUFFERED, ProcessingMode.BUFFERED_PARTIAL)
"""Body modes in which each message wants one answer of its own; a request's body cannot be held back in them."""


class Response:
    """One response: of a routed request, or of one that never was (an early reply of the gateway)."""

    def __init__(self, received: float | None, restorer: NameRestorer | None, mode: int) -> None:
        self._received = received
        """When the routed request's headers came; None where no request was routed."""
        self._restorer = restorer
        self._duplex = mode not in ONE_ANSWER_EACH
        self._headers_only = mode == ProcessingMode.NONE
        """The gateway said that it will not send the body: after the headers the end is not told."""
        self._usage: UsageReader | None = None
        self._status = 0
        self._streamed = False
        self._first_token: float | None = None
        self._bytes = 0
        self._chunks = 0
        self._headers_seen = False
        self.ended = False

    def headers(self, message: HttpHeaders, metadata: Metadata, now: float) -> list[Action]:
        """Answer the headers at once; a second set is answered and changes nothing."""
        actions: list[Action] = [_HEADERS if self._restorer is None else _HEADERS_NO_LENGTH]
        if not self._headers_seen:
            self._headers_seen = True
            self._observe_headers(message)
            if self._received is not None:
                actions.append(Started(self._status, now - self._received, _served(metadata)))
        if message.end_of_stream:
            actions += self._end("complete", now)
        return actions

    def _observe_headers(self, message: HttpHeaders) -> None:
        encoding = ""
        for header in message.headers.headers:
            name = header.key
            if name == ":status":
                value = text(header.raw_value or header.value.encode())
                self._status = int(value) if len(value) == 3 and value.isascii() and value.isdigit() else 0
            elif name in ("content-type", "Content-Type"):
                self._streamed = b"text/event-stream" in (header.raw_value or header.value.encode()).lower()
            elif name in ("content-encoding", "Content-Encoding"):
                encoding = text(header.raw_value or header.value.encode()).strip().lower()
        if self._received is not None and encoding in _PLAIN:
            self._usage = UsageReader(self._streamed)

    def body(self, chunk: bytes, end: bool, now: float) -> list[Action]:
        """Pass a chunk on, and end with the last."""
        self._headers_only = False
        if chunk:
            if self._first_token is None and self._received is not None:
                self._first_token = now - self._received
            self._chunks += 1
            self._bytes += len(chunk)
            if self._usage is not None:
                self._usage.feed(chunk)
        actions: list[Action]
        if self._restorer is None and self._duplex and not end and len(chunk) <= replies.CHUNK_BYTES_MAX:
            return [Reply(write_body(False, chunk, False))]  # nearly every chunk of a stream
        out = chunk if self._restorer is None else self._restorer.feed(chunk, end)
        if not self._duplex:
            actions = [Reply(replies.whole_response_body(None if self._restorer is None else out))]
        elif out or end or self._restorer is None:
            actions = [Reply(data) for data in replies.response_chunks(out, end)]
        else:
            actions = []
        if end:
            actions += self._end("complete", now)
        return actions

    def trailers(self, now: float) -> list[Action]:
        """Pass on what was held back of the body, then the trailers."""
        actions: list[Action] = []
        rest = self._restorer.feed(b"", True) if self._restorer is not None else b""
        if rest and self._duplex:
            actions += [Reply(data) for data in replies.response_chunks(rest, False)]
        actions.append(_TRAILERS)
        return actions + self._end("complete", now)

    def let_go(self, now: float) -> list[Action]:
        """Stop observing while the response goes on: the gateway passes on by itself what is still to come."""
        rest = self._restorer.feed(b"", True) if self._restorer is not None else b""
        actions: list[Action] = [Reply(data) for data in replies.response_chunks(rest, False)] if rest else []
        return actions + self._end("drained", now)

    def closed(self, cause: str, now: float) -> list[Action]:
        """The stream is gone; without a response this ends the request as well."""
        if self._headers_only and self._headers_seen and cause == "disconnected":
            cause = "complete"
        return [a for a in self._end(cause, now) if not isinstance(a, End)]

    def _end(self, cause: str, now: float) -> list[Action]:
        if self.ended:
            return []
        self.ended = True
        if self._received is None:
            return [_END]
        finished = Finished(
            cause=cause,
            status=self._status,
            duration=now - self._received,
            first_token=self._first_token,
            response_bytes=self._bytes,
            chunks=self._chunks,
            streamed=self._streamed,
            usage=self._usage.usage() if self._usage is not None else Usage(),
        )
        return [finished, _END]


def _served(metadata: Metadata) -> str:
    """The endpoint that the data plane says it used; empty where it says none."""
    if replies.METADATA_NAMESPACE not in metadata.filter_metadata:
        return ""
    fields = metadata.filter_metadata[replies.METADATA_NAMESPACE].fields
    return fields[DESTINATION_SERVED].string_value if DESTINATION_SERVED in fields else ""
