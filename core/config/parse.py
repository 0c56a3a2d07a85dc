"""EndpointPickerConfig: validated whole or refused whole.

`parse_config` takes the document as YAML or JSON gave it and returns the configuration in force,
with every default put in as the Go EPP puts them in.  What is accepted and has no effect is a warning;
what is known and not built is an error.
"""

from collections.abc import Iterable, Sequence

from pointsman.core.config.declarations import Declarations
from pointsman.core.config.document import (
    ConfigDocument,
    ConfigError,
    ConfigPath,
    DataLayer,
    Lines,
    Ref,
    Remarks,
    convert,
)
from pointsman.core.config.effective import (
    EffectiveConfig,
    PickingFlags,
    PrefixParameters,
    decode_config,
)
from pointsman.core.config.flow_control import check_flow_control
from pointsman.core.config.known_names import KNOWN_GATES
from pointsman.core.config.scheduling import read_profiles, read_saturation_detector
from pointsman.core.parsers import DEFAULT_PARSERS
from pointsman.core.values.distance import wanted

__all__ = [
    "DEFAULT_CONFIG",
    "ConfigError",
    "EffectiveConfig",
    "Lines",
    "PickingFlags",
    "PrefixParameters",
    "decode_config",
    "default_config",
    "parse_config",
]

API_VERSIONS = ("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1")


def parse_config(value: object, lines: Lines, flags: PickingFlags) -> EffectiveConfig:
    """Return the configuration that `value` puts in force; `ConfigError` where it is wrong."""
    document = convert(value, ConfigDocument, lines, ())
    remarks = Remarks(lines)
    _check_envelope(remarks, document)
    gates = _gates(remarks, document.feature_gates or ())
    plugins = Declarations(remarks, flags.metrics)
    plugins.declare_all(document.plugins or ())
    profiles = read_profiles(remarks, plugins, document.scheduling_profiles)
    detector = read_saturation_detector(remarks, plugins, document, flags)
    parsers = _parsers(remarks, plugins, document)
    discovery, sources, extractors = _data_layer(remarks, plugins, document)
    check_flow_control(remarks, plugins, document.flow_control)
    return EffectiveConfig(
        plugins=tuple(plugins.declared.values()),
        profiles=profiles,
        saturation_detector=detector,
        parsers=parsers,
        metrics_sources=sources,
        metrics_extractors=extractors,
        file_discovery=discovery,
        feature_gates=gates,
        flags=flags,
        warnings=tuple(remarks.warnings),
    )


def _check_envelope(remarks: Remarks, document: ConfigDocument) -> None:
    if document.api_version not in API_VERSIONS:
        found = repr(document.api_version) if document.api_version else "missing"
        raise remarks.error(("apiVersion",), f"apiVersion is {found}, {wanted(document.api_version, API_VERSIONS)}")
    if document.kind != "EndpointPickerConfig":
        raise remarks.error(("kind",), f"kind is {document.kind!r}, wanted 'EndpointPickerConfig'")


def _gates(remarks: Remarks, texts: Sequence[str]) -> dict[str, bool]:
    """Every feature gate, on or off: `name` and `name=true` switch one on."""
    gates = dict(KNOWN_GATES)
    for i, text in enumerate(texts):
        path: ConfigPath = ("featureGates", i)
        name, equals, setting = text.partition("=")
        if name not in KNOWN_GATES:
            raise remarks.error(path, f"unknown feature gate {name!r}, {wanted(name, KNOWN_GATES)}")
        setting = setting.strip().lower()
        if equals and setting not in ("1", "t", "true", "0", "f", "false"):
            raise remarks.error(path, f"feature gate {name} is {setting!r}, wanted true or false")
        gates[name] = on = not equals or setting in ("1", "t", "true")
        if name == "flowControl" and on:
            raise remarks.error(path, "feature gate 'flowControl' is known and not yet available")
        if name != "flowControl" and on != KNOWN_GATES[name]:
            remarks.warn(path, f"feature gate {text!r} has no effect here")
    return gates


def _parsers(remarks: Remarks, plugins: Declarations, document: ConfigDocument) -> tuple[str, ...]:
    """The names of the parsers in force."""
    at: ConfigPath = ("requestHandler", "parsers")
    refs = [] if document.request_handler is None else document.request_handler.parsers or []
    if document.parser is not None and not refs:
        refs, at = [document.parser], ("parser",)
    elif document.parser is not None:
        remarks.warn(("parser",), "has no effect beside requestHandler.parsers")
    named = tuple(_named_parsers(remarks, plugins, refs, at))
    return named or tuple(plugins.inject(type) for type in DEFAULT_PARSERS)


def _named_parsers(remarks: Remarks, plugins: Declarations, refs: list[Ref], at: ConfigPath) -> Iterable[str]:
    for i, ref in enumerate(refs):
        path = (*at, "pluginRef") if at == ("parser",) else (*at, i, "pluginRef")
        if ref.plugin_ref not in plugins.declared:  # a parser that is not declared is the type of that name
            plugins.check_type(ref.plugin_ref, path)
            plugins.inject(ref.plugin_ref)
        if not plugins.serves_as(ref.plugin_ref, "parser"):
            raise remarks.error(path, f"plugin {ref.plugin_ref!r} is no parser")
        yield ref.plugin_ref


def _data_layer(
    remarks: Remarks, plugins: Declarations, document: ConfigDocument
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The names of the file discovery, the metrics sources and their extractors."""
    key = "dataLayer" if document.data_layer is not None or document.data is None else "data"
    if document.data_layer is not None and document.data is not None:
        raise remarks.error(("data",), "found dataLayer and data, which is its old name; wanted one")
    layer = document.data_layer or document.data or DataLayer()
    sources: list[str] = []
    extractors: list[str] = []
    for i, source in enumerate(layer.sources or ()):
        path: ConfigPath = (key, "sources", i)
        sources.append(plugins.refer(source.plugin_ref, (*path, "pluginRef"), "metrics source"))
        for j, extractor in enumerate(source.extractors or ()):
            at = (*path, "extractors", j, "pluginRef")
            extractors.append(plugins.refer(extractor.plugin_ref, at, "extractor"))
    if not sources and layer.inject_defaults is not False:
        sources.append(plugins.inject("metrics-data-source"))
        extractors.append(plugins.inject("core-metrics-extractor"))
    elif not sources:
        remarks.warn((key, "injectDefaults"), "no metrics source: model servers are scraped all the same")
    for field, given in (
        ("peerDiscovery", layer.peer_discovery),
        ("crossReplicaSyncerPluginRef", layer.cross_replica_syncer_plugin_ref),
    ):
        if given:
            raise remarks.error((key, field), f"{key}.{field} is known and not yet available")
    remarks.check_duration(layer.cross_replica_sync_interval, (key, "crossReplicaSyncInterval"))
    if layer.cross_replica_sync_interval is not None:
        remarks.warn(
            (key, "crossReplicaSyncInterval"), "crossReplicaSyncInterval has no effect: nothing syncs replicas"
        )
    if layer.discovery is None:
        return "", tuple(sources), tuple(extractors)
    discovery = plugins.refer(layer.discovery.plugin_ref, (key, "discovery", "pluginRef"), "discovery")
    return discovery, tuple(sources), tuple(extractors)


_DEFAULT: dict[str, object] = {
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
}


def default_config(flags: PickingFlags) -> EffectiveConfig:
    """The configuration where the operator gives none: the Go EPP's; `ConfigError` where the flags are wrong."""
    return parse_config(_DEFAULT, {}, flags)


DEFAULT_CONFIG = default_config(PickingFlags())
"""The same without any flag."""
