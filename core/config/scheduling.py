"""What decides in a decision: the plugins of the scheduling profile, and the saturation detector."""

from typing import Any

from pointsman.core.config.declarations import Declarations
from pointsman.core.config.document import ConfigDocument, ConfigPath, ProfileSpec, Remarks
from pointsman.core.config.effective import PickingFlags, Placed, ProfileConfig
from pointsman.core.plugin.register import PluginKind
from pointsman.core.values.quantities import Duration, encode_duration

PLACED_KINDS: tuple[PluginKind, ...] = ("filter", "scorer", "picker")
"""Kinds of plugins that have a place in a scheduling profile."""
WEIGHT_MAX = 1e12
"""Limit of a weight, so that no sum of scores overflows; weights in use are below 100."""
DETECTOR = "utilization-detector"
"""Type of the detector where the document refers to none."""


def read_profiles(
    remarks: Remarks, plugins: Declarations, specs: list[ProfileSpec] | None
) -> tuple[ProfileConfig, ...]:
    """The one profile: without `schedulingProfiles` all filters, scorers and pickers that are declared."""
    handlers = plugins.of_kind("profile handler")
    if len(handlers) > 1:
        raise remarks.error(("plugins",), f"two profile handlers, {handlers[0]!r} and {handlers[1]!r}, wanted one")
    if specs is not None and len(specs) > 1:
        raise remarks.error(
            ("schedulingProfiles", 1), f"{len(specs)} scheduling profiles, wanted 1 for single-profile-handler"
        )
    if not specs:
        name, placed = "default", [Placed(declared) for declared in plugins.of_kind(*PLACED_KINDS)]
    else:
        if not specs[0].name:
            raise remarks.error(("schedulingProfiles", 0), "schedulingProfiles[0] has no name")
        name, placed = specs[0].name, _placed(remarks, plugins, specs[0], ("schedulingProfiles", 0, "plugins"))
    if not handlers:
        plugins.inject("single-profile-handler")
    pickers = [p.plugin for p in placed if plugins.serves_as(p.plugin, "picker")]
    if len(pickers) > 1:
        path: ConfigPath = ("schedulingProfiles", 0) if specs else ("plugins",)
        raise remarks.error(path, f"profile {name!r} has two pickers, {pickers[0]!r} and {pickers[1]!r}, wanted one")
    if not pickers:
        declared = plugins.of_kind("picker")
        placed.append(Placed(declared[0] if declared else plugins.inject("max-score-picker")))
    return (ProfileConfig(name, tuple(placed)),)


def _placed(remarks: Remarks, plugins: Declarations, spec: ProfileSpec, at: ConfigPath) -> list[Placed]:
    placed = []
    for i, entry in enumerate(spec.plugins or ()):
        path = (*at, i, "pluginRef")
        if entry.plugin_ref == "max-score-picker":  # the one that may be named without a declaration
            plugins.inject(entry.plugin_ref)
        name = plugins.refer(entry.plugin_ref, path)
        weight = 1.0 if entry.weight is None else entry.weight
        if not -WEIGHT_MAX <= weight <= WEIGHT_MAX:
            raise remarks.error((*at, i, "weight"), f"weight of {name!r} is {weight}, wanted -1e12 to 1e12")
        if not plugins.serves_as(name, *PLACED_KINDS):
            remarks.warn(path, f"plugin {name!r} is no filter, scorer or picker: no effect in a profile")
            continue
        if entry.weight is not None and not plugins.serves_as(name, "scorer"):
            remarks.warn((*at, i, "weight"), f"the weight of {name!r} has no effect: it is no scorer")
        placed.append(Placed(name, weight))
    return placed


def read_saturation_detector(
    remarks: Remarks, plugins: Declarations, document: ConfigDocument, flags: PickingFlags
) -> str:
    """The name of the saturation detector in force.

    Read after the profiles: a detector that defaults add is no filter in them.
    """
    old, flow = document.saturation_detector, document.flow_control
    if flow is not None and flow.saturation_detector is not None:
        if old is not None:
            remarks.warn(("saturationDetector",), "has no effect beside flowControl.saturationDetector")
        return _detector(
            plugins, flow.saturation_detector.plugin_ref, ("flowControl", "saturationDetector", "pluginRef")
        )
    numbers = (
        {}
        if old is None
        else {
            key: value
            for key, value in (
                ("queueDepthThreshold", old.queue_depth_threshold),
                ("kvCacheUtilThreshold", old.kv_cache_util_threshold),
                ("metricsStalenessThreshold", old.metrics_staleness_threshold),
            )
            if value is not None
        }
    )
    at: ConfigPath = ("saturationDetector",)
    if old is not None and old.plugin_ref is not None:
        if numbers:
            raise remarks.error(at, f"found pluginRef and {', '.join(numbers)}, wanted pluginRef or thresholds")
        return _detector(plugins, old.plugin_ref, (*at, "pluginRef"))
    if DETECTOR in plugins.declared:
        if numbers:
            raise remarks.error(at, f"thresholds are given here and by plugin {DETECTOR!r}, wanted one of them")
        return _detector(plugins, DETECTOR, at)
    plugins.declare(DETECTOR, DETECTOR, _thresholds(flags) | numbers, at)
    return DETECTOR


def _thresholds(flags: PickingFlags) -> dict[str, Any]:
    """The detector's parameters that the environment gives."""
    given: dict[str, Any] = {}
    if flags.queue_depth_threshold is not None:
        given["queueDepthThreshold"] = flags.queue_depth_threshold
    if flags.kv_cache_util_threshold is not None:
        given["kvCacheUtilThreshold"] = flags.kv_cache_util_threshold
    if flags.metrics_staleness_threshold is not None:
        given["metricsStalenessThreshold"] = encode_duration(Duration(flags.metrics_staleness_threshold))
    return given


def _detector(plugins: Declarations, name: str, path: ConfigPath) -> str:
    if name == DETECTOR:
        plugins.inject(name)
    return plugins.refer(name, path, "detector")
