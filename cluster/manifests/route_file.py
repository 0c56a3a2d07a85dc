"""Weights in a manifest file: only the characters of the numbers change.

Rules.  The route is the one that the reader of manifests finds, in a document of its own or in a List.
The numbers are replaced in the text, and a file stays in the language in which it is written: JSON stays JSON.
The result is read again before anything is written: unless it differs in exactly the weights that were asked for,
nothing is returned.
Comments, order, indentation, line ends and the other objects of the file stay byte for byte.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from pointsman.cluster.objects.manifest import FoundObject, file_version, manifest_of
from pointsman.cluster.objects.yaml_document import DocumentError, YamlDocument, YamlPath, load_documents
from pointsman.cluster.objects.yaml_nodes import YamlNode, checked_text
from pointsman.core.events import BackendRef, RouteObserved
from pointsman.core.rollout.weights import WEIGHT_MAX

Backend = tuple[str, str, str]
"""Group, kind and `namespace/name` of a backendRef."""

Edit = tuple[int, int, str]
"""Begin and end of the characters to replace, and what takes their place."""

WRITTEN_OUT = "one that is written out"


class RouteFileError(Exception):
    """The file cannot be changed as asked; `line` is 1-based, 0 where it is about the whole file."""

    def __init__(self, line: int, found: str, wanted: str) -> None:
        super().__init__(f"{found}, wanted {wanted}")
        self.line = line
        self.found = found
        self.wanted = wanted


class _Place(msgspec.Struct, frozen=True):
    """A backendRef of a rule, by the indexes of both."""

    rule: int
    backend: int


def change_weights(source: str, data: bytes, route: str, rule: int, weights: Mapping[Backend, int]) -> bytes:
    """Return `data`, the file `source`, with these weights in rule number `rule` of `route` (`namespace/name`).

    Raises `RouteFileError` where the file is wrong, where the route, the rule or a backend is missing or stands twice,
    where a number is shared with another place by an anchor, or where a weight is not 0 to `WEIGHT_MAX`.
    """
    for backend, weight in weights.items():
        if not 0 <= weight <= WEIGHT_MAX:
            raise RouteFileError(0, f"weight of {backend[2]} is {weight}", f"0 to {WEIGHT_MAX:,}")
    file = _RouteFile(source, data, route)
    backends = file.backends(rule)
    remaining = dict(weights)
    asked: dict[_Place, int] = {}
    for index, ref in enumerate(backends):
        if (key := _key(ref)) in remaining:
            file.check_single(rule, index)
            asked[_Place(rule, index)] = remaining.pop(key)
    if remaining:
        missing = ", ".join(sorted(name for _, _, name in remaining))
        found = f"rule {rule + 1} of {route} has no backend {missing}"
        raise RouteFileError(file.line_of_rule(rule), found, "one that it has")
    return file.changed(asked)


def unwritable_rules(source: str, data: bytes, route: str) -> tuple[str, ...]:
    """Return for each rule of a route that the file has why its weights cannot be changed; empty where they can."""
    file = _RouteFile(source, data, route)
    reasons: list[str] = []
    asked: dict[_Place, int] = {}
    for rule, written in enumerate(file.value.rules):
        places = {_Place(rule, i): (ref.weight + 1) % WEIGHT_MAX for i, ref in enumerate(written.backends)}
        reasons.append(reason := file.obstacle(places))
        if not reason:
            asked |= places
    try:
        file.changed(asked)
    except RouteFileError as error:
        return tuple(reason or _in_words(error) for reason in reasons)
    return tuple(reasons)


def _in_words(error: RouteFileError) -> str:
    return f"line {error.line}: {error}" if error.line else str(error)


def _key(ref: BackendRef) -> Backend:
    return ref.group, ref.kind, ref.pool


class _RouteFile:
    """A file as the reader sees it, and the nodes of one route in it."""

    def __init__(self, source: str, data: bytes, route: str) -> None:
        self._source, self._data, self._route = source, data, route
        self._documents, self._found, self.value = _read(source, data, route)
        self._text = checked_text(data)
        self._root = self._documents[self._found.document].root
        self._uses = _uses(self._root)

    # --- what is asked ----------------------------------------------------------------------------

    def backends(self, rule: int) -> tuple[BackendRef, ...]:
        """The backends of a rule."""
        if not 0 <= rule < len(self.value.rules):
            found = f"the route has {len(self.value.rules)} rules"
            raise RouteFileError(self._found.line, found, f"number {rule + 1}")
        return self.value.rules[rule].backends

    def check_single(self, rule: int, index: int) -> None:
        """Raise `RouteFileError` where the rule has another backendRef for the same backend."""
        keys = [_key(ref) for ref in self.backends(rule)]
        if keys.count(keys[index]) > 1:
            found = f"backend {keys[index][2]} stands twice in rule {rule + 1} of {self._route}"
            raise RouteFileError(self._line((*self._rule_path(rule), "backendRefs", index)), found, "each backend once")

    def line_of_rule(self, rule: int) -> int:
        """The line in which a rule begins."""
        return self._line(self._rule_path(rule))

    def obstacle(self, asked: Mapping[_Place, int]) -> str:
        """Why one of these weights cannot be changed; empty where nothing is in the way."""
        try:
            for place in asked:
                self.check_single(place.rule, place.backend)
            list(self._edits(asked))
        except RouteFileError as error:
            return _in_words(error)
        return ""

    # --- what is changed --------------------------------------------------------------------------

    def changed(self, asked: Mapping[_Place, int]) -> bytes:
        """The file with other weights, read again; `RouteFileError` where anything else would change."""
        text = self._text
        for start, end, replacement in sorted(self._edits(asked), reverse=True):
            text = text[:start] + replacement + text[end:]
        mark = b"\xef\xbb\xbf" if self._data.startswith(b"\xef\xbb\xbf") else b""
        after = mark + text.encode("utf-8")
        self._check(after, text, asked)
        return after

    def _edits(self, asked: Mapping[_Place, int]) -> Iterator[Edit]:
        for place, weight in asked.items():
            yield self._edit((*self._rule_path(place.rule), "backendRefs", place.backend), weight)

    def _edit(self, path: YamlPath, weight: int) -> Edit:
        """The characters to replace so that the backendRef at `path` has this weight."""
        chain = self._chain(path)
        if any(self._shared(node) for node in chain):
            found = "the backendRef is shared with another place by an anchor"
            raise RouteFileError(chain[-1].line, found, WRITTEN_OUT)
        number = _own(chain[-1], "weight")
        if number is None:
            return self._insertion(chain[-1], weight)
        if number.text is None or self._shared(number):
            found = "the weight is shared with another place by an anchor"
            raise RouteFileError(number.line, found, WRITTEN_OUT)
        written = self._text[number.start : number.end]
        before = _PROPERTIES.match(written)
        start = number.start + (before.end() if before else 0)
        blank = " " if start == number.end and self._text[start - 1 : start] == ":" else ""
        quote = self._text[start] if self._text[start : start + 1] in ("'", '"') else ""
        return start, number.end, f"{blank}{quote}{weight}{quote}"

    def _insertion(self, mapping: YamlNode, weight: int) -> Edit:
        """Where a missing weight goes: behind the last field that stands in the mapping, in the way it is written."""
        pairs = list(zip(mapping.children[::2], mapping.children[1::2], strict=True))
        for at in reversed(range(len(pairs))):
            key, value = pairs[at]
            if (end := self._end(value)) is None or self._shared(key):
                continue  # an alias: its node stands elsewhere
            if mapping.flow:
                before = pairs[at - 1][1] if at and not self._shared(pairs[at - 1][1]) else None
                return end, end, f"{self._comma(key, before)}{self._flow_field(key, value)}{weight}"
            newline = "\r\n" if "\r\n" in self._text else "\n"
            line_end = self._text.find("\n", end)
            line_end = len(self._text) if line_end < 0 else line_end
            line_end -= self._text[line_end - 1 : line_end] == "\r"
            first = mapping.children[0]
            column = first.start - (self._text.rfind("\n", 0, first.start) + 1)
            return line_end, line_end, f"{newline}{' ' * column}weight: {weight}"
        raise RouteFileError(mapping.line, "the backendRef is made of aliases", WRITTEN_OUT)

    def _end(self, node: YamlNode) -> int | None:
        """Index behind a value, without what follows the last line of a block; None where an alias ends it."""
        while node.children and not node.flow and not self._shared(node):
            node = node.children[-1]
        if self._shared(node):
            return None
        return node.start + len(self._text[node.start : node.end].rstrip())

    def _comma(self, key: YamlNode, before: YamlNode | None) -> str:
        """What divides the fields of the mapping that `key` stands in, as it is written there."""
        if before is not None and _COMMA.fullmatch(between := self._text[before.end : key.start]):
            return between
        line = self._text[self._text.rfind("\n", 0, key.start) + 1 : key.start]
        if not line.strip() and line:
            return f",{chr(13) if chr(13) in self._text else ''}\n{line}"
        return "," if self._text[key.end : key.end + 2].strip() == self._text[key.end : key.end + 2] else ", "

    def _flow_field(self, key: YamlNode, value: YamlNode) -> str:
        """The key of the weight, and what divides it from the number, as `key` is written."""
        between = self._text[key.end : value.start]
        quote = '"' if self._text[key.start : key.start + 1] == '"' else ""
        return f"{quote}weight{quote}{between if _COLON.fullmatch(between) and (quote or between != ':') else ': '}"

    def _check(self, after: bytes, text: str, asked: Mapping[_Place, int]) -> None:
        """Only these weights differ for whoever reads the file, or nothing is written."""
        found = f"changing the weights of {self._route} would change something else in its file as well"
        refusal = RouteFileError(0, found, "numbers that stand by themselves")
        expected = copy.deepcopy([document.value for document in self._documents])
        rules = list(self.value.rules)
        for place, weight in asked.items():
            path = (*self._rule_path(place.rule), "backendRefs", place.backend)
            cast(dict[str, object], _at(expected[self._found.document], path))["weight"] = weight  # a mapping, as read
            refs = list(rules[place.rule].backends)
            refs[place.backend] = msgspec.structs.replace(refs[place.backend], weight=weight)
            rules[place.rule] = msgspec.structs.replace(rules[place.rule], backends=tuple(refs))
        try:
            documents, _, value = _read(self._source, after, self._route)
        except RouteFileError:
            raise refusal from None
        if [document.value for document in documents] != expected or value.rules != tuple(rules):
            raise refusal
        if _is_json(self._text) and not _is_json(text):
            raise refusal

    # --- places -----------------------------------------------------------------------------------

    def _rule_path(self, rule: int) -> YamlPath:
        """What leads to a rule; the reader takes a mapping under `rules` for a list of one."""
        rules: YamlPath = (*self._found.path, "spec", "rules")
        value = _at(self._documents[self._found.document].value, rules)
        return rules if isinstance(value, dict) else (*rules, rule)

    def _line(self, path: YamlPath) -> int:
        return self._documents[self._found.document].lines.get(path, self._found.line)

    def _shared(self, node: YamlNode) -> bool:
        return self._uses[id(node)] > 1

    def _chain(self, path: YamlPath) -> list[YamlNode]:
        """The nodes from the document's root to the one at `path`."""
        node, chain = self._root, [self._root]
        for at, step in enumerate(path):
            inner = node.children[step] if isinstance(step, int) else _own(node, step)
            if inner is None:  # the reader found it, so that a merge key brought it here
                found = f"{step!r} is merged from another place"
                raise RouteFileError(self._line(path[:at]), found, WRITTEN_OUT)
            node = inner
            chain.append(node)
        return chain


_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")
_COMMA = re.compile(r"\s*,\s*")
_COLON = re.compile(r"[ \t]*:[ \t]*")


def _read(source: str, data: bytes, route: str) -> tuple[list[YamlDocument], FoundObject, RouteObserved]:
    """The documents of a file, and the route as the reader of manifests finds it there."""
    try:
        documents = load_documents(data)
        manifest = manifest_of(source, documents, file_version(data))
    except DocumentError as error:
        raise RouteFileError(error.line, error.message, "a file that can be read") from error
    for found in manifest.objects:
        if isinstance(found.value, RouteObserved) and found.name == route:
            return documents, found, found.value
    raise RouteFileError(0, f"0 HTTPRoutes named {route} in the file", "one")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _at(value: object, path: YamlPath) -> object:
    for step in path:
        value = cast(dict[str | int, object], value)[step]  # the reader has been there
    return value


def _own(node: YamlNode, key: str) -> YamlNode | None:
    """The value that stands under `key` in the mapping itself; None where it is absent or merged."""
    pairs: Sequence[YamlNode] = node.children if node.mapping else ()
    return next((value for name, value in zip(pairs[::2], pairs[1::2], strict=True) if name.text == key), None)


def _uses(root: YamlNode) -> dict[int, int]:
    """How often each node of the document is referred to: more than once means an alias."""
    counts: dict[int, int] = {id(root): 1}
    waiting = [root]
    while waiting:
        for child in waiting.pop().children:
            counts[id(child)] = counts.get(id(child), 0) + 1
            if counts[id(child)] == 1:
                waiting.append(child)
    return counts
