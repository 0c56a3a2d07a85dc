from hypothesis import given, strategies as st

from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from pointsman.grpc.ext_proc.bodies import REQUEST_BODY, read_body, write_body

SIZES = st.one_of(st.binary(max_size=300), st.integers(0, 70_000).map(bytes))


def by_protobuf(request: bool, chunk: bytes, end: bool) -> bytes:
    reply = ProcessingResponse()
    half = reply.request_body if request else reply.response_body
    half.response.body_mutation.streamed_response.body = chunk
    half.response.body_mutation.streamed_response.end_of_stream = end
    return reply.SerializeToString()


@given(st.booleans(), SIZES, st.booleans())
def test_an_answer_is_written_as_protobuf_writes_it(request: bool, chunk: bytes, end: bool) -> None:
    message = by_protobuf(request, chunk, end)
    assert write_body(request, chunk, end) == b"\0" + len(message).to_bytes(4, "big") + message


@given(st.booleans(), SIZES, st.booleans(), st.booleans())
def test_a_message_that_holds_only_a_body_is_read(request: bool, chunk: bytes, end: bool, envoy: bool) -> None:
    message = ProcessingRequest()
    body = message.request_body if request else message.response_body
    body.body, body.end_of_stream = chunk, end
    if envoy:
        message.metadata_context.SetInParent()
    assert read_body(message.SerializeToString()) == (chunk, end)


@given(st.booleans(), st.binary(max_size=300), st.booleans(), st.integers(1, 4))
def test_a_message_with_any_other_field_is_left_to_protobuf(request: bool, chunk: bytes, end: bool, which: int) -> None:
    message = ProcessingRequest()
    body = message.request_body if request else message.response_body
    body.body, body.end_of_stream = chunk, end
    if which == 1:
        body.end_of_stream_without_message = True
    elif which == 2:
        message.metadata_context.filter_metadata["a"].SetInParent()
    elif which == 3:
        message.observability_mode = True
    else:
        message.attributes["a"].SetInParent()
    assert read_body(message.SerializeToString()) is None


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x22", b"\x2a", b"\x2a\x06\x0a\x04", b"\x2a\x02\x0a"]))
def test_what_is_read_of_any_bytes_is_what_protobuf_reads(rest: bytes, begin: bytes) -> None:
    found = read_body(begin + rest)
    if found is None:
        return
    message = ProcessingRequest.FromString(begin + rest)
    chunk, end = found
    request = (begin + rest)[0] == REQUEST_BODY
    assert message.WhichOneof("request") == ("request_body" if request else "response_body")
    body = message.request_body if request else message.response_body
    assert (body.body, body.end_of_stream) == (chunk, end)


@given(st.booleans(), st.binary(max_size=200), st.booleans(), st.data())
def test_a_truncated_message_is_left_to_protobuf(request: bool, chunk: bytes, end: bool, data: st.DataObject) -> None:
    message = ProcessingRequest()
    body = message.request_body if request else message.response_body
    body.body, body.end_of_stream = chunk + b"x", end
    whole = message.SerializeToString()
    assert read_body(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
