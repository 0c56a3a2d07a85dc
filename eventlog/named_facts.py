"""Fields of facts and explanations by name, as JSON can hold them: columns unpacked, times as text, units in the keys.

What is told of a fact outside of the log, by commands and by the console's twins, is told in this one form.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from pointsman.core.state.traffic import Column
from pointsman.core.values.packing import unpack, unpack_floats

_UNITS: Final = {
    "after": "seconds",
    "ages": "milliseconds",
    "backend_timeout": "seconds",
    "backoff": "seconds",
    "duration": "seconds",
    "earlier": "milliseconds",
    "first_token": "seconds",
    "interval": "seconds",
    "lost_for": "seconds",
    "size": "bytes",
    "threshold": "seconds",
    "timeout": "seconds",
    "kv_cache": "share",
    "sample_age": "seconds",
    "took": "microseconds",
}
_COLUMNS: Final = frozenset(
    ("ages", "avoided", "earlier", "endpoints", "open", "running", "subset", "unreadable", "values", "waiting")
)
"""Names of packed columns of whole numbers."""
_PAIRS: Final = {
    "best": ("endpoint", "sum"),
    "causes": ("endpoint", "cause"),
    "rejections": ("reason", "candidates"),
    "scorers": ("plugin", "weight"),
}


def named(fact: msgspec.Struct) -> dict[str, object]:
    """The fields of a fact, or of a part of one; a fact's tag is its `event`."""
    tag = fact.__struct_config__.tag
    found: dict[str, object] = {} if tag is None else {"event": tag}
    for name in fact.__struct_fields__:
        key = f"{name}_{_UNITS[name]}" if name in _UNITS else name
        found[key] = _value(name, getattr(fact, name))
    return found


def moment(seconds: float) -> str:
    """A time in UTC to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(name: str, value: object) -> object:
    match value:
        case bytes():
            return _unpacked(name, value)
        case float() if name == "at" or name.endswith("_at"):
            return moment(value) if value else None
        case int() if name == "epoch":
            return f"{value:016x}"
        case int() if name == "column":
            return Column(value).name.lower() if value in _KNOWN else value
        case msgspec.Struct():
            return named(value)
        case tuple() | list():
            keys = _PAIRS.get(name)
            return [_value("", one) if keys is None else dict(zip(keys, one, strict=True)) for one in value]
        case Mapping():
            return {str(k): _value("", v) for k, v in value.items()}
    return value


def _unpacked(name: str, value: bytes) -> object:
    if name in _COLUMNS:
        return unpack(value).tolist()
    reader = _READERS.get(name)
    return value.hex() if reader is None or not value else reader(value)


_KNOWN: Final = frozenset(map(int, Column))
_READERS: Final[dict[str, Callable[[bytes], object]]] = {
    "kv_cache": lambda value: unpack_floats(value).tolist(),
    "config": msgspec.json.decode,
}
