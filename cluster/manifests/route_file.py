"""Weights in a manifest file: only the characters of the numbers change.

The YAML is composed to nodes with marks, the numbers are replaced in the text, and the result is parsed again:
unless the two documents differ in exactly the weights that were asked for, nothing is returned.
Comments, order, indentation, line ends and the other documents of the file stay byte for byte.
"""

import re
from collections.abc import Iterator, Mapping

import yaml

from pointsman.core.rollout.weights import WEIGHT_MAX

Backend = tuple[str, str, str]
"""Group, kind and `namespace/name` of a backendRef."""

_CORE_GROUP = ""
"""Group of a backendRef that names none, as in the Gateway API."""

WRITTEN_OUT = "one that is written out"


class RouteFileError(Exception):
    """The file cannot be changed as asked; `line` is 1-based, 0 where it is about the whole file."""

    def __init__(self, line: int, found: str, wanted: str) -> None:
        super().__init__(f"{found}, wanted {wanted}")
        self.line = line
        self.found = found
        self.wanted = wanted


def change_weights(data: bytes, route: str, rule: int, weights: Mapping[Backend, int]) -> bytes:
    """Return `data` with the weights of these backends of rule number `rule` of `route` (`namespace/name`) changed.

    Raises `RouteFileError` where the route, the rule or a backend is missing or stands twice,
    where a number is shared with another place by an anchor, or where a weight is not 0 to `WEIGHT_MAX`.
    """
    for backend, weight in weights.items():
        if not 0 <= weight <= WEIGHT_MAX:
            raise RouteFileError(0, f"weight of {backend[2]} is {weight}", f"0 to {WEIGHT_MAX:,}")
    try:
        text = data.decode("utf-8")
        documents = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RouteFileError(_line_of(error), f"not YAML: {error}", "YAML documents") from error
    document, found = _route_node(documents, route)
    rule_node = _rule_node(found, rule)
    uses = _uses(document)
    edits: list[tuple[int, int, str]] = []
    remaining = dict(weights)
    for node in _items(_value(rule_node, "backendRefs")):
        backend = _backend(node, route.partition("/")[0])
        if backend not in remaining:
            continue
        edits.append(_edit(text, node, remaining.pop(backend), uses))
        if _backend_count(rule_node, backend, route) > 1:
            found_twice = f"backend {backend[2]} stands twice in rule {rule + 1} of {route}"
            raise RouteFileError(_line(node), found_twice, "each backend once")
    if remaining:
        missing = ", ".join(sorted(b[2] for b in remaining))
        raise RouteFileError(
            _line(rule_node), f"rule {rule + 1} of {route} has no backend {missing}", "one that it has"
        )
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    changed = text.encode("utf-8")
    _check(data, changed, route, rule, weights)
    return changed


def _check(before: bytes, after: bytes, route: str, rule: int, weights: Mapping[Backend, int]) -> None:
    """Only the listed weights differ, or nothing is written."""
    old, new = list(yaml.safe_load_all(before)), list(yaml.safe_load_all(after))
    for document in old:
        if isinstance(document, dict) and _is_route(document, route):
            rules = document["spec"]["rules"]
            chosen = rules[rule] if isinstance(rules, list) else rules
            for ref in chosen["backendRefs"]:
                backend = _identity(ref, route.partition("/")[0])
                if backend in weights:
                    ref["weight"] = weights[backend]
    if old != new:
        found = f"changing the weights of {route} would change something else in its file as well"
        raise RouteFileError(0, found, "numbers that stand by themselves")


def _is_route(document: Mapping[str, object], route: str) -> bool:
    metadata = document.get("metadata")
    if document.get("kind") != "HTTPRoute" or not isinstance(metadata, dict):
        return False
    return f"{metadata.get('namespace') or 'default'}/{metadata.get('name')}" == route


def _identity(ref: Mapping[str, object], namespace: str) -> Backend:
    pool = f"{ref.get('namespace') or namespace}/{ref.get('name')}"
    return str(ref.get("group") or _CORE_GROUP), str(ref.get("kind") or "Service"), pool


def _route_node(documents: list[yaml.Node], route: str) -> tuple[yaml.Node, yaml.Node]:
    found = [
        node
        for node in documents
        if _text(_value(node, "kind")) == "HTTPRoute"
        and f"{_text(_value(node, 'metadata', 'namespace')) or 'default'}/{_text(_value(node, 'metadata', 'name'))}"
        == route
    ]
    if len(found) != 1:
        line = _line(found[1]) if found else 0
        raise RouteFileError(line, f"{len(found)} HTTPRoutes named {route} in the file", "one")
    return found[0], found[0]


def _rule_node(route_node: yaml.Node, rule: int) -> yaml.Node:
    rules = _value(route_node, "spec", "rules")
    nodes = [rules] if isinstance(rules, yaml.MappingNode) else _items(rules)
    if not 0 <= rule < len(nodes):
        raise RouteFileError(_line(route_node), f"the route has {len(nodes)} rules", f"number {rule + 1}")
    return nodes[rule]


def _backend(node: yaml.Node, namespace: str) -> Backend:
    ref = {key: _text(_value(node, key)) for key in ("group", "kind", "name", "namespace")}
    return _identity(ref, namespace)


def _backend_count(rule_node: yaml.Node, backend: Backend, route: str) -> int:
    namespace = route.partition("/")[0]
    return sum(_backend(node, namespace) == backend for node in _items(_value(rule_node, "backendRefs")))


def _edit(text: str, node: yaml.Node, weight: int, uses: Mapping[int, int]) -> tuple[int, int, str]:
    """The characters to replace so that the backendRef `node` has this weight."""
    assert isinstance(node, yaml.MappingNode)
    if uses[id(node)] > 1:
        raise RouteFileError(_line(node), "the backendRef is shared with another place by an anchor", WRITTEN_OUT)
    number = _value(node, "weight")
    if number is None:
        return _insertion(text, node, weight)
    if not isinstance(number, yaml.ScalarNode) or uses[id(number)] > 1:
        raise RouteFileError(_line(number), "the weight is shared with another place by an anchor", WRITTEN_OUT)
    start, end = number.start_mark.index, number.end_mark.index
    anchor = re.match(r"(&\S+\s+)?(!!?\S*\s+)?", text[start:end])
    return start + (anchor.end() if anchor else 0), end, str(weight)


def _insertion(text: str, node: yaml.MappingNode, weight: int) -> tuple[int, int, str]:
    """Where a missing weight goes: after the last field, in the way the mapping is written."""
    _, last = node.value[-1]
    end = last.end_mark.index
    if node.flow_style:
        return end, end, f", weight: {weight}"
    key, _ = node.value[0]
    end = _end_of_scalar(text, last)
    newline = "\r\n" if "\r\n" in text else "\n"
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    if text[line_end - 1 : line_end] == "\r":
        line_end -= 1
    return line_end, line_end, f"{newline}{' ' * key.start_mark.column}weight: {weight}"


def _end_of_scalar(text: str, node: yaml.Node) -> int:
    """End of a value without the blank lines that a block collection's mark includes."""
    end = node.end_mark.index
    start = node.start_mark.index
    return start + len(text[start:end].rstrip())


def _uses(node: yaml.Node) -> dict[int, int]:
    """How often each node of the document is referred to: more than once means an alias."""
    counts: dict[int, int] = {}

    def visit(current: yaml.Node) -> None:
        counts[id(current)] = counts.get(id(current), 0) + 1
        if counts[id(current)] > 1:
            return
        for child in _children(current):
            visit(child)

    visit(node)
    return counts


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _value(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    for wanted in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        node = next((value for key, value in node.value if _text(key) == wanted), None)
    return node


def _items(node: yaml.Node | None) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None else 0


def _line_of(error: Exception) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark is not None else 0
