"""What goes over a leash."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.cli.supervising.leash import LINE_BYTES_MAX, LeashError, LeashLines, encode, say
from pointsman.cli.supervising.ports import bind_nearby

MESSAGES = st.lists(st.tuples(st.text(max_size=10), st.one_of(st.integers(), st.text(), st.lists(st.booleans()))))


@given(MESSAGES, st.lists(st.integers(1, 40)))
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    messages: list[tuple[str, object]], cuts: list[int]
) -> None:
    data = b"".join(encode(*message) for message in messages)
    lines, found = LeashLines(), list[tuple[str, object]]()
    for cut in cuts:
        found += lines.feed(data[:cut])
        data = data[cut:]
    found += lines.feed(data)

    assert found == messages


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b"{}", b'{"a":1,"b":2}', b"\xff"])
def test_what_is_no_message_is_an_error(line: bytes) -> None:
    with pytest.raises(LeashError, match="wanted"):
        LeashLines().feed(line + b"\n")


def test_a_line_without_end_is_an_error() -> None:
    lines = LeashLines()
    lines.feed(b"x" * LINE_BYTES_MAX)
    with pytest.raises(LeashError, match="wanted a message"):
        lines.feed(b"x")


def test_a_socket_that_is_handed_over_still_listens() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, bind_nearby("127.0.0.1", 0, 1) as bound:
        say(ours, "listen", {"pool": "p"}, [bound])
        data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)

        assert LeashLines().feed(data) == [("listen", {"pool": "p"})]
        with socket.socket(fileno=descriptors[0]) as handed:
            assert handed.getsockname() == bound.getsockname()
            with socket.create_connection(bound.getsockname()):
                handed.setblocking(True)
                handed.accept()[0].close()


def test_a_busy_port_becomes_the_next_free_one() -> None:
    with bind_nearby("127.0.0.1", 0, 1) as first:
        port = first.getsockname()[1]
        with bind_nearby("127.0.0.1", port, 100) as second:
            assert port < second.getsockname()[1] <= port + 99
        with pytest.raises(OSError, match="no free port"):
            bind_nearby("127.0.0.1", port, 1)
