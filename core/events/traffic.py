"""Facts about requests, written by picker processes: decisions, what came of them, and when a picker was not fed."""

import msgspec

from pointsman.core.values.facts import Fact


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who wrote an entry of a picker process, which of its entries it is, and what it knew."""

    picker: str
    epoch: int
    """64 random bits: one life of the picker process."""
    n: int
    """Contiguous from 1 within the epoch."""
    applied: int
    """Position of the cluster state that the picker had."""


CONTINUES = ":continues"
"""Name among the headers of request facts that no header of a client can have, because of its colon."""


class RequestFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a decision may depend on, exactly as `schedule` received it."""

    request_id: str
    pool: str
    model: str = ""
    """Name of the model in the body."""
    target_model: str = ""
    """Name that the server gets; empty where it is the same."""
    path: str = ""
    objective: str = ""
    priority: int = 0
    fairness_id: str = ""
    body_bytes: int = 0
    prompt_bytes: int = 0
    streamed: bool = False
    """Whether the client asked for a stream."""
    prefix: bytes = b""
    """Chained 8-byte hashes of the prompt's blocks, at most 256: `core/prefix/prompt_blocks.py`."""
    prefix_block_bytes: int = 0
    """Bytes of the first blocks, from which the others grow."""
    subset: bytes | None = None
    """Packed slots that the data plane allows; None for all."""
    headers: dict[str, str] = {}
    """Request headers that plugins read; also what the request goes on from, which few have, under `CONTINUES`."""

    @property
    def continues(self) -> str:
        """Id of a response or a conversation, kept by a server, that the request goes on from; empty for none."""
        return self.headers.get(CONTINUES, "")


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One column of traffic values that the plugins read, over the candidates in slot order."""

    column: int
    """Number of the column: a `Column` of `core/state/traffic.py`."""
    values: bytes
    """Packed values, one for each candidate."""


class RequestRouted(Fact, frozen=True, tag="request-routed"):
    """A decision: these endpoints, in this order."""

    origin: Origin
    decided_at: float
    request: RequestFacts
    endpoints: tuple[int, ...]
    """Numbers of the chosen endpoint and then of its fallbacks."""
    best: tuple[tuple[int, float], ...] = ()
    """Endpoint and sum of the three best, best first."""
    rejections: tuple[tuple[str, int], ...] = ()
    """Each `plugin-name: reason`, with the number of candidates rejected for it."""
    reads: tuple[Read, ...] = ()
    avoided: bytes = b""
    """Packed slots left out because of advice."""
    degraded: bool = False
    digest: bytes = b""
    """8 bytes over the whole matrix of candidates and plugins."""
    took: int = 0
    """Microseconds that `schedule` took."""
    timed: tuple[tuple[str, str, str, int], ...] = ()
    """Calls of plugins in this decision: extension point, type, name, nanoseconds; empty where they were not timed."""


class RequestRefused(Fact, frozen=True, tag="request-refused"):
    """A decision: no endpoint."""

    origin: Origin
    decided_at: float
    request: RequestFacts
    reason: str
    """A `RefusalReason` (`core/deciding/refusals.py`), or one that only a newer build writes."""
    status: int
    message: str = ""
    rejections: tuple[tuple[str, int], ...] = ()
    reads: tuple[Read, ...] = ()
    avoided: bytes = b""
    degraded: bool = False
    digest: bytes = b""
    took: int = 0


class ResponseStarted(Fact, frozen=True, tag="response-started"):
    """The response headers of a routed request came back."""

    origin: Origin
    request_n: int
    """Number `n` of the RequestRouted, of the same epoch."""
    status: int
    after: float
    """Seconds since the request's headers were received."""
    served: str = ""
    """Address and port that the data plane reports, as `address:port`; empty where it reports none."""


def streamed_token(first_token: float | None, streamed: bool, status: int) -> float | None:
    """A first token as `RequestFinished` tells it; None where an earlier version took something else for one."""
    return first_token if streamed and status < 400 else None


class RequestFinished(Fact, frozen=True, tag="request-finished"):
    """The one end of a routed request."""

    origin: Origin
    request_n: int
    cause: str
    """`complete`, `disconnected` (client or server broke off), `deadline`, `drained` or `lost`."""
    status: int
    """0 where no response headers came."""
    duration: float
    """Seconds since the request's headers were received."""
    first_token: float | None = None
    """Seconds until the first event with content of a streamed answer; None where none came.

    In entries without `error` and `unanswered` it is the first byte of the response body, whatever that is.
    """
    response_bytes: int = 0
    chunks: int = 0
    streamed: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    error: str = ""
    """Words of the server for what went wrong after a status that told of success; empty where nothing did."""
    unanswered: bool = False
    """Whether no server answered: the gateway made the response itself."""
    response_id: str = ""
    """Id of the answer where a server keeps it for requests that go on from it."""
    kept_by: int = 0
    """Number of the endpoint that keeps it; 0 where there is no id."""

    @property
    def streamed_token(self) -> float | None:
        """Seconds until the first token of a streamed answer; None for errors and for answers in one piece."""
        return streamed_token(self.first_token, self.streamed, self.status)


class FeedLost(Fact, frozen=True, tag="feed-lost"):
    """From here on the picker decides degraded."""

    origin: Origin
    at: float
    cause: str


class FeedRestored(Fact, frozen=True, tag="feed-restored"):
    """The picker's cluster state is fed again."""

    origin: Origin
    at: float
    lost_for: float


class OpenRequestsListed(Fact, frozen=True, tag="open-requests-listed"):
    """After a gap in its entries a picker says which requests are open; all others of its epoch have ended."""

    origin: Origin
    open: bytes
    """Packed numbers `n` of the decisions whose requests are open, ascending."""
