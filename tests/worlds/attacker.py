"""Peers of a picker's port that mean no good: bytes on plain sockets, as many and as fast as they are taken."""

import socket
import struct
import time
from contextlib import suppress
from typing import Self

from pointsman.grpc.http2.frames import (
    DATA,
    END_HEADERS,
    HEADERS,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from pointsman.grpc.http2.header_blocks import Headers, write_block

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHECK = "/grpc.health.v1.Health/Check"
INITIAL_WINDOW = 4


def request(path: str, *more: tuple[str, str]) -> Headers:
    """The headers of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "picker"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


def setting(code: int, value: int) -> bytes:
    """A SETTINGS frame with one setting."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", code, value))


def data(stream: int, payload: bytes) -> bytes:
    """DATA frames of the largest size."""
    return b"".join(frame(DATA, 0, stream, payload[at : at + 16_384]) for at in range(0, len(payload), 16_384))


def prefixed(size: int, message: bytes) -> bytes:
    """The beginning of a gRPC message of `size` bytes."""
    return struct.pack(">BI", 0, size) + message


class Attacker:
    """One connection; what it sends is sent as far as the picker takes it, and what it is answered is not read."""

    def __init__(self, port: int, settings: bytes = b"", greeting: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.next = 1
        if greeting:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes, within: float = 10.0) -> bool:
        """Send what is taken within so many seconds; whether that was all."""
        end = time.monotonic() + within
        view = memoryview(data)
        while view and (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                view = view[self.socket.send(view[: 1 << 20]) :]
            except OSError:
                return False
        return not view

    def open(self, count: int = 1, headers: Headers | None = None) -> list[int]:
        """Open streams; their numbers."""
        block = write_block(headers or request(PROCESS))
        streams = list(range(self.next, self.next + 2 * count, 2))
        self.next += 2 * count
        self.send(b"".join(frame(HEADERS, END_HEADERS, stream, block) for stream in streams))
        return streams

    def read(self, within: float = 5.0) -> bytes:
        """What is answered until the connection ends, or until nothing has come for so long."""
        self.socket.settimeout(within)
        found = bytearray()
        with suppress(OSError):
            while piece := self.socket.recv(1 << 16):
                found += piece
        return bytes(found)

    def closed(self, within: float = 5.0) -> bool:
        """Whether the picker closes the connection before so many seconds have passed."""
        self.socket.settimeout(within)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def update(stream: int, by: int) -> bytes:
    """A WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, by.to_bytes(4, "big"))
