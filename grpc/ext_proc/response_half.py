"""The response half of an ext_proc stream: passes through as it comes, and is observed.

Whatever a server sends, the client gets: nothing here waits for the end of a body.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from pointsman.core.deciding.request_facts import text
from pointsman.core.parsers.usage import Usage, UsageReader
from pointsman.grpc.envoy.config.core.v3.base_pb2 import Metadata
from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.ext_proc import replies
from pointsman.grpc.ext_proc.actions import Actions, Finished, Started
from pointsman.grpc.ext_proc.bodies import write_body
from pointsman.grpc.ext_proc.control_headers import DESTINATION_SERVED
from pointsman.grpc.ext_proc.header_messages import HeadReader
from pointsman.grpc.ext_proc.model_name import NameRestorer

_PLAIN = ("", "identity")

ONE_ANSWER_EACH = (ProcessingMode.STREAMED, ProcessingMode.BUFFERED, ProcessingMode.BUFFERED_PARTIAL)
"""Body modes in which each message wants one answer of its own; a request's body cannot be held back in them."""

OBSERVED: Final = frozenset((":status", "content-type", "content-encoding"))
"""Headers of a response that are read."""
_SERVERS: Final = frozenset(("date", "server", "via", "x-envoy-upstream-service-time"))
"""Headers at least one of which is in a response that came from a server."""
_ERROR: Final = 400
RESPONSE_HEADS: Final = HeadReader(False, OBSERVED)


class ObservedHeaders(NamedTuple):
    """What a response's headers say."""

    status: int
    """Status of the response; 0 where the headers do not say it."""
    streamed: bool
    """Whether the body is server-sent events."""
    plain: bool
    """Whether the body is not compressed, so that its usage can be read."""
    end: bool
    """Whether there is no body."""
    served: str
    """The endpoint that the data plane says it used; empty where it says none."""
    unanswered: bool = False
    """Whether no server answered: the gateway made the response itself."""


@lru_cache(maxsize=256)
def observed(fields: tuple[tuple[str, bytes], ...], end: bool, served: str = "") -> ObservedHeaders:
    """What these headers say, names in any letters; few are read, and servers send few different ones."""
    status, streamed, encoding = 0, False, ""
    for name, value in fields:
        name = name.lower()
        if name == ":status":
            status = int(value) if len(value) == 3 and value.isdigit() else 0
        elif name == "content-type":
            streamed = b"text/event-stream" in value.lower()
        elif name == "content-encoding":
            encoding = text(value).strip().lower()
    return ObservedHeaders(status, streamed, encoding in _PLAIN, end, served)


def made_by_gateway(fields: Mapping[str, bytes]) -> bool:
    """Whether a response of status 500 or more, with these headers, is the gateway's and no server's.

    Envoy writes such a response as plain text, and asks us before it puts on the headers that all responses get.
    """
    lower = {name.lower(): value for name, value in fields.items()}
    return lower.get("content-type", b"").startswith(b"text/plain") and _SERVERS.isdisjoint(lower)


def served(metadata: Metadata) -> str:
    """The endpoint that the data plane says it used; empty where it says none."""
    if replies.METADATA_NAMESPACE not in metadata.filter_metadata:
        return ""
    fields = metadata.filter_metadata[replies.METADATA_NAMESPACE].fields
    return fields[DESTINATION_SERVED].string_value if DESTINATION_SERVED in fields else ""


class ResponseHalf:
    """One response: of a routed request, or of one that never was (an early reply of the gateway)."""

    def __init__(self, out: list[bytes], received: float | None, restorer: NameRestorer | None, mode: int) -> None:
        self.kept = False
        """Whether the server keeps the answer, so that its id is to be read; the stream says it before the headers."""
        self._served = ""
        self._out = out
        """Messages to send, the stream's."""
        self._received = received
        """Time when the routed request's headers came; None where no request was routed."""
        self._restorer = restorer
        self._duplex = mode not in ONE_ANSWER_EACH
        self._headers_only = mode == ProcessingMode.NONE
        """Whether the gateway said that it will not send the body: after the headers it does not tell the end."""
        self._usage: UsageReader | None = None
        self._status = 0
        self._streamed = False
        self._unanswered = False
        self._awaited = False
        """Whether the first token is still to come: of a streamed answer, and of no answer that is an error."""
        self._first_token: float | None = None
        self._bytes = 0
        self._chunks = 0
        self._headers_seen = False
        self.ended = False

    def headers(self, seen: ObservedHeaders, now: float) -> Actions:
        """Answer the headers at once; a second set is answered and changes nothing."""
        self._out.append(replies.RESPONSE_HEADERS if self._restorer is None else replies.RESPONSE_HEADERS_NO_LENGTH)
        actions: Actions = ()
        if not self._headers_seen:
            self._headers_seen = True
            self._status, self._streamed = seen.status, seen.streamed
            if self._restorer is not None:
                self._restorer.events = seen.streamed
            if self._received is not None:
                if seen.plain:
                    self._usage = UsageReader(seen.streamed, self.kept and seen.status < _ERROR)
                self._awaited = seen.streamed and seen.status < _ERROR
                self._unanswered = seen.unanswered
                self._served = seen.served
                actions = (Started(seen.status, now - self._received, seen.served),)
        return actions + self._end("complete", now) if seen.end else actions

    def body(self, chunk: bytes, end: bool, now: float) -> Actions:
        """Pass a chunk on, and end with the last."""
        self._headers_only = False
        if chunk:
            self._chunks += 1
            self._bytes += len(chunk)
            usage = self._usage
            if usage is not None:
                usage.feed(chunk)
            if self._awaited and (usage is None or usage.begun):
                self._awaited = False
                if self._received is not None:
                    self._first_token = now - self._received
        if self._restorer is None and self._duplex and len(chunk) <= replies.CHUNK_BYTES_MAX:
            self._out.append(write_body(False, chunk, end))  # nearly every chunk of a stream
        else:
            self._pass_on(chunk, end)
        return self._end("complete", now) if end else ()

    def _pass_on(self, chunk: bytes, end: bool) -> None:
        out = chunk if self._restorer is None else self._restorer.feed(chunk, end)
        if not self._duplex:
            self._out.append(replies.whole_response_body(None if self._restorer is None else out))
        elif out or end or self._restorer is None:
            self._out += replies.response_chunks(out, end)

    def trailers(self, now: float) -> Actions:
        """Pass on what was held back of the body, then the trailers."""
        rest = self._restorer.feed(b"", True) if self._restorer is not None else b""
        if rest and self._duplex:
            self._out += replies.response_chunks(rest, False)
        self._out.append(replies.RESPONSE_TRAILERS)
        return self._end("complete", now)

    def let_go(self, now: float) -> Actions:
        """Stop observing while the response goes on: the gateway passes on by itself what is still to come."""
        rest = self._restorer.feed(b"", True) if self._restorer is not None else b""
        if rest:
            self._out += replies.response_chunks(rest, False)
        return self._end("drained", now)

    def closed(self, cause: str, now: float) -> Actions:
        """The stream is gone; without a response this ends the request as well."""
        if self._headers_only and self._headers_seen and cause == "disconnected":
            cause = "complete"
        return self._end(cause, now)

    def _end(self, cause: str, now: float) -> Actions:
        """The end of a routed request, once."""
        if self.ended:
            return ()
        self.ended = True
        if self._received is None:
            return ()
        usage, error, response_id = Usage(), "", ""
        if self._usage is not None:
            usage = self._usage.usage()
            response_id = self._usage.response_id
            if self._status < _ERROR:  # a refusal may quote the request, which is not recorded
                error = self._usage.error
            if self._awaited and self._usage.begun:  # the last event had no end
                self._first_token = now - self._received
        finished = Finished(
            cause=cause,
            status=self._status,
            duration=now - self._received,
            first_token=self._first_token,
            response_bytes=self._bytes,
            chunks=self._chunks,
            streamed=self._streamed,
            usage=usage,
            error=error,
            unanswered=self._unanswered,
            response_id=response_id,
            served=self._served,
        )
        return (finished,)
