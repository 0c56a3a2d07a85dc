"""Sets of lanes as the bits of one number, and counting in how many of them each lane is."""

from typing import Final

_SETS_MAX: Final = 8
"""Sets that are counted one by one: beyond, their sum is made bit by bit."""
_RUNS: Final = 8


def runs_of(sets: list[int]) -> list[tuple[int, int, int]]:
    """Each run of equal sets, with where it starts and where it ends."""
    runs: list[tuple[int, int, int]] = []
    start = 0
    while start < len(sets):
        lanes = sets[start]
        # Sooner than looking at each where there are few runs and none comes again, which is the rule:
        # who holds a block holds those before it.
        end = start + sets.count(lanes) if len(runs) < _RUNS else start
        if end == start or sets[start:end].count(lanes) < end - start:
            end = start + 1
            while end < len(sets) and sets[end] == lanes:
                end += 1
        runs.append((lanes, start, end))
        start = end
    return runs


def counted(sets: list[int], alive: int) -> dict[int, int]:
    """Of the sets before the first that holds no lane of `alive`: sets with a weight each.

    A lane is in as many of `sets` as the weights of those it is in add up to.
    """
    weights: dict[int, int] = {}
    if sets and sets.count(sets[0]) == len(sets):
        return {lanes: len(sets)} if (lanes := sets[0] & alive) else weights
    for mask, start, end in runs_of(sets):
        lanes = mask & alive
        if not lanes:
            break
        weights[lanes] = weights.get(lanes, 0) + end - start
    return weights if len(weights) <= _SETS_MAX else _planes(weights)


def numbers_of(lanes: int) -> list[int]:
    """The bits that are set."""
    found = []
    while lanes:
        low = lanes & -lanes
        found.append(low.bit_length() - 1)
        lanes ^= low
    return found


def _planes(weights: dict[int, int]) -> dict[int, int]:
    """The same counts as few sets: one for each bit of them."""
    planes: dict[int, int] = {}
    for lanes, weight in weights.items():
        for power in range(weight.bit_length()):
            if weight >> power & 1:
                _add(planes, lanes, power)
    sets: dict[int, int] = {}
    for power, plane in planes.items():
        sets[plane] = sets.get(plane, 0) + (1 << power)
    return sets


def _add(planes: dict[int, int], carry: int, power: int) -> None:
    """Add `carry << power` to the counts that the planes are."""
    while carry:
        plane = planes.get(power, 0)
        planes[power] = plane ^ carry
        carry &= plane
        power += 1
