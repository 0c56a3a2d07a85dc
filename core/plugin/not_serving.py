"""The rule about candidates that cannot serve at the moment: they sleep, or fail all that they are given.

Where every candidate is such a one, all stay: a server that was taken for one may be well again.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons
from pointsman.core.plugin.view import View

RULE = "serving"
"""Name of the rule in a decision's rejections, where filters have theirs."""


class NotServing:
    """Rejects as a filter does, before the filters of the profile."""

    load: ClassVar[bool] = False
    reasons: Sequence[str] = ("asleep", "failing")

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        """A code for each candidate, 0 for those that stay."""
        codes = np.zeros(view.size, dtype=np.int16)
        failing = view.failing
        if failing is not None:
            codes[failing > 0] = 2
        codes[view.asleep] = 1
        return np.zeros_like(codes) if codes.all() else codes

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        """The reason in words: what was found."""
        return "it sleeps, others are awake" if code == 1 else "its last answers were errors, those of others were not"


NOT_SERVING = NotServing()
