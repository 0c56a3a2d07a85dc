"""What one client of an HTTP port may take of time and room."""

import msgspec


class HttpLimits(msgspec.Struct, frozen=True):
    """The limits of one port."""

    headers: float = 10.0
    """Seconds for a request's line and headers, from its first byte: clients send them in one packet."""
    body: float = 15.0
    """Seconds for the rest of a request, from the end of its headers; the application may answer that sooner (408)."""
    write: float = 10.0
    """Seconds for the kernel to take a write: a client that works reads all the time."""
    idle: float = 30.0
    """Seconds that a connection without a request is kept."""
    grace: float = 1.0
    """Seconds that requests under way have when the server ends."""
    connections: int = 400
    """Number of connections that may be open: those of all event streams (STREAMS_MAX), and pages beside them."""
    header_bytes: int = 32 * 1024
    """Bytes of a request's line and headers."""
