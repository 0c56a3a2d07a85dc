"""A gateway's bytes, changed: into the HTTP/2 engine alone, or into a whole picker connection."""

import asyncio
import random

from h2.exceptions import ProtocolError

from pointsman.cli.bench.bench_request import Written
from pointsman.cli.bench.gateway_bytes import Gateway
from pointsman.grpc.ext_proc.protocol import Load
from pointsman.grpc.http2.frames import (
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from pointsman.grpc.http2.machine import ServerConnection
from pointsman.grpc.serving.grpc_server import GrpcServer

CUTS = 12
"""Number of pieces in which the bytes of a round arrive, at most."""


def traffic(source: random.Random) -> bytes:
    """The bytes of a connection's beginning and of a few requests, some of them cut short."""
    gateway = Gateway(source.choice((1, 3)))
    settings = bytes((0, 4)) + source.choice((65_535, 0, 1 << 20)).to_bytes(4, "big")
    parts = [PREFACE, frame(SETTINGS, 0, 0, settings)]
    for i in range(source.randrange(1, 4)):
        parts.append(gateway.request(i))
        response = gateway.response()
        parts += response[: source.randrange(len(response) + 1)]
        stream = 2 * i + 1
        parts.append(
            source.choice(
                (
                    frame(PING, 0, 0, bytes(8)),
                    frame(WINDOW_UPDATE, 0, stream, (1000).to_bytes(4, "big")),
                    frame(RST_STREAM, 0, stream, bytes(4)),
                    frame(PRIORITY, 0, stream, bytes(4) + b"\x10"),
                    frame(HEADERS, END_STREAM | 4, stream, b""),
                    frame(SETTINGS, 1, 0),
                    b"",
                )
            )
        )
    return b"".join(parts)


def mutated(data: bytes, source: random.Random) -> bytes:
    """The bytes `data`, with some changed behind the connection preface."""
    out = bytearray(data)
    first = len(PREFACE)
    for _ in range(source.randrange(1, 10)):
        at = source.randrange(first, len(out))
        match source.randrange(12):  # mostly changes that leave lengths right, so that what follows is still parsed
            case 0 | 1 | 2 | 3 | 4:
                out[at] = source.randrange(256)
            case 5 | 6 | 7 | 8 | 9:
                out[at] ^= 1 << source.randrange(8)
            case 10:
                out[at:at] = out[max(first, at - source.randrange(1, 40)) : at]
            case 11 if len(out) > first + 64:
                del out[at : at + source.randrange(1, 20)]
            case _:
                pass
        if len(out) <= first:
            return data
    return bytes(out)


def pieces(data: bytes, source: random.Random) -> list[bytes]:
    """The bytes `data`, cut at random places."""
    cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(CUTS)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def into_engine(chunks: list[bytes]) -> str:
    """Give the bytes of a round to the engine; return how that ended."""
    engine = ServerConnection()
    engine.initiate_connection()
    try:
        for chunk in chunks:
            engine.receive_data(chunk)
            engine.data_to_send()
    except ProtocolError as error:
        return type(error).__name__
    return "went on"


async def into_connection(server: GrpcServer, load: Load, chunks: list[bytes]) -> str:
    """Give the bytes of a round to a connection of the picker; return how that ended."""
    transport = Written()
    connection = server._protocol_factory()
    connection.connection_made(transport)
    for chunk in chunks:
        if not transport.is_closing():
            connection.data_received(chunk)
        await asyncio.sleep(0)
    ended = "closed" if transport.is_closing() else "went on"
    connection.connection_lost(None)
    await asyncio.sleep(0)
    if load.streams or load.held.bytes:
        raise AssertionError(f"{load.streams} streams and {load.held.bytes} bytes are left, wanted none")
    return ended
