"""What the state machine of an ext_proc stream asks of its owner, and what it is told.

The machine (`protocol.py`) returns an `Action` for what is to happen outside of it:
a decision to make, a refusal to record, a response that began, a request that ended.
The owner of the stream performs it, and answers `Decide` and `Refuse` by a method of the machine.
"""

from typing import TypeAlias

import msgspec

from pointsman.core.deciding.refusals import RefusalReason
from pointsman.core.parsers.usage import Usage
from pointsman.grpc.ext_proc.encodings import Unread


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A request as far as it was received."""

    headers: dict[str, str]
    """Headers that a decision may read, by their names in lower case."""
    body: bytes
    """Body of the request without its content encoding; empty where the request is refused before its end."""
    body_bytes: int
    """Bytes of the body that were received."""
    subset: tuple[str, ...] | None
    """Endpoints that the subset hint names, as it names them; None without a hint."""
    bodyless: bool = False
    """Whether the headers said that no body follows, or that another protocol does."""
    upgrade: bool = False
    """Whether another protocol follows."""
    unread: Unread | None = None
    """Refusal for a body whose content encoding cannot be taken off, should it have to be read."""


class Routed(msgspec.Struct, frozen=True, gc=False):
    """A decision for an endpoint, as the machine has to know it."""

    destination: str
    """Endpoint as `address:port`, then its fallbacks after commas."""
    set_headers: tuple[tuple[str, str], ...] = ()
    """Request headers to set beside the destination."""
    rename: tuple[str, str] | None = None
    """Names of the model, where they differ in the body: the client's (empty without one) and the server's."""
    scores: tuple[tuple[str, float], ...] = ()
    """(`address:port`, score) of every scored candidate, where the gateway is to be told."""
    kept: bool = False
    """Whether the server keeps its answer, whose id is to be read."""


class Decide(msgspec.Struct, frozen=True, gc=False):
    """The request is complete: pick an endpoint, then tell the machine by `routed` or `refused`."""

    request: Incoming


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """The request cannot be scheduled: record its refusal, then tell the machine by `refused`."""

    request: Incoming
    reason: RefusalReason
    message: str


class Started(msgspec.Struct, frozen=True, gc=False):
    """The response of a routed request began; fields as in `ResponseStarted`."""

    status: int
    after: float
    served: str


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The one end of a routed request; fields as in `RequestFinished`."""

    cause: str
    status: int
    duration: float
    first_token: float | None
    response_bytes: int
    chunks: int
    streamed: bool
    usage: Usage
    error: str = ""
    unanswered: bool = False
    response_id: str = ""
    served: str = ""
    """Endpoint that the data plane says it used; empty where it says none."""


Action: TypeAlias = Decide | Refuse | Started | Finished

Actions: TypeAlias = tuple[Action, ...]
"""Actions that a message asks for, in order; most messages ask for none."""
