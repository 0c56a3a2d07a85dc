"""The console's application: its routes in one list, and what holds for every request."""

import mimetypes
from collections.abc import Awaitable, Callable
from importlib.resources import files

import msgspec
from markupsafe import Markup
from quart import Response, g, make_response, request
from quart_trio import QuartTrio
from werkzeug.routing import IntegerConverter

from pointsman.eventlog.errors import LogCorruptError, NotKeptError, ReadModelUnavailableError
from pointsman.web.access import COOKIE, HEADERS, AccessRefused
from pointsman.web.console import Console, navigation
from pointsman.web.drawing import words
from pointsman.web.drawing.isolating import Isolating
from pointsman.web.pages import (
    decision,
    decisions,
    log_page as log,
    overview,
    pools,
    routes,
    strip,
    weight_form as weights,
)
from pointsman.web.pages.reply import BadQuery, Missing, Reply, render
from pointsman.web.stream import Receive, Send, StreamsFull, stream_events

FORM_BYTES_MAX = 64 * 1024
"""Bytes of a posted form, which holds a few numbers and a reason."""
BODY_WITHIN = 10
"""Seconds for a form to arrive."""

PAGES: tuple[tuple[str, str, Callable[..., Awaitable[Reply]]], ...] = (
    ("/", "GET", overview.page),
    ("/strip", "GET", strip.page),
    ("/help", "GET", overview.help_page),
    ("/pools", "GET", pools.list_page),
    ("/pools/<namespace>/<name>", "GET", pools.pool_page),
    ("/decisions", "GET", decisions.list_page),
    ("/decisions/<number:position>", "GET", decision.page),
    ("/requests/<path:request_id>", "GET", decisions.request_page),
    ("/routes", "GET", routes.list_page),
    ("/routes/<namespace>/<name>", "GET", routes.route_page),
    ("/routes/<namespace>/<name>/rules/<number:rule>/weights", "GET", weights.form_page),
    ("/routes/<namespace>/<name>/rules/<number:rule>/weights", "POST", weights.change),
    ("/log", "GET", log.page),
    ("/log/<number:position>", "GET", log.entry_page),
)
"""Every page; under /api/v1 each GET answers with the JSON of the same view."""

JSON_CHANGES: tuple[tuple[str, Callable[..., Awaitable[Reply]]], ...] = (
    ("/routes/<namespace>/<name>/rules/<number:rule>/weights", weights.change_by_json),
)
"""Changes that a POST of JSON makes, under /api/v1."""


class _Number(IntegerConverter):
    """A number in a path, with at most as many digits as a position has."""

    regex = r"\d{1,16}"


def create_app(console: Console) -> QuartTrio:
    """The application, for hypercorn to serve."""
    app = QuartTrio(__name__, static_folder=None, template_folder="templates")
    app.config.update(MAX_CONTENT_LENGTH=FORM_BYTES_MAX, BODY_TIMEOUT=BODY_WITHIN)
    app.url_map.strict_slashes = False
    app.url_map.converters["number"] = _Number
    app.jinja_env.add_extension(Isolating)
    for text in (words.short_time, words.count, words.rate, words.percent, words.duration):
        app.jinja_env.filters[text.__name__] = text
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for path, method, view in PAGES:
        name = f"{view.__module__}.{view.__name__}"
        app.add_url_rule(path, name, _html(console, view), methods=[method])
        if method == "GET":
            app.add_url_rule("/api/v1" + path.rstrip("/"), "api." + name, _json(console, view), methods=[method])
    for path, view in JSON_CHANGES:
        name = f"{view.__module__}.{view.__name__}"
        app.add_url_rule("/api/v1" + path, name, _json(console, view), methods=["POST"])
    app.add_url_rule("/static/<name>", "static", _static)
    _guard(app, console)
    _answer_errors(app, console)
    _EventsEndpoint(app, console)
    return app


def _guard(app: QuartTrio, console: Console) -> None:
    """Check the Host of every request, and set the headers and the cookie of every answer."""

    @app.before_request
    async def check_host() -> Response | None:
        try:
            console.access.check_host(request.headers.get("Host", ""))
        except AccessRefused as error:  # as plain text: a page would tell a stranger about this deployment
            return Response(str(error), status=error.status, content_type="text/plain; charset=utf-8")
        return None

    @app.after_request
    async def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if COOKIE not in request.cookies and (g.get("visit") or response.content_type.startswith("text/html")):
            visit = g.get("visit") or console.access.new_visit()
            response.set_cookie(COOKIE, visit, httponly=True, samesite="Strict", secure=request.scheme == "https")
        return response


def _answer_errors(app: QuartTrio, console: Console) -> None:
    """Answer errors with a page, or JSON, that says what was found, what was wanted and what to do."""

    def answer(kind: type[Exception] | int, status: int, title: str, words: Callable[[Exception], str]) -> None:
        async def handler(error: Exception) -> Response:
            return await _problem(console, getattr(error, "status", status), title, words(error))

        app.register_error_handler(kind, handler)

    answer(AccessRefused, 403, "Not allowed", str)
    answer(Missing, 404, "Not found", str)
    answer(BadQuery, 400, "That was not understood", str)
    answer(StreamsFull, 503, "Too many open pages", str)
    answer(400, 400, "That was not understood", lambda _: "The request is not one that a browser sends.")
    answer(404, 404, "Not found", lambda _: f"There is no page at {request.path[:200]}.")
    answer(405, 405, "Not possible", lambda _: f"{request.method[:20]} is nothing that {request.path[:200]} does.")
    answer(408, 408, "Too slow", lambda _: f"The form did not arrive within {BODY_WITHIN} s: send it again.")
    answer(413, 413, "Too large", lambda _: f"A form has {FORM_BYTES_MAX:,} bytes at most.")
    building = "The index of decisions is being built from the log. Try again soon."
    answer(ReadModelUnavailableError, 503, "Not ready", lambda _: building)
    for damaged in (LogCorruptError, NotKeptError):
        answer(damaged, 503, "The log does not tell", str)
    answer(500, 500, "This page failed", lambda _: "It is our mistake; the control process's output has the details.")


async def _problem(console: Console, status: int, title: str, message: str) -> Response:
    if request.path.startswith("/api/"):
        body = msgspec.json.encode({"error": message, "status": status})
        return Response(body, status=status, content_type="application/json")
    html = await render(
        "error.html",
        title=title,
        message=message,
        strip=await strip.strip(console),
        navigation=navigation(console, request.path),
    )
    return Response(html, status=status, content_type="text/html; charset=utf-8")


def _html(console: Console, view: Callable[..., Awaitable[Reply]]) -> Callable[..., Awaitable[Response]]:
    async def answer(**arguments: object) -> Response:
        reply = await view(console, **arguments)
        if reply.location:
            return Response(b"", status=303, headers={"Location": reply.location})
        fragment = reply.fragment if request.headers.get("HX-Request") == "true" and reply.fragment else ""
        console.watch.seen()
        shared = {
            "strip": await strip.strip(console),
            "navigation": navigation(console, request.path),
            "fragment": bool(fragment),
        }
        context = shared | reply.context
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
            return Response(b"", status=303, headers={"Location": "/api/v1" + reply.location})
        return Response(_encode(reply.data), status=reply.status, content_type="application/json")

    return answer


def _without_pictures(value: object) -> object:
    if isinstance(value, Markup):
        return None
    raise TypeError(f"{type(value).__name__} in a view, wanted what JSON can hold")


_encode = msgspec.json.Encoder(enc_hook=_without_pictures).encode


class _EventsEndpoint:
    """Refuses WebSockets, and answers `/events` directly in ASGI: only there does a stream learn at once that its reader is gone."""

    def __init__(self, app: QuartTrio, console: Console) -> None:
        self._console = console
        self._others = app.asgi_app
        app.asgi_app = self._call  # type: ignore[assignment,method-assign]  # Quart's documented place for what lies beneath it

    async def _call(self, scope: dict[str, object], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # no page has one: refused before it is looked at
            return
        if scope["type"] != "http" or scope["path"] != "/events" or scope["method"] != "GET":
            await self._others(scope, receive, send)  # type: ignore[arg-type]
            return
        headers = dict(scope["headers"])  # type: ignore[call-overload]  # pairs of bytes
        try:
            self._console.access.check_host(headers.get(b"host", b"").decode("latin-1"))
            with self._console.broadcast.subscribed() as subscription:
                await stream_events(subscription, receive, send)
        except (AccessRefused, StreamsFull) as error:
            status = error.status if isinstance(error, AccessRefused) else 503
            told = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"10")]
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body", "body": str(error).encode(), "more_body": False})


_ASSETS = {asset.name: asset.read_bytes() for asset in (files("pointsman.web") / "static").iterdir() if asset.is_file()}


async def _static(name: str) -> Response:
    if name not in _ASSETS:
        raise Missing(f"There is no file named {name[:80]}.")
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    response = Response(_ASSETS[name], content_type=f"{kind}; charset=utf-8")
    response.headers["Cache-Control"] = "max-age=300"
    return response
