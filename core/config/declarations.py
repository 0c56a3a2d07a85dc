"""The plugins that a document declares, and those that defaults add."""

import msgspec

from pointsman.core.config.document import ConfigDocument, ConfigError, ConfigPath, Lines, convert, line_of, place_of
from pointsman.core.config.effective import (
    PREFIX_BLOCKS_MAX,
    Declared,
    PickingFlags,
    shape_of_producer,
    shape_of_scorer,
)
from pointsman.core.config.known_types import KNOWN_GATES, KNOWN_TYPES
from pointsman.core.plugin import REGISTER, Detector, Filter, Picker, Scorer
from pointsman.core.plugins.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from pointsman.core.plugins.core_metrics_extractor import CoreMetricsExtractor
from pointsman.core.plugins.decision_tree_filter import DecisionTreeFilter
from pointsman.core.plugins.metrics_data_source import MetricsDataSource
from pointsman.core.plugins.prefix_cache_scorer import PrefixCacheScorer
from pointsman.core.values.distance import wanted
from pointsman.core.values.quantities import encode_duration

API_VERSIONS = ("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1")
PLUGINS_MAX = 256
"""The files in use declare a dozen; each placed plugin costs microseconds a request."""


class Declarations:
    """One document being read."""

    def __init__(self, lines: Lines, flags: PickingFlags) -> None:
        self.lines, self.flags = lines, flags
        self.declared: dict[str, Declared] = {}
        self.built: dict[str, msgspec.Struct] = {}
        self.gates: dict[str, bool] = dict(KNOWN_GATES)
        self.warnings: list[str] = []

    def error(self, path: ConfigPath, message: str) -> ConfigError:
        return ConfigError(line_of(self.lines, path), message)

    def warn(self, path: ConfigPath, message: str) -> None:
        self.warnings.append(f"line {line_of(self.lines, path)}: {message}")

    # --- the envelope ---------------------------------------------------------------------------

    def envelope(self, document: ConfigDocument) -> None:
        if document.api_version not in API_VERSIONS:
            found = repr(document.api_version) if document.api_version else "missing"
            raise self.error(("apiVersion",), f"apiVersion is {found}, {wanted(document.api_version, API_VERSIONS)}")
        if document.kind != "EndpointPickerConfig":
            raise self.error(("kind",), f"kind is {document.kind!r}, wanted 'EndpointPickerConfig'")
        for i, text in enumerate(document.feature_gates or ()):
            self._gate(("featureGates", i), text)

    def _gate(self, path: ConfigPath, text: str) -> None:
        name, equals, setting = text.partition("=")
        if name not in KNOWN_GATES:
            raise self.error(path, f"unknown feature gate {name!r}, {wanted(name, KNOWN_GATES)}")
        setting = setting.strip().lower()
        if equals and setting not in ("1", "t", "true", "0", "f", "false"):
            raise self.error(path, f"feature gate {name} is {setting!r}, wanted true or false")
        on = not equals or setting in ("1", "t", "true")
        self.gates[name] = on
        if name == "flowControl" and on:
            raise self.error(path, "feature gate 'flowControl' is known and not yet available")
        if name != "flowControl" and on != KNOWN_GATES[name]:
            self.warn(path, f"feature gate {text!r} has no effect here")

    # --- plugins --------------------------------------------------------------------------------

    def plugins(self, document: ConfigDocument) -> None:
        specs = document.plugins or []
        if len(specs) > PLUGINS_MAX:
            raise self.error(("plugins",), f"{len(specs)} plugins, wanted at most {PLUGINS_MAX}")
        for i, spec in enumerate(specs):
            at: ConfigPath = ("plugins", i)
            if not spec.type:
                raise self.error(at, f"{place_of(at)} has no type")
            self.check_type(spec.type, (*at, "type"))
            name = spec.name or spec.type
            if name in self.declared:
                raise self.error((*at, "name"), f"two plugins are named {name!r}; give one of them another name")
            self.declare(name, spec.type, spec.parameters or {}, (*at, "parameters"))
            self._warn_of_parameters(name, (*at, "parameters"))
        for i, spec in enumerate(specs):
            self._check_refs(spec.name or spec.type, ("plugins", i, "parameters"))

    def check_type(self, type: str, path: ConfigPath) -> None:
        if type in REGISTER:
            return
        if type in KNOWN_TYPES:
            raise self.error(path, f"plugin type {type!r} is known and not yet available")
        raise self.error(path, f"unknown plugin type {type!r}, {wanted(type, REGISTER)}")

    def declare(self, name: str, type: str, parameters: object, path: ConfigPath) -> None:
        built: msgspec.Struct = convert(parameters, REGISTER[type].struct, self.lines, path)
        full = msgspec.json.decode(msgspec.json.encode(built, enc_hook=encode_duration))
        self.declared[name] = Declared(name, type, full)
        self.built[name] = built
        if isinstance(built, PrefixCacheScorer | ApproxPrefixCacheProducer):
            self._check_prefix(built, path)

    def _warn_of_parameters(self, name: str, path: ConfigPath) -> None:
        built = self.built[name]
        if isinstance(built, MetricsDataSource):
            for key, given in (
                ("caCertPath", built.ca_cert_path),
                ("clientCertPath", built.client_cert_path),
                ("clientKeyPath", built.client_key_path),
            ):
                if given:
                    self.warn((*path, key), f"{key} has no effect: pages are read with the system's certificates")
        if isinstance(built, CoreMetricsExtractor):
            for i, engine in enumerate(built.engine_configs):
                if engine.custom_metrics:
                    at = (*path, "engineConfigs", i, "customMetrics")
                    self.warn(at, f"customMetrics of {engine.name!r} has no effect: no plugin reads them")

    def _check_prefix(self, built: PrefixCacheScorer | ApproxPrefixCacheProducer, path: ConfigPath) -> None:
        try:
            if isinstance(built, PrefixCacheScorer):
                shape_of_scorer(built)
            else:
                shape_of_producer(built)
        except ValueError as error:
            raise self.error(path, str(error)) from None
        if (built.max_prefix_blocks_to_match or 0) > PREFIX_BLOCKS_MAX:
            self.warn(
                (*path, "maxPrefixBlocksToMatch"),
                f"maxPrefixBlocksToMatch is {built.max_prefix_blocks_to_match};"
                f" at most {PREFIX_BLOCKS_MAX} blocks of a prompt are matched",
            )

    def _check_refs(self, name: str, path: ConfigPath) -> None:
        built = self.built[name]
        if isinstance(built, PrefixCacheScorer) and (producer := built.prefix_match_info_producer_name):
            self.refer(producer, ApproxPrefixCacheProducer, (*path, "prefixMatchInfoProducerName"))
        if isinstance(built, DecisionTreeFilter):
            self._check_tree(name, (), path)

    def _check_tree(self, name: str, above: tuple[str, ...], path: ConfigPath) -> None:
        if name in above:
            raise self.error(path, f"decision trees refer to each other in a circle: {' > '.join((*above, name))}")
        built = self.built[name]
        if isinstance(built, DecisionTreeFilter):
            for inner in built.refers_to():
                self.refer(inner, None, path)
                self._check_tree(inner, (*above, name), path)
        elif not isinstance(built, Filter):
            raise self.error(path, f"plugin {name!r} of type {self.declared[name].type!r} is no filter")

    def refer(self, name: str, kind: type[object] | None, path: ConfigPath) -> msgspec.Struct:
        """The plugin that `path` refers to."""
        if not name:
            raise self.error(path, f"{place_of(path)} has no pluginRef")
        if name not in self.built:
            raise self.error(path, f"no plugin is named {name!r}, {wanted(name, self.built)}")
        built = self.built[name]
        if kind is not None and not isinstance(built, kind):
            words = kind.__name__.lower() if kind in (Detector, Filter, Picker, Scorer) else f"a {kind.__name__}"
            raise self.error(
                path, f"plugin {name!r} of type {self.declared[name].type!r} is no {words.removeprefix('a ')}"
            )
        return built

    def inject(self, type: str) -> str:
        """The name of a plugin of this type: the one named so, or a new one with default parameters."""
        if type not in self.declared:
            self.declare(type, type, {}, ())
        return type

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, plugin in self.declared.items() if REGISTER[plugin.type].kind == kind]
