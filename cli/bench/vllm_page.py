"""A `/metrics` page of the size and shape that vLLM's V1 engine gives: 19 KB, 230 series."""

_BUCKETS = {
    "time_to_first_token_seconds": (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0),
    "inter_token_latency_seconds": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0),
    "e2e_request_latency_seconds": (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    "request_queue_time_seconds": (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    "request_prefill_time_seconds": (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    "request_decode_time_seconds": (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    "request_prompt_tokens": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
    "request_generation_tokens": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
    "request_params_max_tokens": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
    "iteration_tokens_total": (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
}
_PYTHON = [
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
]
_COUNTERS = ["prompt_tokens", "generation_tokens", "num_preemptions", "prefix_cache_queries", "prefix_cache_hits"]


def vllm_page(waiting: int = 3, running: int = 17, kv_cache: float = 0.4217, model: str = "llama-3.1-8b") -> bytes:
    """Return the page; the numbers that are read stand where vLLM puts them, among histograms."""
    labels = f'engine="0",model_name="{model}"'
    lines: list[str] = []

    def family(name: str, kind: str, *samples: str) -> None:
        lines.extend((f"# HELP {name} {name.partition(':')[2].replace('_', ' ')}.", f"# TYPE {name} {kind}", *samples))

    for name in _PYTHON:
        family(name, "gauge", f"{name} 2.1474836e+09")
    family("vllm:num_requests_running", "gauge", f"vllm:num_requests_running{{{labels}}} {running}.0")
    family("vllm:num_requests_waiting", "gauge", f"vllm:num_requests_waiting{{{labels}}} {waiting}.0")
    family("vllm:kv_cache_usage_perc", "gauge", f"vllm:kv_cache_usage_perc{{{labels}}} {kv_cache}")
    for name in _COUNTERS:
        family(f"vllm:{name}_total", "counter", f"vllm:{name}_total{{{labels}}} 1.298371e+06")
        family(f"vllm:{name}_created", "gauge", f"vllm:{name}_created{{{labels}}} 1.7599721133e+09")
    for reason in ("stop", "length", "abort"):
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} 4120.0')
    for name, bounds in _BUCKETS.items():
        buckets = [
            f'vllm:{name}_bucket{{{labels},le="{bound}"}} {91 * at}.0' for at, bound in enumerate((*bounds, "+Inf"))
        ]
        ends = (f"vllm:{name}_count{{{labels}}} 5123.0", f"vllm:{name}_sum{{{labels}}} 88213.1253")
        family(f"vllm:{name}", "histogram", *buckets, *ends)
    family(
        "vllm:lora_requests_info",
        "gauge",
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters=""} 1.7599721e+09',
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="food-review-1,sql",waiting_lora_adapters="chat"}'
        " 1.7599822e+09",
    )
    family(
        "vllm:cache_config_info",
        "gauge",
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",cpu_offload_gb="0",enable_prefix_caching="True",'
        'engine="0",gpu_memory_utilization="0.9",num_cpu_blocks="None",num_gpu_blocks="27649",sliding_window="None",'
        'swap_space="4"} 1.0',
    )
    return ("\n".join(lines) + "\n").encode()
