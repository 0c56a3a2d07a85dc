"""Header messages by their bytes and by protobuf say the same."""

from hypothesis import example, given, strategies as st

from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import HttpHeaders, ProcessingRequest
from pointsman.grpc.ext_proc.control_headers import fields_of
from pointsman.grpc.ext_proc.header_messages import HeadReader

NAMES = (":path", "x-request-id", "content-type")
KEYS = st.one_of(
    st.sampled_from([*NAMES, "X-Request-Id", "date", "", "x" * 127, "y" * 130]), st.text("aZ-é0", max_size=6)
)
VALUES = st.one_of(st.binary(max_size=20), st.integers(0, 400).map(bytes), st.just(b"\xff"))
READERS = {True: HeadReader(True, NAMES), False: HeadReader(False, NAMES)}


def message_of(request: bool, fields: list[tuple[str, bytes]], end: bool) -> ProcessingRequest:
    message = ProcessingRequest()
    half = message.request_headers if request else message.response_headers
    half.headers.SetInParent()
    half.end_of_stream = end
    for key, value in fields:
        half.headers.headers.add(key=key, raw_value=value)
    return message


def wanted(half: HttpHeaders) -> list[tuple[str, bytes]]:
    return [(key.lower(), value) for key, value in fields_of(half.headers.headers) if key.lower() in NAMES]


@given(st.booleans(), st.lists(st.tuples(KEYS, VALUES), max_size=8), st.booleans(), st.booleans(), st.booleans())
@example(True, [(":path", b"/v1/completions"), ("date", b"x"), ("x-request-id", bytes(200))], False, True, True)
def test_what_is_read_is_what_protobuf_reads(
    request: bool, fields: list[tuple[str, bytes]], end: bool, metadata: bool, config: bool
) -> None:
    message = message_of(request, fields, end)
    if metadata:
        message.metadata_context.SetInParent()
    if config:
        message.protocol_config.request_body_mode = message.protocol_config.response_body_mode = 4  # type: ignore[assignment]

    head = READERS[request].read(message.SerializeToString())

    plain = all(key and key == key.lower() and key.isascii() and len(key) < 128 for key, _ in fields)
    if head is None:
        assert not plain
        return
    half = message.request_headers if request else message.response_headers
    assert head.fields == wanted(half)
    assert head.end == end
    assert head.modes == ((4, 4) if config else None)
    assert READERS[not request].read(message.SerializeToString()) is None


@given(st.booleans(), st.lists(st.tuples(KEYS, VALUES), max_size=4), st.integers(1, 4))
def test_a_message_with_any_other_field_is_left_to_protobuf(
    request: bool, fields: list[tuple[str, bytes]], which: int
) -> None:
    message = message_of(request, fields, True)
    half = message.request_headers if request else message.response_headers
    if which == 1:
        half.headers.headers.add(key=":path", value="/text")
    elif which == 2:
        message.metadata_context.filter_metadata["a"].SetInParent()
    elif which == 3:
        message.observability_mode = True
    else:
        message.protocol_config.send_body_without_waiting_for_header_response = True

    assert READERS[request].read(message.SerializeToString()) is None


@given(
    st.binary(max_size=40), st.sampled_from([b"\x12", b"\x12\x08\x0a\x06\x0a\x04\x0a\x02", b"\x12\x04\x0a\x02\x0a\x00"])
)
def test_what_is_read_of_any_bytes_is_what_protobuf_reads(rest: bytes, begin: bytes) -> None:
    head = READERS[True].read(begin + rest)
    if head is None:
        return
    message = ProcessingRequest.FromString(begin + rest)
    assert message.WhichOneof("request") == "request_headers"
    assert head.fields == wanted(message.request_headers)
    assert head.end == message.request_headers.end_of_stream


@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4), st.data())
def test_a_truncated_message_is_left_to_protobuf(fields: list[tuple[str, bytes]], data: st.DataObject) -> None:
    whole = message_of(True, fields, True).SerializeToString()

    assert READERS[True].read(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
