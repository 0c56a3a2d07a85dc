"""The rule about candidates whose load nobody knows: they are neither idle nor full.

Rules.  While the load of some is known, those that gave no sample for too long, or never one, are left out.
One that is alive and only has no page that can be read stays, and gets no more than its share: it is left out while
it has more requests in flight than the others have on average.
Where nothing is known of anybody, all stay.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons
from pointsman.core.plugin.view import View

RULE = "sample"
"""Name of the rule in a decision's rejections, where filters have theirs."""

_STALE, _NEVER, _BUSIER = 1, 2, 3


class KnownLoad:
    """Rejects as a filter does, before the filters of the profile."""

    load: ClassVar[bool] = True
    reasons: Sequence[str] = ("stale", "never-sampled", "unreadable-and-busier")

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        """A code for each candidate, 0 for those that stay."""
        codes = np.zeros(view.size, dtype=np.int16)
        unknown = view.unknown
        if unknown is None or unknown.all():
            return codes
        alive = unknown & view.unreadable
        codes[unknown & ~alive] = _STALE
        codes[unknown & ~alive & np.isinf(view.age)] = _NEVER
        if alive.any():
            known = ~unknown
            in_flight = view.in_flight
            codes[alive & (in_flight * np.count_nonzero(known) > in_flight[known].sum())] = _BUSIER
        return codes

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        """The reason in words: what was found and what was wanted."""
        if code == _NEVER:
            return "never sampled, others were"
        if code == _STALE:
            return f"its sample is {view.age[index]:.3g} s old, others have newer ones"
        return f"its page cannot be read, and {view.in_flight[index]} requests in flight are more than others have"


KNOWN_LOAD = KnownLoad()


def words_of_unknown(view: View, index: int) -> str | None:
    """What a score about load rests on where that of the candidate is not known; None where it is."""
    unknown = view.unknown
    if unknown is None or not unknown[index]:
        return None
    age = view.age[index]
    found = "it was never sampled" if np.isinf(age) else f"its sample is {age:.3g} s old"
    return f"{found}, so it counted as {'all others' if unknown.all() else 'the worst of the others'} did"
