"""Reject endpoints whose queue is long."""

from typing import ClassVar

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin import Reasons, plugin
from pointsman.core.view import View


@plugin("low-queue-filter", version=1)
class LowQueueFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keeps an endpoint with at most `threshold` requests waiting."""

    load: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("long-queue",)

    threshold: int = 128

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        return (view.waiting > self.threshold).astype(np.int16)

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        return f"{view.waiting[index]} waiting, wanted at most {self.threshold}"
