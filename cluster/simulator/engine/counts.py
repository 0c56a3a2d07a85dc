"""What a simulated server counts, in the names and buckets of vLLM."""

from bisect import bisect_left

from pointsman.cluster.simulator.engine.sequence import Sequence

_LATENCY: tuple[float, ...] = (
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
    7680,
)
_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_ITERATION = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)


class CountedHistogram:
    """A Prometheus histogram; `version` rises with each value, so that an unchanged one is not written again."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = tuple(map(float, bounds))
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.version = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.version += 1


class Figures:
    """Counters and histograms of one server."""

    def __init__(self, max_model_len: int) -> None:
        tokens = _one_two_five(max_model_len)
        self.counters = {
            "prefix_cache_queries": 0,
            "prefix_cache_hits": 0,
            "num_preemptions": 0,
            "prompt_tokens": 0,
            "generation_tokens": 0,
        }
        self.success = {"stop": 0, "length": 0, "abort": 0}
        self.histograms = {
            "request_prompt_tokens": CountedHistogram(tokens),
            "request_generation_tokens": CountedHistogram(tokens),
            "iteration_tokens_total": CountedHistogram(_ITERATION),
            "request_params_max_tokens": CountedHistogram(tokens),
            "time_to_first_token_seconds": CountedHistogram(_TTFT),
            "time_per_output_token_seconds": CountedHistogram(_TPOT),
            "e2e_request_latency_seconds": CountedHistogram(_LATENCY),
            "request_queue_time_seconds": CountedHistogram(_LATENCY),
        }

    def scheduled(self, prompt_tokens: int, cached: int) -> None:
        """Count a prompt that enters the batch for the first time."""
        self.counters["prefix_cache_queries"] += prompt_tokens
        self.counters["prefix_cache_hits"] += cached

    def step(self, tokens: int) -> None:
        """Count a step that starts and computes so many tokens."""
        self.histograms["iteration_tokens_total"].observe(tokens)

    def token(self) -> None:
        """Count a token that was made."""
        self.counters["generation_tokens"] += 1

    def first_token(self, after: float) -> None:
        """Count the first token of a sequence, which took `after` seconds."""
        self.histograms["time_to_first_token_seconds"].observe(after)

    def preempted(self) -> None:
        """Count a sequence that lost its place in the batch."""
        self.counters["num_preemptions"] += 1

    def aborted(self) -> None:
        """Count a sequence whose client left before the end."""
        self.success["abort"] += 1

    def finished(self, at: float, sequence: Sequence) -> None:
        """Count a sequence that has all its tokens."""
        self.counters["prompt_tokens"] += sequence.prompt_tokens
        self.success[sequence.reason] += 1
        decode = at - sequence.first_token
        values = {
            "request_prompt_tokens": sequence.prompt_tokens,
            "request_generation_tokens": sequence.produced,
            "request_params_max_tokens": sequence.target,
            "e2e_request_latency_seconds": at - sequence.arrived,
            "request_queue_time_seconds": sequence.scheduled - sequence.arrived,
        }
        for name, value in values.items():
            self.histograms[name].observe(value)
        if sequence.produced > 1:
            self.histograms["time_per_output_token_seconds"].observe(decode / (sequence.produced - 1))


def _one_two_five(highest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to `highest`: vLLM's buckets for token counts."""
    found: list[float] = []
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power > highest:
                return tuple(found)
            found.append(float(digit * power))
        power *= 10
