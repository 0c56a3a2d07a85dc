"""What a page function returns, and the errors it may raise."""

import msgspec
from quart import render_template


class Missing(Exception):
    """There is no such thing."""


class BadQuery(Exception):
    """The address asks for something that cannot be."""


class Reply(msgspec.Struct, frozen=True):
    """A page, the fragment of it that htmx swaps, and the view that both show."""

    template: str = ""
    fragment: str = ""
    context: dict[str, object] = {}
    data: object = None
    """What the JSON twin answers with."""
    status: int = 200
    location: str = ""
    """Address to go to instead of this page; empty where there is a page."""


async def render(template: str, **context: object) -> str:
    """Render one template."""
    return await render_template(template, **context)


def plain(value: object) -> object:
    """A value as JSON can hold it: field names, bytes in hexadecimal, integers that readers would round as text."""
    if isinstance(value, msgspec.Struct):
        return {k: plain(v) for k, v in msgspec.structs.asdict(value).items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, int) and abs(value) >= 2**53:
        return str(value)
    return value


def number(text: str | None, name: str, default: int, highest: int = 2**53) -> int:
    """A whole number of a query; raises `BadQuery`."""
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > highest:
        raise BadQuery(f"{name} is {text[:40]!r}, wanted a whole number of at most {highest:,}")
    return int(text)
