"""Flags that say where model servers tell their load, as GIE took them until 1.4: defaults of two plugins.

What a configuration says of `metrics-data-source` and `core-metrics-extractor` goes before them.
"""

from typing import Any

import msgspec

ENGINE = "command-line"
"""Name of the engine that the flags describe."""


class MetricsFlags(msgspec.Struct, frozen=True, omit_defaults=True):
    """The flags; None where one is not given."""

    port: int | None = None
    """Port of `--model-server-metrics-port`; 0 is the endpoint's own."""
    path: str | None = None
    scheme: str | None = None
    insecure_skip_verify: bool | None = None
    waiting: str | None = None
    """Series of `--total-queued-requests-metric`."""
    running: str | None = None
    """Series of `--total-running-requests-metric`."""
    kv_cache: str | None = None
    """Series of `--kv-cache-usage-percentage-metric`."""
    lora: str | None = None
    """Series of `--lora-info-metric`; empty for servers without adapters."""
    cache_info: str | None = None
    """Series of `--cache-info-metric`."""

    def parameters(self, type: str, given: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a plugin of this type, of which the configuration gives some."""
        match type:
            case "metrics-data-source":
                return self._source() | given
            case "core-metrics-extractor" | "model-server-protocol-metrics" if self._names_series():
                return self._extractor(given)
        return given

    def _source(self) -> dict[str, Any]:
        named = (
            ("port", self.port or None),
            ("path", self.path),
            ("scheme", self.scheme),
            ("insecureSkipVerify", self.insecure_skip_verify),
        )
        return {key: value for key, value in named if value is not None}

    def _names_series(self) -> bool:
        return any(s is not None for s in (self.waiting, self.running, self.kv_cache, self.lora, self.cache_info))

    def _extractor(self, given: dict[str, Any]) -> dict[str, Any]:
        """The engine of the flags beside those of the configuration; a flag that is not given means vLLM's series."""
        engine = {
            "name": ENGINE,
            "queuedRequestsSpec": "vllm:num_requests_waiting" if self.waiting is None else self.waiting,
            "runningRequestsSpec": "vllm:num_requests_running" if self.running is None else self.running,
            "kvUsageSpec": "vllm:kv_cache_usage_perc" if self.kv_cache is None else self.kv_cache,
            "loraSpec": "vllm:lora_requests_info" if self.lora is None else self.lora,
            "cacheInfoSpec": "vllm:cache_config_info" if self.cache_info is None else self.cache_info,
        }
        engines = given.get("engineConfigs") or []
        if not isinstance(engines, list):
            return given  # whoever reads it says what is wrong
        return {"defaultEngine": ENGINE} | given | {"engineConfigs": [*engines, engine]}
