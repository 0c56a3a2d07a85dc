"""A stream's state machine under test, with all it asked for."""

from wire import (
    request_body,
    request_headers,
)

from pointsman.grpc.actions import Action, Decide, End, Finished, Incoming, Refuse, Reply, Routed
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.protocol import Limits, Load, Stream

TO = Routed("10.0.0.1:8000")
BODY = b'{"model":"m","prompt":"hello","seed":12345678901234567890}'


class Talk:
    """A stream under test, with all it asked for; decisions are given at once unless told otherwise."""

    def __init__(self, answer: Routed | None = TO, load: Load | None = None) -> None:
        self.load = load or Load(Limits())
        self.stream = Stream(self.load)
        self.answer = answer
        self.now = 100.0
        self.actions: list[Action] = []
        self.decided: list[Incoming] = []
        self.refusals: list[Refuse] = []

    def say(self, *messages: ProcessingRequest) -> list[ProcessingResponse]:
        """Feed messages a tenth of a second apart; return the replies they led to."""
        before = len(self.replies)
        for message in messages:
            self.take(self.stream.receive(message, self.now))
            self.now += 0.125
        return self.replies[before:]

    def take(self, actions: list[Action]) -> None:
        self.actions += actions
        for action in actions:
            if isinstance(action, Decide):
                self.decided.append(action.request)
                if self.answer is not None:
                    self.take(self.stream.routed(self.answer))
            elif isinstance(action, Refuse):
                self.refusals.append(action)
                self.take(self.stream.refused(action.reason, action.status, action.message))

    def close(self, cause: str = "disconnected") -> None:
        self.take(self.stream.closed(cause, self.now))

    @property
    def replies(self) -> list[ProcessingResponse]:
        return [ProcessingResponse.FromString(a.data) for a in self.actions if isinstance(a, Reply)]

    @property
    def finished(self) -> list[Finished]:
        return [a for a in self.actions if isinstance(a, Finished)]

    @property
    def ended(self) -> bool:
        return any(isinstance(a, End) for a in self.actions)


def kinds(replies: list[ProcessingResponse]) -> list[str | None]:
    return [r.WhichOneof("response") for r in replies]


def routed_talk(answer: Routed = TO) -> Talk:
    talk = Talk(answer)
    talk.say(request_headers(), request_body(BODY))
    return talk
