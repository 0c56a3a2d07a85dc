"""Which metric families say what, by the engine of a model server."""

import msgspec

from pointsman.core.parsers.metrics.engines import ENGINE_LABEL, ENGINES, parse_series
from pointsman.core.plugin.shapes import extractor


class CustomMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A family kept under a name of the operator's."""

    attribute_key: str
    metric_spec: str


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """The families of one engine, each as `name{label=value}`."""

    name: str
    queued_requests_spec: str = ""
    running_requests_spec: str = ""
    kv_usage_spec: str = msgspec.field(default="", name="kvUsageSpec")
    lora_spec: str = ""
    cache_info_spec: str = ""
    cache_block_size_label_name: str = ""
    cache_num_blocks_label_name: str = ""
    cache_block_size_spec: str = ""
    cache_num_blocks_spec: str = ""
    custom_metrics: tuple[CustomMetric, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.name == "default":
            raise ValueError(f"engine name is {self.name!r}, wanted one that is neither empty nor 'default'")
        for spec in (
            self.queued_requests_spec,
            self.running_requests_spec,
            self.kv_usage_spec,
            self.lora_spec,
            self.cache_info_spec,
            self.cache_block_size_spec,
            self.cache_num_blocks_spec,
        ):
            parse_series(spec)


@extractor("core-metrics-extractor", "model-server-protocol-metrics", version=1)
class CoreMetricsExtractor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The scraper reads the parameters (`EffectiveConfig.metrics_extractor`)."""

    engine_label_key: str = ENGINE_LABEL
    default_engine: str = "vllm"
    engine_configs: tuple[EngineConfig, ...] = ()

    def __post_init__(self) -> None:
        known = [*ENGINES, *(engine.name for engine in self.engine_configs)]
        if self.default_engine not in known:
            raise ValueError(f"defaultEngine is {self.default_engine!r}, wanted one of {', '.join(known)}")
