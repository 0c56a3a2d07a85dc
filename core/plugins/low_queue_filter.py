"""Reject endpoints whose queue is long."""

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons, filter
from pointsman.core.plugin.view import View


@filter("low-queue-filter", version=1, load=True, reasons=("long-queue",))
class LowQueueFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keeps an endpoint with at most `threshold` requests waiting."""

    threshold: int = 128

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        return (view.waiting > self.threshold).astype(np.int16)

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        return f"{view.waiting[index]} waiting, wanted at most {self.threshold}"
