"""The endpoint picker's service: `envoy.service.ext_proc.v3.ExternalProcessor/Process` for one pool.

Rules.  A decision is recorded and handed to the feed before its reply goes out.
Whatever ends a stream, a routed request gets its one end: a reset by the gateway is ordinary.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError
from grpclib.const import Cardinality, Handler, Status

from pointsman.core.events import RequestFinished, ResponseStarted
from pointsman.grpc.actions import Action, Decide, End, Finished, Refuse, Reply, Started
from pointsman.grpc.bodies import read_body
from pointsman.grpc.calls import RefusedMessage, Turn, inflated
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.picking import Feed, Picking, Refusal
from pointsman.grpc.protocol import Load, Stream
from pointsman.grpc.server import MESSAGE_BYTES_MAX

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

_WISHES = (Decide, Refuse)


class ExternalProcessor:
    """The service on one pool's port."""

    def __init__(self, picking: Picking, feed: Feed, load: Load, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._picking = picking
        self._feed = feed
        self._load = load
        self.message_bytes_max = message_bytes_max

    def answers(self) -> dict[str, Callable[[], "Exchange"]]:
        """The method that is answered in the turn in which its bytes arrive (`calls.py`)."""
        return {METHOD: self._exchange}

    def _exchange(self) -> "Exchange":
        stream = Stream(self._load, self._picking.headers)
        return Exchange(self._picking, self._feed, stream, self.message_bytes_max)

    def turn(self) -> Turn:
        """What is sent at a turn's end: the feed's entries before the answers."""
        return Turn(self._feed.flush)

    def __mapping__(self) -> dict[str, Handler]:
        return {METHOD: Handler(_unreachable, Cardinality.STREAM_STREAM, ProcessingRequest, ProcessingResponse)}


async def _unreachable(call: object) -> None:
    """grpclib refuses what `calls.acceptable` does not take, in its own words, before it would come here."""
    raise AssertionError("a call of Process reached grpclib")


class Exchange:
    """One stream with what its actions mean for log and traffic state; synchronous."""

    def __init__(
        self, picking: Picking, feed: Feed, stream: Stream, message_bytes_max: int = MESSAGE_BYTES_MAX
    ) -> None:
        self._picking = picking
        self._feed = feed
        self._stream = stream
        self._message_bytes_max = message_bytes_max
        self._n = 0
        """The decision that routed the request; 0 before."""
        self.decided = False
        """A decision was recorded since the caller last looked: replies wait for the feed."""

    def take_bytes(self, data: bytes, compressed: bool, now: float) -> tuple[list[bytes], bool]:
        """Take a message's bytes; raises `RefusedMessage` where they are none."""
        if compressed:
            data = inflated(data, self._message_bytes_max)
        if (body := read_body(data)) is not None:
            return self._perform(self._stream.receive_body(*body, now))
        try:
            message = ProcessingRequest.FromString(data)
        except DecodeError as error:
            raise RefusedMessage(Status.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
        return self.take(message, now)

    def take(self, message: ProcessingRequest, now: float) -> tuple[list[bytes], bool]:
        """Take a message; return what to send in answer, and whether the stream then ends."""
        return self._perform(self._stream.receive(message, now))

    def let_go(self, now: float) -> tuple[list[bytes], bool]:
        """End in the middle, with what is still to be said; whether the request goes on without us."""
        return self._perform(self._stream.let_go(now))

    def close(self, cause: str, now: float) -> None:
        """The stream is over."""
        self._perform(self._stream.closed(cause, now))

    def _perform(self, actions: list[Action]) -> tuple[list[bytes], bool]:
        if len(actions) == 1 and isinstance(only := actions[0], Reply):
            return [only.data], False
        replies: list[bytes] = []
        end = False
        for action in actions:
            if isinstance(action, Reply):
                replies.append(action.data)
            elif isinstance(action, _WISHES):
                assert len(actions) == 1, "a wish stands alone"
                return self._perform(self._decide(action))
            elif isinstance(action, Started):
                self._started(action)
            elif isinstance(action, Finished):
                self._finished(action)
            else:
                end = isinstance(action, End)
        return replies, end

    def _decide(self, wish: Decide | Refuse) -> list[Action]:
        picked = self._picking.pick(wish)
        self.decided = True
        self._feed.record(picked.event)
        if isinstance(picked, Refusal):
            return self._stream.refused(picked.event.reason, picked.event.status, picked.event.message)
        self._n = picked.event.origin.n
        cluster = self._feed.cluster
        assert cluster is not None, "a decision for an endpoint rests on a state"
        self._feed.traffic.routed(self._n, picked.event, cluster)
        return self._stream.routed(picked.routed)

    def _started(self, action: Started) -> None:
        origin = self._feed.origin()
        self._feed.record(ResponseStarted(origin, self._n, action.status, action.after, action.served))

    def _finished(self, action: Finished) -> None:
        usage = action.usage
        self._feed.traffic.finished(self._n)
        self._feed.record(
            RequestFinished(
                self._feed.origin(),
                self._n,
                action.cause,
                action.status,
                action.duration,
                action.first_token,
                action.response_bytes,
                action.chunks,
                action.streamed,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
            )
        )
