"""YAML as nodes that know where they stand in the text, before they are made values.

What YAML allows and an operator does not mean is an error here or in `yaml_document.py`.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

BYTES_MAX = 1024 * 1024
"""Largest file: the limit of a Kubernetes object, and that of the Go EPP for an endpoints file."""

DEPTH_MAX = 64
"""Levels of nesting: twice what a decision tree of filters in an EndpointPickerConfig has."""


class DocumentError(Exception):
    """A text is not what it should be; `line` counts from 1, 0 is the whole file."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line, self.message = line, message


class YamlNode(msgspec.Struct, eq=False):
    """A place in the text, before aliases are unfolded."""

    line: int
    tag: str = ""
    """Tag as written; empty where the text itself tells the type."""
    text: str | None = None
    """Text of a scalar; None for a list or a mapping."""
    plain: bool = False
    """Whether it is a scalar without quotes."""
    children: "list[YamlNode]" = []
    """Items of a list, or keys and values of a mapping in turn."""
    mapping: bool = False
    whole: bool = False
    """Whether its end was seen: until then an alias for it would make it contain itself."""
    start: int = 0
    """Index of its first character in the text; anchor and tag belong to it."""
    end: int = 0
    """Index behind its last character; behind a list or mapping that is indented, where the next token begins."""
    flow: bool = False
    """Whether it is a list or mapping between brackets."""


# What YAML calls printable: no control characters, no halves of characters.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def checked_text(text: str | bytes) -> str:
    """Return the text that indexes of nodes count in: without a byte order mark; `DocumentError` where it is none."""
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > BYTES_MAX:
        raise DocumentError(0, f"found {size:,} bytes, wanted {BYTES_MAX:,} at most")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise DocumentError(line, f"byte {error.object[error.start]:#04x} is not UTF-8") from None
    text = text.removeprefix("\ufeff")
    if (found := _FORBIDDEN.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise DocumentError(line, f"character {found[0]!r} is not allowed in YAML")
    return text


# --- from text to nodes ---------------------------------------------------------------------------

# libyaml's parser where PyYAML has it: twenty times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def node_roots(text: str) -> Iterator[YamlNode]:
    """The root of each document, made from PyYAML's events: its own composer recurses as deep as the text says."""
    stack: list[YamlNode] = []
    anchors: dict[str, YamlNode] = {}
    try:
        for event in yaml.parse(text, Loader=_Loader):
            match event:
                case yaml.DocumentStartEvent():
                    anchors = {}
                case yaml.ScalarEvent() | yaml.CollectionStartEvent() | yaml.AliasEvent():
                    node = _node(event, anchors)
                    if stack:
                        stack[-1].children.append(node)
                    if isinstance(event, yaml.CollectionStartEvent):
                        stack.append(node)
                        if len(stack) > DEPTH_MAX:
                            raise DocumentError(node.line, f"nested deeper than {DEPTH_MAX} levels")
                    elif not stack:
                        yield node
                case yaml.CollectionEndEvent():
                    done = stack.pop()
                    assert event.end_mark is not None
                    done.whole, done.end = True, event.end_mark.index
                    if not stack:
                        yield done
    except yaml.MarkedYAMLError as error:
        raise _in_words(error, text) from None
    except yaml.YAMLError as error:
        raise DocumentError(0, f"not YAML: {error}") from None


def _node(event: Any, anchors: dict[str, YamlNode]) -> YamlNode:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent):
        known = anchors.get(str(event.anchor))
        if known is None:
            raise DocumentError(line, f"alias *{event.anchor} names no anchor before it")
        if not known.whole:
            raise DocumentError(line, f"anchor &{event.anchor} contains itself")
        return known
    if isinstance(event, yaml.ScalarEvent):
        node = YamlNode(line, event.tag or "", event.value, event.implicit[0], whole=True)
    else:
        mapping = isinstance(event, yaml.MappingStartEvent)
        node = YamlNode(line, event.tag or "", children=[], mapping=mapping, flow=bool(event.flow_style))
    node.start, node.end = event.start_mark.index, event.end_mark.index
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _in_words(error: yaml.MarkedYAMLError, text: str) -> DocumentError:
    # The end of the text is where its last line ends.
    line = min(error.problem_mark.line, text.rstrip("\n").count("\n")) + 1 if error.problem_mark else 0
    problem = error.problem or "not YAML"
    if "cannot start any token" in problem and error.problem_mark:
        rows = text.splitlines()
        row = rows[line - 1] if line <= len(rows) else ""
        at = row[error.problem_mark.column : error.problem_mark.column + 1]
        if at == "\t" or "\t" in row[: len(row) - len(row.lstrip())]:
            return DocumentError(line, "found a tab, wanted blanks: YAML is not indented with tabs")
        return DocumentError(line, f"a value that begins with {at!r} needs quotes")
    if "mapping values are not allowed" in problem:
        problem = "found a colon where no key can stand: a text with a colon needs quotes, or the indentation is wrong"
    begun = f", {error.context}" if error.context else ""
    if begun and error.context_mark and error.context_mark.line + 1 != line:
        begun += f" that began in line {error.context_mark.line + 1}"
    return DocumentError(line, f"not YAML: {problem}{begun}")
