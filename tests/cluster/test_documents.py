"""YAML becomes values that know their lines."""

import json
import time

import pytest
from hypothesis import given, strategies as st

from pointsman.cluster.objects.yaml_document import (
    BYTES_MAX,
    DEPTH_MAX,
    VALUES_MAX,
    DocumentError,
    YamlPath,
    dump_document,
    load_documents,
)

# JSON writes characters beyond these as two halves, which YAML does not join; three are line ends to YAML alone.
characters = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029")
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters, max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=8), inner, max_size=4),
    max_leaves=20,
)


def only(text: str | bytes) -> object:
    (document,) = load_documents(text)
    return document.value


def fault(text: str | bytes) -> tuple[int, str]:
    with pytest.raises(DocumentError) as caught:
        load_documents(text)
    return caught.value.line, caught.value.message


@given(values.filter(lambda value: value is not None))
def test_json_is_read_as_json(value: object) -> None:
    assert only(json.dumps(value)) == value


@given(values.filter(lambda value: value is not None))
def test_what_is_dumped_is_read_back(value: object) -> None:
    assert only(dump_document(value)) == value


@pytest.mark.parametrize(
    "text", ["1e3", "08", "012", "yes", "null", "", "5", "1:30", "0x1f", ".5", "a: b", "- a", "<<"]
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert only(dump_document({"a": text})) == {"a": text}


def places(value: object, path: YamlPath = ()) -> list[YamlPath]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for step, inner in steps for place in places(inner, (*path, step)))]


@given(values.filter(lambda value: value is not None))
def test_every_place_has_a_line_of_the_text(value: object) -> None:
    text = dump_document(value)
    (document,) = load_documents(text)

    assert set(document.lines) == set(places(value))
    assert all(1 <= line <= text.count("\n") + 1 for line in document.lines.values())


def test_lines_are_those_of_keys_and_items() -> None:
    first, second = load_documents("# top\na: 1\nb:\n  - x\n  - y: 2\n---\n\nc:\n  3\n")

    assert first.line == 2
    assert first.lines == {(): 2, ("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "y"): 5}
    assert (second.line, second.lines[("c",)], second.value) == (8, 8, {"c": 3})


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "---\n---\n", "null\n", "\ufeff"])
def test_empty_documents_are_left_out(text: str) -> None:
    assert load_documents(text) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", True),
        ("Off", False),
        ("TRUE", True),
        ("yEs", "yEs"),
        ("012", 10),
        ("0x1f", 31),
        ("0b11", 3),
        ("+12", 12),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("~", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("! 5", "5"),
        ("5 # five", 5),
        ("-", [None]),
    ],
)
def test_scalars_mean_what_they_mean_to_kubernetes(written: str, meant: object) -> None:
    assert only(f"a: {written}\n" if written != "-" else "a:\n-\n") == {"a": meant}


def test_keys_become_text() -> None:
    assert only("1: a\ntrue: b\n0x10: c\n") == {"1": "a", "true": "b", "16": "c"}


def test_anchors_and_merge_keys_unfold() -> None:
    text = "b: &b {x: 1, y: 2}\nc: {<<: *b, x: 3}\nd:\n  <<: [*b, {y: 5, z: 6}]\n  w: *b\n"

    assert only(text) == {
        "b": {"x": 1, "y": 2},
        "c": {"x": 3, "y": 2},
        "d": {"w": {"x": 1, "y": 2}, "x": 1, "y": 2, "z": 6},
    }


def test_a_quoted_merge_key_is_a_key() -> None:
    assert only("'<<': 1\n") == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' stands in line 1 already"),
        ("a:\n  - {b: 1, b: 2}\n", 2, "key 'b' stands in line 2 already"),
        ("a:\n\tb: 1\n", 2, "found a tab, wanted blanks"),
        ("a: *x\n", 1, "alias *x names no anchor"),
        ("a: &x\n  - *x\n", 2, "anchor &x contains itself"),
        ("a: 1\nb: c: d\n", 2, "a text with a colon needs quotes"),
        ("a: @b\n", 1, "begins with '@' needs quotes"),
        ("a: '\nb", 2, "unexpected end of stream, while scanning a quoted scalar that began in line 1"),
        ("a: 1\n? [b]\n: 2\n", 2, "found a list as key"),
        ("a: 1\n~: 2\n", 2, "found an empty key"),
        ("a: !!set {b}\n", 1, "tag 'tag:yaml.org,2002:set' is not known"),
        ("a: !mine b\n", 1, "tag '!mine' is not known"),
        ("a: !!int b\n", 1, "found 'b' with the tag !!int"),
        ("a: 1\nb: {<<: 2}\n", 2, "wanted a mapping to merge"),
        ("a: 1\nb: \x07\n", 2, "character '\\x07' is not allowed"),
        ("a: 1\nb: \0\n", 2, "character '\\x00' is not allowed"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    found_line, message = fault(text)

    assert found_line == line
    assert words in message


def test_bytes_that_are_no_text_are_told_by_their_line() -> None:
    assert fault(b"a: 1\nb: \xff\n") == (2, "byte 0xff is not UTF-8")


def test_a_text_over_a_mebibyte_is_refused() -> None:
    assert fault("a" * (BYTES_MAX + 1))[1] == f"found {BYTES_MAX + 1:,} bytes, wanted {BYTES_MAX:,} at most"
    assert fault("é" * (BYTES_MAX // 2 + 1))[0] == 0


def bomb(kind: str) -> str:
    text = f"a0: &a0 {'{x: 1}' if kind == 'merge' else '[x]'}\n"
    for i in range(1, 40):
        aliases = ", ".join([f"*a{i - 1}"] * 10)
        text += f"a{i}: &a{i} {{<<: [{aliases}]}}\n" if kind == "merge" else f"a{i}: &a{i} [{aliases}]\n"
    return text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb("list"), f"found over {VALUES_MAX:,} values, aliases unfolded"),
        (bomb("merge"), f"found over {VALUES_MAX:,} values, aliases unfolded"),
        ("- a\n" * (VALUES_MAX + 1), f"found over {VALUES_MAX:,} values"),
        ("[" * 1_000_000, f"nested deeper than {DEPTH_MAX} levels"),
        ("- " * 500_000, f"nested deeper than {DEPTH_MAX} levels"),
        ("? " * 500_000, f"nested deeper than {DEPTH_MAX} levels"),
        ("{a: " * 1000 + "}" * 1000, f"nested deeper than {DEPTH_MAX} levels"),
        (
            "a: &a [1]\n" + "".join(f"b{i}: &b{i} [[[*{'a' if i == 0 else f'b{i - 1}'}]]]\n" for i in range(40)),
            "nested deeper",
        ),
    ],
)
def test_bombs_are_refused_soon(text: str, words: str) -> None:
    began = time.thread_time()
    _, message = fault(text)

    assert words in message
    assert time.thread_time() - began < 5  # the bombs would take years


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%@`#,\n\t 01~<", max_size=60))
def test_any_text_is_documents_or_an_error_with_a_line_of_it(text: str) -> None:
    try:
        lines = [document.line for document in load_documents(text)]
    except DocumentError as error:
        lines = [error.line]

    assert all(0 <= line <= text.count("\n") + 1 for line in lines)
