"""The console's pictures as inline SVG: the junction, charts, contribution bars, sparklines.

Pure functions from numbers to markup.  Every text in them is escaped; colours are classes of the stylesheet;
each picture has a name that a screen reader says, and stands beside a table that holds the same numbers.
"""

from collections.abc import Sequence

from markupsafe import Markup, escape
from msgspec import Struct

from pointsman.web.drawing.isolating import turned_to_words

DATA_COLOURS = 5
CHART_WIDTH, CHART_HEIGHT = 480, 132
MARK_SIGNS = {"lost": "M-4 -4L4 4M-4 4L4 -4", "weights": "M0 -5L5 0L0 5L-5 0Z", "started": "M-4 4L0 -4L4 4Z"}
"""The sign of each kind of mark, the gravest first: a cross, a diamond, a triangle."""
SMALLEST_TOP = 1e-6
"""Value below which an axis counts as empty: it is nothing in any unit that charts show."""


class JunctionBranch(Struct, frozen=True):
    """One backend of a junction."""

    name: str
    weight: int
    colour: int
    """Number of the pool's data colour, 1 to 5, the same on every page."""
    share: float | None
    """Observed share, 0 to 1; None where nothing was observed."""
    margin: float
    """Half the width of the share's 95 % interval."""
    lines: tuple[str, ...]
    """Lines of text under the name."""


class ChartLine(Struct, frozen=True):
    """One line of a chart: a value for each point in time, None where nothing was recorded."""

    label: str
    colour: int
    values: tuple[float | None, ...]
    lowest: tuple[float | None, ...] = ()
    """Lowest of what each value is the mean of; none where it is the mean of nothing."""
    highest: tuple[float | None, ...] = ()


class ChartMark(Struct, frozen=True):
    """Something that happened at one of a chart's points in time."""

    index: int
    """Index of the point."""
    kind: str
    """`weights`, `started` or `lost`."""
    words: str


def colour_of(name: str, names: Sequence[str]) -> int:
    """The data colour of `name` among all `names`, the same on every page."""
    return sorted(names).index(name) % DATA_COLOURS + 1 if name in names else DATA_COLOURS


def escaped(text: str) -> Markup:
    """A text of a picture; in SVG each stands in a place of its own, which only characters of direction leave."""
    return escape(turned_to_words(text))


def number(value: float, digits: int = 1) -> str:
    """A number for people: thousands with commas, no zeros that the measurement does not have."""
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def junction(title: str, source: Sequence[str], branches: Sequence[JunctionBranch]) -> Markup:
    """A picture of a track that divides: ribbons show desired weights, black lines at their ends observed shares."""
    total = sum(b.weight for b in branches) or 1
    trunk, gap = 144.0, 44.0
    need = sum(max(trunk * b.weight / total, 14 + 18 * (1 + len(b.lines))) + gap for b in branches) - gap
    height = max(260.0, need + 60)
    middle = height / 2
    left, join, end = 40, 260, 640
    parts = [
        f'<rect x="{left}" y="{middle - trunk / 2:.1f}" width="{join - left}" height="{trunk:.0f}" class="fill-1" opacity="0.12"/>'
    ]
    for i, line in enumerate(source):
        style = 'font-size="16" font-weight="650"' if i == 0 else 'font-size="13" class="soft"'
        parts.append(f'<text x="{left + 14}" y="{middle - trunk / 2 + 34 + 24 * i:.1f}" {style}>{escaped(line)}</text>')
    top, at = middle - trunk / 2, (height - need) / 2
    for index, branch in enumerate(branches):
        width = trunk * branch.weight / total
        block = max(width, 14 + 18 * (1 + len(branch.lines)))
        to = at + (block - width) / 2
        parts.append(ribbon(top, width, to, (join, end), branch.colour))
        parts.append(_observed(branch, to + width / 2, trunk, end))
        if index and width:
            parts.append(f'<circle cx="{join}" cy="{top:.1f}" r="6" fill="var(--card)" class="rule"/>')
        parts.append(_branch_text(branch, at, block, end + 44))
        top += width
        at += block + gap
    return Markup(
        f'<svg class="wide" viewBox="0 0 1060 {height:.0f}" width="1060" role="img" aria-label="{escaped(title)}">{"".join(parts)}</svg>'
        + _junction_tall(title, source, branches, total)
    )


def ribbon(top: float, width: float, to: float, ends: tuple[int, int], colour: int) -> str:
    """A band from the trunk's edge to its end, and the block there; a weight of 0 is a hairline."""
    join, end = ends
    bend = (join + end) / 2
    if not width:
        return (
            f'<path d="M{join} {top:.1f} C{bend} {top:.1f} {bend} {to:.1f} {end} {to:.1f}" fill="none" '
            f'class="stroke-{colour}" stroke-dasharray="3 4"/>'
        )
    low, bottom = top + width, to + width
    path = (
        f"M{join} {top:.1f} C{bend} {top:.1f} {bend} {to:.1f} {end} {to:.1f} L{end} {bottom:.1f} "
        f"C{bend} {bottom:.1f} {bend} {low:.1f} {join} {low:.1f} Z"
    )
    return (
        f'<path d="{path}" class="ribbon fill-{colour}"/>'
        f'<rect x="{end}" y="{to:.1f}" width="16" height="{max(width, 2):.1f}" class="fill-{colour}"/>'
    )


def _observed(branch: JunctionBranch, centre: float, trunk: float, end: int) -> str:
    """The rule at a ribbon's end: as long as the observed share, its uncertainty fainter around it."""
    if branch.share is None:
        return ""
    half, more = trunk * branch.share / 2, trunk * (branch.share + branch.margin) / 2
    return (
        f'<line x1="{end + 22}" x2="{end + 22}" y1="{centre - more:.1f}" y2="{centre + more:.1f}" class="rule" opacity="0.35"/>'
        f'<line x1="{end + 22}" x2="{end + 22}" y1="{centre - half:.1f}" y2="{centre + half:.1f}" class="rule"/>'
    )


def _branch_text(branch: JunctionBranch, at: float, block: float, x: int) -> str:
    y = at + (block - 18 * (1 + len(branch.lines))) / 2 + 13
    lines = [f'<text x="{x}" y="{y:.1f}" font-size="16" font-weight="650">{escaped(branch.name)}</text>']
    for i, line in enumerate(branch.lines):
        lines.append(f'<text x="{x}" y="{y + 20 * (i + 1):.1f}" font-size="13" class="soft">{escaped(line)}</text>')
    return "".join(lines)


def _junction_tall(title: str, source: Sequence[str], branches: Sequence[JunctionBranch], total: int) -> str:
    """The junction from top to bottom, for narrow screens."""
    width, left = 320.0, 0.0
    parts = ['<rect x="0" y="0" width="320" height="56" class="fill-1" opacity="0.12"/>']
    parts.append(f'<text x="12" y="24" font-size="14" font-weight="650">{escaped(source[0])}</text>')
    parts.append(f'<text x="12" y="44" font-size="12" class="soft">{escaped(" · ".join(source[1:]))}</text>')
    y, seen = 150, 0.0
    for branch in branches:
        if branch.share is not None:
            ends = f'x1="{width * seen + 1:.1f}" x2="{max(width * (seen + branch.share) - 1, width * seen + 2):.1f}"'
            parts.append(f'<line {ends} y1="127" y2="127" class="rule"/>')
            seen += branch.share
        share = width * branch.weight / total
        parts.append(
            f'<rect x="{left:.1f}" y="56" width="{share:.1f}" height="64" class="ribbon fill-{branch.colour}"/>'
        )
        parts.append(f'<rect x="{left:.1f}" y="112" width="{share:.1f}" height="8" class="fill-{branch.colour}"/>')
        left += share
        parts.append(f'<rect x="0" y="{y - 10}" width="10" height="10" class="fill-{branch.colour}"/>')
        parts.append(f'<text x="18" y="{y}" font-size="13" font-weight="650">{escaped(branch.name)}</text>')
        for i, line in enumerate(branch.lines):
            parts.append(f'<text x="18" y="{y + 18 * (i + 1)}" font-size="12" class="soft">{escaped(line)}</text>')
        y += 18 * (len(branch.lines) + 1) + 14
    return f'<svg class="tall" viewBox="0 0 320 {y}" width="100%" role="img" aria-label="{escaped(title)}">{"".join(parts)}</svg>'


def chart(
    named: tuple[str, str],
    times: Sequence[str],
    series: Sequence[ChartLine],
    marks: Sequence[ChartMark] = (),
    *,
    labelled: bool = True,
) -> Markup:
    """Lines over time with labels at their ends, over bands from lowest to highest; gaps are gaps.

    `named` is title and unit; `times` are the labels of first, middle and last.
    Where the lines are drawn stands in `data-plot`, left edge and width, so that a pointer finds its point.
    """
    title, unit = named
    box = _Box(42, 10, CHART_WIDTH - 42 - (96 if labelled else 12), CHART_HEIGHT - 30)
    seen = (v for s in series for v in (*s.values, *s.highest) if v is not None)
    highest = nice_top(max(seen, default=0.0))
    count = max((len(line.values) for line in series), default=0)
    parts = [_axes(box, highest, times), *(_band(box, line, highest) for line in series), _marks(box, marks, count)]
    labels: list[tuple[float, ChartLine]] = []
    for line in series:
        points: list[tuple[float, float]] = []
        for run in _runs(line.values):
            points = [box.point(i / max(1, len(line.values) - 1), value / highest) for i, value in run]
            parts.append(_stretch(points, line.colour, None if line.highest else box.top + box.height))
        if points:
            labels.append((points[-1][1], line))
    if labelled:
        parts.append(_end_labels(labels, box.left + box.width + 6))
    if not labels:
        x, y = box.point(0.5, 0.56)
        words = (
            '<text x="{}" y="{}" font-size="12" class="faint" text-anchor="middle">nothing recorded in this span</text>'
        )
        parts.append(words.format(x, y))
    name, plot = escaped(f"{title}, {unit}"), f"{box.left:.0f} {box.width:.0f} {CHART_WIDTH}"
    return Markup(
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" width="100%" role="img" aria-label="{name}" '
        f'data-plot="{plot}">{"".join(parts)}</svg>'
    )


class _Box(Struct, frozen=True):
    """Where a chart's lines are drawn."""

    left: float
    top: float
    width: float
    height: float

    def point(self, along: float, up: float) -> tuple[float, float]:
        """The place of shares of the box's width and height."""
        return self.left + self.width * along, self.top + self.height * (1 - up)


def _axes(box: _Box, highest: float, times: Sequence[str]) -> str:
    parts = []
    for share in (1.0, 0.5, 0.0):
        _, y = box.point(0, share)
        parts.append(f'<line x1="{box.left}" x2="{box.left + box.width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        label = number(highest * share, 2)
        parts.append(
            f'<text x="{box.left - 6}" y="{y + 3:.1f}" font-size="10" class="faint" text-anchor="end">{label}</text>'
        )
    for i, time in enumerate(times):
        x, _ = box.point(i / max(1, len(times) - 1), 0)
        anchor = "start" if i == 0 else "end" if i == len(times) - 1 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{CHART_HEIGHT - 4}" font-size="10" class="faint" text-anchor="{anchor}">{escaped(time)}</text>'
        )
    return "".join(parts)


def _band(box: _Box, line: ChartLine, highest: float) -> str:
    """The areas between the lowest and the highest of a line, a stretch without a gap each."""
    count, parts = max(1, len(line.values) - 1), []
    for run in _runs(line.highest):
        top = [box.point(i / count, value / highest) for i, value in run]
        low = [box.point(i / count, (line.lowest[i] or 0.0) / highest) for i, _ in reversed(run)]
        outline = " L".join(f"{x:.1f} {y:.1f}" for x, y in (*top, *low))
        parts.append(f'<path d="M{outline} Z" class="band fill-{line.colour}"/>')
    return "".join(parts)


def _marks(box: _Box, marks: Sequence[ChartMark], count: int) -> str:
    """A rule for each point at which something happened, with a sign of its kind at the top."""
    parts = []
    for index in sorted({mark.index for mark in marks}):
        there = [mark for mark in marks if mark.index == index]
        kind = next((one for one in MARK_SIGNS if any(mark.kind == one for mark in there)), "started")
        x, top = box.point(index / max(1, count - 1), 1.0)
        words = escaped("; ".join(mark.words for mark in there))
        parts.append(
            f'<g class="mark {kind}"><title>{words}</title>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2:.1f}" y2="{top + box.height:.1f}"/>'
            f'<path transform="translate({x:.1f} {top - 4:.1f})" d="{MARK_SIGNS[kind]}"/></g>'
        )
    return "".join(parts)


def _stretch(points: Sequence[tuple[float, float]], colour: int, base: float | None) -> str:
    """A line without a gap, with its area down to `base` where it has no band; a single value is a dot."""
    (first, y), (last, _) = points[0], points[-1]
    if len(points) == 1:
        return f'<circle cx="{first:.1f}" cy="{y:.1f}" r="1.6" class="fill-{colour}"/>'
    path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    drawn = f'<path d="M{path}" class="line stroke-{colour}"/>'
    if base is None:
        return drawn
    return f'<path d="M{first:.1f} {base} L{path} L{last:.1f} {base} Z" class="area fill-{colour}"/>{drawn}'


def _end_labels(labels: list[tuple[float, ChartLine]], x: float) -> str:
    """Labels at the lines' ends, moved apart where they would touch."""
    parts, lowest = [], 0.0
    for wanted, line in sorted(labels, key=lambda pair: pair[0]):
        y = max(wanted + 3, lowest + 11)
        lowest = y
        parts.append(
            f'<text x="{x}" y="{y:.1f}" font-size="10" font-weight="650" class="fill-{line.colour}">{escaped(line.label[:16])}</text>'
        )
    return "".join(parts)


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The stretches of `values` without a gap, as (index, value)."""
    runs: list[list[tuple[int, float]]] = []
    current: list[tuple[int, float]] = []
    for i, value in enumerate(values):
        if value is None:
            if current:
                runs.append(current)
            current = []
        else:
            current.append((i, value))
    return [*runs, current] if current else runs


def nice_top(highest: float) -> float:
    """The top of an axis: 1, 2, 4, 5 or 10 times a power of ten, above `highest`."""
    if highest < SMALLEST_TOP:
        return 1.0
    power = 1.0
    while power * 10 <= highest:
        power *= 10
    while power > highest:
        power /= 10
    return next((step * power for step in (1, 2, 4, 5, 10) if step * power >= highest), 10 * power)


def bar(parts: Sequence[tuple[int, float]], scale: float, label: str) -> Markup:
    """A contribution bar: (colour, weighted score) of each plugin, `scale` the longest possible sum."""
    x, drawn = 0.0, []
    for colour, value in parts:
        width = max(0.0, 220 * value / scale) if scale > 0 else 0.0
        drawn.append(f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="12" class="fill-{colour}"/>')
        x += width
    return Markup(
        f'<svg viewBox="0 0 220 12" width="220" height="12" preserveAspectRatio="none" role="img" aria-label="{escaped(label)}">'
        f'<rect width="220" height="12" class="track"/>{"".join(drawn)}</svg>'
    )


def sparkline(values: Sequence[float | None], label: str, colour: int = 1) -> Markup:
    """A line without axes, for a table's cell."""
    highest = max((v for v in values if v is not None), default=0.0) or 1.0
    paths = []
    for run in _runs(values):
        points = " L".join(f"{96 * i / max(1, len(values) - 1):.1f} {22 - 20 * v / highest:.1f}" for i, v in run)
        paths.append(f'<path d="M{points}" class="line stroke-{colour}"/>')
    return Markup(
        f'<svg viewBox="0 0 96 24" width="96" height="24" role="img" aria-label="{escaped(label)}">{"".join(paths)}</svg>'
    )
