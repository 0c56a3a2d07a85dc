"""The rule about requests that go on from a response, or ask for one: they go where it is kept.

Rules.  It comes after the filters that hold whatever happens, and in place of those that judge load: no other server
could answer.  Where none of the candidates is known to keep the response, all stay.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons
from pointsman.core.plugin.view import View

RULE = "response"
"""Name of the rule in a decision's rejections, where filters have theirs."""


class KeptResponse:
    """Rejects as a filter does."""

    load: ClassVar[bool] = False
    reasons: Sequence[str] = ("kept-elsewhere",)

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        """A code for each candidate, 0 for those that stay."""
        keeps = view.keeps_response > 0
        return (keeps.any() & ~keeps).astype(np.int16)

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        """The reason in words: what was found."""
        return f"the response {request.continues} is kept by another"


KEPT_RESPONSE = KeptResponse()
