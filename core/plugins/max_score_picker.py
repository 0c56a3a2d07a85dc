"""Choose the endpoint with the highest sum."""

import msgspec
import numpy as np

from pointsman.core.plugin.formulas import FEW
from pointsman.core.plugin.shapes import Scores, picker
from pointsman.core.plugin.view import View
from pointsman.core.values.draws import drawn


@picker("max-score-picker", version=1)
class MaxScorePicker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Orders by sum, highest first; among equal sums each order is equally likely."""

    max_num_of_endpoints: int = 1

    def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
        if count == 1 and len(sums) <= FEW:
            values = sums.tolist()
            highest = max(values)
            if values.count(highest) == 1:
                return [values.index(highest)]
        chosen: list[int] = []
        while True:
            top = int(sums.argmax())
            tied = sums == sums[top]
            if np.count_nonzero(tied) == 1:
                chosen.append(top)
            else:
                chosen += drawn(tied.nonzero()[0].tolist(), count - len(chosen), view.draw)
            if len(chosen) >= min(count, len(sums)):
                return chosen
            sums = np.where(tied, -np.inf, sums)

    def chances(self, sums: Scores, view: View, /) -> list[float]:
        tied = sums == sums.max()
        return [1 / int(np.count_nonzero(tied)) if top else 0.0 for top in tied.tolist()]
