"""The endpoint picker's service: `envoy.service.ext_proc.v3.ExternalProcessor/Process` for one pool.

Rules.  A decision is recorded and handed to the feed before its reply goes out.
Whatever ends a stream, a routed request gets its one end: a reset by the gateway is ordinary.
"""

from collections.abc import Callable

from grpclib.const import Cardinality, Handler

from pointsman.core.deciding.refusals import RefusalReason
from pointsman.core.events import RequestFinished, ResponseStarted
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.ext_proc.actions import Finished, Incoming
from pointsman.grpc.ext_proc.protocol import Load, Stream
from pointsman.grpc.picking import Feed, Picking, RefusedPick
from pointsman.grpc.serving.grpc_server import MESSAGE_BYTES_MAX
from pointsman.grpc.serving.turn import Turn

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class ExternalProcessor:
    """The service on one pool's port."""

    def __init__(self, picking: Picking, feed: Feed, load: Load, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self.picking = picking
        self.feed = feed
        self.load = load
        self.message_bytes_max = message_bytes_max

    def answers(self) -> dict[str, Callable[[], "Exchange"]]:
        """The method that is answered in the turn in which its bytes arrive (`calls.py`)."""
        return {METHOD: self.exchange}

    def exchange(self) -> "Exchange":
        """A new stream."""
        return Exchange(self)

    def turn(self) -> Turn:
        """What is sent at a turn's end: the feed's entries before the answers."""
        return Turn(self.feed.flush)

    def __mapping__(self) -> dict[str, Handler]:
        return {METHOD: Handler(_unreachable, Cardinality.STREAM_STREAM, ProcessingRequest, ProcessingResponse)}


async def _unreachable(call: object) -> None:
    """grpclib refuses what `calls.acceptable` does not take, in its own words, before it would come here."""
    raise AssertionError("a call of Process reached grpclib")


class Exchange(Stream):
    """One stream with what becomes of it in log and traffic state; synchronous."""

    def __init__(self, service: ExternalProcessor) -> None:
        super().__init__(service.load, service.picking.headers)
        self._service = service
        self._feed = service.feed
        self._n = 0
        """The decision that routed the request; 0 before."""
        self.decided = False
        """A decision was recorded since the caller last looked: replies wait for the feed."""

    def decide(self, request: Incoming) -> None:
        """Decide at once."""
        picked = self._service.picking.pick(request)
        if isinstance(picked, RefusedPick):
            self._record_refusal(picked)
            return
        event, feed = picked.event, self._feed
        self.decided = True
        feed.record(event)
        self._n = event.origin.n
        cluster = feed.cluster
        assert cluster is not None, "a decision for an endpoint rests on a state"
        feed.traffic.routed(self._n, event, cluster)
        self.routed(picked.routed)

    def refuse(self, request: Incoming, reason: RefusalReason, message: str) -> None:
        """Record that it is refused."""
        self._record_refusal(self._service.picking.refuse(request, reason, message))

    def _record_refusal(self, refusal: RefusedPick) -> None:
        event = refusal.event
        self.decided = True
        self._feed.record(event)
        self.refused(event.reason, event.message)

    def started(self, status: int, after: float, served: str) -> None:
        """Record that the response began."""
        feed = self._feed
        feed.record(ResponseStarted(feed.origin(), self._n, status, after, served))

    def finished(self, finished: Finished) -> None:
        """Record the request's end."""
        feed, usage = self._feed, finished.usage
        feed.traffic.finished(self._n)
        feed.record(
            RequestFinished(
                feed.origin(),
                self._n,
                finished.cause,
                finished.status,
                finished.duration,
                finished.first_token,
                finished.response_bytes,
                finished.chunks,
                finished.streamed,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
            )
        )
