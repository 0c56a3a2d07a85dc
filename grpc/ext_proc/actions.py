"""What the state machine of an ext_proc stream and its owner tell each other."""

import msgspec

from pointsman.core.parsers.usage import Usage


class Incoming(msgspec.Struct, frozen=True, gc=False):
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


class Routed(msgspec.Struct, frozen=True, gc=False):
    """A decision for an endpoint, as the machine has to know it."""

    destination: str
    """`address:port`, then its fallbacks after commas."""
    set_headers: tuple[tuple[str, str], ...] = ()
    """Request headers to set beside the destination."""
    rename: tuple[str, str] | None = None
    """The client's name of the model (empty without one) and the server's, where they differ in the body."""
    scores: tuple[tuple[str, float], ...] = ()
    """(`address:port`, score) of every scored candidate, where the gateway is to be told."""


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
