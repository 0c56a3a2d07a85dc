"""A configuration made ready to schedule with."""

from collections.abc import Callable
from copy import copy
from typing import cast

import msgspec
import numpy as np

from pointsman.core.config.effective import EffectiveConfig, decode_config
from pointsman.core.config.parse import DEFAULT_CONFIG
from pointsman.core.deciding.scoring import KeptScores
from pointsman.core.events import RequestFacts
from pointsman.core.plugin.register import REGISTER
from pointsman.core.plugin.shapes import BindsFilters, Detector, Filter, Picker, Scorer
from pointsman.core.plugin.timing import PluginTime, timed
from pointsman.core.plugin.view import Cycle, View
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import NotRecordedError, PrefixRoom, RecordedTraffic
from pointsman.core.values.draws import Draws

CACHED_MAX = 64
"""Number of profiles kept ready: configurations change by hand, and replay meets a few at once."""


class Profile:
    """The plugins of the scheduling profile in their places."""

    def __init__(self, config: EffectiveConfig) -> None:
        built = {plugin.name: config.parameters(plugin.name) for plugin in config.plugins}
        filters = _bound_filters(config, built)
        placed = config.profiles[0].plugins
        self.config = config
        # Registration proves that every plugin of a kind has its methods, which the type checker cannot know.
        self.filters: tuple[tuple[str, Filter], ...] = tuple(
            (p.plugin, filters[p.plugin]) for p in placed if p.plugin in filters
        )
        self.scorers: tuple[tuple[str, Scorer, float], ...] = tuple(
            (p.plugin, cast(Scorer, built[p.plugin]), p.weight) for p in placed if "scorer" in config.kinds(p.plugin)
        )
        self.picker_name = next(p.plugin for p in placed if "picker" in config.kinds(p.plugin))
        self.picker = cast(Picker, built[self.picker_name])
        self.endpoints_max = max(1, self.picker.max_num_of_endpoints)
        self.detector = cast(Detector, built[config.saturation_detector])
        self.whole_subset = config.flags.disable_endpoint_subset_filter
        self.best_sum = sum(weight for _, _, weight in self.scorers if weight > 0)
        """Sum of a candidate that scores 1 everywhere."""
        prefix = config.prefix()
        self.room = PrefixRoom() if prefix is None else PrefixRoom(prefix.lru_capacity, prefix.auto_tune)
        """Room for prompt blocks that a server of a pool is taken to have."""
        self.kept = KeptScores()
        self.types = frozenset(_types(config, built))
        """Plugin types that a decision rests on."""

    def timed(self, clock: Callable[[], int], times: list[PluginTime]) -> "Profile":
        """The same profile, with each call of a plugin noted in `times`; `clock` tells nanoseconds."""

        def one(point: str, name: str, plugin: object) -> object:
            return timed(plugin, (point, self.config.declared(name).type, name), clock, times)

        found = copy(self)
        found.filters = tuple((name, cast(Filter, one("Filter", name, filter))) for name, filter in self.filters)
        found.scorers = tuple(
            (name, cast(Scorer, one("Scorer", name, scorer)), weight) for name, scorer, weight in self.scorers
        )
        found.picker = cast(Picker, one("Picker", self.picker_name, self.picker))
        return found


def _bound_filters(config: EffectiveConfig, built: dict[str, msgspec.Struct]) -> dict[str, Filter]:
    """Every filter by name, each made of those it refers to."""
    waiting = {name: cast(BindsFilters, plugin) for name, plugin in built.items() if "filter" in config.kinds(name)}
    bound: dict[str, Filter] = {}
    while waiting:
        ready = [name for name, plugin in waiting.items() if all(inner in bound for inner in plugin.refers_to())]
        if not ready:  # `core/config` refuses such a configuration, but a log written by another build may hold one
            raise ValueError(f"filters {', '.join(sorted(waiting))} refer to what is no filter")
        for name in ready:
            bound[name] = waiting.pop(name).bind(bound)
    return bound


def _types(config: EffectiveConfig, built: dict[str, msgspec.Struct]) -> list[str]:
    names = [placed.plugin for placed in config.profiles[0].plugins] + [config.saturation_detector]
    for name in names:  # the loop appends the names that filters refer to
        if "filter" in config.kinds(name):
            names += cast(BindsFilters, built[name]).refers_to()
    return [config.declared(name).type for name in names]


compile_profile = Profile
"""The profile of a configuration; `ValueError` or `KeyError` where this build lacks something in it."""

_cache: dict[bytes, Profile] = {}


def profile_for(config: bytes) -> Profile:
    """The profile of an encoded configuration, made once."""
    profile = _cache.get(config)
    if profile is None:
        profile = Profile(decode_config(config))
        if len(_cache) >= CACHED_MAX:
            _cache.clear()
        _cache[config] = profile
    return profile


_default = Profile(DEFAULT_CONFIG)


def profile_in_force(cluster: ClusterState, pool: str) -> Profile:
    """The profile that the cluster state says is in force for `pool`, or the default one."""
    accepted = cluster.config(pool)
    return _default if accepted is None else profile_for(accepted.config)


def pool_saturation(cluster: ClusterState, pool: str) -> float | None:
    """The saturation that a request to `pool` would find; None where no load is known, or it takes more than that."""
    view, request = _known(cluster, pool)
    return _saturation(profile_in_force(cluster, pool).detector, view, request) if view.size else None


def endpoint_saturations(cluster: ClusterState, pool: str) -> dict[int, float]:
    """The saturation of each ready endpoint taken alone, by slot, as far as its load is known."""
    view, request = _known(cluster, pool)
    detector, places = profile_in_force(cluster, pool).detector, np.arange(view.size)
    found = {
        int(slot): _saturation(detector, view.narrowed(places == index), request)
        for index, slot in enumerate(view.slots)
    }
    return {slot: value for slot, value in found.items() if value is not None}


def _known(cluster: ClusterState, pool: str) -> tuple[View, RequestFacts]:
    """The ready endpoints of a pool whose load is known, and a request that finds them."""
    slots, request = cluster.ready(pool), RequestFacts("", pool)
    cycle = Cycle(cluster, RecordedTraffic((), slots[:0], False), request, Draws("", 0, 0), slots)
    return View(cycle, slots, None).only_known(), request


def _saturation(detector: Detector, view: View, request: RequestFacts) -> float | None:
    try:
        return detector.saturation(request, view)
    except (KeyError, ValueError, NotRecordedError):
        return None


PLUGIN_VERSIONS: dict[str, int] = {type: known.version for type, known in sorted(REGISTER.items())}
"""Version of each plugin type.  An epoch records them, so that an old decision is known to be made by other formulas."""
