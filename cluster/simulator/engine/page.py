"""The metrics page of a simulated server, line for line in the form vLLM has.

`lora_requests_info` keeps a series for each pair of adapter sets that was seen; the newest has the highest value,
which is a timestamp, as with vLLM.  A family that did not change is not written again.
"""

from collections import OrderedDict

from pointsman.cluster.simulator.engine.batching import SimulatedEngine
from pointsman.cluster.simulator.engine.counts import CountedHistogram

LORA_SERIES_MAX = 32
"""Series of the LoRA family that a page keeps; vLLM's own grow without end."""

_HELP = {
    "num_requests_running": "Number of requests in model execution batches.",
    "num_requests_waiting": "Number of requests waiting to be processed.",
    "kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
    "prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "generation_tokens": "Number of generation tokens processed.",
    "request_success": "Count of successfully processed requests.",
    "request_prompt_tokens": "Number of prefill tokens processed.",
    "request_generation_tokens": "Number of generation tokens processed.",
    "iteration_tokens_total": "Histogram of number of tokens per engine_step.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "time_per_output_token_seconds": "Histogram of time per output token in seconds.",
    "e2e_request_latency_seconds": "Histogram of e2e request latency in seconds.",
    "request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
    "cache_config_info": "Information of the LLMEngine CacheConfig",
    "lora_requests_info": "Running stats on lora requests.",
}


class MetricsPage:
    """Writes the page of one engine."""

    def __init__(self, engine: SimulatedEngine, model_name: str, started: float) -> None:
        self._engine = engine
        self._labels = f'engine="0",model_name="{_escaped(model_name)}"'
        self._started = started
        self._written: dict[str, tuple[int, str]] = {}
        self._lora: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._fixed = self._cache_config() + _process(started)

    def render(self, wall: float) -> bytes:
        """The page at this moment; `wall` is in seconds since 1970."""
        engine, labels = self._engine, self._labels
        parts = [
            _header("num_requests_running", "gauge"),
            f"vllm:num_requests_running{{{labels}}} {float(len(engine.running))}\n",
            _header("num_requests_waiting", "gauge"),
            f"vllm:num_requests_waiting{{{labels}}} {float(len(engine.waiting))}\n",
            _header("kv_cache_usage_perc", "gauge"),
            f"vllm:kv_cache_usage_perc{{{labels}}} {engine.kv_usage!r}\n",
        ]
        for name, count in engine.figures.counters.items():
            parts.append(self._counter(name, {labels: count}))
        reasons = engine.figures.success.items()
        parts.append(
            self._counter("request_success", {f'{labels},finished_reason="{reason}"': n for reason, n in reasons})
        )
        for name, histogram in engine.figures.histograms.items():
            parts.append(self._histogram(name, histogram))
        parts.append(self._lora_info(wall))
        parts.append(self._fixed)
        return "".join(parts).encode()

    def _counter(self, name: str, series: dict[str, int]) -> str:
        lines = [_header(name, "counter", "_total")]
        lines += [f"vllm:{name}_total{{{labels}}} {float(count)}\n" for labels, count in series.items()]
        lines.append(_header(name, "gauge", "_created"))
        lines += [f"vllm:{name}_created{{{labels}}} {self._started!r}\n" for labels in series]
        return "".join(lines)

    def _histogram(self, name: str, histogram: CountedHistogram) -> str:
        known = self._written.get(name)
        if known is not None and known[0] == histogram.version:
            return known[1]
        labels, running, lines = self._labels, 0, [_header(name, "histogram")]
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            running += count
            lines.append(f'vllm:{name}_bucket{{{labels},le="{bound}"}} {float(running)}\n')
        lines.append(f"vllm:{name}_count{{{labels}}} {float(running)}\n")
        lines.append(f"vllm:{name}_sum{{{labels}}} {histogram.sum!r}\n")
        text = "".join(lines)
        self._written[name] = (histogram.version, text)
        return text

    def _lora_info(self, wall: float) -> str:
        running, waiting = (",".join(names) for names in self._engine.adapters())
        self._lora[running, waiting] = wall
        self._lora.move_to_end((running, waiting))
        if len(self._lora) > LORA_SERIES_MAX:
            self._lora.popitem(last=False)
        lines = [_header("lora_requests_info", "gauge")]
        for (run, wait), value in self._lora.items():
            labels = (
                f'max_lora="{self._engine.model.max_loras}",running_lora_adapters="{_escaped(run)}"'
                f',waiting_lora_adapters="{_escaped(wait)}"'
            )
            lines.append(f"vllm:lora_requests_info{{{labels}}} {value!r}\n")
        return "".join(lines)

    def _cache_config(self) -> str:
        model = self._engine.model
        labels = (
            f'block_size="{model.block_tokens}",cache_dtype="auto",calculate_kv_scales="False",cpu_offload_gb="0.0"'
            f',enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.9",is_attention_free="False"'
            f',num_cpu_blocks="None",num_gpu_blocks="{model.num_gpu_blocks}",num_gpu_blocks_override="None"'
            f',prefix_caching_hash_algo="sha256",sliding_window="None",swap_space="4.0"'
        )
        return _header("cache_config_info", "gauge") + f"vllm:cache_config_info{{{labels}}} 1.0\n"


def _header(name: str, kind: str, suffix: str = "") -> str:
    return f"# HELP vllm:{name}{suffix} {_HELP[name]}\n# TYPE vllm:{name}{suffix} {kind}\n"


def _process(started: float) -> str:
    return (
        "# HELP python_info Python platform information\n# TYPE python_info gauge\n"
        'python_info{implementation="CPython",major="3",minor="12",patchlevel="11",version="3.12.11"} 1.0\n'
        "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.\n"
        f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {started!r}\n"
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
