"""What the scraper is told, from the configuration in force."""

import re
from collections.abc import Mapping

from pointsman.cluster.scrape import ScrapeSettings
from pointsman.core.config import EffectiveConfig
from pointsman.core.metrics_page import ENGINES, Engine, Series
from pointsman.core.plugins.core_metrics_extractor import CoreMetricsExtractor, EngineConfig
from pointsman.core.plugins.utilization_detector import UtilizationDetector

_SPEC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(?:"([^"]*)"|([^",{}]*?))\s*(?:,|$)')


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
        default_engine=extractor.default_engine,
        interval=max(float(source.interval or 0.0), interval),
    )


def _engines(extractor: CoreMetricsExtractor) -> Mapping[str, Engine]:
    if not extractor.engine_configs:
        return ENGINES
    return {**ENGINES, **{one.name: _engine(one) for one in extractor.engine_configs}}


def _engine(given: EngineConfig) -> Engine:
    """The engine as configured; what it leaves out is not read."""
    return Engine(
        waiting=_alternatives(given.queued_requests_spec),
        running=_alternatives(given.running_requests_spec),
        kv_cache=_alternatives(given.kv_usage_spec),
        lora=series_of(given.lora_spec),
        cache_info=series_of(given.cache_info_spec),
        block_tokens_label=given.cache_block_size_label_name or "block_size",
        blocks_label=given.cache_num_blocks_label_name or "num_gpu_blocks",
        block_tokens=series_of(given.cache_block_size_spec),
        blocks=series_of(given.cache_num_blocks_spec),
    )


def _alternatives(spec: str) -> tuple[Series, ...]:
    found = series_of(spec)
    return () if found is None else (found,)


def series_of(spec: str) -> Series | None:
    """What `name{label=value}` asks for; None for nothing."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        return None
    labels = tuple((m[1], m[2] if m[2] is not None else m[3]) for m in _LABEL.finditer(found[2] or ""))
    return Series(found[1], labels)
