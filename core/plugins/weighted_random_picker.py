"""Choose an endpoint with a probability in proportion to its sum."""

from bisect import bisect_right
from itertools import accumulate

import msgspec

from pointsman.core.plugin.shapes import Scores, picker
from pointsman.core.plugin.view import View
from pointsman.core.values.draws import drawn


@picker("weighted-random-picker", version=1)
class WeightedRandomPicker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Draws endpoints without replacement over cumulative sums.

    A sum of 0 or less has no chance while a higher one is left; then each of those is equally likely.
    """

    max_num_of_endpoints: int = 1

    def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
        values = sums.tolist()
        left = [index for index, value in enumerate(values) if value > 0.0]
        chosen: list[int] = []
        while left and len(chosen) < count:
            cumulative = list(accumulate(values[index] for index in left))
            at = bisect_right(cumulative, view.draw() * cumulative[-1])
            chosen.append(left.pop(min(at, len(left) - 1)))  # the product may round up to the whole
        rest = [index for index, value in enumerate(values) if not value > 0.0]
        return chosen + drawn(rest, count - len(chosen), view.draw)

    def chances(self, sums: Scores, view: View, /) -> list[float]:
        values = [max(0.0, value) for value in sums.tolist()]
        whole = list(accumulate(values))[-1]
        return [value / whole for value in values] if whole > 0.0 else [1 / len(values)] * len(values)
