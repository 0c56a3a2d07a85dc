"""Compressed bodies are read in any encoding and however they are cut, within bounds, and go on as they came."""

import gzip
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from time import process_time

import brotli  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings, strategies as st
from worlds.exchange import Talk
from worlds.pool_port import Talk as PoolPort, cluster_of
from worlds.wire import destination, request_body, request_headers, set_headers, streamed

from pointsman.core.events import RequestRefused, RequestRouted
from pointsman.core.processes.settings import StreamLimits
from pointsman.grpc.ext_proc.actions import Routed
from pointsman.grpc.ext_proc.encodings import FREE_BYTES, RATIO_MAX, Unfolding, unfolding
from pointsman.grpc.ext_proc.protocol import Load

try:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from backports import zstd


def bare(data: bytes) -> bytes:
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeezed.compress(data) + squeezed.flush()


def brotlied(data: bytes) -> bytes:
    found: bytes = brotli.compress(data, quality=1)
    return found


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "x-gzip": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    "deflate": zlib.compress,
    "Deflate": bare,
    "br": brotlied,
    "zstd": zstd.compress,
    " ZSTD ": lambda data: zstd.compress(data[:9]) + zstd.compress(data[9:]),
}
NAMES = st.lists(st.sampled_from(sorted(PACKED)), min_size=1, max_size=3)
TEXTS = st.binary(max_size=300) | st.integers(0, 60_000).map(lambda n: b"hello " * n)
CUTS = st.lists(st.integers(0, 10_000), max_size=8)


def packed(data: bytes, names: list[str]) -> bytes:
    for name in names:
        data = PACKED[name](data)
    return data


def fed(data: bytes, encoding: str, cuts: list[int] = []) -> Unfolding:  # noqa: B006
    body = unfolding(encoding)
    assert body is not None
    for start, end in pairwise([0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]):
        held = body.bytes
        assert body.feed(data[start:end]) == body.bytes - held
    return body


@settings(deadline=None)
@given(TEXTS, NAMES, CUTS)
@example(b"", ["gzip"], [])
def test_what_was_packed_is_read_layer_by_layer_however_it_is_cut(
    text: bytes, names: list[str], cuts: list[int]
) -> None:
    body = fed(packed(text, names), ",".join(names), cuts)

    assert (body.body(), body.unread) == (text, None)
    assert body.bytes == len(text)


@settings(deadline=None)
@given(st.binary(max_size=200), NAMES, st.integers(0, 10_000), st.binary(max_size=8), CUTS)
def test_a_broken_body_is_told_by_its_encoding_and_breaks_nothing(
    text: bytes, names: list[str], at: int, noise: bytes, cuts: list[int]
) -> None:
    whole = packed(text, names)
    at %= len(whole) + 1

    for data in (whole[:at], whole[:at] + noise + whole[at:], noise + whole, whole + noise):
        body = fed(data, ",".join(names), cuts)
        found = body.body()
        if body.unread is None:
            assert found == text or data != whole
        else:
            assert body.unread.reason == "bad-request"
            assert body.unread.message.startswith("request body is no ")
            assert body.bytes == 0


@pytest.mark.parametrize("name", ["gzip", "deflate", "Deflate", "br", "zstd"])
def test_a_body_cut_short_is_told(name: str) -> None:
    body = fed(packed(b"hello " * 1000, [name])[:-3], name)

    body.body()

    assert body.unread is not None
    assert (body.unread.reason, name.lower() in body.unread.message) == ("bad-request", True)


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_bomb_costs_bounded_memory_and_time(name: str, layers: int) -> None:
    bomb = packed(bytes(200 << 20), [name])
    for _ in range(layers - 1):
        bomb = PACKED[name](bomb)
    start = process_time()

    body = unfolding(",".join([name] * layers))
    assert body is not None
    most = 0
    for at in range(0, len(bomb), 16_384):
        body.feed(bomb[at : at + 16_384])
        most = max(most, body.bytes)

    assert body.unread is not None
    assert body.unread.reason == "body-too-large"
    assert name in body.unread.message
    assert most <= FREE_BYTES + RATIO_MAX * len(bomb)
    # 200 MiB take a second; this is a tenth of the bytes, layers included.
    assert process_time() - start < 2


def test_what_text_unfolds_to_is_read_whatever_its_length() -> None:
    text = json.dumps([hash(("word", n)) for n in range(400_000)]).encode()
    assert len(text) > FREE_BYTES

    for name in ("gzip", "br", "zstd"):
        body = fed(packed(text, [name]), name, list(range(0, 10_000, 1000)))
        assert (body.body() == text, body.unread) == (True, None)


@pytest.mark.parametrize("encoding", ["compress", "aws-chunked", "gzip, snappy", "gzip,gzip,gzip,gzip", "gzip;q=1"])
def test_an_encoding_that_is_not_read_is_named(encoding: str) -> None:
    body = unfolding(encoding)
    assert body is not None
    assert body.feed(b"x" * 100_000) == 0

    assert body.unread is not None
    assert body.unread.reason == "unsupported-encoding"
    assert body.unread.message.startswith("request body with content-encoding ")


@pytest.mark.parametrize("encoding", ["", "identity", " Identity , "])
def test_no_encoding_is_taken_off_where_there_is_none(encoding: str) -> None:
    assert unfolding(encoding) is None


# --- on an ext_proc stream ------------------------------------------------------------------------

PLAIN = json.dumps({"model": "alias", "messages": [{"role": "user", "content": "hello " * 5000}]}).encode()


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_a_compressed_body_is_read_and_goes_on_as_it_came(name: str) -> None:
    data = packed(PLAIN, [name])
    talk = Talk()

    replies = talk.say(
        request_headers(("content-encoding", name)), request_body(data[:50], end=False), request_body(data[50:])
    )

    assert (talk.decided[0].body, talk.decided[0].unread) == (PLAIN, None)
    assert talk.decided[0].body_bytes == len(data)
    assert streamed(replies) == (data, True)
    assert not replies[0].request_headers.response.header_mutation.remove_headers
    assert talk.load.held.bytes == 0


def test_a_renamed_model_goes_on_without_the_encoding() -> None:
    data = packed(PLAIN, ["gzip"])
    talk = Talk(Routed("10.0.0.1:8000", rename=("alias", "served")))

    replies = talk.say(
        request_headers(("content-encoding", "gzip"), ("content-length", str(len(data)))), request_body(data)
    )

    changed = PLAIN.replace(b'"alias"', b'"served"')
    assert streamed(replies) == (changed, True)
    assert list(replies[0].request_headers.response.header_mutation.remove_headers) == ["content-encoding"]
    assert set_headers(replies[0])["content-length"] == str(len(changed)).encode()
    assert talk.load.held.bytes == 0


def test_what_a_body_unfolds_to_counts_among_what_is_held() -> None:
    load = Load(StreamLimits(held_bytes_max=10_000))
    talk = Talk(load=load)

    talk.say(request_headers(("content-encoding", "gzip")), request_body(packed(PLAIN, ["gzip"]), end=False))

    assert [refusal.reason for refusal in talk.refusals] == ["buffers-full"]
    assert load.held.bytes == 0


# --- up to the decision ---------------------------------------------------------------------------

MESSAGES = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello " * 5000}]}


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/messages?beta=true", MESSAGES, "gzip"),
        ("/v1/chat/completions", MESSAGES, "gzip"),
        ("/v1/responses", {"model": "m", "input": "hello " * 5000}, "zstd"),
        ("/v1/chat/completions", MESSAGES, "identity"),
    ],
)
def test_a_client_that_compresses_gets_an_endpoint(path: str, body: object, name: str) -> None:
    data = json.dumps(body).encode()
    port = PoolPort(cluster_of("10.0.0.1"))

    replies = port.post(packed(data, [name]) if name in PACKED else data, ("content-encoding", name), path=path)

    assert destination(replies[0]) == "10.0.0.1:8000"
    [event] = port.feed.of(RequestRouted)
    assert event.request.model == "m"
    assert event.request.prompt_bytes >= 30_000


def test_a_body_that_no_parser_claims_passes_in_any_encoding() -> None:
    port = PoolPort(cluster_of("10.0.0.1"))

    for name in ("compress", "gzip"):
        replies = port.post(b"sound", ("content-encoding", name), path="/v1/audio/transcriptions")
        assert streamed(replies) == (b"sound", True)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("compress", 415, "UnsupportedMediaType - request body with content-encoding compress, wanted gzip, deflate,"),
        ("gzip", 400, "BadRequest - request body is no gzip: "),
        ("zstd", 400, "BadRequest - request body is no zstd: "),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_by_the_name_of_its_encoding(name: str, status: int, words: str) -> None:
    port = PoolPort(cluster_of("10.0.0.1"))

    [reply] = port.post(b'{"model":"m","prompt":"x"}', ("content-encoding", name))

    assert reply.immediate_response.status.code == status
    assert reply.immediate_response.body.decode().startswith(f"inference error: {words}")
    assert [event.status for event in port.feed.of(RequestRefused)] == [status]


def test_a_bomb_is_refused_with_413() -> None:
    [reply] = PoolPort(cluster_of("10.0.0.1")).post(gzip.compress(bytes(50 << 20)), ("content-encoding", "gzip"))

    assert reply.immediate_response.status.code == 413
