"""An EndpointPickerConfig as it is written: the envelope of every version from GIE v0.5 to llm-d-router.

Unknown fields are errors, and each error says the line, what was found and what was wanted.
"""

import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from pointsman.core.values.distance import wanted
from pointsman.core.values.quantities import decode_duration, parse_duration, parse_quantity

ConfigPath = tuple[str | int, ...]
Lines = Mapping[ConfigPath, int]
"""The line, from 1, of each place in the document, by keys and indexes."""


class ConfigError(Exception):
    """A configuration is wrong; `path` leads to what is, or would be."""

    def __init__(self, line: int, message: str, path: ConfigPath = ()) -> None:
        super().__init__(f"line {line}: {message}")
        self.line, self.message, self.path = line, message, path


class _DocumentPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The options that all parts of the envelope have."""


class PluginSpec(_DocumentPart, frozen=True):
    """An entry of `plugins`."""

    type: str = ""
    name: str = ""
    parameters: dict[str, Any] | None = None


class ProfilePlugin(_DocumentPart, frozen=True):
    """An entry of a scheduling profile."""

    plugin_ref: str = ""
    weight: float | None = None


class ProfileSpec(_DocumentPart, frozen=True):
    """An entry of `schedulingProfiles`."""

    name: str = ""
    plugins: list[ProfilePlugin] | None = None


class Ref(_DocumentPart, frozen=True):
    """A reference to a plugin."""

    plugin_ref: str


class SourceSpec(_DocumentPart, frozen=True):
    """An entry of `dataLayer.sources`."""

    plugin_ref: str
    extractors: list[Ref] | None = None


class DataLayer(_DocumentPart, frozen=True):
    """Where endpoints and their metrics come from."""

    inject_defaults: bool | None = None
    sources: list[SourceSpec] | None = None
    discovery: Ref | None = None
    peer_discovery: Ref | None = None
    cross_replica_syncer_plugin_ref: str = ""
    cross_replica_sync_interval: str | None = None


class PriorityBand(_DocumentPart, frozen=True):
    """One of the priority bands of `flowControl`."""

    priority: int = 0
    max_bytes: int | str | None = None
    max_requests: int | str | None = None
    fairness_policy_ref: str = ""
    ordering_policy_ref: str = ""


class FlowControl(_DocumentPart, frozen=True):
    """Queueing when the pool is saturated."""

    max_bytes: int | str | None = None
    max_requests: int | str | None = None
    default_request_ttl: str | None = msgspec.field(default=None, name="defaultRequestTTL")
    no_endpoint_request_ttl: str | None = msgspec.field(default=None, name="noEndpointRequestTTL")
    default_priority_band: PriorityBand | None = None
    default_negative_priority_band: PriorityBand | None = None
    priority_bands: list[PriorityBand] | None = None
    usage_limit_policy_plugin_ref: str = ""
    saturation_detector: Ref | None = None
    enable_eviction: bool = False


class RequestHandler(_DocumentPart, frozen=True):
    """How request bodies are read."""

    parsers: list[Ref] | None = None


class Saturation(_DocumentPart, frozen=True):
    """The deprecated `saturationDetector`: a reference, or numbers as in GIE v1.1 to v1.4."""

    plugin_ref: str | None = None
    queue_depth_threshold: int | None = None
    kv_cache_util_threshold: float | None = None
    metrics_staleness_threshold: str | None = None


class ConfigDocument(_DocumentPart, frozen=True):
    """The whole document."""

    api_version: str = ""
    kind: str = ""
    feature_gates: list[str] | None = None
    plugins: list[PluginSpec] | None = None
    scheduling_profiles: list[ProfileSpec] | None = None
    data_layer: DataLayer | None = None
    data: DataLayer | None = None
    flow_control: FlowControl | None = None
    request_handler: RequestHandler | None = None
    saturation_detector: Saturation | None = None
    parser: Ref | None = None


def line_of(lines: Lines, path: ConfigPath) -> int:
    """The line of `path`, or of the nearest place around it that has one; 1 without any."""
    for end in range(len(path), -1, -1):
        if (line := lines.get(path[:end])) is not None:
            return line
    return 1


class Remarks:
    """What is found while a document is read: an error ends the reading, warnings are collected."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.warnings: list[str] = []

    def error(self, path: ConfigPath, message: str) -> ConfigError:
        """The error to raise about the place `path`."""
        return ConfigError(line_of(self._lines, path), message, path)

    def warn(self, path: ConfigPath, message: str) -> None:
        """Note that what stands at `path` has no effect."""
        self.warnings.append(f"line {line_of(self._lines, path)}: {message}")

    def convert(self, value: object, kind: type["ConfigValue"], at: ConfigPath) -> "ConfigValue":
        """The part at `at` as `kind`."""
        return convert(value, kind, self._lines, at)

    def check_quantity(self, value: int | str | None, path: ConfigPath) -> None:
        """Refuse what is neither absent nor a quantity of 0 or above."""
        try:
            if value is not None and parse_quantity(value) < 0:
                raise ValueError(f"found {value!r}, wanted 0 or above")
        except ValueError as error:
            raise self.error(path, f"{place_of(path)}: {error}") from None

    def check_duration(self, value: str | None, path: ConfigPath) -> None:
        """Refuse what is neither absent nor a duration of 0 or above."""
        try:
            if value is not None and parse_duration(value) < 0:
                raise ValueError(f"found {value!r}, wanted 0s or above")
        except ValueError as error:
            raise self.error(path, f"{place_of(path)}: {error}") from None


ConfigValue = TypeVar("ConfigValue")


def convert(value: object, kind: type[ConfigValue], lines: Lines, at: ConfigPath) -> ConfigValue:
    """Return `value` as `kind`; the error names the place in it, in words."""
    try:
        return msgspec.convert(value, kind, dec_hook=decode_duration)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise _in_words(str(error), value, kind, lines, at) from None


_AT = re.compile(r" - at `(\$.*)`$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_MISTYPED = re.compile(r"Expected `(.*)`, got `(.*)`", re.DOTALL)


def _in_words(message: str, value: object, kind: object, lines: Lines, at: ConfigPath) -> ConfigError:
    found_at = _AT.search(message)
    inner: ConfigPath = ()
    if found_at is not None:
        message = message[: found_at.start()]
        inner = tuple(key if key else int(index) for key, index in _STEP.findall(found_at[1]) if key or index)
    place = place_of(at + inner)
    if (unknown := _UNKNOWN.fullmatch(message)) is not None:
        name = unknown[1]
        line = line_of(lines, (*at, *inner, name))
        return ConfigError(
            line, f"unknown field {name!r} in {place}, {wanted(name, _fields(kind, inner))}", (*at, *inner, name)
        )
    line = line_of(lines, at + inner)
    if (missing := _MISSING.fullmatch(message)) is not None:
        return ConfigError(line, f"{missing[1]} is missing in {place}", at + inner)
    if (mistyped := _MISTYPED.fullmatch(message)) is not None:
        return ConfigError(line, f"{place} is {_shown(value, inner)}, wanted {_kind_in_words(mistyped[1])}", at + inner)
    return ConfigError(line, f"{place}: {message}", at + inner)


def place_of(path: ConfigPath) -> str:
    """The path as people write it: `plugins[0].type`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the document"


_KINDS = {
    "array": "a list",
    "object": "an object",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def _kind_in_words(expected: str) -> str:
    return " or ".join(_KINDS.get(kind, kind) for kind in expected.split(" | ") if kind != "null")


def _shown(value: Any, path: ConfigPath) -> str:
    try:
        for step in path:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return "of another shape"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields(kind: Any, path: ConfigPath) -> list[str]:
    """The names that an object at `path` within a `kind` may have."""
    for step in (*path, None):
        while True:  # peel optional types and lists down to the object
            arguments = [a for a in typing.get_args(kind) if a is not types.NoneType]
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                break
            if not arguments:
                return []
            kind = arguments[0]
        if isinstance(step, str):
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            if step not in fields:
                return []
            kind = fields[step]
    return [field.encode_name for field in msgspec.structs.fields(kind)]
