"""One ext_proc stream as a state machine without I/O: messages in, answers and actions out.

A gateway opens one stream (a gRPC call of envoy.service.ext_proc.v3) for each HTTP request that it has to route,
and sends what it has as messages: the request's headers, its body in chunks, perhaps trailers,
later the same of the response.  It waits for the answers: they say what to change, and only then does it pass things on.
In the body mode that we ask for (FULL_DUPLEX_STREAMED) it keeps nothing: an answer carries the bytes to pass on,
and the answer to the headers may wait until the body has been read.

So a request's headers are answered with the decision, once its body has ended.
A request for an upgrade, to a WebSocket for instance, has no body: it is decided at its headers, and then bytes of
the other protocol are passed on both ways as they come.
Answers wait in `out`; what is to happen outside of the machine comes back as values (`actions.py`).
After a `Decide` or a `Refuse` the owner tells the machine by `routed` or `refused`, at once or later.

Rules.
Whatever the order of messages: at most one `Decide` or `Refuse`, and exactly one `Finished` for a routed request.
What comes in no order that the protocol knows is ignored; the gateway has its own timeout for that.
`now` is a monotonic time in seconds, taken by the caller.
"""

from enum import Enum, auto

from google.protobuf.struct_pb2 import Struct

from pointsman.core.deciding.refusals import REFUSALS, RefusalReason
from pointsman.core.parsers import replace_model
from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.envoy.config.core.v3.base_pb2 import Metadata
from pointsman.grpc.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HttpBody, HttpHeaders, ProcessingRequest
from pointsman.grpc.ext_proc import replies
from pointsman.grpc.ext_proc.actions import Actions, Decide, Incoming, Refuse, Routed
from pointsman.grpc.ext_proc.bodies import BODIES, REQUEST_BODY, read_body
from pointsman.grpc.ext_proc.control_headers import SUBSET, asks_for_upgrade, fields_of, read_headers
from pointsman.grpc.ext_proc.header_messages import REQUEST_HEADERS, RESPONSE_HEADERS, request_heads
from pointsman.grpc.ext_proc.model_name import NameRestorer
from pointsman.grpc.ext_proc.request_body import RequestBody
from pointsman.grpc.ext_proc.response_half import (
    OBSERVED,
    ONE_ANSWER_EACH,
    RESPONSE_HEADS,
    ObservedHeaders,
    ResponseHalf,
    made_by_gateway,
    observed,
    served,
)
from pointsman.grpc.serving.grpc_messages import parsed
from pointsman.grpc.serving.held import Account, Held

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
_DUPLEX: int = ProcessingMode.FULL_DUPLEX_STREAMED


class Load:
    """What all streams of a picker process amount to together."""

    def __init__(self, limits: StreamLimits) -> None:
        self.limits = limits
        self.streams = 0
        self.held = Held(limits.held_bytes_max)
        """Bytes that connections have us hold, request bodies that are not routed yet among them."""


class Phase(Enum):
    """How far the request is."""

    NEW = auto()
    """Nothing came yet."""
    BODY = auto()
    """The headers came, the body has not ended."""
    DECIDING = auto()
    """A decision was asked for, and is not made yet."""
    PASSED = auto()
    """The request was answered, or a response came before it was."""
    ENDED = auto()
    """Nothing more is said or taken."""


class Stream:
    """One stream; its owner feeds it messages, performs what it returns, and always calls `closed` in the end."""

    def __init__(self, load: Load, account: Account, plugin_headers: frozenset[str] = frozenset()) -> None:
        self.out: list[bytes] = []
        """Messages to send, in this order; the owner takes them out."""
        self.ended = False
        """Whether nothing more will be said: the stream is to be ended with OK."""
        self._load = load
        self._plugin_headers = plugin_headers
        self._phase = Phase.NEW
        self._received = 0.0
        """Time when the request's first message came."""
        self._headers: dict[str, str] = {}
        self._removed: tuple[str, ...] = ()
        """Names of the headers that the model server must not see."""
        self._subset: tuple[str, ...] | None = None
        self._body = RequestBody(account)
        self._body_bytes = 0
        self._bodyless = False
        """Whether there is no body to read: the headers ended the request, or asked for an upgrade."""
        self._upgrade = False
        self._body_ended = False
        self._trailers_due = False
        """Whether trailers came that are answered behind the decision."""
        self._response_mode = _DUPLEX
        self._response: ResponseHalf | None = None
        self._routed = False
        self._open = True
        """Whether the stream counts in `load`."""
        load.streams += 1
        self._crowded = load.streams > load.limits.streams_max and not account.displace()

    # --- messages ---------------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """Bytes that are held of the request's body."""
        return self._body.bytes

    @property
    def waiting(self) -> bool:
        """Whether a decision is wanted; a stream that is not has gone on or away meanwhile."""
        return self._phase is Phase.DECIDING

    def receive(self, data: bytes, now: float) -> Actions:
        """Take the next message's bytes; `RefusedMessage` where they are none."""
        kind = data[0] if data else 0
        if kind in BODIES:
            body = read_body(data)
            if body is not None:
                if self._phase is Phase.ENDED:
                    return ()
                if kind == REQUEST_BODY:
                    return self._request_body(*body, now)
                return self._response_body(*body, now)
        elif kind == REQUEST_HEADERS:
            head = request_heads(self._plugin_headers).read(data)
            if head is not None:
                if self._phase is not Phase.NEW:
                    return ()
                self._headers, self._removed = read_headers(head.fields, self._plugin_headers)
                return self._request_headers(head.end, head.modes, now)
        elif kind == RESPONSE_HEADERS:
            head = RESPONSE_HEADS.read(data)
            if head is not None:
                if self._phase is Phase.ENDED:
                    return ()
                seen = observed(tuple(head.fields), head.end)
                if seen.status < 500:
                    return self._response_headers(seen, now)
                # Whose failure it is, is told by headers that are not wanted otherwise.
        return self._receive(parsed(data), now)

    def _receive(self, message: ProcessingRequest, now: float) -> Actions:
        """Take a message that is not one of the usual few."""
        if self._phase is Phase.ENDED:
            return ()
        kind = message.WhichOneof("request")
        if kind == "response_headers":
            head = message.response_headers
            fields = dict(fields_of(head.headers.headers))
            wanted = tuple((name, value) for name, value in fields.items() if name.lower() in OBSERVED)
            seen = observed(wanted, head.end_of_stream, served(message.metadata_context))
            if seen.status >= 500 and not seen.served:
                seen = seen._replace(unanswered=made_by_gateway(fields))
            return self._response_headers(seen, now)
        if kind == "response_body":
            return self._response_body(message.response_body.body, _ends(message.response_body), now)
        if kind == "response_trailers":
            return self._end_with(self._responding().trailers(now))
        return () if kind is None else self._receive_request(kind, message, now)

    # --- the request ----------------------------------------------------------------------------

    def _receive_request(self, kind: str, message: ProcessingRequest, now: float) -> Actions:
        if message.HasField("metadata_context"):
            self._read_subset(message.metadata_context)
        if kind == "request_headers":
            return self._read_request_message(message.request_headers, message, now)
        if kind == "request_body":
            return self._request_body(message.request_body.body, _ends(message.request_body), now)
        return self._request_trailers(now)

    def _read_request_message(self, message: HttpHeaders, outer: ProcessingRequest, now: float) -> Actions:
        if self._phase is not Phase.NEW:
            return ()
        self._headers, self._removed = read_headers(fields_of(message.headers.headers), self._plugin_headers)
        modes = None
        if outer.HasField("protocol_config"):
            modes = outer.protocol_config.request_body_mode, outer.protocol_config.response_body_mode
        return self._request_headers(message.end_of_stream, modes, now)

    def _request_headers(self, end: bool, modes: tuple[int, int] | None, now: float) -> Actions:
        self._phase = Phase.BODY
        self._received = now
        if self._crowded:
            found, wanted = self._load.streams, self._load.limits.streams_max
            return self._refuse("too-many-streams", found, wanted)
        mode = _DUPLEX
        if modes is not None:
            mode, self._response_mode = modes
        if end:
            self._bodyless = self._body_ended = True
            return self._decide()
        if mode in ONE_ANSWER_EACH:
            name = ProcessingMode.BodySendMode.Name(mode)  # type: ignore[arg-type]  # an open enum
            return self._refuse("gateway", name)
        if asks_for_upgrade(self._headers):
            self._bodyless = self._upgrade = True
            return self._decide()
        if encoding := self._headers.get("content-encoding"):
            self._body.encoded(encoding)
        length = self._headers.get("content-length", "")
        if length.isascii() and length.isdigit() and len(length) < 20:
            return self._check_size(int(length))
        return ()

    def _request_body(self, chunk: bytes, end: bool, now: float) -> Actions:
        if self._phase is Phase.NEW:
            self._phase = Phase.BODY
            self._received = now
        elif self._upgrade and self._routed:
            self.out += replies.request_chunks(chunk, end)
            return ()
        elif self._phase is not Phase.BODY or self._body_ended:
            return ()
        if chunk:
            self._body_bytes += len(chunk)
            if self._body_bytes > self._load.limits.body_bytes_max:
                return self._check_size(self._body_bytes)
            if not self._body.take(chunk):
                return self._refuse("buffers-full", self._load.limits.held_bytes_max)
        if not end:
            return ()
        self._body_ended = True
        return self._decide()

    def _check_size(self, found: int) -> Actions:
        wanted = self._load.limits.body_bytes_max
        return self._refuse("body-too-large", f"{found} bytes or more", wanted) if found > wanted else ()

    def _request_trailers(self, now: float) -> Actions:
        """Trailers end a body; the server waits for them, so each is answered."""
        if self._trailers_due:
            return ()
        if self._phase is Phase.BODY:
            self._trailers_due = True
            return self._decide()
        if self._phase is Phase.DECIDING:
            self._trailers_due = True
        elif self._phase is not Phase.PASSED or self._routed:
            self.out.append(replies.REQUEST_TRAILERS)
        return ()

    def _read_subset(self, metadata: Metadata) -> None:
        if SUBSET_NAMESPACE in metadata.filter_metadata:
            hint = _subset(metadata.filter_metadata[SUBSET_NAMESPACE])
            if hint is not None:
                self._subset = hint

    def _incoming(self, body: bytes) -> Incoming:
        body_bytes, unread = self._body_bytes, self._body.unread
        return Incoming(self._headers, body, body_bytes, self._subset, self._bodyless, self._upgrade, unread)

    def _decide(self) -> Actions:
        self._phase = Phase.DECIDING
        return (Decide(self._incoming(self._body.plain())),)

    def _refuse(self, reason: RefusalReason, *found: object) -> Actions:
        self._phase = Phase.DECIDING
        self._body.release()
        return (Refuse(self._incoming(b""), reason, REFUSALS[reason].tell(*found)),)

    # --- the decision ---------------------------------------------------------------------------

    def routed(self, decision: Routed) -> None:
        """Send the request on; `waiting` must be true."""
        assert self.waiting, f"a decision came in phase {self._phase.name}, wanted DECIDING"
        self._phase = Phase.PASSED
        self._routed = True
        body = self._body.as_it_came()
        set_headers, removed = decision.set_headers, self._removed
        restorer = None
        if decision.rename is not None:
            client_name, server_name = decision.rename
            body = replace_model(self._body.plain(), server_name)
            if self._body.folded:
                removed = (*removed, "content-encoding")
            if client_name:
                restorer = NameRestorer(server_name, client_name)
            if "content-length" in self._headers:
                set_headers = (*set_headers, ("content-length", str(len(body))))
        self._body.release()
        self._response = ResponseHalf(self.out, self._received, restorer, self._response_mode)
        self._response.kept = decision.kept
        self.out.append(replies.routed(decision.destination, set_headers, removed, decision.scores))
        if not self._bodyless and (self._body_ended or body):
            self.out += replies.request_chunks(body, self._body_ended)
        if self._trailers_due:
            self.out.append(replies.REQUEST_TRAILERS)

    def refused(self, reason: str, message: str) -> None:
        """Answer the client ourselves; `waiting` must be true."""
        assert self.waiting, f"a decision came in phase {self._phase.name}, wanted DECIDING"
        self._body.release()
        self._phase = Phase.ENDED
        self.out.append(replies.immediate(reason, message))
        self.ended = True

    # --- the response, the end ------------------------------------------------------------------

    def _responding(self) -> ResponseHalf:
        """The response half; one that comes before a decision was wanted or made belongs to no routed request."""
        if self._response is None:
            self._body.release()
            self._phase = Phase.PASSED
            self._response = ResponseHalf(self.out, None, None, self._response_mode)
        return self._response

    def _response_headers(self, seen: ObservedHeaders, now: float) -> Actions:
        actions = self._responding().headers(seen, now)
        return self._end_with(actions) if seen.end else actions

    def _response_body(self, chunk: bytes, end: bool, now: float) -> Actions:
        actions = (self._response or self._responding()).body(chunk, end, now)
        return self._end_with(actions) if end else actions

    def _end_with(self, actions: Actions) -> Actions:
        """The response has ended, and the stream with it."""
        self._phase = Phase.ENDED
        self.ended = True
        return actions

    def let_go(self, now: float) -> Actions:
        """End a routed request's stream in the middle without harm to it; nothing for any other stream.

        "If the server closes the gRPC stream cleanly, then Envoy proceeds without consulting the server."
        """
        if not self._routed or self._response is None or self._phase is Phase.ENDED:
            return ()
        return self._end_with(self._response.let_go(now))

    def closed(self, cause: str, now: float) -> Actions:
        """The stream is over, ours or theirs; a routed request without an end gets it, with this cause."""
        if self._open:
            self._open = False
            self._load.streams -= 1
            self._body.release()
        return self._end_with(() if self._response is None else self._response.closed(cause, now))


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
