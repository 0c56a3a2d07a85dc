"""The LoRA adapters of all servers, by slot, and how well each server fits a request for one."""

import numpy as np
import numpy.typing as npt

from pointsman.core.state.membership import Adapters

MODELS_KEPT = 1024
"""Models whose answers are kept: their names come from clients."""

_NONE = Adapters()


class AdapterTable:
    """Adapters by slot; the answers about a model are good until one of them changes."""

    def __init__(self) -> None:
        self._rows: list[Adapters] = []
        self._fits: dict[str, npt.NDArray[np.int8]] = {}
        self._held: dict[str, npt.NDArray[np.bool_]] = {}

    def __getitem__(self, slot: int) -> Adapters:
        return self._rows[slot]

    def __setitem__(self, slot: int, adapters: Adapters) -> None:
        self._rows[slot] = adapters
        self._changed()

    def widen(self, slots: int) -> None:
        """Have rows for so many slots; new ones are empty."""
        self._rows += [_NONE] * (slots - len(self._rows))
        self._changed()

    def _changed(self) -> None:
        self._fits.clear()
        self._held.clear()

    def fit(self, model: str) -> npt.NDArray[np.int8]:
        """Return a code for each slot: 3 the adapter is loaded, 2 there is room for it, 1 it waits, 0 none of these.

        The order of the tests is lora-affinity-scorer's: a waiting adapter on a server with room is 2.
        """
        known = self._fits.get(model)
        if known is None:
            codes = [
                3
                if model in a.running or model in a.recent
                else 2
                if len(a.running) + len(a.waiting) < a.max
                else 1
                if model in a.waiting
                else 0
                for a in self._rows
            ]
            if len(self._fits) >= MODELS_KEPT:
                self._fits.clear()
            known = self._fits[model] = np.array(codes, dtype=np.int8)
        return known

    def held(self, model: str) -> npt.NDArray[np.bool_]:
        """Return for each slot whether the adapter is loaded or waits there."""
        known = self._held.get(model)
        if known is None:
            held = [model in a.running or model in a.recent or model in a.waiting for a in self._rows]
            if len(self._held) >= MODELS_KEPT:
                self._held.clear()
            known = self._held[model] = np.array(held, dtype=np.bool_)
        return known
