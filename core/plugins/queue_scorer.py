"""Prefer endpoints with fewer waiting requests."""

from typing import ClassVar

import msgspec

from pointsman.core.events import RequestFacts
from pointsman.core.plugin import Scores, plugin, spread
from pointsman.core.view import View


@plugin("queue-scorer", version=1)
class QueueScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores 1 for the shortest queue and 0 for the longest, 1 for each where all are equal."""

    load: ClassVar[bool] = True
    standing: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    advantage: ClassVar[str] = "shorter queue"

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        return spread(view.waiting)

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return f"it had {view.waiting[index]} requests waiting"
