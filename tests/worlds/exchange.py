"""A stream's state machine under test, with all it asked for."""

from worlds.wire import (
    request_body,
    request_headers,
)

from pointsman.core.deciding.refusals import RefusalReason
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.ext_proc.actions import Finished, Incoming, Routed
from pointsman.grpc.ext_proc.protocol import Load, Stream, StreamLimits

TO = Routed("10.0.0.1:8000")
BODY = b'{"model":"m","prompt":"hello","seed":12345678901234567890}'
PREFIX = 5
"""Bytes before a gRPC message."""


class Talk(Stream):
    """A stream under test, with all it asked for; decisions are given at once unless told otherwise."""

    def __init__(self, answer: Routed | None = TO, load: Load | None = None) -> None:
        self.load = load or Load(StreamLimits())
        super().__init__(self.load)
        self.answer = answer
        self.now = 100.0
        self.decided: list[Incoming] = []
        self.refusals: list[tuple[Incoming, RefusalReason, str]] = []
        """The request, reason and message of each."""
        self.starts: list[tuple[int, float, str]] = []
        """Status, seconds after the request, endpoint served."""
        self.ends: list[Finished] = []

    def say(self, *messages: ProcessingRequest) -> list[ProcessingResponse]:
        """Feed messages an eighth of a second apart; return the replies they led to."""
        before = len(self.out)
        for message in messages:
            self.receive(message.SerializeToString(), self.now)
            self.now += 0.125
        return self.replies[before:]

    def decide(self, request: Incoming) -> None:
        self.decided.append(request)
        if self.answer is not None:
            self.routed(self.answer)

    def refuse(self, request: Incoming, reason: RefusalReason, message: str) -> None:
        self.refusals.append((request, reason, message))
        self.refused(reason, message)

    def started(self, status: int, after: float, served: str) -> None:
        self.starts.append((status, after, served))

    def finished(self, finished: Finished) -> None:
        self.ends.append(finished)

    def close(self, cause: str = "disconnected") -> None:
        self.closed(cause, self.now)

    @property
    def replies(self) -> list[ProcessingResponse]:
        return [ProcessingResponse.FromString(framed[PREFIX:]) for framed in self.out]


def kinds(replies: list[ProcessingResponse]) -> list[str | None]:
    return [r.WhichOneof("response") for r in replies]


def routed_talk(answer: Routed = TO) -> Talk:
    talk = Talk(answer)
    talk.say(request_headers(), request_body(BODY))
    return talk
