"""Sets of lanes as the bits of whole numbers, and adding up how long the blocks are whose sets each lane is in.

The sets are those of a prompt's leading blocks, in order.  Whoever holds a block holds those before it, so the sets only
shrink from block to block, and most of them are equal to their neighbour: they are counted by runs.
"""

from typing import Final

from pointsman.core.prefix.prompt_blocks import BLOCK_DEPTHS

_SETS_MAX: Final = 8
"""Different sets up to which each stands for itself in the result; more are added up bit by bit into fewer."""
_RUNS: Final = 8
"""Runs up to which the length of the next one is guessed with `count`, which is quicker while guesses are right."""


def runs_of(sets: list[int]) -> list[tuple[int, int, int]]:
    """Runs of equal sets, each as (set, start, end)."""
    runs: list[tuple[int, int, int]] = []
    start = 0
    while start < len(sets):
        lanes = sets[start]
        # A set that ends seldom comes again, so all of its occurrences are one run, and `count` gives its length
        # without a look at each.  Where the guess is wrong, the run is walked.
        end = start + sets.count(lanes) if len(runs) < _RUNS else start
        if end == start or sets[start:end].count(lanes) < end - start:
            end = start + 1
            while end < len(sets) and sets[end] == lanes:
                end += 1
        runs.append((lanes, start, end))
        start = end
    return runs


def counted(sets: list[int], alive: int) -> dict[int, int]:
    """Add up the lengths of a prompt's blocks before the first that no lane of `alive` holds, by set of holders.

    `sets` are the holders of the prompt's first blocks, `BLOCK_DEPTHS` at most.  The weights of the returned sets that
    hold a lane add up to the length of the blocks that it holds.
    """
    weights: dict[int, int] = {}
    if sets and sets.count(sets[0]) == len(sets):
        return {lanes: BLOCK_DEPTHS[len(sets)]} if (lanes := sets[0] & alive) else weights
    for mask, start, end in runs_of(sets):
        lanes = mask & alive
        if not lanes:
            break
        weights[lanes] = weights.get(lanes, 0) + BLOCK_DEPTHS[end] - BLOCK_DEPTHS[start]
    return weights if len(weights) <= _SETS_MAX else _planes(weights)


def numbers_of(lanes: int) -> list[int]:
    """The lanes of a set, in rising order."""
    found = []
    while lanes:
        low = lanes & -lanes
        found.append(low.bit_length() - 1)
        lanes ^= low
    return found


def _planes(weights: dict[int, int]) -> dict[int, int]:
    """The same counts with fewer sets: one for each binary digit of the counts."""
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
    """Add 2 ** power to the count of each lane in `carry`; `planes[p]` holds the lanes whose count has the digit p."""
    while carry:
        plane = planes.get(power, 0)
        planes[power] = plane ^ carry
        carry &= plane
        power += 1
