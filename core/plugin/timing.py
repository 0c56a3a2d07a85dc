"""How long plugins take: a plugin that notes the time of each of its calls, for one decision now and then.

It does what the plugin does that it stands for.  The time comes from the caller.
"""

from collections.abc import Callable
from typing import Final, cast

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Filter, Picker, Reasons, Scorer, Scores
from pointsman.core.plugin.view import View

TIMED_EVERY: Final = 32
"""Entries of a picker among which one decision is timed: that costs it some 5 µs, and each request a sixth of one."""

PluginTime = tuple[str, str, str, int]
"""Extension point, plugin type, plugin name, and nanoseconds of one call."""


class _Timed:
    """A plugin that notes the time of its calls; whatever else is asked of it is the plugin's."""

    def __init__(self, plugin: object, note: Callable[[], Callable[[], None]]) -> None:
        self._plugin = plugin
        self._note = note

    def __getattr__(self, name: str) -> object:
        return getattr(self._plugin, name)

    def reject(self, request: RequestFacts, view: View, /) -> Reasons:
        """As the filter does."""
        done = self._note()
        found = cast(Filter, self._plugin).reject(request, view)
        done()
        return found

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        """As the scorer does."""
        done = self._note()
        found = cast(Scorer, self._plugin).score(request, view)
        done()
        return found

    def pick(self, sums: Scores, view: View, count: int, /) -> list[int]:
        """As the picker does."""
        done = self._note()
        found = cast(Picker, self._plugin).pick(sums, view, count)
        done()
        return found


def timed(plugin: object, where: tuple[str, str, str], clock: Callable[[], int], times: list[PluginTime]) -> object:
    """The plugin, with each of its calls noted in `times`; `clock` tells nanoseconds."""

    def note() -> Callable[[], None]:
        begun = clock()
        return lambda: times.append((*where, clock() - begun))

    return _Timed(plugin, note)
