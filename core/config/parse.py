"""EndpointPickerConfig: validated whole or refused whole.

`parse_config` takes the document as YAML or JSON gave it and returns the configuration in force,
with every default put in as the Go EPP puts them in.  What is accepted and has no effect is a warning;
what is known and not built is an error.
"""

from collections.abc import Iterable

from pointsman.core.config.declarations import API_VERSIONS, Declarations
from pointsman.core.config.document import (
    ConfigDocument,
    ConfigError,
    ConfigPath,
    DataLayer,
    FlowControl,
    Lines,
    PriorityBand,
    ProfileSpec,
    Ref,
    convert,
    place_of,
)
from pointsman.core.config.effective import (
    EffectiveConfig,
    PickingFlags,
    Placed,
    PrefixParameters,
    ProfileConfig,
    decode_config,
)
from pointsman.core.parsers import DEFAULT_PARSERS
from pointsman.core.plugin import Detector, Filter, Picker, Scorer
from pointsman.core.plugins.decision_tree_filter import DecisionTreeFilter
from pointsman.core.values.quantities import Duration, encode_duration, parse_duration, parse_quantity

__all__ = [
    "DEFAULT_CONFIG",
    "ConfigError",
    "EffectiveConfig",
    "Lines",
    "PickingFlags",
    "PrefixParameters",
    "decode_config",
    "parse_config",
]

WEIGHT_MAX = 1e12
"""So that no sum of scores overflows; weights in use are below 100."""


def parse_config(value: object, lines: Lines, flags: PickingFlags) -> EffectiveConfig:
    """Return the configuration that `value` puts in force; `ConfigError` where it is wrong."""
    document = convert(value, ConfigDocument, lines, ())
    reading = _Reading(lines, flags)
    reading.envelope(document)
    reading.plugins(document)
    profiles = reading.profiles(document.scheduling_profiles)
    detector = reading.saturation(document)  # after the profiles: one that is added is no filter in them
    parsers = reading.parsers(document)
    discovery, sources, extractors = reading.data_layer(document)
    reading.flow_control(document.flow_control)
    return EffectiveConfig(
        plugins=tuple(reading.declared.values()),
        profiles=profiles,
        saturation_detector=detector,
        parsers=parsers,
        metrics_sources=sources,
        metrics_extractors=extractors,
        file_discovery=discovery,
        feature_gates=reading.gates,
        flags=flags,
        warnings=tuple(reading.warnings),
    )


class _Reading(Declarations):
    """One document being read."""

    # --- scheduling -----------------------------------------------------------------------------

    def profiles(self, specs: list[ProfileSpec] | None) -> tuple[ProfileConfig, ...]:
        handlers = self.of_kind("profile handler")
        if len(handlers) > 1:
            raise self.error(("plugins",), f"two profile handlers, {handlers[0]!r} and {handlers[1]!r}, wanted one")
        if specs is not None and len(specs) > 1:
            raise self.error(
                ("schedulingProfiles", 1), f"{len(specs)} scheduling profiles, wanted 1 for single-profile-handler"
            )
        if not specs:
            placed = [
                Placed(name)
                for name, built in self.built.items()
                if isinstance(built, Scorer | Filter | Picker | DecisionTreeFilter)
            ]
            profile = ("default", placed)
        else:
            if not specs[0].name:
                raise self.error(("schedulingProfiles", 0), "schedulingProfiles[0] has no name")
            profile = (specs[0].name, self._placed(specs[0], ("schedulingProfiles", 0, "plugins")))
        if not handlers:
            self.inject("single-profile-handler")
        name, placed = profile
        pickers = [p.plugin for p in placed if isinstance(self.built[p.plugin], Picker)]
        if len(pickers) > 1:
            path: ConfigPath = ("schedulingProfiles", 0) if specs else ("plugins",)
            raise self.error(path, f"profile {name!r} has two pickers, {pickers[0]!r} and {pickers[1]!r}, wanted one")
        if not pickers:
            declared = [n for n, built in self.built.items() if isinstance(built, Picker)]
            placed.append(Placed(declared[0] if declared else self.inject("max-score-picker")))
        return (ProfileConfig(name, tuple(placed)),)

    def _placed(self, spec: ProfileSpec, at: ConfigPath) -> list[Placed]:
        placed = []
        for i, entry in enumerate(spec.plugins or ()):
            path = (*at, i, "pluginRef")
            if entry.plugin_ref == "max-score-picker" and entry.plugin_ref not in self.built:
                self.inject(entry.plugin_ref)
            built = self.refer(entry.plugin_ref, None, path)
            weight = 1.0 if entry.weight is None else entry.weight
            if not -WEIGHT_MAX <= weight <= WEIGHT_MAX:
                raise self.error(
                    (*at, i, "weight"), f"weight of {entry.plugin_ref!r} is {weight}, wanted -1e12 to 1e12"
                )
            if not isinstance(built, Scorer | Filter | Picker | DecisionTreeFilter):
                self.warn(path, f"plugin {entry.plugin_ref!r} is no filter, scorer or picker: no effect in a profile")
                continue
            if entry.weight is not None and not isinstance(built, Scorer):
                self.warn((*at, i, "weight"), f"the weight of {entry.plugin_ref!r} has no effect: it is no scorer")
            placed.append(Placed(entry.plugin_ref, weight))
        return placed

    def saturation(self, document: ConfigDocument) -> str:
        """The name of the saturation detector in force."""
        old, flow = document.saturation_detector, document.flow_control
        if flow is not None and flow.saturation_detector is not None:
            if old is not None:
                self.warn(("saturationDetector",), "has no effect beside flowControl.saturationDetector")
            return self._detector(
                flow.saturation_detector.plugin_ref, ("flowControl", "saturationDetector", "pluginRef")
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
                raise self.error(at, f"found pluginRef and {', '.join(numbers)}, wanted pluginRef or thresholds")
            return self._detector(old.plugin_ref, (*at, "pluginRef"))
        name = "utilization-detector"
        if name in self.declared:
            if numbers:
                raise self.error(at, f"thresholds are given here and by plugin {name!r}, wanted one of them")
            return self._detector(name, at)
        self.declare(name, name, self._environment() | numbers, at)
        return name

    def _environment(self) -> dict[str, object]:
        flags = self.flags
        given: dict[str, object] = {}
        if flags.queue_depth_threshold is not None:
            given["queueDepthThreshold"] = flags.queue_depth_threshold
        if flags.kv_cache_util_threshold is not None:
            given["kvCacheUtilThreshold"] = flags.kv_cache_util_threshold
        if flags.metrics_staleness_threshold is not None:
            given["metricsStalenessThreshold"] = encode_duration(Duration(flags.metrics_staleness_threshold))
        return given

    def _detector(self, name: str, path: ConfigPath) -> str:
        if name == "utilization-detector" and name not in self.built:
            return self.inject(name)
        self.refer(name, Detector, path)
        return name

    # --- parsers, sources, queues ---------------------------------------------------------------

    def parsers(self, document: ConfigDocument) -> tuple[str, ...]:
        """The names of the parsers in force."""
        at: ConfigPath = ("requestHandler", "parsers")
        refs = [] if document.request_handler is None else document.request_handler.parsers or []
        if document.parser is not None and not refs:
            refs, at = [document.parser], ("parser",)
        elif document.parser is not None:
            self.warn(("parser",), "has no effect beside requestHandler.parsers")
        return tuple(self._parsers(refs, at)) or tuple(self.inject(type) for type in DEFAULT_PARSERS)

    def _parsers(self, refs: list[Ref], at: ConfigPath) -> Iterable[str]:
        for i, ref in enumerate(refs):
            path = (*at, "pluginRef") if at == ("parser",) else (*at, i, "pluginRef")
            if ref.plugin_ref not in self.declared:  # an undeclared parser is the type of that name
                self.check_type(ref.plugin_ref, path)
                self.inject(ref.plugin_ref)
            if ref.plugin_ref not in self.of_kind("parser"):
                raise self.error(path, f"plugin {ref.plugin_ref!r} is no parser")
            yield ref.plugin_ref

    def data_layer(self, document: ConfigDocument) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The names of the file discovery, the metrics sources and their extractors."""
        key = "dataLayer" if document.data_layer is not None or document.data is None else "data"
        if document.data_layer is not None and document.data is not None:
            raise self.error(("data",), "found dataLayer and data, which is its old name; wanted one")
        layer = document.data_layer or document.data or DataLayer()
        sources: list[str] = []
        extractors: list[str] = []
        for i, source in enumerate(layer.sources or ()):
            path: ConfigPath = (key, "sources", i)
            sources.append(self._of(source.plugin_ref, "source", (*path, "pluginRef")))
            for j, extractor in enumerate(source.extractors or ()):
                extractors.append(self._of(extractor.plugin_ref, "extractor", (*path, "extractors", j, "pluginRef")))
        if not sources and layer.inject_defaults is not False:
            sources.append(self.inject("metrics-data-source"))
            extractors.append(self.inject("core-metrics-extractor"))
        elif not sources:
            self.warn((key, "injectDefaults"), "no metrics source: model servers are scraped all the same")
        for field, given in (
            ("peerDiscovery", layer.peer_discovery),
            ("crossReplicaSyncerPluginRef", layer.cross_replica_syncer_plugin_ref),
        ):
            if given:
                raise self.error((key, field), f"{key}.{field} is known and not yet available")
        self._duration(layer.cross_replica_sync_interval, (key, "crossReplicaSyncInterval"))
        if layer.discovery is None:
            return "", tuple(sources), tuple(extractors)
        discovery = self._of(layer.discovery.plugin_ref, "discovery", (key, "discovery", "pluginRef"))
        return discovery, tuple(sources), tuple(extractors)

    def _of(self, name: str, kind: str, path: ConfigPath) -> str:
        self.refer(name, None, path)
        if name not in self.of_kind(kind):
            raise self.error(path, f"plugin {name!r} of type {self.declared[name].type!r} is no {kind}")
        return name

    def flow_control(self, flow: FlowControl | None) -> None:
        if flow is None:
            return
        at: ConfigPath = ("flowControl",)
        self._quantity(flow.max_bytes, (*at, "maxBytes"))
        self._quantity(flow.max_requests, (*at, "maxRequests"))
        self._duration(flow.default_request_ttl, (*at, "defaultRequestTTL"))
        self._duration(flow.no_endpoint_request_ttl, (*at, "noEndpointRequestTTL"))
        priorities: set[int] = set()
        bands: list[tuple[ConfigPath, PriorityBand | None]] = [
            ((*at, "defaultPriorityBand"), flow.default_priority_band),
            ((*at, "defaultNegativePriorityBand"), flow.default_negative_priority_band),
        ]
        for i, band in enumerate(flow.priority_bands or ()):
            path: ConfigPath = (*at, "priorityBands", i)
            if band.priority in priorities:
                raise self.error(path, f"two priority bands have priority {band.priority}")
            priorities.add(band.priority)
            bands.append((path, band))
        for path, given in bands:
            if given is not None:
                self._band(given, path)
        self._policy(
            flow.usage_limit_policy_plugin_ref, "static-usage-limit-policy", (*at, "usageLimitPolicyPluginRef")
        )
        if flow != FlowControl(saturation_detector=flow.saturation_detector):
            self.warn(at, "flowControl has no effect beside its saturationDetector: feature gate 'flowControl' is off")

    def _band(self, band: PriorityBand, path: ConfigPath) -> None:
        self._quantity(band.max_bytes, (*path, "maxBytes"))
        self._quantity(band.max_requests, (*path, "maxRequests"))
        self._policy(band.fairness_policy_ref, "global-strict-fairness-policy", (*path, "fairnessPolicyRef"))
        self._policy(band.ordering_policy_ref, "fcfs-ordering-policy", (*path, "orderingPolicyRef"))

    def _policy(self, name: str, default: str, path: ConfigPath) -> None:
        if name and name != default:
            self.refer(name, None, path)

    def _quantity(self, value: int | str | None, path: ConfigPath) -> None:
        try:
            if value is not None and parse_quantity(value) < 0:
                raise ValueError(f"found {value!r}, wanted 0 or above")
        except ValueError as error:
            raise self.error(path, f"{place_of(path)}: {error}") from None

    def _duration(self, value: str | None, path: ConfigPath) -> None:
        try:
            if value is not None and parse_duration(value) < 0:
                raise ValueError(f"found {value!r}, wanted 0s or above")
        except ValueError as error:
            raise self.error(path, f"{place_of(path)}: {error}") from None


DEFAULT_CONFIG = parse_config(
    {
        "apiVersion": API_VERSIONS[0],
        "kind": "EndpointPickerConfig",
        "plugins": [
            {"type": "queue-scorer"},
            {"type": "kv-cache-utilization-scorer"},
            {"type": "prefix-cache-scorer"},
        ],
        "schedulingProfiles": [
            {
                "name": "default",
                "plugins": [
                    {"pluginRef": "queue-scorer", "weight": 2},
                    {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
                    {"pluginRef": "prefix-cache-scorer", "weight": 3},
                    {"pluginRef": "max-score-picker"},
                ],
            }
        ],
    },
    {},
    PickingFlags(),
)
"""Where the operator gives none: the Go EPP's."""
