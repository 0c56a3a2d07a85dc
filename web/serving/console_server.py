"""The console's server, on loopback only."""

import socket

from quart_trio import QuartTrio

from pointsman.web.loopback import check_loopback
from pointsman.web.serving.http_limits import HttpLimits
from pointsman.web.serving.http_server import serve_http
from pointsman.web.stream import Broadcast

LIMITS = HttpLimits()


async def serve(app: QuartTrio, listening: socket.socket, broadcast: Broadcast, limits: HttpLimits = LIMITS) -> None:
    """Serve until cancelled; then event streams end, and requests under way have a moment."""
    check_loopback(listening.getsockname()[0])
    await serve_http(app, listening, limits, broadcast.end)
