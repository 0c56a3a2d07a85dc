"""What goes over a leash."""

import socket
from typing import get_args

import pytest
from hypothesis import given, strategies as st

from pointsman.cli.supervising.leash import say
from pointsman.cli.supervising.ports import bind_nearby
from pointsman.core.processes.leash import (
    FROM_CHILD,
    LINE_BYTES_MAX,
    TO_CONTROL,
    TO_PICKER,
    ChildMessage,
    ControlMessage,
    Drain,
    LeashError,
    LeashLines,
    LeashMessage,
    Listen,
    PickerMessage,
    Stop,
    encode,
    held_descriptor,
)

TIMED = {Stop, Drain}


def messages_of(kinds: object) -> st.SearchStrategy[LeashMessage]:
    """Messages of all kinds of a union."""
    return st.one_of(
        [st.builds(k, seconds=st.floats(0, 60)) if k in TIMED else st.from_type(k) for k in get_args(kinds)]
    )


@given(st.lists(messages_of(ControlMessage), max_size=5), st.lists(st.integers(1, 40)))
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[LeashMessage], cuts: list[int]) -> None:
    data = b"".join(encode(message) for message in messages)
    lines, found = LeashLines(TO_CONTROL), list[LeashMessage]()
    for cut in cuts:
        found += lines.feed(data[:cut])
        data = data[cut:]
    found += lines.feed(data)

    assert found == messages


@given(messages_of(ChildMessage), messages_of(ControlMessage), messages_of(PickerMessage))
def test_each_end_reads_what_is_sent_to_it(said: LeashMessage, told: LeashMessage, ordered: LeashMessage) -> None:
    assert LeashLines(FROM_CHILD).feed(encode(said)) == [said]
    assert LeashLines(TO_CONTROL).feed(encode(told)) == [told]
    assert LeashLines(TO_PICKER).feed(encode(ordered)) == [ordered]


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b"{}", b'{"type":"listne"}', b'{"type":"stop"}', b"\xff"])
def test_what_is_no_message_to_this_end_is_an_error(line: bytes) -> None:
    with pytest.raises(LeashError, match="wanted a message"):
        LeashLines(FROM_CHILD).feed(line + b"\n")


def test_a_line_without_end_is_an_error() -> None:
    lines = LeashLines(FROM_CHILD)
    lines.feed(b"x" * LINE_BYTES_MAX)
    with pytest.raises(LeashError, match="wanted a message"):
        lines.feed(b"x")


@pytest.mark.parametrize("environment", [{}, {"POINTSMAN_LEASH": "x"}])
def test_a_process_that_nobody_holds_says_who_starts_it(environment: dict[str, str]) -> None:
    with pytest.raises(LeashError, match="the supervisor starts this process"):
        held_descriptor(environment)


def test_a_socket_that_is_handed_over_still_listens() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, bind_nearby("127.0.0.1", 0, 1) as bound:
        say(ours, Listen("p", 1), [bound])
        data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)

        assert LeashLines(TO_PICKER).feed(data) == [Listen("p", 1)]
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
