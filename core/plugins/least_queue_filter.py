"""Keep the part of the endpoints with the shortest queues."""

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons, filter
from pointsman.core.plugin.view import View


@filter("least-queue-filter", version=1, load=True, reasons=("longer-queue",))
class LeastQueueFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keeps the first nth of the range of queue lengths, n being the number of candidates, rounded down."""

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        return (view.waiting > _limit(view)).astype(np.int16)

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        return f"{view.waiting[index]} waiting, the shortest queues had at most {_limit(view)}"


def _limit(view: View) -> int:
    lowest, highest = int(view.waiting.min()), int(view.waiting.max())
    return lowest + (highest - lowest) // view.size
