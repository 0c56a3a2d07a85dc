"""A stream's state machine under test, with all it asked for."""

from typing import assert_never

from worlds.wire import (
    request_body,
    request_headers,
)

from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.ext_proc.actions import Actions, Decide, Finished, Incoming, Refuse, Routed, Started
from pointsman.grpc.ext_proc.protocol import Load, Stream

TO = Routed("10.0.0.1:8000")
BODY = b'{"model":"m","prompt":"hello","seed":12345678901234567890}'
PREFIX = 5
"""Bytes before a gRPC message."""


class Talk:
    """A stream under test, with all it asked for; decisions are given at once unless told otherwise."""

    def __init__(self, answer: Routed | None = TO, load: Load | None = None) -> None:
        self.load = load or Load(StreamLimits())
        self.stream = Stream(self.load, self.load.held.open())
        self.answer = answer
        self.now = 100.0
        self.decided: list[Incoming] = []
        self.refusals: list[Refuse] = []
        self.starts: list[Started] = []
        self.ends: list[Finished] = []

    def say(self, *messages: ProcessingRequest) -> list[ProcessingResponse]:
        """Feed messages an eighth of a second apart; return the replies they led to."""
        before = len(self.stream.out)
        for message in messages:
            self.perform(self.stream.receive(message.SerializeToString(), self.now))
            self.now += 0.125
        return self.replies[before:]

    def perform(self, actions: Actions) -> None:
        for action in actions:
            match action:
                case Decide(request):
                    self.decided.append(request)
                    if self.answer is not None:
                        self.stream.routed(self.answer)
                case Refuse(_, reason, message):
                    self.refusals.append(action)
                    self.stream.refused(reason, message)
                case Started():
                    self.starts.append(action)
                case Finished():
                    self.ends.append(action)
                case _:
                    assert_never(action)

    def close(self, cause: str = "disconnected") -> None:
        self.perform(self.stream.closed(cause, self.now))

    @property
    def replies(self) -> list[ProcessingResponse]:
        return [ProcessingResponse.FromString(framed[PREFIX:]) for framed in self.stream.out]


def kinds(replies: list[ProcessingResponse]) -> list[str | None]:
    return [r.WhichOneof("response") for r in replies]


def routed_talk(answer: Routed = TO) -> Talk:
    talk = Talk(answer)
    talk.say(request_headers(), request_body(BODY))
    return talk
