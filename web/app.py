"""The console's application: its routes in one list, and what holds for every request."""

import mimetypes
from collections.abc import Awaitable, Callable
from importlib.resources import files

import msgspec
from markupsafe import Markup
from quart import Response, make_response, request
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioRequest

from pointsman.web import decisions, log, overview, pools, routes
from pointsman.web.access import COOKIE, HEADERS, Refusal
from pointsman.web.console import Console, navigation, strip
from pointsman.web.pages import BadQuery, Missing, Reply, render
from pointsman.web.stream import StreamsFull

FORM_BYTES_MAX = 64 * 1024
"""Of a posted form: a few numbers and a reason."""

Page = Callable[[Console], Awaitable[Reply]]

PAGES: tuple[tuple[str, str, Callable[..., Awaitable[Reply]]], ...] = (
    ("/", "GET", overview.page),
    ("/strip", "GET", overview.strip_page),
    ("/help", "GET", overview.help_page),
    ("/pools", "GET", pools.list_page),
    ("/pools/<namespace>/<name>", "GET", pools.pool_page),
    ("/decisions", "GET", decisions.list_page),
    ("/decisions/<int:position>", "GET", decisions.decision_page),
    ("/requests/<path:request_id>", "GET", decisions.request_page),
    ("/routes", "GET", routes.list_page),
    ("/routes/<namespace>/<name>", "GET", routes.route_page),
    ("/routes/<namespace>/<name>/rules/<int:rule>/weights", "GET", routes.weights_page),
    ("/routes/<namespace>/<name>/rules/<int:rule>/weights", "POST", routes.change_weights),
    ("/log", "GET", log.page),
)
"""Every page; under /api/v1 each GET answers with the JSON of the same view."""


def create_app(console: Console) -> QuartTrio:
    """The application, for hypercorn to serve."""
    app = QuartTrio(__name__, static_folder=None, template_folder="templates")
    app.config.update(MAX_CONTENT_LENGTH=FORM_BYTES_MAX, BODY_TIMEOUT=10, TRAP_HTTP_EXCEPTIONS=False)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for path, method, view in PAGES:
        name = f"{view.__module__}.{view.__name__}"
        app.add_url_rule(path, name, _html(console, view), methods=[method])
        if method == "GET":
            app.add_url_rule("/api/v1" + path.rstrip("/"), "api." + name, _json(console, view), methods=[method])
    app.add_url_rule("/events", "events", _events(console))
    app.add_url_rule("/static/<name>", "static", _static)
    _guard(app, console)
    return app


def _guard(app: QuartTrio, console: Console) -> None:
    """Host, cookie and headers of every request, and what errors look like."""

    @app.before_request
    async def check_host() -> None:
        console.access.check_host(request.headers.get("Host", ""))

    @app.after_request
    async def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if COOKIE not in request.cookies and response.content_type.startswith("text/html"):
            visit = getattr(request, "visit", None) or console.access.new_visit()
            response.set_cookie(COOKIE, visit, httponly=True, samesite="Strict", secure=request.scheme == "https")
        return response

    async def refused(error: Refusal) -> Response:
        return await _problem(console, error.status, "Not allowed", str(error))

    async def missing(error: Missing) -> Response:
        return await _problem(console, 404, "Not found", str(error))

    async def bad(error: BadQuery) -> Response:
        return await _problem(console, 400, "That was not understood", str(error))

    async def unknown(error: Exception) -> Response:
        return await _problem(console, 404, "Not found", f"There is no page at {request.path}.")

    async def wrong_method(error: Exception) -> Response:
        return await _problem(console, 405, "Not possible", f"{request.method} is nothing that {request.path} does.")

    async def too_large(error: Exception) -> Response:
        return await _problem(console, 413, "Too large", f"A form has {FORM_BYTES_MAX:,} bytes at most.")

    async def full(error: StreamsFull) -> Response:
        return await _problem(console, 503, "Too many open pages", str(error))

    app.register_error_handler(Refusal, refused)
    app.register_error_handler(Missing, missing)
    app.register_error_handler(BadQuery, bad)
    app.register_error_handler(StreamsFull, full)
    app.register_error_handler(404, unknown)
    app.register_error_handler(405, wrong_method)
    app.register_error_handler(413, too_large)


async def _problem(console: Console, status: int, title: str, message: str) -> Response:
    if request.path.startswith("/api/"):
        body = msgspec.json.encode({"error": message, "status": status})
        return Response(body, status=status, content_type="application/json")
    html = await render(
        "error.html", title=title, message=message, strip=strip(console), navigation=navigation(console, request.path)
    )
    return Response(html, status=status, content_type="text/html; charset=utf-8")


def _html(console: Console, view: Callable[..., Awaitable[Reply]]) -> Callable[..., Awaitable[Response]]:
    async def answer(**arguments: object) -> Response:
        reply = await view(console, **arguments)
        if reply.location:
            return Response(status=303, headers={"Location": reply.location})
        fragment = reply.fragment if request.headers.get("HX-Request") == "true" and reply.fragment else ""
        context = {"strip": strip(console), "navigation": navigation(console, request.path)} | reply.context
        html = await render(fragment or reply.template, **context)
        response = await make_response(html, reply.status)
        assert isinstance(response, Response)
        response.headers["Content-Type"] = "text/html; charset=utf-8"
        response.vary.add("HX-Request")
        return response

    return answer


def _json(console: Console, view: Callable[..., Awaitable[Reply]]) -> Callable[..., Awaitable[Response]]:
    async def answer(**arguments: object) -> Response:
        reply = await view(console, **arguments)
        if reply.location:
            return Response(status=303, headers={"Location": "/api/v1" + reply.location})
        return Response(_encode(reply.data), status=reply.status, content_type="application/json")

    return answer


def _without_pictures(value: object) -> object:
    if isinstance(value, Markup):
        return None
    raise TypeError(f"{type(value).__name__} in a view, wanted what JSON can hold")


_encode = msgspec.json.Encoder(enc_hook=_without_pictures).encode


def _events(console: Console) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        assert isinstance(request, TrioRequest) or request is not None
        response = Response(console.broadcast.open(), content_type="text/event-stream")
        response.timeout = None
        return response

    return answer


_ASSETS = {asset.name: asset.read_bytes() for asset in (files("pointsman.web") / "static").iterdir() if asset.is_file()}


async def _static(name: str) -> Response:
    if name not in _ASSETS:
        raise Missing(f"There is no file named {name[:80]}.")
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    response = Response(_ASSETS[name], content_type=f"{kind}; charset=utf-8")
    response.headers["Cache-Control"] = "max-age=300"
    return response
