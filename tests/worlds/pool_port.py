"""A pool's port in a picker process, without gRPC: messages of the gateway in, decisions out."""

import json

from worlds.wire import MemoryFeed, request_body, request_headers

from pointsman.core.events import EndpointJoined, Event, PoolApplied
from pointsman.core.processes.settings import StreamLimits
from pointsman.core.state.projection import ClusterState
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.epp import Exchange, ExternalProcessor
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.picking import PoolPicking

POOL = "ns/pool"


def cluster_of(*addresses: str, more: tuple[Event, ...] = ()) -> ClusterState:
    """A pool with these endpoints, all at port 8000."""
    state = ClusterState()
    events: list[Event] = [PoolApplied(POOL, {"app": "m"}, (8000,))]
    events += [
        EndpointJoined(i, POOL, f"uid-{i}", "ns", f"pod-{i}", address, 8000) for i, address in enumerate(addresses, 1)
    ]
    for event in (*events, *more):
        state.apply_event(state.position + 1, event)
    return state


class Talk:
    """Streams of one pool's port, without gRPC."""

    def __init__(self, cluster: ClusterState) -> None:
        self.feed = MemoryFeed(cluster)
        self.picking = PoolPicking(POOL, self.feed)
        self.load = Load(StreamLimits())
        self.now = 50.0

    def open(self) -> Exchange:
        return ExternalProcessor(self.picking, self.feed, self.load).exchange(self.load.held.open())

    def say(self, exchange: Exchange, *messages: ProcessingRequest) -> list[ProcessingResponse]:
        replies: list[ProcessingResponse] = []
        for message in messages:
            exchange.receive(message.SerializeToString(), self.now)
            replies += [ProcessingResponse.FromString(framed[5:]) for framed in exchange.out]
            exchange.out.clear()
            self.now += 0.25
        return replies

    def post(
        self, body: object, *headers: tuple[str, str | bytes], path: str = "/v1/completions"
    ) -> list[ProcessingResponse]:
        """One request up to its decision, on a stream of its own."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.say(self.open(), request_headers(*headers, path=path), request_body(data))
