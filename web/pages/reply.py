"""What a page function returns, and the errors it may raise."""

import msgspec
from quart import render_template


class Missing(Exception):
    """Raised where the address names something that does not exist."""


class BadQuery(Exception):
    """Raised where a field of the address or form has a value that it cannot have."""


class Reply(msgspec.Struct, frozen=True):
    """A page, the fragment of it that htmx swaps, and the view that both show."""

    template: str = ""
    fragment: str = ""
    context: dict[str, object] = {}
    data: object = None
    """Value that the JSON twin answers with."""
    status: int = 200
    location: str = ""
    """Address to go to instead of this page; empty where there is a page."""


async def render(template: str, **context: object) -> str:
    """Render one template."""
    return await render_template(template, **context)


def plain(value: object) -> object:
    """A value as JSON can hold it: structs by field name, bytes in hexadecimal, integers from 2**53 on as text."""
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
