"""Keep the endpoints that have the request's LoRA adapter, or now and then those with room for it."""

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Reasons, filter
from pointsman.core.plugin.view import View

_ROOM = 2
_WORDS = (
    "it has neither the adapter nor room for it",
    "others have the adapter",
    "drawn: those with room for the adapter",
)


@filter("lora-affinity-filter", version=2, load=True, reasons=("no-adapter-no-room", "no-adapter", "exploring"))
class LoraAffinityFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keeps the endpoints where the adapter is loaded or waits, with the probability `threshold`.

    Otherwise those that do not have it but have room; where only one of the two groups has members, that one.
    """

    threshold: float = 0.999

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        model = request.target_model or request.model
        held = view.adapter_held(model)
        room = (view.adapter_fit(model) == _ROOM) & ~held
        codes = np.where(held | room, 0, 1).astype(np.int16)
        if held.any() and room.any():
            if view.draw() < self.threshold:
                codes[room] = 2
            else:
                codes[held] = 3
        return codes

    def words(self, code: int, request: RequestFacts, view: View, index: int, /) -> str:
        return _WORDS[code - 1]
