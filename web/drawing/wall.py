"""The ribbon of the overview: routes, the pools that they divide their requests between, and endpoints by load.

One picture for wide windows; for narrow ones the template has a list of the same.  Endpoints are links, so they are
reached by keyboard, and each says its name and load where the pointer or the focus is.
"""

from collections.abc import Sequence

from markupsafe import Markup
from msgspec import Struct

from pointsman.web.drawing.svg import escaped, number, ribbon

WIDTH = 1060
ROUTE, JOIN, END, TEXT, CELLS = 16, 176, 416, 446, 716
"""Places along the picture: route blocks, where ribbons begin and end, words of pools, endpoints."""
TRUNK, GAP, TOP = 64.0, 20.0, 52.0
"""Height of a rule's whole weight, space between blocks, and where the first begins."""
ROOMY = 12
"""Endpoints of a pool up to which each has its percentage beside its bar; more are narrow."""
CELLS_MAX = 96
"""Endpoints of a pool that are drawn, the fullest first."""


class WallCell(Struct, frozen=True):
    """An endpoint, as a bar of how full it is."""

    id: str
    """Id in the page, by which the focus finds it again after the page refreshed itself."""
    name: str
    href: str
    saturation: float | None
    """Share of what its server takes by the detector in force; None where that is not known."""
    state: str
    """Colour of its state: `good`, `warn` or `bad`; empty where nothing is claimed."""
    words: str


class WallPool(Struct, frozen=True):
    """A pool, or a backend that is none."""

    key: str
    name: str
    href: str
    colour: int
    state: str
    lines: tuple[str, ...]
    """Words under its name; the first is that of its state."""
    cells: tuple[WallCell, ...]
    """Endpoints, the fullest first where not all are drawn."""
    more: int = 0
    """Endpoints that are not drawn."""


class WallBranch(Struct, frozen=True):
    """What a rule sends to a pool."""

    pool: str
    weight: int
    share: float | None
    """Observed share; None where nothing was observed."""


class WallRule(Struct, frozen=True):
    """A rule of a route."""

    name: str
    href: str
    words: str
    branches: tuple[WallBranch, ...]


def wall(title: str, rules: Sequence[WallRule], pools: Sequence[WallPool]) -> Markup:
    """The picture."""
    places, at = {}, TOP
    for pool in pools:
        incoming = sum(
            _thickness(rule, branch) for rule in rules for branch in rule.branches if branch.pool == pool.key
        )
        height = max(22.0 + 17 * len(pool.lines), incoming, _cells_height(pool))
        places[pool.key] = (at, height, at + (height - incoming) / 2)
        at += height + GAP
    need = len(rules) * (TRUNK + GAP) - GAP
    height = max(at, TOP + need + GAP)
    parts = [
        f'<text x="{x}" y="24" font-size="12" class="soft">{words}</text>'
        for x, words in ((ROUTE, "routes"), (TEXT, "pools"), (CELLS, "endpoints, by how full they are"))
    ]
    top = TOP + max(0.0, (at - TOP - GAP - need) / 2)
    ends = {key: start for key, (_, _, start) in places.items()}
    for rule in rules:
        parts.append(_rule(rule, top))
        edge = top
        for branch in rule.branches:
            if branch.pool not in ends:
                continue
            colour = next(pool.colour for pool in pools if pool.key == branch.pool)
            width = _thickness(rule, branch)
            parts.append(ribbon(edge, width, ends[branch.pool], (JOIN, END), colour))
            parts.append(_observed(branch, ends[branch.pool] + width / 2))
            edge += width
            ends[branch.pool] += width
        top += TRUNK + GAP
    parts += [_pool(pool, *places[pool.key][:2]) for pool in pools]
    return Markup(
        f'<svg class="wide wall" viewBox="0 0 {WIDTH} {height:.0f}" width="100%" role="group" '
        f'aria-label="{escaped(title)}">{"".join(parts)}</svg>'
    )


def cell_bar(cell: WallCell) -> Markup:
    """An endpoint's bar alone, for a list."""
    return Markup(
        f'<svg viewBox="0 0 84 12" width="84" height="12" aria-hidden="true">{_bar(cell, 0, 0, (84, 12))}</svg>'
    )


def _thickness(rule: WallRule, branch: WallBranch) -> float:
    return TRUNK * branch.weight / (sum(one.weight for one in rule.branches) or 1)


def _observed(branch: WallBranch, centre: float) -> str:
    """The rule at a ribbon's end, as long as the observed share."""
    if not branch.share:
        return ""
    half = TRUNK * branch.share / 2
    return f'<line x1="{END + 20}" x2="{END + 20}" y1="{centre - half:.1f}" y2="{centre + half:.1f}" class="rule"/>'


def _rule(rule: WallRule, top: float) -> str:
    name = _shortened(rule.name, 22)
    return (
        f'<a href="{escaped(rule.href)}"><title>{escaped(rule.name)}: {escaped(rule.words)}</title>'
        f'<rect x="{ROUTE}" y="{top:.1f}" width="{JOIN - ROUTE}" height="{TRUNK:.0f}" class="trunk"/>'
        f'<text x="{ROUTE + 10}" y="{top + 26:.1f}" font-size="13" font-weight="650">{name}</text>'
        f'<text x="{ROUTE + 10}" y="{top + 46:.1f}" font-size="12" class="soft">{escaped(rule.words)}</text></a>'
    )


def _shortened(text: str, most: int) -> str:
    return str(escaped(text if len(text) <= most else f"{text[: most - 1]}…"))


def _pool(pool: WallPool, top: float, height: float) -> str:
    y = top + (height - 22 - 17 * len(pool.lines)) / 2 + 15
    name = f'<text x="{TEXT}" y="{y:.1f}" font-size="13" font-weight="650">{_shortened(pool.name, 34)}</text>'
    told = escaped("; ".join(pool.lines))
    if pool.href:
        name = f'<a href="{escaped(pool.href)}"><title>{escaped(pool.name)}: {told}</title>{name}</a>'
    parts = [name]
    for index, line in enumerate(pool.lines):
        style = (
            f'class="state {pool.state}" font-weight="650"' if not index and pool.state != "good" else 'class="soft"'
        )
        parts.append(
            f'<text x="{TEXT}" y="{y + 17 * (index + 1):.1f}" font-size="12" {style}>{_shortened(line, 42)}</text>'
        )
    parts += [_cell(pool, index, top + (height - _cells_height(pool)) / 2) for index in range(len(pool.cells))]
    if pool.more:
        low = top + (height + _cells_height(pool)) / 2 - 4
        parts.append(f'<text x="{CELLS}" y="{low:.1f}" font-size="11" class="soft">and {pool.more:,} less full</text>')
    return "".join(parts)


def _grid(pool: WallPool) -> tuple[int, int, int]:
    """Columns of endpoints, and the width and height that each takes."""
    return (2, 168, 22) if len(pool.cells) <= ROOMY else (12, 28, 20)


def _cells_height(pool: WallPool) -> float:
    columns, _, height = _grid(pool)
    return -(-len(pool.cells) // columns) * height + (16.0 if pool.more else 0.0)


def _cell(pool: WallPool, index: int, top: float) -> str:
    """One endpoint: a link with its bar; its words stand at the top of the column while it is looked at."""
    cell, (columns, width, height) = pool.cells[index], _grid(pool)
    roomy = columns == 2
    x, y = CELLS + width * (index % columns), top + height * (index // columns) + 4
    size = (104, 12) if roomy else (24, 14)
    beside = ""
    if roomy:
        beside = f'<text x="{x + 110}" y="{y + 10:.1f}" font-size="11" class="state {cell.state}">{_brief(cell)}</text>'
    words = escaped(f"{cell.name}: {cell.words}")
    return (
        f'<a href="{escaped(cell.href)}" id="{cell.id}" class="cell"><title>{words}</title>'
        f'<rect x="{x - 2}" y="{y - 3:.1f}" width="{width - 4}" height="{height - 3}" class="ground"/>'
        f'{_bar(cell, x, y, size)}{beside}<text x="{CELLS}" y="42" font-size="11" class="told">{words}</text></a>'
    )


def _brief(cell: WallCell) -> str:
    return str(escaped(cell.words)) if cell.saturation is None else f"{number(100 * cell.saturation, 0)} %"


def _bar(cell: WallCell, x: float, y: float, size: tuple[int, int]) -> str:
    """How full it is: filled from the left, with a notch where it is warned of, crossed out where nothing is known."""
    width, height = size
    track = f'<rect x="{x}" y="{y:.1f}" width="{width}" height="{height}" class="track"/>'
    if cell.saturation is None:
        cross = f'<path d="M{x} {y + height:.1f} L{x + width} {y:.1f}" class="unknown"/>'
        return track + cross
    full = width * min(1.0, max(0.0, cell.saturation))
    kind = cell.state if cell.state in ("warn", "bad") else "good"
    drawn = f'{track}<rect x="{x}" y="{y:.1f}" width="{full:.1f}" height="{height}" class="load {kind}"/>'
    if kind != "good":  # stripes beside the colour
        lines = " ".join(f"M{x + at} {y + height:.1f} l4 -{height}" for at in range(2, int(full) - 4, 6))
        drawn += f'<path d="{lines}" class="stripes"/>' if lines else ""
    return drawn
