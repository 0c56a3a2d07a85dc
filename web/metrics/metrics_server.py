"""Serves `/metrics` from the control process."""

from collections.abc import AsyncIterator, Callable, Iterator

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

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


async def serve_metrics(page: Callable[[], Iterator[str]], descriptor: int) -> None:
    """Serve on the listening socket `descriptor` until cancelled."""
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 0.5
    config.include_server_header = False
    await serve(metrics_app(page), config, shutdown_trigger=trio.sleep_forever)
