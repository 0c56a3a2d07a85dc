"""Pictures: numbers become markup that says the same."""

import re
from xml.etree import ElementTree

from hypothesis import given, strategies as st

from pointsman.web.drawing import svg as drawing, words
from pointsman.web.drawing.svg import MARK_SIGNS, ChartLine, ChartMark, JunctionBranch

VALUES = st.lists(st.none() | st.floats(0, 1e9), min_size=1, max_size=60)
# What XML can hold, since the pictures are read back as XML: no control characters, surrogates or U+FFFE and U+FFFF.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=30)


def parsed(markup: str) -> ElementTree.Element:
    """As XML, which forgives nothing."""
    return ElementTree.fromstring(f"<all>{markup}</all>")


@given(st.lists(VALUES, min_size=1, max_size=3), TEXT)
def test_a_chart_draws_every_stretch_and_no_gap(lines: list[list[float | None]], title: str) -> None:
    series = [ChartLine(f"line {i}", i + 1, tuple(values)) for i, values in enumerate(lines)]
    root = parsed(drawing.chart((title, "unit"), ["a", "b", "c"], series))
    drawn = [e for e in root.iter("path") if "line" in str(e.get("class"))]
    dots = list(root.iter("circle"))
    wanted = 0
    for values in lines:
        marks = "".join("." if v is None else "x" for v in values)
        wanted += len(re.findall("x+", marks))

    assert len(drawn) + len(dots) == wanted
    points = sum(len(str(e.get("d")).split("L")) for e in drawn) + len(dots)
    assert points == sum(v is not None for values in lines for v in values)


@given(
    st.lists(st.none() | st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=40)
)
def test_a_band_is_over_every_stretch_and_within_the_axis(found: list[tuple[float, float, float] | None]) -> None:
    low, mean, high = (tuple(None if one is None else sorted(one)[at] for one in found) for at in range(3))
    root = parsed(drawing.chart(("a", "b"), ["x"], [ChartLine("l", 1, mean, low, high)]))
    bands = [e for e in root.iter("path") if "band" in str(e.get("class"))]
    marks = "".join("." if v is None else "x" for v in mean)
    assert len(bands) == len(re.findall("x+", marks))
    places = [float(y) for e in bands for y in re.findall(r"[\d.]+ ([\d.]+)", str(e.get("d")))]
    assert len(places) == 2 * sum(v is not None for v in mean)
    assert all(9.9 <= y <= 112.1 for y in places)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(sorted(MARK_SIGNS)), TEXT), max_size=8))
def test_marks_of_one_point_are_one_sign_with_all_words(found: list[tuple[int, str, str]]) -> None:
    marks = [ChartMark(index, kind, words) for index, kind, words in found]
    root = parsed(drawing.chart(("a", "b"), ["x"], [ChartLine("l", 1, (1.0,) * 10)], marks))
    drawn = [e for e in root.iter("g") if "mark" in str(e.get("class"))]
    assert len(drawn) == len({index for index, _, _ in found})
    said = " ".join(str(e.findtext("title")) for e in drawn)
    assert all(str(drawing.escaped(words)) in str(drawing.escaped(said)) or words in said for _, _, words in found)
    assert [e.get("class") for e in drawn].count("mark lost") == len({i for i, kind, _ in found if kind == "lost"})


@given(st.floats(0, 1e12))
def test_an_axis_reaches_above_its_highest_value(highest: float) -> None:
    top = drawing.nice_top(highest)

    assert top >= highest
    assert top <= max(10 * highest, 1.0)


@given(st.lists(st.tuples(TEXT, st.integers(0, 10**6), st.none() | st.floats(0, 1)), min_size=1, max_size=5), TEXT)
def test_ribbons_are_as_wide_as_their_weights(found: list[tuple[str, int, float | None]], title: str) -> None:
    branches = [JunctionBranch(name, weight, 1, share, 0.01, ("line",)) for name, weight, share in found]
    root = parsed(drawing.junction(title, ("route", "rate", "match"), branches))
    wide = next(e for e in root.iter("svg") if e.get("class") == "wide")
    total = sum(weight for _, weight, _ in found) or 1
    blocks = [float(str(e.get("height"))) for e in wide.iter("rect") if e.get("width") == "16"]

    assert len(blocks) == sum(weight > 0 for _, weight, _ in found)
    for block, weight in zip(blocks, [w for _, w, _ in found if w], strict=True):
        assert abs(block - max(144 * weight / total, 2)) < 0.1


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 10)), max_size=6))
def test_a_contribution_bar_is_as_long_as_its_sum(parts: list[tuple[int, float]]) -> None:
    scale = sum(value for _, value in parts) or 1.0
    root = parsed(drawing.bar(parts, scale, "label"))
    widths = [float(str(e.get("width"))) for e in root.iter("rect") if e.get("class") != "track"]

    assert len(widths) == len(parts)
    assert sum(widths) <= 220 + 0.1 * len(parts)


@given(TEXT)
def test_no_text_becomes_markup(text: str) -> None:
    branch = JunctionBranch(text, 1, 1, None, 0.0, (text,))
    for picture in (
        drawing.junction(text, (text, text, text), [branch]),
        drawing.chart((text, text), [text, text], [ChartLine(text, 1, (1.0, 2.0))], [ChartMark(1, "lost", text)]),
        drawing.bar([(1, 1.0)], 1.0, text),
        drawing.sparkline([1.0, None, 2.0], text),
    ):
        for element in parsed(picture).iter():
            assert element.tag in {"all", "svg", "g", "path", "rect", "line", "text", "circle", "title"}


def test_numbers_have_the_digits_that_people_read() -> None:
    assert [words.rate(v) for v in (0.04, 9.96, 12.3, 1234.5)] == ["0.0", "10.0", "12", "1,234"]
    assert [words.duration(v) for v in (None, 2e-5, 0.0123, 1.234, 300, 10_000)] == [
        "–",  # noqa: RUF001
        "20 µs",
        "12 ms",
        "1.2 s",
        "5 min",
        "3 h",
    ]
    assert words.size(999) == "999 bytes"
    assert words.size(1_500_000) == "1.5 MB"
    assert words.plural(1, "entry", "entries") == "1 entry"
    assert words.moment(0) == ""
    assert words.short_time("2001-02-03T04:05:06.789Z") == "2001-02-03 04:05:06.789"
