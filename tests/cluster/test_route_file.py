"""Weights are changed in a file, and nothing else is."""

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from pointsman.cluster.manifests.route_file import RouteFileError, change_weights, unwritable_rules

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


HEAD = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\n"


def weights(data: bytes, rule: int = 0, document: int = 0) -> dict[str, object]:
    route = list(yaml.safe_load_all(data))[document]
    rules = route["spec"]["rules"]
    refs = (rules[rule] if isinstance(rules, list) else rules)["backendRefs"]
    return {ref["name"]: ref.get("weight") for ref in refs}


def test_only_the_numbers_change() -> None:
    changed = change_weights("r.yaml", PLAIN.encode(), "default/llm-route", 0, {OLD: 75, NEW: 25})

    assert changed == PLAIN.replace("weight: 90", "weight: 75").replace("weight: 10", "weight: 25").encode()


def test_line_ends_of_windows_stay() -> None:
    text = PLAIN.replace("\n", "\r\n")
    changed = change_weights("r.yaml", text.encode(), "default/llm-route", 0, {NEW: 0})

    assert changed == text.replace("weight: 10", "weight: 0").encode()


def test_flow_style_stays_flow_style() -> None:
    text = (
        HEAD
        + "spec: {rules: [{backendRefs: [{name: old, group: g, kind: K, weight: 1 }, {name: new,kind: K,group: g}]}]}\n"
    )
    changed = change_weights(
        "r.yaml", text.encode(), "default/r", 0, {("g", "K", "default/old"): 3, ("g", "K", "default/new"): 4}
    )

    assert changed == text.replace("weight: 1 ", "weight: 3 ").replace("group: g}]", "group: g,weight: 4}]").encode()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "\n", "   \n\n", "  # the last\n"])
def test_a_missing_weight_is_added_in_the_style_of_its_mapping(newline: str, tail: str) -> None:
    text = (
        HEAD + "spec:\n rules:\n -   backendRefs:\n     -  name: old\n        kind: K\n        group: g" + tail
    ).replace("\n", newline)
    changed = change_weights("r.yaml", text.encode(), "default/r", 0, {("g", "K", "default/old"): 7})

    assert weights(changed) == {"old": 7}
    assert text.rstrip() in changed.decode() or text.split("group: g")[0] in changed.decode()
    assert changed.decode().replace(f"{newline}        weight: 7", "") == text


def test_several_documents_and_odd_indentation_stay() -> None:
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: llm-route}\ndata: {weight: '90'}\n"
    odd = PLAIN.replace("        - group", "           -   group").replace("          kind", "               kind")
    odd = odd.replace("          name", "               name").replace("          weight", "               weight")
    text = f"---\n{other}---\n{odd}...\n---\n{other}"
    changed = change_weights("r.yaml", text.encode(), "default/llm-route", 0, {OLD: 1})

    assert changed == text.replace("weight: 90  #", "weight: 1  #").encode()


def test_equal_names_of_different_kinds_are_told_apart() -> None:
    text = PLAIN.replace(
        "group: inference.networking.k8s.io\n          kind: InferencePool\n          name: new", "name: old"
    )
    changed = change_weights("r.yaml", text.encode(), "default/llm-route", 0, {("", "Service", "default/old"): 55})

    assert changed == text.replace("weight: 10", "weight: 55").encode()


def test_an_anchor_that_nobody_uses_stays_and_its_number_changes() -> None:
    text = PLAIN.replace("weight: 10", "weight: &few 10")
    changed = change_weights("r.yaml", text.encode(), "default/llm-route", 0, {NEW: 20})

    assert changed == text.replace("&few 10", "&few 20").encode()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (PLAIN.replace("weight: 10", "weight: &w 10").replace("weight: 90", "weight: *w"), "names no anchor before it"),
        (PLAIN.replace("weight: 90", "weight: &w 90").replace("weight: 10", "weight: *w"), "shared"),
        (PLAIN.replace("name: new", "name: old"), "stands twice"),
        (PLAIN.replace("name: new", "name: newer"), "has no backend default/new"),
        (PLAIN + "---\n" + PLAIN, "HTTPRoute default/llm-route stands in line 2 already"),
        (PLAIN.replace("HTTPRoute", "GRPCRoute"), "0 HTTPRoutes"),
        (PLAIN.replace("rules:", "rules: []\n  rulez:"), "has 0 rules"),
        ("a: [", "not YAML"),
        ("a: \udc80", "is not UTF-8"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text: str, wanted: str) -> None:
    data = text.encode("utf-8", "surrogateescape")

    with pytest.raises(RouteFileError, match=wanted):
        change_weights("r.yaml", data, "default/llm-route", 0, {OLD: 50, NEW: 50})


@pytest.mark.parametrize("weight", [-1, 1_000_001])
def test_weights_out_of_range_are_refused(weight: int) -> None:
    with pytest.raises(RouteFileError, match="wanted 0 to 1,000,000"):
        change_weights("r.yaml", PLAIN.encode(), "default/llm-route", 0, {OLD: weight})


def test_a_mapping_under_rules_is_changed_as_its_only_rule() -> None:
    text = PLAIN.replace("    - backendRefs", "      backendRefs").replace("    - backendRefs", "    backendRefs")
    changed = change_weights("r.yaml", text.encode(), "default/llm-route", 0, {OLD: 2, NEW: 1})

    assert weights(changed) == {"old": 2, "new": 1}


@settings(deadline=None)
@given(st.integers(0, 1_000_000), st.integers(0, 1_000_000), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_weights_are_read_back_as_asked(old: int, new: int, newline: str, missing: bool) -> None:
    text = PLAIN.replace("          weight: 90  # stable\n", "") if missing else PLAIN
    changed = change_weights(
        "r.yaml", text.replace("\n", newline).encode(), "default/llm-route", 0, {OLD: old, NEW: new}
    )

    assert weights(changed) == {"old": old, "new": new}


KUBECTL_LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata:
    name: llm-route
    namespace: default
    managedFields: [{manager: kubectl}]
  spec:
    rules:
    - backendRefs:
      - {group: inference.networking.k8s.io, kind: InferencePool, name: old, weight: 90}
      - {group: inference.networking.k8s.io, kind: InferencePool, name: new, weight: 10}
  status: {parents: []}
metadata: {resourceVersion: ""}
"""


def test_a_weight_in_a_list_as_kubectl_writes_it_is_moved() -> None:
    changed = change_weights("all.yaml", KUBECTL_LIST.encode(), "default/llm-route", 0, {OLD: 50, NEW: 50})

    assert changed == KUBECTL_LIST.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50").encode()


def as_json() -> str:
    """The route of a List as `kubectl get -o json` writes it, the first backend without a weight, the second with 0."""
    [route] = yaml.safe_load(KUBECTL_LIST)["items"]
    del route["spec"]["rules"][0]["backendRefs"][0]["weight"]
    route["spec"]["rules"][0]["backendRefs"][1]["weight"] = 0
    return json.dumps(route, indent=2)


def test_a_json_file_is_json_after_a_weight_is_moved() -> None:
    text = as_json()
    changed = change_weights("r.json", text.encode(), "default/llm-route", 0, {OLD: 90, NEW: 10}).decode()

    added = text.replace('"name": "old"', '"name": "old",\n            "weight": 90')
    assert changed == added.replace('"weight": 0', '"weight": 10')
    assert weights_of(json.loads(changed)) == {"old": 90, "new": 10}


@pytest.mark.parametrize(
    ("name", "ref", "wanted"),
    [
        ("", "name: old, kind: K, group: g", "name: old, kind: K, group: g, weight: 7"),
        (
            "a field without a value",
            "name: old, kind: K, group: g, weight: ",
            "name: old, kind: K, group: g, weight: 7",
        ),
        ("nothing, spelled", "name: old, kind: K, weight: null, group: g", "name: old, kind: K, weight: 7, group: g"),
        ("a comma at the end", "name: old, kind: K, group: g, ", "name: old, kind: K, group: g, weight: 7, "),
        ("quotes", '"name":"old","kind":"K","group":"g"', '"name":"old","kind":"K","group":"g","weight":7'),
        ("single quotes", "'name': 'old', kind: K, group: g", "'name': 'old', kind: K, group: g, weight: 7"),
        ("a tag", "name: old, kind: K, group: g, weight: !!int 3", "name: old, kind: K, group: g, weight: !!int 7"),
        ("a fraction", "name: old, kind: K, group: g, weight: 3.0", "name: old, kind: K, group: g, weight: 7"),
    ],
)
def test_a_field_between_brackets_is_written_as_its_neighbours_are(name: str, ref: str, wanted: str) -> None:
    text = f"{HEAD}spec: {{rules: [{{backendRefs: [{{{ref}}}]}}]}}\n"
    changed = change_weights("r.yaml", text.encode(), "default/r", 0, {("g", "K", "default/old"): 7})

    assert changed.decode() == text.replace(ref, wanted), name


SHARED = f"""\
{HEAD}spec:
  rules:
  - &first
    backendRefs:
    - {{group: g, kind: K, name: old, weight: 1}}
  - *first
  - backendRefs:
    - &old {{group: g, kind: K, name: old, weight: 1}}
    - {{group: g, kind: K, name: new, weight: 1}}
  - backendRefs: [*old]
  - backendRefs:
    - {{<<: *old, name: other}}
    - {{group: g, kind: K, name: new}}
  - <<: *first
  - backendRefs:
    - {{group: g, kind: K, name: new}}
    - {{group: g, kind: K, name: new}}
"""


def test_what_can_be_read_and_not_written_is_said_for_each_rule() -> None:
    shared = "the backendRef is shared with another place by an anchor, wanted one that is written out"

    assert unwritable_rules("r.yaml", SHARED.encode(), "default/r") == (
        f"line 8: {shared}",
        f"line 8: {shared}",
        f"line 11: {shared}",
        f"line 11: {shared}",
        "",
        "line 17: 'backendRefs' is merged from another place, wanted one that is written out",
        "line 19: backend default/new stands twice in rule 7 of default/r, wanted each backend once",
    )
    merged = change_weights("r.yaml", SHARED.encode(), "default/r", 4, {("g", "K", "default/other"): 5})
    assert merged.decode() == SHARED.replace("name: other}", "name: other, weight: 5}")


# --- whatever the form of a file --------------------------------------------------------------------


def weights_of(route: Any) -> dict[str, object]:
    return {ref["name"]: ref.get("weight") for ref in route["spec"]["rules"][-1]["backendRefs"]}


def routes_of(value: Any) -> list[Any]:
    """The routes of a document, in Lists and Lists of Lists too."""
    if value["kind"] == "List":
        return [route for item in value["items"] for route in routes_of(item)]
    return [value] if value["kind"] == "HTTPRoute" else []


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same value with its keys in another order."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: shuffled(draw, value[key]) for key in keys}
    return [shuffled(draw, item) for item in value] if isinstance(value, list) else value


OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "llm-route"}, "data": {"weight": "90 ä €"}}
BELOW = st.sampled_from(["one", "list", "list in a list", "documents"])


@st.composite
def manifests(draw: st.DrawFn) -> tuple[str, bytes, list[int | None]]:
    """A file's name, its bytes, and the weights of the last rule of the route in it; None where none is written."""
    written = draw(st.lists(st.none() | st.integers(0, 999), min_size=1, max_size=3))
    refs = [
        {"group": GROUP, "kind": "InferencePool", "name": f"p{i}"} | ({} if weight is None else {"weight": weight})
        for i, weight in enumerate(written)
    ]
    rule: dict[str, Any] = {"backendRefs": refs, "matches": [{"path": {"value": "/ü"}}]}
    first = {"backendRefs": [{"name": "p0", "port": 80, "weight": 7}]}
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "annotations": {"about": "ä: # €"}},
        "spec": {"rules": [first, rule]},
    }
    where = draw(BELOW)
    whole: Any = shuffled(draw, route)
    if where.startswith("list"):
        whole = {"apiVersion": "v1", "kind": "List", "items": [OTHER, whole]}
        if where == "list in a list":
            whole = {"kind": "List", "items": [whole], "apiVersion": "v1"}
    if where != "documents" and draw(st.booleans()):
        indent = draw(st.sampled_from([None, "", "  ", "    ", "\t"]))
        separators = draw(st.sampled_from([None, (",", ":"), (", ", ": ")]))
        text = json.dumps(whole, indent=indent, separators=separators, ensure_ascii=False)
        text += draw(st.sampled_from(["", "\n"]))
        name = draw(st.sampled_from(["r.json", "r.yaml"]))
    else:
        documents = [OTHER, whole, OTHER] if where == "documents" else [whole]
        text = yaml.safe_dump_all(
            documents,
            default_flow_style=draw(st.sampled_from([True, False, None])),
            default_style=draw(st.sampled_from([None, None, '"'])),
            indent=draw(st.integers(2, 6)),
            width=draw(st.sampled_from([20, 80, 1000])),
            sort_keys=False,
            explicit_start=draw(st.booleans()),
            allow_unicode=True,
        )
        if draw(st.booleans()):  # comments between the lines, where no line goes on from the one before
            lines = text.splitlines()
            if all(re.fullmatch(r"\s*(- )*[A-Za-z\"]+:.*|---|\.\.\.", line) for line in lines) and "{" not in text:
                text = "".join(f"{line}\n # about {i}\n" for i, line in enumerate(lines))
        name = "r.yaml"
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    return name, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode(), written


@settings(deadline=None, max_examples=300)
@given(manifests(), st.lists(st.integers(0, 1_000_000), min_size=6, max_size=6))
def test_whatever_its_form_a_file_takes_an_edit_and_a_second_one(
    manifest: tuple[str, bytes, list[int | None]], new: list[int]
) -> None:
    name, data, written = manifest
    keys = [(GROUP, "InferencePool", f"default/p{i}") for i in range(len(written))]
    json_before = is_json(data)

    assert unwritable_rules(name, data, "default/r") == ("", "")
    once = change_weights(name, data, "default/r", 1, dict(zip(keys, new[:3], strict=False)))
    twice = change_weights(name, once, "default/r", 1, dict(zip(keys, new[3:], strict=False)))
    for changed, wanted in ((once, new[:3]), (twice, new[3:])):
        text = changed.decode("utf-8-sig")
        documents = [json.loads(text)] if json_before else list(yaml.safe_load_all(text))
        [route] = [route for document in documents for route in routes_of(document)]
        assert weights_of(route) == {f"p{i}": weight for i, weight in enumerate(wanted[: len(written)])}
        assert is_json(changed) == json_before
        assert changed.startswith(b"\xef\xbb\xbf") == data.startswith(b"\xef\xbb\xbf")
    if None not in written:  # nothing was added, so that moving back gives the file as it was, byte for byte
        back = {key: weight for key, weight in zip(keys, written, strict=True) if weight is not None}
        assert change_weights(name, twice, "default/r", 1, back) == data


def is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode("utf-8-sig"))
    except ValueError:
        return False
    return True
