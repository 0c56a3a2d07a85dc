"""The plugins of one document: those that it declares, and those that defaults add."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from pointsman.core.config.document import ConfigPath, PluginSpec, Remarks, place_of
from pointsman.core.config.effective import (
    BYTES_A_TOKEN,
    DEFAULT_PRODUCER,
    Declared,
    PrefixParameters,
    shape_of_producer,
    shape_of_scorer,
)
from pointsman.core.config.known_names import UNBUILT_PARAMETERS, UNBUILT_TYPES
from pointsman.core.config.metrics_flags import MetricsFlags
from pointsman.core.plugin.register import REGISTER, PluginKind
from pointsman.core.plugin.shapes import BindsFilters
from pointsman.core.plugins.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from pointsman.core.plugins.core_metrics_extractor import CoreMetricsExtractor
from pointsman.core.plugins.metrics_data_source import MetricsDataSource
from pointsman.core.plugins.prefix_cache_scorer import PrefixCacheScorer
from pointsman.core.prefix.prompt_blocks import reach
from pointsman.core.state.prefix_blocks import BLOCK_TOKENS_MIN
from pointsman.core.values.distance import wanted
from pointsman.core.values.quantities import encode_duration

PLUGINS_MAX = 256
"""Limit of plugins in a document.  The files in use declare a dozen; each placed plugin costs microseconds a request."""


class Declarations:
    """The plugins by name, in the order of declaration."""

    def __init__(self, remarks: Remarks, metrics: MetricsFlags) -> None:
        self.remarks = remarks
        self._metrics = metrics
        self.declared: dict[str, Declared] = {}
        self._built: dict[str, msgspec.Struct] = {}

    def declare_all(self, specs: Sequence[PluginSpec]) -> None:
        """Declare what stands under `plugins`, then check what those refer to."""
        if len(specs) > PLUGINS_MAX:
            raise self.remarks.error(("plugins",), f"{len(specs)} plugins, wanted at most {PLUGINS_MAX}")
        for i, spec in enumerate(specs):
            at: ConfigPath = ("plugins", i)
            if not spec.type:
                raise self.remarks.error(at, f"{place_of(at)} has no type")
            self.check_type(spec.type, (*at, "type"))
            name = spec.name or spec.type
            if name in self.declared:
                raise self.remarks.error(
                    (*at, "name"), f"two plugins are named {name!r}; give one of them another name"
                )
            self.declare(name, spec.type, spec.parameters or {}, (*at, "parameters"))
            self._warn_of_parameters(name, (*at, "parameters"))
        for i, spec in enumerate(specs):
            self._check_references(spec.name or spec.type, ("plugins", i, "parameters"))

    def check_type(self, type: str, path: ConfigPath) -> None:
        """Refuse a plugin type that is not registered."""
        if type in REGISTER:
            return
        if type in UNBUILT_TYPES:
            raise self.remarks.error(path, f"plugin type {type!r} is known and not yet available")
        raise self.remarks.error(path, f"unknown plugin type {type!r}, {wanted(type, REGISTER)}")

    def declare(self, name: str, type: str, parameters: dict[str, Any], path: ConfigPath) -> None:
        """Add a plugin of a registered type."""
        for parameter in UNBUILT_PARAMETERS.get(type, ()):
            if parameter in parameters:
                raise self.remarks.error(
                    (*path, parameter), f"parameter {parameter!r} of {type} is known and not yet available"
                )
        parameters = self._metrics.parameters(type, parameters)
        built: msgspec.Struct = self.remarks.convert(parameters, REGISTER[type].struct, path)
        full = msgspec.json.decode(msgspec.json.encode(built, enc_hook=encode_duration))
        self.declared[name] = Declared(name, type, full)
        self._built[name] = built
        if isinstance(built, PrefixCacheScorer | ApproxPrefixCacheProducer):
            self._check_prefix(built, path)

    def inject(self, type: str) -> str:
        """The name of a plugin of this type: the one named so, or a new one with default parameters."""
        if type not in self.declared:
            self.declare(type, type, {}, ())
        return type

    def refer(self, name: str, path: ConfigPath, kind: PluginKind | None = None) -> str:
        """`name`, after a check that it is that of a plugin, and one of `kind`; `path` is what refers to it."""
        if not name:
            raise self.remarks.error(path, f"{place_of(path)} has no pluginRef")
        if name not in self.declared:
            raise self.remarks.error(path, f"no plugin is named {name!r}, {wanted(name, self.declared)}")
        if kind is not None and not self.serves_as(name, kind):
            raise self._is_no(name, kind, path)
        return name

    def serves_as(self, name: str, *kinds: PluginKind) -> bool:
        """Whether the plugin is registered as one of these kinds."""
        return not REGISTER[self.declared[name].type].kinds.isdisjoint(kinds)

    def of_kind(self, *kinds: PluginKind) -> list[str]:
        """The names of the plugins that serve as one of these kinds."""
        return [name for name in self.declared if self.serves_as(name, *kinds)]

    def _is_no(self, name: str, what: str, path: ConfigPath) -> Exception:
        return self.remarks.error(path, f"plugin {name!r} of type {self.declared[name].type!r} is no {what}")

    def _warn_of_parameters(self, name: str, path: ConfigPath) -> None:
        built = self._built[name]
        if isinstance(built, MetricsDataSource):
            for key, given in (
                ("caCertPath", built.ca_cert_path),
                ("clientCertPath", built.client_cert_path),
                ("clientKeyPath", built.client_key_path),
            ):
                if given:
                    self.remarks.warn(
                        (*path, key), f"{key} has no effect: pages are read with the system's certificates"
                    )
        if isinstance(built, CoreMetricsExtractor):
            for i, engine in enumerate(built.engine_configs):
                if engine.custom_metrics:
                    at = (*path, "engineConfigs", i, "customMetrics")
                    self.remarks.warn(at, f"customMetrics of {engine.name!r} has no effect: no plugin reads them")

    def _check_prefix(self, built: PrefixCacheScorer | ApproxPrefixCacheProducer, path: ConfigPath) -> None:
        try:
            shape = shape_of_scorer(built) if isinstance(built, PrefixCacheScorer) else shape_of_producer(built)
        except ValueError as error:
            raise self.remarks.error(path, str(error)) from None
        self._warn_of_caps(built, shape, path)

    def _warn_of_caps(
        self, built: PrefixCacheScorer | ApproxPrefixCacheProducer, shape: PrefixParameters, path: ConfigPath
    ) -> None:
        """Warn of each limit on the length of prefixes that is not the one in force."""
        blocks, tokens = (*path, "maxPrefixBlocksToMatch"), (*path, "maxPrefixTokensToMatch")
        size = min(shape.block_bytes, BLOCK_TOKENS_MIN * BYTES_A_TOKEN) if shape.auto_tune else shape.block_bytes
        least = f"{reach(size) // BYTES_A_TOKEN} tokens of a prompt are matched where a block has {size} bytes"
        if built.max_prefix_blocks_to_match == built.max_prefix_tokens_to_match == 0:
            self.remarks.warn(tokens, f"no limit is not to be had: at most {least}")
        if shape.tokens_max and built.max_prefix_blocks_to_match:
            self.remarks.warn(blocks, "maxPrefixBlocksToMatch has no effect beside maxPrefixTokensToMatch")
        elif shape.blocks_max * size > reach(size):
            self.remarks.warn(blocks, f"maxPrefixBlocksToMatch is {shape.blocks_max}; at most {least}")
        if shape.tokens_max * BYTES_A_TOKEN > reach(size):
            self.remarks.warn(tokens, f"maxPrefixTokensToMatch is {shape.tokens_max}; at most {least}")

    def _check_references(self, name: str, path: ConfigPath) -> None:
        built = self._built[name]
        if isinstance(built, PrefixCacheScorer):
            self._check_producer(built, path)
        if self.serves_as(name, "filter"):
            self._check_filter(name, (), path)

    def _check_producer(self, scorer: PrefixCacheScorer, path: ConfigPath) -> None:
        producer = scorer.prefix_match_info_producer_name
        if producer:
            at = (*path, "prefixMatchInfoProducerName")
            self.refer(producer, at)
            if not isinstance(self._built[producer], ApproxPrefixCacheProducer):
                raise self._is_no(producer, DEFAULT_PRODUCER, at)
        elif DEFAULT_PRODUCER not in self.declared:
            return
        for key, given in (
            ("maxPrefixTokensToMatch", scorer.max_prefix_tokens_to_match),
            ("maxPrefixBlocksToMatch", scorer.max_prefix_blocks_to_match),
        ):
            if given:
                at = (*path, key)
                self.remarks.warn(at, f"{key} has no effect: {producer or DEFAULT_PRODUCER!r} shapes the index")

    def _check_filter(self, name: str, above: tuple[str, ...], path: ConfigPath) -> None:
        """Refuse a filter that refers to what is none, or in a circle to itself."""
        if name in above:
            circle = " > ".join((*above, name))
            raise self.remarks.error(path, f"decision trees refer to each other in a circle: {circle}")
        for inner in cast(BindsFilters, self._built[name]).refers_to():  # all that is registered as a filter has it
            self._check_filter(self.refer(inner, path, "filter"), (*above, name), path)
