"""Prefer endpoints that run the request's LoRA adapter, then those with room for it."""

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Scores, scorer
from pointsman.core.plugin.view import View

_BY_FIT = np.array([0.0, 0.6, 0.8, 1.0])
_WORDS = (
    "it had no room for the adapter",
    "the adapter waited there",
    "it had room for the adapter",
    "it had the adapter loaded",
)


@scorer("lora-affinity-scorer", version=2, load=True, bounded=True, advantage="better fit for the adapter")
class LoraAffinityScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores 1 where the adapter is loaded, 0.8 where there is room for it, 0.6 where it waits, else 0."""

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        return _BY_FIT[view.adapter_fit(request.target_model or request.model)]

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        return _WORDS[int(view.adapter_fit(request.target_model or request.model)[index])]
