"""Keep the part of the endpoints with the least used KV caches."""

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons, filter
from pointsman.core.plugin.view import View


@filter("least-kv-cache-filter", version=1, load=True, reasons=("fuller-kv-cache",))
class LeastKvCacheFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keeps the first nth of the range of KV cache use, n being the number of candidates."""

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        return (view.kv_cache > _limit(view)).astype(np.int16)

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        return f"KV cache {100 * view.kv_cache[index]:.1f} % used, the emptiest had at most {100 * _limit(view):.1f} %"


def _limit(view: View) -> float:
    lowest, highest = float(view.kv_cache.min()), float(view.kv_cache.max())
    return lowest + (highest - lowest) / view.size
