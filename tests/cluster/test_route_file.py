"""Weights are changed in a file, and nothing else is."""

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from pointsman.cluster.manifests.route_file import RouteFileError, change_weights

GROUP = "inference.networking.k8s.io"
OLD, NEW = (GROUP, "InferencePool", "default/old"), (GROUP, "InferencePool", "default/new")

PLAIN = """\
# traffic of the whole company
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llm-route   # do not rename
spec:
  rules:
    - backendRefs:
        - group: inference.networking.k8s.io
          kind: InferencePool
          name: old
          weight: 90  # stable
        - group: inference.networking.k8s.io
          kind: InferencePool
          name: new
          weight: 10
      matches:
        - path: {type: PathPrefix, value: /}
"""


def weights(data: bytes, rule: int = 0, document: int = 0) -> dict[str, object]:
    route = list(yaml.safe_load_all(data))[document]
    rules = route["spec"]["rules"]
    refs = (rules[rule] if isinstance(rules, list) else rules)["backendRefs"]
    return {ref["name"]: ref.get("weight") for ref in refs}


def test_only_the_numbers_change() -> None:
    changed = change_weights(PLAIN.encode(), "default/llm-route", 0, {OLD: 75, NEW: 25})

    assert changed == PLAIN.replace("weight: 90", "weight: 75").replace("weight: 10", "weight: 25").encode()


def test_line_ends_of_windows_stay() -> None:
    text = PLAIN.replace("\n", "\r\n")
    changed = change_weights(text.encode(), "default/llm-route", 0, {NEW: 0})

    assert changed == text.replace("weight: 10", "weight: 0").encode()


def test_flow_style_stays_flow_style() -> None:
    text = "kind: HTTPRoute\nmetadata: {name: r}\nspec: {rules: [{backendRefs: [{name: old, group: g, kind: K, weight: 1 }, {name: new,kind: K,group: g}]}]}\n"
    changed = change_weights(
        text.encode(), "default/r", 0, {("g", "K", "default/old"): 3, ("g", "K", "default/new"): 4}
    )

    assert changed == text.replace("weight: 1 ", "weight: 3 ").replace("group: g}]", "group: g, weight: 4}]").encode()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "\n", "   \n\n", "  # the last\n"])
def test_a_missing_weight_is_added_in_the_style_of_its_mapping(newline: str, tail: str) -> None:
    text = (
        "kind: HTTPRoute\nmetadata: {name: r}\nspec:\n rules:\n -   backendRefs:\n     -  name: old\n        kind: K"
        "\n        group: g" + tail
    ).replace("\n", newline)
    changed = change_weights(text.encode(), "default/r", 0, {("g", "K", "default/old"): 7})

    assert weights(changed) == {"old": 7}
    assert text.rstrip() in changed.decode() or text.split("group: g")[0] in changed.decode()
    assert changed.decode().replace(f"{newline}        weight: 7", "") == text


def test_several_documents_and_odd_indentation_stay() -> None:
    other = "kind: ConfigMap\nmetadata: {name: llm-route}\ndata: {weight: '90'}\n"
    odd = PLAIN.replace("        - group", "           -   group").replace("          kind", "               kind")
    odd = odd.replace("          name", "               name").replace("          weight", "               weight")
    text = f"---\n{other}---\n{odd}...\n---\n{other}"
    changed = change_weights(text.encode(), "default/llm-route", 0, {OLD: 1})

    assert changed == text.replace("weight: 90  #", "weight: 1  #").encode()


def test_equal_names_of_different_kinds_are_told_apart() -> None:
    text = PLAIN.replace(
        "group: inference.networking.k8s.io\n          kind: InferencePool\n          name: new", "name: old"
    )
    changed = change_weights(text.encode(), "default/llm-route", 0, {("", "Service", "default/old"): 55})

    assert changed == text.replace("weight: 10", "weight: 55").encode()


def test_an_anchor_that_nobody_uses_stays_and_its_number_changes() -> None:
    text = PLAIN.replace("weight: 10", "weight: &few 10")
    changed = change_weights(text.encode(), "default/llm-route", 0, {NEW: 20})

    assert changed == text.replace("&few 10", "&few 20").encode()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (PLAIN.replace("weight: 10", "weight: &w 10").replace("weight: 90", "weight: *w"), "shared|not YAML"),
        (PLAIN.replace("weight: 90", "weight: &w 90").replace("weight: 10", "weight: *w"), "shared"),
        (PLAIN.replace("name: new", "name: old"), "stands twice"),
        (PLAIN.replace("name: new", "name: newer"), "has no backend default/new"),
        (PLAIN + "---\n" + PLAIN, "2 HTTPRoutes"),
        (PLAIN.replace("HTTPRoute", "GRPCRoute"), "0 HTTPRoutes"),
        (PLAIN.replace("rules:", "rules: []\n  rulez:"), "has 0 rules"),
        ("a: [", "not YAML"),
        ("a: \udc80", "not YAML"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text: str, wanted: str) -> None:
    data = text.encode("utf-8", "surrogateescape")

    with pytest.raises(RouteFileError, match=wanted):
        change_weights(data, "default/llm-route", 0, {OLD: 50, NEW: 50})


@pytest.mark.parametrize("weight", [-1, 1_000_001])
def test_weights_out_of_range_are_refused(weight: int) -> None:
    with pytest.raises(RouteFileError, match="wanted 0 to 1,000,000"):
        change_weights(PLAIN.encode(), "default/llm-route", 0, {OLD: weight})


def test_a_mapping_under_rules_is_changed_as_its_only_rule() -> None:
    text = PLAIN.replace("    - backendRefs", "      backendRefs").replace("    - backendRefs", "    backendRefs")
    changed = change_weights(text.encode(), "default/llm-route", 0, {OLD: 2, NEW: 1})

    assert weights(changed) == {"old": 2, "new": 1}


@settings(deadline=None)
@given(st.integers(0, 1_000_000), st.integers(0, 1_000_000), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_weights_are_read_back_as_asked(old: int, new: int, newline: str, missing: bool) -> None:
    text = PLAIN.replace("          weight: 90  # stable\n", "") if missing else PLAIN
    changed = change_weights(text.replace("\n", newline).encode(), "default/llm-route", 0, {OLD: old, NEW: new})

    assert weights(changed) == {"old": old, "new": new}
