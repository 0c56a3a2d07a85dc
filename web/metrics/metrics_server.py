"""Serves `/metrics` from the control process."""

from collections.abc import Callable

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_app(page: Callable[[], str]) -> QuartTrio:
    """The application: one page."""
    app = QuartTrio("pointsman.web", static_folder=None)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(page(), content_type=CONTENT_TYPE)

    return app


async def serve_metrics(page: Callable[[], str], descriptor: int) -> None:
    """Serve on the listening socket `descriptor` until cancelled."""
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 0.5
    config.include_server_header = False
    await serve(metrics_app(page), config, shutdown_trigger=trio.sleep_forever)
