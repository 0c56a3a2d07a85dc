"""Saturation by queue lengths and KV cache use."""

import math

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons, filtering_detector
from pointsman.core.plugin.view import View
from pointsman.core.values.quantities import Duration

_STALE, _LONG_QUEUE, _FULL_KV_CACHE = 1, 2, 3


@filtering_detector("utilization-detector", version=1, load=True, reasons=("stale", "long-queue", "full-kv-cache"))
class UtilizationDetector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Saturation is the mean of each endpoint's max(queue / threshold, KV use / threshold).

    A sample that is missing or too old counts as 1.  As a filter it keeps endpoints below both thresholds,
    raised by `headroom`, whose sample is fresh; where that is nobody, all.
    """

    queue_depth_threshold: int = 5
    kv_cache_util_threshold: float = 0.8
    metrics_staleness_threshold: Duration = Duration(0.2)
    headroom: float = 0.0

    def __post_init__(self) -> None:
        if self.queue_depth_threshold <= 0:
            raise ValueError(f"queueDepthThreshold is {self.queue_depth_threshold}, wanted above 0")
        if not 0.0 < self.kv_cache_util_threshold <= 1.0:
            raise ValueError(f"kvCacheUtilThreshold is {self.kv_cache_util_threshold}, wanted above 0, at most 1")
        if self.metrics_staleness_threshold <= 0.0:
            raise ValueError(f"metricsStalenessThreshold is {self.metrics_staleness_threshold:g} s, wanted above 0")
        if not 0.0 <= self.headroom < math.inf:
            raise ValueError(f"headroom is {self.headroom}, wanted 0 or above")

    def saturation(self, request: RequestFacts, view: View, /) -> float:
        """Used over available capacity: saturated from 1.0."""
        used = np.fmax(view.waiting / self.queue_depth_threshold, view.kv_cache / self.kv_cache_util_threshold)
        return math.fsum(np.where(view.age > self._oldest(view), 1.0, used).tolist()) / view.size

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        long_queue = view.waiting >= self.queue_depth_threshold * (1.0 + self.headroom)
        full = view.kv_cache >= self.kv_cache_util_threshold * (1.0 + self.headroom)
        codes = np.where(full, _FULL_KV_CACHE, 0)
        codes = np.where(long_queue, _LONG_QUEUE, codes)
        codes = np.where(view.age > self._oldest(view), _STALE, codes).astype(np.int16)
        return codes if not codes.all() else np.zeros_like(codes)

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        more = 1.0 + self.headroom
        if code == _STALE:
            age = view.age[index]
            found = f"its sample is {age:.3g} s old" if age < math.inf else "never sampled"
            return f"{found}, wanted at most {self._oldest(view):.3g} s"
        if code == _LONG_QUEUE:
            return f"{view.waiting[index]} waiting, wanted below {self.queue_depth_threshold * more:g}"
        wanted = 100 * self.kv_cache_util_threshold * more
        return f"KV cache {100 * view.kv_cache[index]:.1f} % used, wanted below {wanted:.1f} %"

    def _oldest(self, view: View) -> float:
        return max(self.metrics_staleness_threshold, view.staleness_threshold)
