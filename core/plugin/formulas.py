"""Help with formulas.

Rules for formulas: only + - * / and comparison, minimum and maximum, in a fixed order; a mean goes through
`math.fsum`.  So a decision is the same on every machine.
"""

import numpy as np

from pointsman.core.plugin.view import Floats
from pointsman.core.values.packing import Ints

FEW = 48
"""Number of candidates up to which plain numbers are sooner done than arrays; the result is the same."""


def spread(values: Ints) -> Floats:
    """1 for the lowest value, 0 for the highest, linear between; all equal is no preference, hence 1 for each."""
    if len(values) <= FEW:
        listed = values.tolist()
        lowest, highest = min(listed), max(listed)
    else:
        lowest, highest = int(values.min()), int(values.max())
    if lowest == highest:
        return np.ones(len(values))
    scores: Floats = (highest - values) / (highest - lowest)
    return scores
