"""A response is read as h11 reads it, however it is cut, and refused beyond its limits."""

import itertools

import h11
import pytest
from hypothesis import given, strategies as st

from pointsman.cluster.scraping.http_page import CHUNKS_MAX, HEAD_MAX, HttpError, PageResponse, ResponseReader


def read(data: bytes, cuts: list[int] | None = None, body_max: int = 1 << 20, end: bool = False) -> PageResponse | None:
    reader = ResponseReader(body_max)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    found = None
    for start, stop in itertools.pairwise(edges):
        assert found is None or start == stop
        if start < stop:
            found = reader.feed(data[start:stop])
    return reader.end() if found is None and end else found


def by_h11(data: bytes, end: bool) -> tuple[int, bytes] | None:
    """What h11 makes of it: status and body, None where it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if end:
        connection.receive_data(b"")
    status, body = 0, b""
    try:
        while True:
            event = connection.next_event()
            match event:
                case h11.Response():
                    status = event.status_code
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    return status, body
                case h11.ConnectionClosed():
                    return None
                case _ if event is h11.NEED_DATA or event is h11.PAUSED:
                    return None
    except h11.RemoteProtocolError:
        return None


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, bytes, bool]:
    """(bytes, status, body, the connection goes on)."""
    status = draw(st.sampled_from([200, 404, 500, 503]))
    body = draw(st.binary(max_size=200))
    headers = draw(
        st.lists(st.sampled_from(["Date: x", "server:uvicorn", "X-A:  b  ", "content-type: text/plain"]), max_size=3)
    )
    framing = draw(st.sampled_from(["length", "chunks", "end"]))
    closes = framing == "end" or draw(st.booleans())
    if closes and framing != "end":
        headers.append(draw(st.sampled_from(["Connection: close", "connection: Close, x"])))
    if framing == "length":
        headers.append(f"Content-Length: {len(body)}")
        sent = body
    elif framing == "chunks":
        headers.append("Transfer-Encoding: chunked")
        sent, at = b"", 0
        while at < len(body):
            size = draw(st.integers(1, 80))
            part, at = body[at : at + size], at + size
            extension = draw(st.sampled_from([b"", b";a=b"]))
            sent += b"%x%b\r\n%b\r\n" % (len(part), extension, part)
        sent += draw(st.sampled_from([b"0\r\n\r\n", b"000\r\nX-T: 1\r\n\r\n"]))
    else:
        sent = body
    interim = draw(st.sampled_from(["", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"]))
    head = interim + f"HTTP/1.1 {status} Reason\r\n" + "".join(f"{h}\r\n" for h in headers) + "\r\n"
    return head.encode() + sent, status, body, not closes


@given(responses(), st.lists(st.integers(0, 2000), max_size=8))
def test_however_it_is_cut_a_response_is_the_same(response: tuple[bytes, int, bytes, bool], cuts: list[int]) -> None:
    data, status, body, keep = response

    assert read(data, cuts, end=True) == PageResponse(status, body, keep)
    assert by_h11(data, end=True) == (status, body)


@given(responses(), st.data())
def test_a_response_that_was_changed_is_read_as_h11_does_or_refused(
    response: tuple[bytes, int, bytes, bool], data: st.DataObject
) -> None:
    whole = bytearray(response[0])
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.sampled_from([b"", b"\n", b"\r\n", b" ", b"0", b"a", b":", b"\0"])
    )
    try:
        ours = read(bytes(whole), end=True)
    except HttpError:
        return
    assert ours is not None
    theirs = by_h11(bytes(whole), end=True)

    # A few things h11 refuses do not matter to a page; what both read, they read alike.
    assert theirs is None or theirs == (ours.status, ours.body)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_garbage_is_refused(data: bytes, cuts: list[int]) -> None:
    with pytest.raises(HttpError):
        read(b"\x16" + data, cuts, end=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/2 200 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "content-length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "content-length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "content-length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n", "page over 1,048,576 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer-encoding other than chunked"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "content-encoding that was not asked for"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "chunk size is no hexadecimal number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "chunk size is no hexadecimal number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 300, "chunk size is no hexadecimal number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", "chunk longer than its size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "page over 1,048,576 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * (CHUNKS_MAX + 1), "page in over 16,384 chunks"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 9999, "trailers over 16,384 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9999, "response head over 16,384 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1_048_577, "page over 1,048,576 bytes"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_too_much_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(HttpError, match=words):
        read(data)


def test_a_response_without_its_end_is_refused() -> None:
    for data in (
        b"",
        b"HTTP",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    ):
        with pytest.raises(HttpError, match="closed before the end"):
            read(data, end=True)


def test_a_connection_with_more_than_was_asked_for_is_not_used_again() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"

    assert read(data) == PageResponse(200, b"a", True)
    assert read(data + b"HTTP/1.1 408 \r\n\r\n") == PageResponse(200, b"a", False)
    assert read(data.replace(b"1.1", b"1.0")) == PageResponse(200, b"a", False)
    assert read(data.replace(b"1.1", b"1.0").replace(b"Con", b"Connection: keep-alive\r\nCon")) == PageResponse(
        200, b"a", True
    )
