"""What probes and gateways are told."""

import asyncio
import socket

import pytest
from google.protobuf.struct_pb2 import Struct
from grpclib import GRPCError, Status
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from pointsman.grpc.serving.grpc_server import GrpcServer
from pointsman.grpc.serving.health import Condition, HealthService

EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
NAMES = ("", "liveness", "readiness", EXT_PROC, "inference-extension", "whatever")
SERVING, NOT_SERVING, UNKNOWN = (
    HealthCheckResponse.SERVING,
    HealthCheckResponse.NOT_SERVING,
    HealthCheckResponse.SERVICE_UNKNOWN,
)


@pytest.mark.parametrize("name", NAMES)
def test_without_leader_election_every_name_means_ready_and_not_draining(name: str) -> None:
    ready = False
    condition = Condition(lambda: ready)

    assert condition.status(name) == NOT_SERVING
    ready = True
    assert condition.status(name) == SERVING
    condition.draining = True
    assert condition.status(name) == NOT_SERVING


@pytest.mark.parametrize(
    ("name", "follower", "leader"),
    [
        ("", NOT_SERVING, SERVING),
        ("readiness", NOT_SERVING, SERVING),
        (EXT_PROC, NOT_SERVING, SERVING),
        ("liveness", SERVING, SERVING),
        ("inference-extension", UNKNOWN, UNKNOWN),
    ],
)
def test_with_leader_election_liveness_always_holds(name: str, follower: int, leader: int) -> None:
    condition = Condition(lambda: True)

    condition.leader = False
    assert condition.status(name) == follower
    condition.leader = True
    assert condition.status(name) == leader
    condition.draining = True
    assert condition.status(name) == (SERVING if name == "liveness" else UNKNOWN if leader == UNKNOWN else NOT_SERVING)


@pytest.mark.parametrize("engine", ["pointsman", "h2"])
def test_bad_news_is_a_reply_and_watch_is_unimplemented(engine: str) -> None:
    async def main() -> None:
        condition = Condition(lambda: False)
        server = GrpcServer([HealthService(condition)], engine)
        sock = socket.create_server(("127.0.0.1", 0))
        await server.listen(sock)
        channel = Channel("127.0.0.1", sock.getsockname()[1])
        stub = HealthStub(channel)

        reply = await stub.Check(HealthCheckRequest(service="readiness"), timeout=5)
        assert reply.status == NOT_SERVING
        condition.ready = lambda: True
        assert (await stub.Check(HealthCheckRequest(), timeout=5)).status == SERVING
        with pytest.raises(GRPCError) as caught:
            await stub.Watch(HealthCheckRequest(), timeout=5)
        assert caught.value.status is Status.UNIMPLEMENTED

        condition.leader = False
        listed = UnaryUnaryMethod(channel, "/grpc.health.v1.Health/List", HealthCheckRequest, Struct)
        told = await listed(HealthCheckRequest(), timeout=5)  # a Struct is a map by name, as the reply is
        assert set(told.fields) == {EXT_PROC, "liveness", "readiness"}

        channel.close()
        server.stop_accepting()
        await server.disconnect()

    asyncio.run(main())
