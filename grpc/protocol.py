"""One ext_proc stream as a state machine without I/O: messages in, actions out (envoy.service.ext_proc.v3).

Rules.
The headers of a request are answered once its body has ended (FULL_DUPLEX_STREAMED mode), with the decision.
The machine asks for a decision by `Decide` or `Refuse`, and is told it by `routed` or `refused`, at once or later.
Whatever the order of messages: at most one `Decide` or `Refuse`, and exactly one `Finished` for a routed request.
What comes in no order that the protocol knows is ignored; the gateway has its own timeout for that.
`now` is a monotonic time in seconds, taken by the caller.
"""

from enum import Enum, auto

import msgspec
from google.protobuf.struct_pb2 import Struct

from pointsman.core.parsers import replace_model
from pointsman.grpc import replies
from pointsman.grpc.actions import Action, Decide, End, Incoming, Refuse, Reply, Routed
from pointsman.grpc.control_headers import SUBSET, read_headers
from pointsman.grpc.envoy.config.core.v3.base_pb2 import Metadata
from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HttpBody, HttpHeaders, ProcessingRequest
from pointsman.grpc.model_name import NameRestorer
from pointsman.grpc.response import ONE_ANSWER_EACH, Response

SUBSET_NAMESPACE = "envoy.lb.subset_hint"


class Limits(msgspec.Struct, frozen=True):
    """What one picker process takes on."""

    body_bytes_max: int = 100 * 2**20
    """Of one request; beyond it 413.  Prompts with many images stay below."""
    held_bytes_max: int = 2**30
    """Of all request bodies not routed yet; beyond it 503."""
    streams_max: int = 16384
    """Streams in flight, their responses included; beyond it 503."""


class Load:
    """What all streams of a picker process hold together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams = 0
        self.held_bytes = 0


class Phase(Enum):
    """How far the request is."""

    NEW = auto()
    BODY = auto()
    DECIDING = auto()
    PASSED = auto()
    """Answered, or overtaken by a response."""
    ENDED = auto()


class Stream:
    """One stream; the caller feeds it messages and, whatever happens, calls `closed` once at the end."""

    def __init__(self, load: Load, plugin_headers: frozenset[str] = frozenset()) -> None:
        self._load = load
        self._plugin_headers = plugin_headers
        self._phase = Phase.NEW
        self._received = 0.0
        self._headers: dict[str, str] = {}
        self._removed: tuple[str, ...] = ()
        self._subset: tuple[str, ...] | None = None
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._bodyless = False
        self._body_ended = False
        self._trailers_due = False
        self._response_mode: int = ProcessingMode.FULL_DUPLEX_STREAMED
        self._response: Response | None = None
        self._routed = False
        self._open = True
        load.streams += 1
        self._crowded = load.streams > load.limits.streams_max

    @property
    def waiting(self) -> bool:
        """Whether a decision is wanted; a stream that is not has gone on or away meanwhile."""
        return self._phase is Phase.DECIDING

    def receive(self, message: ProcessingRequest, now: float) -> list[Action]:
        """Take the next message."""
        if self._phase is Phase.ENDED:
            return []
        kind = message.WhichOneof("request")
        if kind == "response_body":
            body = message.response_body
            return self.receive_body(False, body.body, _ends(body), now)
        if kind == "response_headers":
            actions = self._responding().headers(message.response_headers, message.metadata_context, now)
        elif kind == "response_trailers":
            actions = self._responding().trailers(now)
        elif kind is None:
            return []
        else:
            return self._receive_request(kind, message, now)
        if self._response is not None and self._response.ended:
            self._phase = Phase.ENDED
        return actions

    def receive_body(self, request: bool, chunk: bytes, end: bool, now: float) -> list[Action]:
        """Take a chunk of the request's body, or of the response's."""
        if self._phase is Phase.ENDED:
            return []
        if request:
            if self._phase is Phase.NEW:
                self._received = now
            return self._request_body(chunk, end)
        response = self._response or self._responding()
        actions = response.body(chunk, end, now)
        if response.ended:
            self._phase = Phase.ENDED
        return actions

    # --- the request ----------------------------------------------------------------------------

    def _receive_request(self, kind: str, message: ProcessingRequest, now: float) -> list[Action]:
        if self._phase is Phase.NEW:
            self._received = now
        if message.HasField("metadata_context"):
            self._read_subset(message.metadata_context)
        if kind == "request_headers":
            return self._request_headers(message.request_headers, message)
        if kind == "request_body":
            return self._request_body(message.request_body.body, _ends(message.request_body))
        return self._request_trailers()

    def _request_headers(self, message: HttpHeaders, outer: ProcessingRequest) -> list[Action]:
        if self._phase is not Phase.NEW:
            return []
        self._phase = Phase.BODY
        self._headers, self._removed = read_headers(message.headers.headers, self._plugin_headers)
        if self._crowded:
            found, wanted = self._load.streams, self._load.limits.streams_max
            return self._refuse("too-many-streams", 503, f"{found} requests in flight, wanted {wanted} at most")
        mode: int = ProcessingMode.FULL_DUPLEX_STREAMED
        if outer.HasField("protocol_config"):
            self._response_mode = outer.protocol_config.response_body_mode
            mode = outer.protocol_config.request_body_mode
        if message.end_of_stream:
            self._bodyless = self._body_ended = True
            return self._decide()
        if mode in ONE_ANSWER_EACH:
            name = ProcessingMode.BodySendMode.Name(mode)  # type: ignore[arg-type]  # an open enum
            return self._refuse("gateway", 500, f"request_body_mode is {name}, wanted FULL_DUPLEX_STREAMED")
        length = self._headers.get("content-length", "")
        if length.isascii() and length.isdigit() and len(length) < 20:
            return self._check_size(int(length))
        return []

    def _request_body(self, chunk: bytes, end: bool) -> list[Action]:
        if self._phase is Phase.NEW:
            self._phase = Phase.BODY
        elif self._phase is not Phase.BODY or self._body_ended:
            return []
        self._body_bytes += len(chunk)
        if refusal := self._check_size(self._body_bytes):
            return refusal
        if chunk:
            self._chunks.append(chunk)
            self._load.held_bytes += len(chunk)
            if self._load.held_bytes > self._load.limits.held_bytes_max:
                wanted = self._load.limits.held_bytes_max
                return self._refuse("buffers-full", 503, f"request bodies in flight exceed {wanted} bytes")
        if end:
            self._body_ended = True
            return self._decide()
        return []

    def _check_size(self, found: int) -> list[Action]:
        wanted = self._load.limits.body_bytes_max
        if found <= wanted:
            return []
        return self._refuse("body-too-large", 413, f"request body of {found} bytes or more, wanted {wanted} at most")

    def _request_trailers(self) -> list[Action]:
        """Trailers end a body; the server waits for them, so each is answered."""
        if self._trailers_due:
            return []
        if self._phase is Phase.BODY:
            self._trailers_due = True
            return self._decide()
        if self._phase is Phase.DECIDING:
            self._trailers_due = True
            return []
        overtaken = self._phase is Phase.PASSED and not self._routed
        return [] if overtaken else [Reply(replies.REQUEST_TRAILERS)]

    def _read_subset(self, metadata: Metadata) -> None:
        if SUBSET_NAMESPACE in metadata.filter_metadata:
            hint = _subset(metadata.filter_metadata[SUBSET_NAMESPACE])
            if hint is not None:
                self._subset = hint

    def _incoming(self, body: bytes) -> Incoming:
        return Incoming(self._headers, body, self._body_bytes, self._subset, self._bodyless)

    def _decide(self) -> list[Action]:
        self._phase = Phase.DECIDING
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return [Decide(self._incoming(self._chunks[0] if self._chunks else b""))]

    def _refuse(self, reason: str, status: int, message: str) -> list[Action]:
        self._phase = Phase.DECIDING
        self._release()
        return [Refuse(self._incoming(b""), reason, status, message)]

    def _release(self) -> None:
        if self._chunks:
            self._load.held_bytes -= sum(map(len, self._chunks))
            self._chunks = []

    # --- the decision ---------------------------------------------------------------------------

    def routed(self, decision: Routed) -> list[Action]:
        """Send the request on; `waiting` must be true."""
        assert self.waiting, f"a decision came in phase {self._phase.name}, wanted DECIDING"
        self._phase = Phase.PASSED
        self._routed = True
        body = self._chunks[0] if self._chunks else b""
        self._release()
        set_headers = decision.set_headers
        restorer = None
        if decision.rename is not None:
            client_name, server_name = decision.rename
            body = replace_model(body, server_name)
            if client_name:
                restorer = NameRestorer(server_name, client_name)
            if "content-length" in self._headers:
                set_headers = (*set_headers, ("content-length", str(len(body))))
        self._response = Response(self._received, restorer, self._response_mode)
        change = replies.Change(set_headers, self._removed)
        actions: list[Action] = [Reply(replies.routed(decision.destination, change, decision.scores))]
        if not self._bodyless and (self._body_ended or body):
            actions += [Reply(data) for data in replies.request_chunks(body, self._body_ended)]
        if self._trailers_due:
            actions.append(Reply(replies.REQUEST_TRAILERS))
        return actions

    def refused(self, reason: str, status: int, message: str) -> list[Action]:
        """Answer the client ourselves; `waiting` must be true."""
        assert self.waiting, f"a decision came in phase {self._phase.name}, wanted DECIDING"
        self._release()
        self._phase = Phase.ENDED
        return [Reply(replies.immediate(status, message, reason)), End()]

    # --- the response, the end ------------------------------------------------------------------

    def _responding(self) -> Response:
        """The response half; one that comes before a decision was wanted or made belongs to no routed request."""
        if self._response is None:
            self._release()
            self._phase = Phase.PASSED
            self._response = Response(None, None, self._response_mode)
        return self._response

    def let_go(self, now: float) -> list[Action]:
        """End a routed request's stream in the middle without harm to it; nothing for any other stream.

        "If the server closes the gRPC stream cleanly, then Envoy proceeds without consulting the server."
        """
        if not self._routed or self._response is None or self._phase is Phase.ENDED:
            return []
        self._phase = Phase.ENDED
        return self._response.let_go(now)

    def closed(self, cause: str, now: float) -> list[Action]:
        """The stream is over, ours or theirs; a routed request without an end gets it, with this cause."""
        if self._open:
            self._open = False
            self._load.streams -= 1
            self._release()
        self._phase = Phase.ENDED
        return self._response.closed(cause, now) if self._response is not None else []


def _ends(body: HttpBody) -> bool:
    return body.end_of_stream or body.end_of_stream_without_message


def _subset(hint: Struct) -> tuple[str, ...] | None:
    """The endpoints that a hint names, text as a comma-separated list; None where it is neither text nor list."""
    if SUBSET not in hint.fields:
        return None
    value = hint.fields[SUBSET]
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        items = [v.string_value for v in value.list_value.values if v.WhichOneof("kind") == "string_value"]
    elif kind == "string_value":
        items = value.string_value.split(",")
    else:
        return None
    return tuple(stripped for item in items if (stripped := item.strip()))
