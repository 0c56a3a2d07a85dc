"""A configuration made ready to schedule with."""

from typing import cast

import msgspec

from pointsman.core.config.effective import EffectiveConfig, decode_config
from pointsman.core.config.parse import DEFAULT_CONFIG
from pointsman.core.deciding.scoring import KeptScores
from pointsman.core.plugin import REGISTER, Detector, Filter, Picker, Scorer
from pointsman.core.plugins.decision_tree_filter import DecisionTreeFilter
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import PrefixRoom

CACHED_MAX = 64
"""Profiles kept ready: configurations change by hand, and replay meets a few at once."""


class Profile:
    """The plugins of the scheduling profile in their places."""

    def __init__(self, config: EffectiveConfig) -> None:
        built = {plugin.name: config.parameters(plugin.name) for plugin in config.plugins}
        filters = _bound(built)
        placed = config.profiles[0].plugins
        self.config = config
        self.filters: tuple[tuple[str, Filter], ...] = tuple(
            (p.plugin, filters[p.plugin]) for p in placed if p.plugin in filters
        )
        self.scorers: tuple[tuple[str, Scorer, float], ...] = tuple(
            (p.plugin, scorer, p.weight) for p in placed if isinstance(scorer := built[p.plugin], Scorer)
        )
        self.picker_name = next(p.plugin for p in placed if isinstance(built[p.plugin], Picker))
        self.picker = cast(Picker, built[self.picker_name])  # as the line above looked for
        self.endpoints_max = max(1, self.picker.max_num_of_endpoints)
        self.detector = cast(Detector, built[config.saturation_detector])  # config.py checks it
        self.whole_subset = config.flags.disable_endpoint_subset_filter
        self.best_sum = sum(weight for _, _, weight in self.scorers if weight > 0)
        """What a candidate would have that scores 1 everywhere."""
        prefix = config.prefix()
        self.room = PrefixRoom() if prefix is None else PrefixRoom(prefix.lru_capacity, prefix.auto_tune)
        """What a server of a pool remembers of prompts."""
        self.kept = KeptScores()
        self.types = frozenset(_types(config, built))
        """The plugin types a decision rests on."""


def _bound(built: dict[str, msgspec.Struct]) -> dict[str, Filter]:
    filters: dict[str, Filter] = {name: plugin for name, plugin in built.items() if isinstance(plugin, Filter)}
    trees = {name: plugin for name, plugin in built.items() if isinstance(plugin, DecisionTreeFilter)}
    while trees:  # a tree waits for those it refers to; config.py refuses circles
        ready = [name for name, tree in trees.items() if all(inner in filters for inner in tree.refers_to())]
        if not ready:
            raise ValueError(f"decision trees {', '.join(sorted(trees))} refer to what is no filter")
        for name in ready:
            filters[name] = trees.pop(name).bind(filters)
    return filters


def _types(config: EffectiveConfig, built: dict[str, msgspec.Struct]) -> list[str]:
    names = [placed.plugin for placed in config.profiles[0].plugins] + [config.saturation_detector]
    for name in names:  # grows by what trees refer to
        if isinstance(tree := built[name], DecisionTreeFilter):
            names += tree.refers_to()
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


PLUGIN_VERSIONS: dict[str, int] = {type: known.version for type, known in sorted(REGISTER.items())}
"""What an epoch records, so that an old decision is known to be made by other formulas."""
