"""The kinds of model servers: under which names each one's `/metrics` page says what we read."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

ENGINE_LABEL, OLD_ENGINE_LABEL = "llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type"
"""Pod labels that name the engine: the one that a configuration may change, and what counts where that is empty."""


class PageSeries(msgspec.Struct, frozen=True):
    """A family, and the labels that its series must carry."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


class EngineNames(msgspec.Struct, frozen=True):
    """Where one kind of model server says what we read; of alternatives the first present counts."""

    waiting: tuple[PageSeries, ...]
    running: tuple[PageSeries, ...]
    kv_cache: tuple[PageSeries, ...] = ()
    lora: PageSeries | None = None
    awake: PageSeries | None = None
    cache_info: PageSeries | None = None
    block_tokens_label: str = "block_size"
    unit_label: str = ""
    """Label that tells in how many tokens prefixes are shared, where a block of the cache is longer than that."""
    blocks_label: str = "num_gpu_blocks"
    block_tokens: PageSeries | None = None
    blocks: PageSeries | None = None


_TRITON = "nv_trt_llm_request_metrics"
_TRITON_CACHE = "nv_trt_llm_kv_cache_block_metrics"

ENGINES: Mapping[str, EngineNames] = MappingProxyType(
    {
        "vllm": EngineNames(
            waiting=(PageSeries("vllm:num_requests_waiting"),),
            running=(PageSeries("vllm:num_requests_running"),),
            kv_cache=(PageSeries("vllm:kv_cache_usage_perc"), PageSeries("vllm:gpu_cache_usage_perc")),
            lora=PageSeries("vllm:lora_requests_info"),
            awake=PageSeries("vllm:engine_sleep_state", (("sleep_state", "awake"),)),
            cache_info=PageSeries("vllm:cache_config_info"),
            unit_label="prefix_match_unit",
        ),
        "sglang": EngineNames(
            waiting=(PageSeries("sglang:num_queue_reqs"),),
            running=(PageSeries("sglang:num_running_reqs"),),
            kv_cache=(PageSeries("sglang:token_usage"),),
            cache_info=PageSeries("sglang:cache_config_info"),
            block_tokens_label="page_size",
            blocks_label="num_pages",
        ),
        "trtllm-serve": EngineNames(
            waiting=(PageSeries("trtllm_num_requests_waiting"),),
            running=(PageSeries("trtllm_num_requests_running"),),
            kv_cache=(PageSeries("trtllm_kv_cache_utilization"),),
            block_tokens=PageSeries("trtllm_kv_cache_tokens_per_block"),
            blocks=PageSeries("trtllm_kv_cache_max_blocks"),
        ),
        "triton-tensorrt-llm": EngineNames(
            waiting=(PageSeries(_TRITON, (("request_type", "waiting"),)),),
            running=(PageSeries(_TRITON, (("request_type", "scheduled"),)),),
            kv_cache=(PageSeries(_TRITON_CACHE, (("kv_cache_block_type", "fraction"),)),),
            block_tokens=PageSeries(_TRITON_CACHE, (("kv_cache_block_type", "tokens_per"),)),
            blocks=PageSeries(_TRITON_CACHE, (("kv_cache_block_type", "max"),)),
        ),
        "triton": EngineNames(
            waiting=(PageSeries("nv_inference_pending_request_count"),),
            running=(PageSeries("nv_inference_exec_count"),),
        ),
    }
)
"""Names of families by engine; the engines are called as llm-d-router's `core-metrics-extractor` calls them."""


_SPEC = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{(.*)\})?")
_SPEC_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?:"([^"]*)"|([^",{}]*?))\s*(?:,|$)')


def engine_for(
    labels: Mapping[str, str],
    engines: Mapping[str, EngineNames] = ENGINES,
    default: str = "vllm",
    label: str = ENGINE_LABEL,
) -> EngineNames:
    """Return the engine that a pod's labels name, the default where they name none that is known."""
    named = labels.get(label) or labels.get(OLD_ENGINE_LABEL) or default
    return engines.get(named) or engines[default]


def parse_series(spec: str) -> PageSeries | None:
    """Return the series of `name` or `name{label=value,...}`, None for an empty text; `ValueError` for others."""
    if not spec.strip():
        return None
    found = _SPEC.fullmatch(spec.strip())
    if found is None:
        raise ValueError(f"found {spec!r}, wanted a metric name, or name{{label=value,...}}")
    within, at = (found[2] or "").strip(), 0
    labels: list[tuple[str, str]] = []
    while at < len(within):
        label = _SPEC_LABEL.match(within, at)
        if label is None:
            raise ValueError(f"found {spec!r}, wanted label=value between the braces")
        labels.append((label[1], label[3] if label[2] is None else label[2]))
        at = label.end()
    return PageSeries(found[1], tuple(labels))
