"""Prefer endpoints that work on fewer requests."""

from typing import ClassVar

import msgspec

from pointsman.core.events import RequestFacts
from pointsman.core.plugin import Scores, plugin, spread
from pointsman.core.view import View


@plugin("running-requests-size-scorer", version=1)
class RunningRequestsSizeScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores 1 for the fewest running requests and 0 for the most, 1 for each where all are equal."""

    load: ClassVar[bool] = True
    standing: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    advantage: ClassVar[str] = "smaller number of running requests"

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        return spread(view.running)

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return f"it had {view.running[index]} requests running"
