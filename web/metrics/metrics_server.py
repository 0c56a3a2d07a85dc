"""Serves `/metrics` from the control process."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator

import trio
from quart import Response
from quart_trio import QuartTrio

from pointsman.web.serving.http_limits import HttpLimits
from pointsman.web.serving.http_server import serve_http

LIMITS = HttpLimits(connections=100, grace=0.5)
"""Limits of the port: those who scrape are few."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_app(page: Callable[[], Iterator[str]]) -> QuartTrio:
    """The application: one page."""
    app = QuartTrio("pointsman.web", static_folder=None)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(_sent(page()), content_type=CONTENT_TYPE)

    return app


async def _sent(pieces: Iterator[str]) -> AsyncIterator[bytes]:
    """The pieces, with a turn of the loop for everybody else between two of them."""
    for piece in pieces:
        if piece:
            yield piece.encode()
        await trio.lowlevel.checkpoint()


async def serve_metrics(page: Callable[[], Iterator[str]], descriptor: int, limits: HttpLimits = LIMITS) -> None:
    """Serve on the listening socket `descriptor` until cancelled."""
    await serve_http(metrics_app(page), socket.socket(fileno=descriptor), limits)
