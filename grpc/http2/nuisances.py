"""Frames that cost work and carry little: so many a second that no gateway sends them, and a flood ends its connection."""

from h2.exceptions import DenialOfServiceError

NUISANCES_MAX = 10_000
"""Frames a second that cost work and carry little (pings, settings, priorities, crumbs of data, resets).

Gateways end a request by a reset, and a process cannot serve as many requests a second.
"""
DATA_BYTES_MIN = 16
"""Bytes of a DATA frame that is worth its work, if it does not end a stream: less than any message of a gateway has."""
STREAMS_A_NUISANCE = 8
"""Streams whose windows take as much work to change as a frame: what changes all windows counts for each so many."""


class Nuisances:
    """Those of one connection."""

    def __init__(self) -> None:
        self._count = 0

    def forgive(self) -> None:
        """Start counting anew; the connection's owner, who has a clock, calls this once a second."""
        self._count = 0

    def count(self, more: int = 0) -> None:
        """One came, as bad as `more` others beside it; raises `DenialOfServiceError` where it was one too many."""
        self._count += 1 + more
        if self._count > NUISANCES_MAX:
            found, wanted = self._count, NUISANCES_MAX
            raise DenialOfServiceError(f"{found} frames that carry little, wanted at most {wanted} a second")
