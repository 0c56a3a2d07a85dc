"""Prefer endpoints with more of their KV cache free."""

import msgspec

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Scores, scorer
from pointsman.core.plugin.view import View


@scorer(
    "kv-cache-utilization-scorer",
    "kv-cache-scorer",
    version=1,
    load=True,
    standing=True,
    advantage="freer KV cache",
)
class KvCacheUtilizationScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores the free share of the KV cache; `kv-cache-scorer` is its name in GIE v0.5."""

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        scores: Scores = 1.0 - view.kv_cache
        return scores

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return f"its KV cache was {100 * view.kv_cache[index]:.0f} % used"
