"""The settings of the scraper, made from the configuration in force."""

from collections.abc import Mapping

from pointsman.cluster.scraping.scraper import ScrapeSettings
from pointsman.core.config.parse import EffectiveConfig
from pointsman.core.parsers.metrics.engines import ENGINES, EngineNames, PageSeries, parse_series
from pointsman.core.plugins.core_metrics_extractor import CoreMetricsExtractor, EngineConfig
from pointsman.core.plugins.utilization_detector import UtilizationDetector


def scrape_settings(config: EffectiveConfig, interval: float) -> ScrapeSettings:
    """Where pages are, how often they are read, and when a sample is stale."""
    source, extractor = config.metrics_source(), config.metrics_extractor()
    detector = config.parameters(config.saturation_detector)
    default = ScrapeSettings()
    stale = detector.metrics_staleness_threshold if isinstance(detector, UtilizationDetector) else default.threshold
    return ScrapeSettings(
        path=source.path,
        scheme=source.scheme,
        metrics_port=source.port or 0,
        verify_certificate=not source.insecure_skip_verify,
        threshold=float(stale),
        engines=_engines(extractor),
        engine_label=extractor.engine_label_key or default.engine_label,
        default_engine=extractor.default_engine,
        interval=max(float(source.interval or 0.0), interval),
    )


def _engines(extractor: CoreMetricsExtractor) -> Mapping[str, EngineNames]:
    if not extractor.engine_configs:
        return ENGINES
    return {**ENGINES, **{one.name: _engine(one) for one in extractor.engine_configs}}


def _engine(given: EngineConfig) -> EngineNames:
    """The engine's metric names as configured; a metric without a name is not read."""
    return EngineNames(
        waiting=_alternatives(given.queued_requests_spec),
        running=_alternatives(given.running_requests_spec),
        kv_cache=_alternatives(given.kv_usage_spec),
        lora=parse_series(given.lora_spec),
        cache_info=parse_series(given.cache_info_spec),
        block_tokens_label=given.cache_block_size_label_name or "block_size",
        blocks_label=given.cache_num_blocks_label_name or "num_gpu_blocks",
        block_tokens=parse_series(given.cache_block_size_spec),
        blocks=parse_series(given.cache_num_blocks_spec),
    )


def _alternatives(spec: str) -> tuple[PageSeries, ...]:
    found = parse_series(spec)
    return () if found is None else (found,)
