"""All errors of a configuration at once: each is looked for in the document without what the ones before are about."""

import copy
from typing import Any

import msgspec

from pointsman.core.config.document import ConfigError, ConfigPath, Lines, place_of
from pointsman.core.config.parse import API_VERSIONS, PickingFlags, parse_config
from pointsman.core.plugin.register import REGISTER
from pointsman.core.values.distance import nearest

ERRORS_MAX = 100
"""Errors that are looked for: more are not read, and each costs a reading of the document."""

_ENVELOPE = {"apiVersion": API_VERSIONS[0], "kind": "EndpointPickerConfig"}


def find_errors(value: object, lines: Lines, flags: PickingFlags) -> list[ConfigError]:
    """Return the errors of a document by line; none where it is right."""
    mending = _Mending(copy.deepcopy(value), dict(lines))
    errors: list[ConfigError] = []
    for _ in range(10 * ERRORS_MAX):  # what follows from an error that was told is looked for as well, and not told
        try:
            parse_config(mending.value, mending.lines, flags)
            break
        except ConfigError as error:
            if not mending.follows(error):
                errors.append(mending.placed(error))
            if len(errors) == ERRORS_MAX or not mending.mend(error):
                break
    return sorted(errors, key=lambda error: error.line)


class _Mending:
    """A document from which what is wrong is taken away, bit by bit."""

    def __init__(self, value: Any, lines: dict[ConfigPath, int]) -> None:
        self.value, self.lines = value, lines
        self._gone: list[ConfigPath] = []
        """Places of what was taken away, as they are in the document that is left."""
        self._names: set[str] = set()
        """Names of plugins that were taken away."""
        self._told: set[tuple[int, str]] = set()
        self._origins = {place: place for place in lines}
        """Places in the whole document of what is left, since items of a list move up."""

    def follows(self, error: ConfigError) -> bool:
        """Whether the error is there because of what was taken away."""
        if (error.line, error.message) in self._told:
            return True
        self._told.add((error.line, error.message))
        found = self._at(error.path)
        if isinstance(found, str) and found in self._names and error.path[-1] != "type":
            return True  # it refers to a plugin that was taken away
        inside = any(place[: len(error.path)] == error.path for place in self._gone)
        return inside and ("missing" in error.message or "has no " in error.message)

    def placed(self, error: ConfigError) -> ConfigError:
        """The error as it is about the whole document."""
        for end in range(len(error.path), 0, -1):
            place = error.path[:end]
            if isinstance(place[-1], int) and (whole := self._origins.get(place)) is not None:
                message = error.message.replace(place_of(place), place_of(whole))
                return ConfigError(error.line, message, (*whole, *error.path[end:]))
        return error

    def mend(self, error: ConfigError) -> bool:
        """Take away what the error is about, or what holds it; False where nothing is left to take."""
        path = error.path
        if len(path) == 1 and path[0] in _ENVELOPE and isinstance(self.value, dict):
            self.value[path[0]] = _ENVELOPE[str(path[0])]
            return True
        if path[:1] == ("plugins",) and len(path) == 3 and path[2] in ("type", "name"):
            path = path[:2]  # a plugin is nothing without them
        while path and self._at(path) is msgspec.UNSET:
            path = path[:-1]
        if not path:
            return False
        taken = self._at(path)
        if path[0] == "plugins" and len(path) == 2 and isinstance(taken, dict):
            type = str(taken.get("type"))
            self._names |= {str(taken.get("name") or type), nearest(type, REGISTER) or type}  # as it was meant to be
        holder, last = self._at(path[:-1]), path[-1]
        del holder[last]
        self.lines = {place: line for found, line in self.lines.items() if (place := _left(found, path)) is not None}
        origins = self._origins.items()
        self._origins = {place: whole for found, whole in origins if (place := _left(found, path)) is not None}
        self._gone = [place for found in self._gone if (place := _left(found, path)) is not None]
        self._gone.append(path[:-1] if isinstance(last, int) else path)  # the next item is where it was
        return True

    def _at(self, path: ConfigPath) -> Any:
        """What stands at a place; UNSET where nothing does."""
        value = self.value
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return msgspec.UNSET
        return value


def _left(place: ConfigPath, taken: ConfigPath) -> ConfigPath | None:
    """Where a place is once `taken` was taken away; None where it went with it.  The items of a list move up."""
    *before, last = taken
    end = len(before)
    if place[:end] != tuple(before) or len(place) == end:
        return place
    if place[end] == last:
        return None
    if isinstance(last, int) and isinstance(step := place[end], int) and step > last:
        return (*before, step - 1, *place[end + 1 :])
    return place
