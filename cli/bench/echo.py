"""The bare echo: a picker on grpclib's stock HTTP/2 engine that answers every message and decides nothing.

It is the least that a picker on grpclib costs; the cost of ours is told as a ratio to it, measured in the same run.
"""

import json

from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.epp import METHOD

ENDPOINT = "127.0.0.1:20000"
DESTINATION = "x-gateway-destination-endpoint"


async def process(stream: Stream[ProcessingRequest, ProcessingResponse]) -> None:
    """Answer every message of one stream."""
    body = b""
    async for message in stream:
        reply = ProcessingResponse()
        match message.WhichOneof("request"):
            case "request_headers":
                if not message.request_headers.end_of_stream:
                    continue
                route(reply)
            case "request_body":
                body += message.request_body.body
                if not message.request_body.end_of_stream:
                    continue
                json.loads(body)
                route(reply)
                await stream.send_message(reply)
                reply = ProcessingResponse()
                passed = reply.request_body.response.body_mutation.streamed_response
                passed.body, passed.end_of_stream = body, True
            case "request_trailers":
                reply.request_trailers.SetInParent()
            case "response_headers":
                reply.response_headers.response.SetInParent()
            case "response_body":
                passed = reply.response_body.response.body_mutation.streamed_response
                passed.body, passed.end_of_stream = message.response_body.body, message.response_body.end_of_stream
            case "response_trailers":
                reply.response_trailers.SetInParent()
        await stream.send_message(reply)


def route(reply: ProcessingResponse) -> None:
    """Route the request to one fixed endpoint."""
    response = reply.request_headers.response
    response.clear_route_cache = True
    header = response.header_mutation.set_headers.add().header
    header.key, header.raw_value = DESTINATION, ENDPOINT.encode()
    reply.dynamic_metadata.get_or_create_struct("envoy.lb")[DESTINATION] = ENDPOINT


class Echo:
    """The gRPC service that answers with `process`."""

    def __mapping__(self) -> dict[str, Handler]:
        return {METHOD: Handler(process, Cardinality.STREAM_STREAM, ProcessingRequest, ProcessingResponse)}
