"""The configuration in force: the operator's file with flags, environment and defaults put in.

It is what the log holds of a configuration, so that replay needs nothing else.
"""

from typing import Any, TypeVar

import msgspec

from pointsman.core.config.metrics_flags import MetricsFlags
from pointsman.core.plugin.register import REGISTER, PluginKind
from pointsman.core.plugins.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from pointsman.core.plugins.core_metrics_extractor import CoreMetricsExtractor
from pointsman.core.plugins.file_discovery import FileDiscovery
from pointsman.core.plugins.metrics_data_source import MetricsDataSource
from pointsman.core.plugins.prefix_cache_scorer import PrefixCacheScorer
from pointsman.core.prefix.prompt_blocks import PROMPT_BYTES_MAX
from pointsman.core.values.quantities import decode_duration, encode_duration

BYTES_A_TOKEN = 4
"""The estimate of GIE and llm-d-router where a size is given in tokens."""
DEFAULT_PRODUCER = "approx-prefix-cache-producer"
"""Name of the producer that a prefix-cache-scorer takes its parameters from where it names none."""


class PickingFlags(msgspec.Struct, frozen=True):
    """The process flags and environment that decisions depend on."""

    emit_endpoint_scores: bool = False
    disable_endpoint_subset_filter: bool = False
    allow_experimental_plugins: bool = False
    queue_depth_threshold: int | None = None
    """Threshold of the detector that defaults add, from `SD_QUEUE_DEPTH_THRESHOLD`."""
    kv_cache_util_threshold: float | None = None
    """The same from `SD_KV_CACHE_UTIL_THRESHOLD`."""
    metrics_staleness_threshold: float | None = None
    """The same in seconds, from `SD_METRICS_STALENESS_THRESHOLD`."""
    metrics: MetricsFlags = MetricsFlags()


class Declared(msgspec.Struct, frozen=True):
    """A plugin with all its parameters, defaults included."""

    name: str
    type: str
    parameters: dict[str, Any] = {}


class Placed(msgspec.Struct, frozen=True):
    """A plugin in a scheduling profile."""

    plugin: str
    weight: float = 1.0


class ProfileConfig(msgspec.Struct, frozen=True):
    """A scheduling profile, in the order of execution."""

    name: str
    plugins: tuple[Placed, ...]


class PrefixParameters(msgspec.Struct, frozen=True):
    """The shape of the prefix index."""

    block_bytes: int = 64
    """Size of a block; the default is GIE's, 16 tokens."""
    blocks_max: int = 0
    """Blocks of that size that a prompt is looked at; 0 where there is no such limit."""
    tokens_max: int = 0
    """The same in tokens, which wins over blocks."""
    lru_capacity: int = 31250
    """Blocks remembered for each server: GIE's default, 2 M tokens of 64 bytes a block."""
    auto_tune: bool = True
    """Whether block size and capacity come from the model server where it tells them."""

    def bytes_max(self, block_bytes: int) -> int:
        """Bytes of a prompt that are looked at where a block has `block_bytes`."""
        if self.tokens_max:
            return self.tokens_max * BYTES_A_TOKEN
        return self.blocks_max * block_bytes if self.blocks_max else PROMPT_BYTES_MAX


Parameters = TypeVar("Parameters", bound=msgspec.Struct)


class EffectiveConfig(msgspec.Struct, frozen=True):
    """What is in force for picking."""

    plugins: tuple[Declared, ...]
    profiles: tuple[ProfileConfig, ...]
    saturation_detector: str
    """Name of a plugin, as are the next four."""
    parsers: tuple[str, ...] = ()
    metrics_sources: tuple[str, ...] = ()
    metrics_extractors: tuple[str, ...] = ()
    file_discovery: str = ""
    """Name of the file discovery; empty where endpoints do not come from a file."""
    feature_gates: dict[str, bool] = {}
    flags: PickingFlags = PickingFlags()
    warnings: tuple[str, ...] = ()
    """What was accepted without having an effect, each with its line."""

    def encode(self) -> bytes:
        """JSON with sorted keys: equal configurations, equal bytes."""
        return _encoder.encode(self)

    def declared(self, name: str) -> Declared:
        """The plugin of that name; `KeyError` without one."""
        for plugin in self.plugins:
            if plugin.name == name:
                return plugin
        raise KeyError(name)

    def parameters(self, name: str) -> msgspec.Struct:
        """The parameters of a plugin as its Struct, which is the plugin."""
        plugin = self.declared(name)
        return msgspec.convert(plugin.parameters, REGISTER[plugin.type].struct, dec_hook=decode_duration)

    def kinds(self, name: str) -> frozenset[PluginKind]:
        """What a plugin serves as."""
        return REGISTER[self.declared(name).type].kinds

    def discovery(self) -> FileDiscovery | None:
        """The file that endpoints come from; None where they come from elsewhere."""
        return self._as(self.file_discovery, FileDiscovery) if self.file_discovery else None

    def metrics_source(self) -> MetricsDataSource:
        """Where metrics pages are."""
        return self._as(self.metrics_sources[0], MetricsDataSource) if self.metrics_sources else MetricsDataSource()

    def metrics_extractor(self) -> CoreMetricsExtractor:
        """What is read on them."""
        names = self.metrics_extractors
        return self._as(names[0], CoreMetricsExtractor) if names else CoreMetricsExtractor()

    def prefix(self) -> PrefixParameters | None:
        """The shape of the prefix index; None where no profile asks for it."""
        for placed in (placed for profile in self.profiles for placed in profile.plugins):
            plugin = self.parameters(placed.plugin)
            if isinstance(plugin, PrefixCacheScorer):
                producer = plugin.prefix_match_info_producer_name or DEFAULT_PRODUCER
                if any(declared.name == producer for declared in self.plugins):
                    return shape_of_producer(self._as(producer, ApproxPrefixCacheProducer))
                return shape_of_scorer(plugin)
        return None

    def _as(self, name: str, kind: type[Parameters]) -> Parameters:
        found = self.parameters(name)
        assert isinstance(found, kind), f"{name} was checked to be a {kind.__name__}"
        return found


def shape_of_scorer(scorer: PrefixCacheScorer) -> PrefixParameters:
    """The index that a prefix-cache-scorer's parameters ask for, as GIE v0.5 to v1.5 read them."""
    sizes = [
        size
        for size in (
            scorer.hash_block_size,
            scorer.block_size,
            None if scorer.block_size_tokens is None else scorer.block_size_tokens * BYTES_A_TOKEN,
        )
        if size is not None
    ]
    if len(sizes) > 1:
        raise ValueError("found more than one of hashBlockSize, blockSize and blockSizeTokens, wanted one")
    return _shape(
        sizes[0] if sizes else 0,
        scorer,
        # the versions that knew hashBlockSize did not tune
        scorer.auto_tune if scorer.auto_tune is not None else scorer.hash_block_size is None,
    )


def shape_of_producer(producer: ApproxPrefixCacheProducer) -> PrefixParameters:
    """The index that an approx-prefix-cache-producer's parameters ask for."""
    tokens = producer.block_size_tokens if producer.block_size_tokens is not None else producer.block_size
    return _shape((tokens or 0) * BYTES_A_TOKEN, producer, producer.auto_tune is not False)


def _shape(block_bytes: int, given: PrefixCacheScorer | ApproxPrefixCacheProducer, auto_tune: bool) -> PrefixParameters:
    default = PrefixParameters()
    size = block_bytes if block_bytes > 0 else default.block_bytes
    if size > 1 << 20:
        raise ValueError(f"a block is {size} bytes, wanted at most 1048576")
    tokens = given.max_prefix_tokens_to_match or 0
    if tokens < 0:
        raise ValueError(f"maxPrefixTokensToMatch is {tokens}, wanted 0 or above")
    if 0 < tokens * BYTES_A_TOKEN < size:
        raise ValueError(f"maxPrefixTokensToMatch is {tokens}, wanted at least one block of {size} bytes")
    capacity = given.lru_capacity_per_server or 0
    return PrefixParameters(
        block_bytes=size,
        blocks_max=max(0, given.max_prefix_blocks_to_match or 0),
        tokens_max=tokens,
        lru_capacity=capacity if capacity > 0 else default.lru_capacity,
        auto_tune=auto_tune,
    )


_encoder = msgspec.json.Encoder(order="sorted", enc_hook=encode_duration)
_decoder = msgspec.json.Decoder(EffectiveConfig)

decode_config = _decoder.decode
"""The configuration of `EffectiveConfig.encode`'s bytes; `msgspec.DecodeError` where they are none."""
