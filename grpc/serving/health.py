"""The health service that probes and gateways ask (grpc.health.v1)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from grpclib.server import Stream

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

    async def check(self, stream: "Stream[HealthCheckRequest, HealthCheckResponse]") -> None:
        """Answer one probe; bad news is a normal reply."""
        request = await stream.recv_message()
        if request is not None:
            await stream.send_message(HealthCheckResponse(status=self._condition.status(request.service)))

    async def list_services(self, stream: "Stream[HealthCheckRequest, bytes]") -> None:
        """Answer with every service's status."""
        if await stream.recv_message() is not None:
            told = {
                name: HealthCheckResponse(status=self._condition.status(name)) for name in self._condition.services()
            }
            await stream.send_message(_list_reply(told))

    async def watch(self, stream: "Stream[HealthCheckRequest, HealthCheckResponse]") -> None:
        """Refuse: whoever watches falls back to asking."""
        raise GRPCError(Status.UNIMPLEMENTED, "Watch is not implemented, use Check")

    def __mapping__(self) -> dict[str, Handler]:
        kinds = (HealthCheckRequest, HealthCheckResponse)
        return {
            "/grpc.health.v1.Health/Check": Handler(self.check, Cardinality.UNARY_UNARY, *kinds),
            # The request is an empty message, which any message's class reads.
            "/grpc.health.v1.Health/List": Handler(
                self.list_services, Cardinality.UNARY_UNARY, HealthCheckRequest, bytes
            ),
            "/grpc.health.v1.Health/Watch": Handler(self.watch, Cardinality.UNARY_STREAM, *kinds),
        }
