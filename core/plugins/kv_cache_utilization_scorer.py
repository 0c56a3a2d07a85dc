"""Prefer endpoints with more of their KV cache free."""

from typing import ClassVar

import msgspec

from pointsman.core.events import RequestFacts
from pointsman.core.plugin import Scores, plugin
from pointsman.core.view import View


@plugin("kv-cache-utilization-scorer", version=1)
@plugin("kv-cache-scorer", version=1)
class KvCacheUtilizationScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores the free share of the KV cache; `kv-cache-scorer` is its name in GIE v0.5."""

    load: ClassVar[bool] = True
    standing: ClassVar[bool] = True
    bounded: ClassVar[bool] = False
    advantage: ClassVar[str] = "freer KV cache"

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        scores: Scores = 1.0 - view.kv_cache
        return scores

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return f"its KV cache was {100 * view.kv_cache[index]:.0f} % used"
