"""Choose any endpoint."""

import msgspec

from pointsman.core.plugin.shapes import Scores, picker
from pointsman.core.plugin.view import View
from pointsman.core.values.draws import drawn


@picker("random-picker", version=1, scored=False)
class RandomPicker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Draws endpoints, each equally likely; the sums do not matter."""

    max_num_of_endpoints: int = 1

    def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
        return drawn(list(range(len(sums))), count, view.draw)

    def chances(self, sums: Scores, view: View, /) -> list[float]:
        return [1 / len(sums)] * len(sums)
