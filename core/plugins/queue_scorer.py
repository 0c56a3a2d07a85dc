"""Prefer endpoints with fewer waiting requests."""

import msgspec

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.formulas import spread
from pointsman.core.plugin.shapes import Scores, scorer
from pointsman.core.plugin.view import View
from pointsman.core.values.plural import plural


@scorer("queue-scorer", version=1, load=True, standing=True, bounded=True, advantage="shorter queue")
class QueueScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores 1 for the shortest queue and 0 for the longest, 1 for each where all are equal."""

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        return spread(view.waiting)

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return f"it had {plural(int(view.waiting[index]), 'request')} waiting"
