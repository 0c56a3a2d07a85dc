"""What routing needs of a model server's `/metrics` page, found without reading the rest of it.

A page is text in the Prometheus exposition format.  A line that is not understood is as good as absent:
what is missing comes back as None, and no page raises.
Of several series of one family the one with the latest timestamp counts, the first where none has one.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

import msgspec

COUNT_MAX = 2**32 - 1
"""A count above it is taken for this: no server has so many requests, and columns stay four bytes wide."""

KV_MAX = 3e38
"""A share of the KV cache beyond the range of a 4-byte float is no share."""

ADAPTERS_MAX = 1024
"""Names read of one label; servers hold a few dozen adapters at once."""

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
    cache_info: PageSeries | None = None
    block_tokens_label: str = "block_size"
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
            cache_info=PageSeries("vllm:cache_config_info"),
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


class Lora(msgspec.Struct, frozen=True):
    """The adapters a server says it holds; names in its own order."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    max: int
    """0 where it says none."""


class Reading(msgspec.Struct, frozen=True):
    """What one page says; None is not said."""

    waiting: int | None = None
    running: int | None = None
    kv_cache: float | None = None
    lora: Lora | None = None
    block_tokens: int | None = None
    blocks: int | None = None

    @property
    def empty(self) -> bool:
        """None of the three numbers that load scorers read is there."""
        return self.waiting is None and self.running is None and self.kv_cache is None


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


def extract(page: bytes, engine: EngineNames) -> Reading:
    """Return what `page` says of the engine's families."""
    block_tokens, blocks = _geometry(page, engine)
    return Reading(
        _count(_latest(page, engine.waiting)),
        _count(_latest(page, engine.running)),
        _share(_latest(page, engine.kv_cache)),
        None if engine.lora is None else _lora(page, engine.lora),
        block_tokens,
        blocks,
    )


# --- samples --------------------------------------------------------------------------------------

_SPEC = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{(.*)\})?")
_SPEC_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?:"([^"]*)"|([^",{}]*?))\s*(?:,|$)')
# Possessive quantifiers: on garbage the match fails in one pass.
_SAMPLE = re.compile(
    rb"[ \t]*+(?:\{([^\"}\n]*+(?:\"[^\"\\\n]*+(?:\\.[^\"\\\n]*+)*+\"[^\"}\n]*+)*+)\})?+"
    rb"[ \t]*+([^\s{}\"]++)(?:[ \t]++(-?\d++(?:\.\d++)?+))?+[ \t\r]*+(?:\n|\Z)"
)
_LABEL = re.compile(rb"[ \t,]*+([A-Za-z_][A-Za-z0-9_]*+)[ \t]*+=[ \t]*+\"([^\"\\\n]*+(?:\\.[^\"\\\n]*+)*+)\"")
_ESCAPE = re.compile(rb"\\(.)")
_ESCAPES = {b"n": b"\n"}
_NAME_ENDS = (b"{", b" ", b"\t")
_NUMBER = re.compile(rb"[-+]?+(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?+\d++)?+|[-+]?+[Ii]nf|NaN")


def _samples(page: bytes, name: bytes) -> Iterator[tuple[bytes | None, float, float]]:
    """Each (labels as written, value, timestamp) of the family, in the page's order; timestamp 0 where none is."""
    starts: list[int] = []
    needle = b"\n" + name
    at = page.rfind(needle)  # backwards, because `bytes.rfind` takes half the time of `bytes.find`
    while at >= 0:
        starts.append(at + 1)
        at = page.rfind(needle, 0, at)
    if page.startswith(name):
        starts.append(0)
    for start in reversed(starts):
        end = start + len(name)
        if page[end : end + 1] in _NAME_ENDS and (found := _SAMPLE.match(page, end)) is not None:
            labels, text, stamp = found.groups()
            if _NUMBER.fullmatch(text) is not None:
                yield labels, float(text), float(stamp) if stamp else 0.0


def _labels(written: bytes | None) -> Mapping[str, str]:
    if not written:
        return {}
    return _known_labels(written) if len(written) <= _KNOWN_BYTES else _read_labels(written)


def _read_labels(written: bytes) -> Mapping[str, str]:
    found: dict[str, str] = {}
    at = 0
    while (label := _LABEL.match(written, at)) is not None:  # one after the other: garbage ends them
        name, value, at = label[1], label[2], label.end()
        if b"\\" in value:
            value = _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[1]), value)
        found[name.decode()] = value.decode("utf-8", "replace")
    return found


_KNOWN_BYTES = 1024
# Labels that carry facts stay the same from page to page, and reading them costs more than all numbers.
_known_labels = lru_cache(maxsize=4096)(_read_labels)


def _latest(page: bytes, alternatives: tuple[PageSeries, ...]) -> float | None:
    """The value of the series with the latest timestamp, the first among equals."""
    for series in alternatives:
        best, latest = None, -1.0
        for labels, value, stamp in _samples(page, series.name.encode()):
            if stamp > latest and (not series.labels or _carries(labels, series.labels)):
                best, latest = value, stamp
        if best is not None:
            return best
    return None


def _carries(written: bytes | None, wanted: tuple[tuple[str, str], ...]) -> bool:
    found = _labels(written)
    return all(found.get(label) == value for label, value in wanted)


def _first(page: bytes, series: PageSeries) -> Mapping[str, str] | None:
    """The labels of the family's first series."""
    for labels, _, _ in _samples(page, series.name.encode()):
        found = _labels(labels)
        if all(found.get(label) == value for label, value in series.labels):
            return found
    return None


# --- values ---------------------------------------------------------------------------------------


def _count(value: float | None) -> int | None:
    """Towards zero, and never negative; None where it is no number."""
    if value is None or math.isnan(value):
        return None
    return 0 if value < 0 else COUNT_MAX if value > COUNT_MAX else int(value)


def _share(value: float | None) -> float | None:
    return value if value is not None and abs(value) < KV_MAX else None


def _whole(text: str | None) -> int:
    """A label that holds a number; 0 where it does not, as in `num_gpu_blocks="None"`."""
    if text is None or len(text) > 10 or not text.isascii() or not text.isdigit():
        return 0
    return min(int(text), COUNT_MAX)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))[:ADAPTERS_MAX]


def _lora(page: bytes, series: PageSeries) -> Lora | None:
    """The series whose value, the time of its writing, is the largest; the first among equals."""
    best: bytes | None = None
    latest = -1.0
    for labels, value, _ in _samples(page, series.name.encode()):
        if value > latest and (not series.labels or _carries(labels, series.labels)):
            best, latest = labels or b"", value
    if best is None:
        return None
    found = _labels(best)
    return Lora(
        _names(found.get("running_lora_adapters", "")),
        _names(found.get("waiting_lora_adapters", "")),
        _whole(found.get("max_lora")),
    )


def _geometry(page: bytes, engine: EngineNames) -> tuple[int | None, int | None]:
    """Tokens in a block of the KV cache, and blocks."""
    if engine.cache_info is not None:
        info = _first(page, engine.cache_info)
        if info is None:
            return None, None
        return _whole(info.get(engine.block_tokens_label)), _whole(info.get(engine.blocks_label))
    tokens = None if engine.block_tokens is None else _count(_latest(page, (engine.block_tokens,)))
    blocks = None if engine.blocks is None else _count(_latest(page, (engine.blocks,)))
    return tokens, blocks
