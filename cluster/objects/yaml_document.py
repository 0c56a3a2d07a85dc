"""YAML as values that know their lines.

A text holds several documents; keys become text, as in JSON.  Numbers and truths are read as Kubernetes reads them:
no dates, no base 60.  What YAML allows and an operator does not mean is an error: a key that stands twice,
an anchor that contains itself, aliases that unfold to more than the file could hold.
"""

import math
import re
from collections.abc import Mapping
from typing import TypeAlias

import msgspec
import yaml

from pointsman.cluster.objects.yaml_nodes import BYTES_MAX, DEPTH_MAX, DocumentError, YamlNode, checked_text, node_roots

__all__ = ["BYTES_MAX", "DEPTH_MAX", "DocumentError", "YamlDocument", "YamlPath", "dump_document", "load_documents"]

YamlPath: TypeAlias = tuple[str | int, ...]

VALUES_MAX = 100_000
"""Values of one file, aliases unfolded: a Pod as the API server shows it has 300."""

DOCUMENTS_MAX = 10_000
"""Documents of one file."""


class YamlDocument(msgspec.Struct, frozen=True):
    """One document of a text."""

    value: object
    """Dicts with text keys, lists, text, numbers, booleans and None."""
    lines: Mapping[YamlPath, int]
    """Line of each key and of each item, by the keys and indexes that lead to it."""
    line: int
    """Line where the document begins."""
    root: YamlNode
    """Node of the whole document, which knows where everything stands in the text."""


def load_documents(text: str | bytes) -> list[YamlDocument]:
    """Return the documents of `text`, empty ones left out; `DocumentError` with the line where it is wrong."""
    unfolding = _Unfolding()
    documents: list[YamlDocument] = []
    for root in node_roots(checked_text(text)):
        value, lines = unfolding.document(root)
        if value is not None:
            documents.append(YamlDocument(value, lines, root.line, root))
            if len(documents) > DOCUMENTS_MAX:
                raise DocumentError(root.line, f"found over {DOCUMENTS_MAX:,} documents")
    return documents


class _Dumper(yaml.SafeDumper):
    """Quotes what Kubernetes would not read as text."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(plain_value(text), str) else "'"
    return dumper.represent_scalar(f"{_TAG}str", text, style)


_Dumper.add_representer(str, _text_node)


def dump_document(value: object) -> str:
    """Return YAML that reads as `value`, here and in Kubernetes; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


# --- from nodes to values -------------------------------------------------------------------------

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_TRUTHS = {word: value for value, words in ((True, "true yes on"), (False, "false no off")) for word in words.split()}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,399})")
_OTHER_INTEGER = re.compile(r"[-+]?(?:0b[01]{1,400}|0o?[0-7]{1,400}|0x[0-9a-fA-F]{1,400})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,400}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?")
_ODD_FLOATS = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_TAG = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


def plain_value(text: str) -> object:
    """Return what a text without quotes means."""
    if text in _NULLS:
        return None
    if len(text) <= 5 and (text in (folded := text.lower(), folded.upper(), folded.capitalize())) and folded in _TRUTHS:
        return _TRUTHS[folded]
    if text[0] in "+-.0123456789":
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OTHER_INTEGER.fullmatch(text):
            sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
            return sign * (int(digits, 8) if digits[1] in "01234567" else int(digits, 0))
        if _FLOAT.fullmatch(text):
            return float(text)
        return _ODD_FLOATS.get(text.lower(), text)
    return text


class _Unfolding:
    """Makes values of nodes; what all documents of a text may hold is bounded."""

    def __init__(self) -> None:
        self._left = VALUES_MAX

    def document(self, root: YamlNode) -> tuple[object, dict[YamlPath, int]]:
        """The value, and the line of each place in it."""
        lines: dict[YamlPath, int] = {}
        return self._value(root, (), lines), lines

    def _value(self, node: YamlNode, path: YamlPath, lines: dict[YamlPath, int]) -> object:
        self._left -= 1
        if self._left < 0:
            raise DocumentError(node.line, f"found over {VALUES_MAX:,} values, aliases unfolded")
        if len(path) > DEPTH_MAX:
            raise DocumentError(node.line, f"nested deeper than {DEPTH_MAX} levels, aliases unfolded")
        lines.setdefault(path, node.line)
        if node.text is not None:
            return _scalar(node)
        if node.tag not in ("", "!", f"{_TAG}{'map' if node.mapping else 'seq'}"):
            raise DocumentError(node.line, f"tag {node.tag!r} is not known here, wanted none")
        if not node.mapping:
            items = []
            for index, child in enumerate(node.children):
                lines[*path, index] = child.line
                items.append(self._value(child, (*path, index), lines))
            return items
        return self._mapping(node, path, lines)

    def _mapping(self, node: YamlNode, path: YamlPath, lines: dict[YamlPath, int]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, (key_node, value_node) in self._pairs(node).items():
            lines[*path, key] = key_node.line
            found[key] = self._value(value_node, (*path, key), lines)
        return found

    def _pairs(self, node: YamlNode) -> dict[str, tuple[YamlNode, YamlNode]]:
        """Key to key and value, merge keys unfolded: what stands in the mapping itself wins, then the first merged."""
        own: dict[str, tuple[YamlNode, YamlNode]] = {}
        merged: list[YamlNode] = []
        for key_node, value_node in zip(node.children[::2], node.children[1::2], strict=True):
            if key_node.text == "<<" and key_node.plain and not key_node.tag:
                merged.extend([value_node] if value_node.mapping else value_node.children)
                if value_node.text is not None or any(not m.mapping for m in merged):
                    raise DocumentError(key_node.line, "found `<<` with something else, wanted a mapping to merge")
                continue
            key = _key(key_node)
            if key in own:
                raise DocumentError(key_node.line, f"key {key!r} stands in line {own[key][0].line} already")
            own[key] = (key_node, value_node)
        for source in merged:
            self._left -= 1 + len(source.children)
            if self._left < 0:
                raise DocumentError(node.line, f"found over {VALUES_MAX:,} values, aliases unfolded")
            for key, pair in self._pairs(source).items():
                own.setdefault(key, pair)
        return own


def _key(node: YamlNode) -> str:
    """Return a key as JSON has it: as text."""
    if node.text is None:
        raise DocumentError(node.line, f"found a {'mapping' if node.mapping else 'list'} as key, wanted text")
    value = _scalar(node)
    if value is None:
        raise DocumentError(node.line, "found an empty key, wanted text")
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value)


def _scalar(node: YamlNode) -> object:
    assert node.text is not None
    if not node.tag:
        return plain_value(node.text) if node.plain else node.text
    kind = node.tag.removeprefix(_TAG)
    if kind in ("!", "str"):
        return node.text
    value = plain_value(node.text)
    allowed = _TAGGED.get(kind)
    if allowed is None:
        raise DocumentError(node.line, f"tag {node.tag!r} is not known here, wanted none")
    if type(value) not in allowed:
        raise DocumentError(node.line, f"found {node.text!r} with the tag !!{kind}")
    return float(value) if kind == "float" and isinstance(value, int) else value
