"""Objects read field by field, with the line in every error and a warning for every field that is not known."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from pointsman.cluster.objects.yaml_document import DocumentError, YamlDocument, YamlPath
from pointsman.core.values.distance import nearest, wanted

SHOWN_MAX = 60
"""Characters of a wrong value in a message."""


class Part:
    """A mapping in a document: ask for its fields, then let `done` warn of those that nobody asked for."""

    def __init__(
        self, value: Mapping[str, object], lines: Mapping[YamlPath, int], path: YamlPath, warnings: list[str]
    ) -> None:
        self.value, self._lines, self._path, self._warnings = value, lines, path, warnings
        self._asked: set[str] = set()

    @classmethod
    def of(cls, document: YamlDocument, warnings: list[str]) -> "Part":
        """The whole of a document; `DocumentError` where it is no mapping."""
        if not isinstance(document.value, dict):
            raise DocumentError(
                document.line, f"found {shown(document.value)}, wanted an object with apiVersion and kind"
            )
        return cls(document.value, document.lines, (), warnings)

    def __contains__(self, name: str) -> bool:
        return self.value.get(name) is not None

    @property
    def path(self) -> YamlPath:
        """The keys and indexes that lead to it in its document."""
        return self._path

    @property
    def where(self) -> str:
        """The place in words, as `spec.selector`."""
        return _dotted(self._path) or "the document"

    def line(self, name: str | None = None) -> int:
        """The line of a field, of the part itself without a name or where the field is absent; 0 without a text."""
        if not self._lines:
            return 0
        path = self._path if name is None else (*self._path, name)
        while path not in self._lines and path:
            path = path[:-1]
        return self._lines.get(path, 1)

    def error(self, name: str | None, message: str) -> DocumentError:
        """An error about a field, or about the part itself."""
        place = self.where if name is None else _dotted((*self._path, name))
        return DocumentError(self.line(name), f"{place}: {message}")

    def warn(self, name: str | None, message: str) -> None:
        """Say something about a field that does not keep the object from being used."""
        place = self.where if name is None else _dotted((*self._path, name))
        line = self.line(name)
        self._warnings.append(f"line {line}: {place}: {message}" if line else f"{place}: {message}")

    def text(
        self, name: str, default: str | None = None, *, pattern: re.Pattern[str] | None = None, form: str = ""
    ) -> str:
        """A text that is not empty; `form` says in words what `pattern` wants."""
        value = self._get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, value, "text" if not isinstance(value, (int, float)) else "text, in quotes")
        if value == "" and default is not None:
            return default
        if not value or (pattern is not None and pattern.fullmatch(value) is None):
            raise self._wrong(name, value, form or "text that is not empty")
        return value

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the `choices`."""
        value, known = self.text(name, default), list(choices)
        if value not in known:
            near = nearest(value, known)
            raise self._wrong(name, value, ", ".join(known) + (f"; did you mean {near!r}?" if near else ""))
        return value

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, value, f"a whole number from {low:,} to {high:,}")
        return value

    def part(self, name: str) -> "Part | None":
        """A mapping; None where it is absent."""
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, value, "a mapping")
        return Part(value, self._lines, (*self._path, name), self._warnings)

    def needed_part(self, name: str) -> "Part":
        """A mapping that must be there."""
        found = self.part(name)
        if found is None:
            raise self._wrong(name, None, "a mapping")
        return found

    def parts(self, name: str, most: int) -> "list[Part]":
        """A list of mappings; empty where it is absent."""
        found = []
        for index, value in self._items(name, most):
            if not isinstance(value, dict):
                raise self._wrong_item(name, index, value, "a mapping")
            found.append(Part(value, self._lines, (*self._path, name, index), self._warnings))
        return found

    def list_of_text(self, name: str, most: int) -> list[str]:
        """A list of texts; empty where it is absent."""
        found = []
        for index, value in self._items(name, most):
            if not isinstance(value, str) or not value:
                raise self._wrong_item(name, index, value, "text")
            found.append(value)
        return found

    def numbers(self, name: str, low: int, high: int, most: int) -> list[int]:
        """A list of whole numbers from `low` to `high`; empty where it is absent."""
        found = []
        for index, value in self._items(name, most):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise self._wrong_item(name, index, value, f"a whole number from {low:,} to {high:,}")
            found.append(value)
        return found

    def labels(self, name: str) -> dict[str, str]:
        """A mapping of text to text; empty where it is absent."""
        found = self.part(name)
        if found is None:
            return {}
        for key, value in found.value.items():
            if not isinstance(value, str):
                hint = "text, in quotes" if isinstance(value, (int, float)) else "text"
                raise found._wrong(key, value, hint)
        return cast(dict[str, str], dict(found.value))  # each value was looked at

    def ignore(self, *names: str) -> None:
        """Fields that are valid and not read here."""
        self._asked.update(names)

    def done(self) -> None:
        """Warn of every field that is not known."""
        for name in self.value:
            if name not in self._asked:
                self.warn(name, f"unknown field, {wanted(name, self._asked)}")

    def _get(self, name: str) -> object:
        self._asked.add(name)
        return self.value.get(name)

    def _items(self, name: str, most: int) -> Iterator[tuple[int, object]]:
        value = self._get(name)
        if value is None:
            return
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        if len(value) > most:
            raise self.error(name, f"found {len(value):,} items, wanted {most:,} at most")
        yield from enumerate(value)

    def _wrong(self, name: str, value: object, form: str) -> DocumentError:
        if value is not None or name in self.value:
            return self.error(name, f"found {shown(value)}, wanted {form}")
        near = nearest(name, set(self.value) - self._asked)
        found = f"is missing, wanted {form}"
        if not near:
            return self.error(name, found)
        line = self.line(near)
        return self.error(name, f"{found}; {f'line {line} has' if line else 'there is'} {near!r} instead")

    def _wrong_item(self, name: str, index: int, value: object, form: str) -> DocumentError:
        path = (*self._path, name, index)
        return DocumentError(
            self._lines.get(path, self.line(name)), f"{_dotted(path)}: found {shown(value)}, wanted {form}"
        )


def shown(value: object) -> str:
    """A value as a message shows it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."


def _dotted(path: YamlPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
