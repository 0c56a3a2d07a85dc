"""Filters in a tree: which one comes next depends on whether this one left anybody."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Filter, Reasons, composed_filter, rejected
from pointsman.core.plugin.view import View


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """One place in the tree: a filter by its name, or a tree."""

    plugin_ref: str | None = None
    decision_tree: "DecisionTreeFilter | None" = None

    def __post_init__(self) -> None:
        if (self.plugin_ref is None) == (self.decision_tree is None):
            raise ValueError("wanted exactly one of pluginRef and decisionTree")


@composed_filter("decision-tree-filter", version=1)
class DecisionTreeFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Applies `current`; where that leaves somebody, `nextOnSuccess` goes on with those it left.

    Where it leaves nobody, `nextOnFailure` goes on with those it was given.
    `nextOnSuccessOrFailure` stands for either that is missing.
    """

    current: Branch
    next_on_success: Branch | None = None
    next_on_failure: Branch | None = None
    next_on_success_or_failure: Branch | None = None

    def refers_to(self) -> Sequence[str]:
        """The plugin names in the tree."""
        names: list[str] = []
        for branch in (self.current, self.next_on_success, self.next_on_failure, self.next_on_success_or_failure):
            if branch is not None and branch.plugin_ref is not None:
                names.append(branch.plugin_ref)
            elif branch is not None and branch.decision_tree is not None:
                names += branch.decision_tree.refers_to()
        return names

    def bind(self, filters: Mapping[str, Filter], /) -> "BoundTree":
        """The tree with its filters in their places."""
        return BoundTree(_node(self, filters))


class Node(msgspec.Struct, frozen=True):
    """A place in a bound tree."""

    name: str
    filter: Filter
    success: "Node | None"
    failure: "Node | None"


class Step(msgspec.Struct, frozen=True):
    """One filter that ran: what it saw, and whom of that it rejected for good."""

    node: Node
    view: View
    codes: Reasons
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Places of the candidates it saw among those that the tree was given."""


class BoundTree:
    """A tree that filters."""

    load: ClassVar[bool] = False  # each of its filters answers for itself

    def __init__(self, root: Node) -> None:
        self._root = root
        self._offset: dict[int, int] = {}
        names: list[str] = []
        for node in _nodes(root):
            if id(node) in self._offset:  # on success and on failure alike
                continue
            self._offset[id(node)] = len(names)
            names += [f"{node.name}: {reason}" for reason in node.filter.reasons]
        self.reasons: Sequence[str] = tuple(names)

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        codes = np.zeros(view.size, dtype=np.int16)
        for step in self._steps(request, view):
            found = step.codes != 0
            codes[step.indices[found]] = step.codes[found] + self._offset[id(step.node)]
        return codes

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        for step in self._steps(request, view):
            for at in np.flatnonzero((step.indices == index) & (step.codes != 0)).tolist():
                here = step.view.rewound()
                return f"{step.node.name}: {step.node.filter.words(int(step.codes[at]), request, here, at)}"
        raise AssertionError(f"no filter of the tree rejected candidate {index}, whose code is {code}")

    def _steps(self, request: RequestFacts, view: View) -> Iterator[Step]:
        node: Node | None = self._root
        indices = np.arange(view.size, dtype=np.int64)
        while node is not None:
            view = view.again()
            codes = rejected(node.filter, request, view)
            keep = codes == 0
            if keep.any():
                yield Step(node, view, codes, indices)
                view, indices = view.narrowed(keep), indices[keep]
                node = node.success
            else:
                if node.failure is None:
                    yield Step(node, view, codes, indices)
                node = node.failure


def _node(tree: DecisionTreeFilter, filters: Mapping[str, Filter]) -> Node:
    def place(branch: Branch | None) -> Node | None:
        if branch is None:
            return None
        if branch.decision_tree is not None:
            return _node(branch.decision_tree, filters)
        assert branch.plugin_ref is not None, "a branch has one of the two"
        return Node(branch.plugin_ref, filters[branch.plugin_ref], None, None)

    either = place(tree.next_on_success_or_failure)
    success = either if tree.next_on_success is None else place(tree.next_on_success)
    failure = either if tree.next_on_failure is None else place(tree.next_on_failure)
    if tree.current.decision_tree is not None:
        inner = _node(tree.current.decision_tree, filters)
        return Node("tree", BoundTree(inner), success, failure)
    assert tree.current.plugin_ref is not None, "a branch has one of the two"
    return Node(tree.current.plugin_ref, filters[tree.current.plugin_ref], success, failure)


def _nodes(root: Node) -> Iterator[Node]:
    yield root
    branches = [root.success] if root.failure is root.success else [root.success, root.failure]
    for branch in branches:
        if branch is not None:
            yield from _nodes(branch)
