"""The endpoint picker's service: `envoy.service.ext_proc.v3.ExternalProcessor/Process` for one pool.

Rules.  A decision is recorded and handed to the feed before its reply goes out.
Whatever ends a stream, a routed request gets its one end: a reset by the gateway is ordinary.
"""

import time
from collections.abc import Callable
from typing import assert_never

from pointsman.core.deciding.request_facts import REQUEST_ID
from pointsman.core.events import RequestFinished, ResponseStarted
from pointsman.core.processes.settings import MESSAGE_BYTES_MAX
from pointsman.grpc.ext_proc.actions import Actions, Decide, Finished, Incoming, Refuse, Started
from pointsman.grpc.ext_proc.protocol import Load, Stream
from pointsman.grpc.picking import Feed, Picked, Picking, RefusedPick
from pointsman.grpc.serving.held import Account, Held
from pointsman.grpc.serving.turn import Turn

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class ExternalProcessor:
    """The service on one pool's port."""

    def __init__(self, picking: Picking, feed: Feed, load: Load, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self.picking = picking
        self.feed = feed
        self.load = load
        self.message_bytes_max = message_bytes_max

    def answers(self) -> dict[str, Callable[[Account], "Exchange"]]:
        """The method that is answered in the turn in which its bytes arrive (`calls.py`)."""
        return {METHOD: self.exchange}

    def exchange(self, account: Account) -> "Exchange":
        """A new stream; what it holds goes to the account of its connection."""
        return Exchange(self, account)

    @property
    def held(self) -> Held:
        """What all connections have us hold."""
        return self.load.held

    def turn(self) -> Turn:
        """What is sent at a turn's end: the feed's entries before the answers."""
        return Turn(self.feed.flush)


class Exchange:
    """One stream, and what becomes of it in the log and the traffic state; synchronous."""

    def __init__(self, service: ExternalProcessor, account: Account) -> None:
        self._stream = Stream(service.load, account, service.picking.headers)
        self._picking = service.picking
        self._feed = service.feed
        self._n = 0
        """Number of the decision that routed the request; 0 before."""
        self._endpoints: tuple[int, ...] = ()
        """Numbers of the endpoints that it was routed to, where the server keeps the answer."""
        self.out = self._stream.out
        """Messages to send, in this order; the caller takes them out."""
        self.ended = False
        """Whether nothing more will be said: the stream is to be ended with OK."""
        self.decided = False
        """Whether a decision was recorded since the caller last looked: replies wait for the feed."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the request's body that are held."""
        return self._stream.held_bytes

    def receive(self, data: bytes, now: float) -> None:
        """Take the next message; raises `RefusedMessage` where it is none."""
        stream = self._stream
        actions = stream.receive(data, now)
        if actions:
            self._perform(actions)
        self.ended = stream.ended

    def let_go(self, now: float) -> None:
        """End in the middle what goes on without us."""
        self._perform(self._stream.let_go(now))
        self.ended = self._stream.ended

    def closed(self, cause: str, now: float) -> None:
        """The stream is over."""
        actions = self._stream.closed(cause, now)
        if actions:
            self._perform(actions)
        self.ended = True

    def _perform(self, actions: Actions) -> None:
        for action in actions:
            match action:
                case Decide():
                    self._decide(action.request)
                case Started():
                    self._record_start(action)
                case Finished():
                    self._record_end(action)
                case Refuse():
                    self._record(self._picking.refuse(action.request, action.reason, action.message))
                case _:
                    assert_never(action)

    def _decide(self, request: Incoming) -> None:
        feed, headers = self._feed, request.headers
        feed.take_in_hand(headers.get(REQUEST_ID, ""), headers.get(":path", ""), request.body_bytes)
        self._record(self._picking.pick(request))
        feed.put_down()

    def _record(self, picked: Picked) -> None:
        """Record a decision, then have the stream answer with it."""
        event, feed = picked.event, self._feed
        self.decided = True
        feed.record(event)
        if isinstance(picked, RefusedPick):
            refusal = picked.event
            self._stream.refused(refusal.reason, refusal.message)
            return
        self._n = event.origin.n
        cluster = feed.cluster
        assert cluster is not None, "a decision for an endpoint rests on a state"
        feed.traffic.routed(self._n, picked.event, cluster)
        if picked.routed.kept:
            self._endpoints = picked.event.endpoints
        self._stream.routed(picked.routed)

    def _record_start(self, started: Started) -> None:
        feed = self._feed
        feed.record(ResponseStarted(feed.origin(), self._n, started.status, started.after, started.served))
        feed.traffic.now = time.time()
        feed.traffic.answered(self._n, started.status, started.after, started.served)

    def _record_end(self, finished: Finished) -> None:
        feed, usage = self._feed, finished.usage
        feed.traffic.finished(self._n)
        kept_by = self._kept_by(finished) if finished.response_id else 0
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
                finished.error,
                finished.unanswered,
                finished.response_id if kept_by else "",
                kept_by,
            )
        )
        if kept_by:
            feed.traffic.keep(finished.response_id, kept_by)

    def _kept_by(self, finished: Finished) -> int:
        """The endpoint that keeps the answer: the one that the gateway says it used, or the first choice."""
        cluster = self._feed.cluster
        members = {} if cluster is None else cluster.endpoints
        answered = [n for n in self._endpoints if n in members and members[n].authority == finished.served]
        return (answered or self._endpoints or (0,))[0]
