"""The health service that probes and gateways ask (grpc.health.v1)."""

from collections.abc import Callable
from functools import partial

from google.protobuf.message import DecodeError
from grpclib.const import Status
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from pointsman.grpc.serving.grpc_messages import RefusedMessage, framed
from pointsman.grpc.serving.held import Account

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

_EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
_READINESS = ("", "readiness", _EXT_PROC)


def _list_reply(statuses: dict[str, HealthCheckResponse]) -> bytes:
    """A HealthListResponse, which grpclib's messages lack: a map of names to what `Check` answers.

    Each part has less than 128 bytes, so that one byte tells its length.
    """
    found = bytearray()
    for name, reply in statuses.items():
        key, value = name.encode(), reply.SerializeToString()
        entry = bytes((0x0A, len(key))) + key + bytes((0x12, len(value))) + value
        found += bytes((0x0A, len(entry))) + entry
    return bytes(found)


class Condition:
    """What health depends on."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        """Function that says whether there is cluster state with a pool in it."""
        self.draining = False
        self.leader: bool | None = None
        """Whether this picker leads; None without leader election."""

    def services(self) -> tuple[str, ...]:
        """The names that `List` tells of, as the Go EPP's does."""
        return (_EXT_PROC,) if self.leader is None else (_EXT_PROC, "liveness", "readiness")

    def status(self, service: str) -> HealthCheckResponse.ServingStatus.ValueType:
        """The answer for a service name.

        Without leader election every name means readiness, liveness too: charts of the field probe
        `inference-extension`.  With it, liveness always holds and other names are unknown.
        """
        ready = self.ready() and not self.draining
        if self.leader is None:
            return SERVING if ready else NOT_SERVING
        if service == "liveness":
            return SERVING
        if service not in _READINESS:
            return SERVICE_UNKNOWN
        return SERVING if ready and self.leader else NOT_SERVING


class HealthService:
    """`Check` and `List` answer; `Watch` is unimplemented, as in the pickers of the field."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition

    def answers(self) -> dict[str, Callable[[Account], "Probe"]]:
        """The methods, each answered when its message has come."""
        methods = {"Check": self._check, "List": self._list, "Watch": self._watch}
        return {f"/grpc.health.v1.Health/{name}": partial(_probe, method) for name, method in methods.items()}

    def _check(self, request: bytes) -> bytes:
        """One status; bad news is a normal reply."""
        try:
            asked = HealthCheckRequest.FromString(request)
        except DecodeError as error:
            raise RefusedMessage(Status.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
        return HealthCheckResponse(status=self._condition.status(asked.service)).SerializeToString()

    def _list(self, request: bytes) -> bytes:
        """Every service's status; the request is an empty message."""
        condition = self._condition
        return _list_reply({name: HealthCheckResponse(status=condition.status(name)) for name in condition.services()})

    def _watch(self, request: bytes) -> bytes:
        """Refused: whoever watches falls back to asking."""
        raise RefusedMessage(Status.UNIMPLEMENTED, "Watch is not implemented, use Check")


class Probe:
    """One call: a message, and the answer to it."""

    held_bytes = 0

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self.out: list[bytes] = []
        self.ended = self.decided = False

    def receive(self, data: bytes, now: float) -> None:
        """Answer."""
        self.out.append(framed(self._answer(data)))
        self.ended = True

    def let_go(self, now: float) -> None:
        """Nothing is asked that could go on without an answer."""

    def closed(self, cause: str, now: float) -> None:
        """Nothing is recorded of a probe."""
        self.ended = True


def _probe(answer: Callable[[bytes], bytes], account: Account) -> Probe:
    return Probe(answer)
