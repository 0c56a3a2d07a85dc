"""What the state machine of an ext_proc stream asks its caller to do, in order."""

from typing import TypeAlias

import msgspec

from pointsman.core.usage import Usage


class Incoming(msgspec.Struct, frozen=True):
    """A request as far as it was received."""

    headers: dict[str, str]
    """Those that a decision may read, names in lower case."""
    body: bytes
    """Empty where the request is refused before its end."""
    body_bytes: int
    """Received so far."""
    subset: tuple[str, ...] | None
    """The subset hint as it came; None without one."""
    bodyless: bool = False
    """The headers said that no body follows."""


class Decide(msgspec.Struct, frozen=True):
    """The request is complete: pick an endpoint, then tell the machine by `routed` or `refused`."""

    request: Incoming


class Refuse(msgspec.Struct, frozen=True):
    """The request is to be refused before scheduling; tell the machine by `refused` once that is recorded."""

    request: Incoming
    reason: str
    """As in `RequestRefused`."""
    status: int
    message: str


class Reply(msgspec.Struct, frozen=True):
    """Send the bytes of one `ProcessingResponse`."""

    data: bytes


class Started(msgspec.Struct, frozen=True):
    """The response of a routed request began; fields as in `ResponseStarted`."""

    status: int
    after: float
    served: str


class Finished(msgspec.Struct, frozen=True):
    """The one end of a routed request; fields as in `RequestFinished`."""

    cause: str
    status: int
    duration: float
    first_token: float | None
    response_bytes: int
    chunks: int
    streamed: bool
    usage: Usage


class End(msgspec.Struct, frozen=True):
    """Nothing more will be said: end the stream with OK."""


Action: TypeAlias = Decide | Refuse | Reply | Started | Finished | End


class Routed(msgspec.Struct, frozen=True):
    """A decision for an endpoint, as the machine has to know it."""

    destination: str
    """`address:port`, then its fallbacks after commas."""
    set_headers: tuple[tuple[str, str], ...] = ()
    """Request headers to set beside the destination."""
    rename: tuple[str, str] | None = None
    """The client's name of the model (empty without one) and the server's, where they differ in the body."""
    scores: tuple[tuple[str, float], ...] = ()
    """(`address:port`, score) of every scored candidate, where the gateway is to be told."""
