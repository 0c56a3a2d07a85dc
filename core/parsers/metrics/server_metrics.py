"""What routing needs of a model server's `/metrics` page, found without reading the rest of it.

A page is text in the Prometheus exposition format.  A line that is not understood is as good as absent:
what is missing comes back as None, and no page raises.

A server is more than one engine where it runs several (vLLM's `engine`, SGLang's `dp_rank`) or several models, and one
page then has a series of a family for each.  What the page says is about the server as a whole:
- requests that wait or run, and blocks of the KV cache, are added; the used share of the cache is the mean;
- adapters are united, and the room for them is the largest that one engine has;
- ranks of tensor, pipeline and expert parallelism (`REPEATING`) work on the same requests and tell the same numbers, so
  series that differ in nothing else count once;
- of series that do not differ the latest counts, the first where none has a timestamp;
- a series whose timestamp is `STALE_MS` behind the family's latest is of a process that is gone, and does not count.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias

import msgspec

from pointsman.core.parsers.metrics.engines import EngineNames, PageSeries

COUNT_MAX = 2**32 - 1
"""A count above it is taken for this: no server has so many requests, and columns stay four bytes wide."""

KV_MAX = 3e38
"""A share of the KV cache beyond the range of a 4-byte float is no share."""

ADAPTERS_MAX = 1024
"""Names read of one label; servers hold a few dozen adapters at once."""

REPEATING = frozenset(("tp_rank", "pp_rank", "moe_ep_rank", "ep_rank", "attn_tp_rank"))
"""Labels of ranks that share their engine's work, and repeat its numbers.

SGLang labels its gauges with `tp_rank`, `pp_rank`, `dp_rank` and, with expert parallelism, `moe_ep_rank`
(`python/sglang/srt/managers/scheduler_metrics_mixin.py`); of these `dp_rank` alone tells engines apart.
vLLM tells them apart by `engine`, and names no ranks (`vllm/v1/metrics/loggers.py`).  TensorRT-LLM and Triton label
models and versions.
"""

PROCESS_STARTED = b"process_start_time_seconds"
"""Family that the client libraries of Prometheus write for every process."""
STARTED_MAX = 1e12
"""Seconds since 1970 beyond which a time is none."""

_ADAPTER_LABELS = frozenset(("running_lora_adapters", "waiting_lora_adapters", "max_lora"))
"""Labels that carry what a LoRA series says; the others tell whose it is."""

STALE_MS = 60_000.0
"""Milliseconds behind the latest: a living engine writes its gauges every few seconds."""


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
    started_at: float | None = None
    """Time at which the server's process started, seconds since 1970."""
    asleep: bool = False
    """Whether all of its engines sleep."""

    @property
    def empty(self) -> bool:
        """None of the three numbers that load scorers read is there."""
        return self.waiting is None and self.running is None and self.kv_cache is None


def extract(page: bytes, engine: EngineNames, now: float) -> Reading:
    """Return what `page`, read at `now` (seconds since 1970), says of the engine's families."""
    block_tokens, blocks = _geometry(page, engine)
    shares = [value for value in _values(page, engine.kv_cache) if -KV_MAX < value < KV_MAX]
    return Reading(
        _total(_values(page, engine.waiting)),
        _total(_values(page, engine.running)),
        sum(shares) / len(shares) if shares else None,
        None if engine.lora is None else _lora(page, engine.lora, now),
        block_tokens,
        blocks,
        next((value for _, value, _ in _samples(page, PROCESS_STARTED) if 0 < value < STARTED_MAX), None),
        _asleep(page, engine.awake),
    )


# --- samples --------------------------------------------------------------------------------------

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


_Sample: TypeAlias = tuple[bytes | None, float, float]
"""Labels as written, value, timestamp in milliseconds or 0."""


def _samples(page: bytes, name: bytes) -> Iterator[_Sample]:
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


def _values(page: bytes, alternatives: tuple[PageSeries, ...]) -> list[float]:
    """The values of the first family that is there: one for each engine and model."""
    for series in alternatives:
        found = list(_samples(page, series.name.encode()))
        if series.labels:
            found = [one for one in found if _carries(one[0], series.labels)]
        if len(found) == 1:
            return [found[0][1]]
        if found:
            return [value for _, value, _ in _newest(found)]
    return []


def _newest(samples: list[_Sample]) -> list[_Sample]:
    """The newest sample of each engine and model, without those of processes that are gone."""
    oldest = max(stamp for _, _, stamp in samples) - STALE_MS
    newest: dict[_Whose, _Sample] = {}
    for sample in samples:
        labels, _, stamp = sample
        if stamp and stamp < oldest:
            continue
        whose = _whose(labels or b"")
        known = newest.get(whose)
        if known is None or stamp > known[2]:
            newest[whose] = sample
    return list(newest.values())


_Whose: TypeAlias = tuple[tuple[str, str], ...]


@lru_cache(maxsize=4096)
def _whose(written: bytes) -> _Whose:
    """The labels that tell engines and models apart, in order."""
    return tuple(sorted(pair for pair in _labels(written).items() if pair[0] not in REPEATING))


@lru_cache(maxsize=4096)
def _whose_adapters(written: bytes) -> _Whose:
    return tuple(pair for pair in _whose(written) if pair[0] not in _ADAPTER_LABELS)


def _carries(written: bytes | None, wanted: tuple[tuple[str, str], ...]) -> bool:
    found = _labels(written)
    return all(found.get(label) == value for label, value in wanted)


def _infos(page: bytes, series: PageSeries) -> list[Mapping[str, str]]:
    """The labels of the family's series, one for each engine, where the labels are what it tells."""
    mine = [_labels(written) for written, _, _ in _samples(page, series.name.encode())]
    if series.labels:
        mine = [labels for labels in mine if all(labels.get(label) == value for label, value in series.labels)]
    if len(mine) <= 1:
        return mine
    found: dict[tuple[str | None, ...], Mapping[str, str]] = {}
    for labels in mine:
        found.setdefault(tuple(labels.get(name) for name in _ENGINES_BY), labels)
    return list(found.values())


_ENGINES_BY = ("engine", "dp_rank", "model_name", "model")
"""Labels that tell engines apart in a family whose other labels are its facts."""


# --- values ---------------------------------------------------------------------------------------


def _total(values: list[float]) -> int | None:
    """The sum of counts, each towards zero and never negative; None where there is no number."""
    total: int | None = None
    for value in values:
        if not math.isnan(value):
            total = (total or 0) + (0 if value < 0 else COUNT_MAX if value > COUNT_MAX else int(value))
    return None if total is None else min(total, COUNT_MAX)


def _whole(text: str | None) -> int:
    """A label that holds a number; 0 where it does not, as in `num_gpu_blocks="None"`."""
    if text is None or len(text) > 10 or not text.isascii() or not text.isdigit():
        return 0
    return min(int(text), COUNT_MAX)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))[:ADAPTERS_MAX]


def _lora(page: bytes, series: PageSeries, now: float) -> Lora | None:
    """The adapters of all engines: of each the series that was written last, the first among equals.

    The value is the time of writing.  Where several API server processes share a page their values are added, so a
    value far beyond the present is that many times a time.
    """
    newest: dict[_Whose, tuple[float, bytes | None]] = {}
    for written, value, _ in _samples(page, series.name.encode()):
        if math.isnan(value) or (series.labels and not _carries(written, series.labels)):
            continue
        whose = _whose_adapters(written or b"")
        at = value / max(round(value / now), 1) if now < value < _PROCESSES_MAX * now else value
        if at > newest.get(whose, _NEVER)[0]:
            newest[whose] = (at, written)
    if not newest:
        return None
    of_engines = [_labels(written) for _, written in newest.values()]
    return Lora(
        _united(of_engines, "running_lora_adapters"),
        _united(of_engines, "waiting_lora_adapters"),
        max(_whole(labels.get("max_lora")) for labels in of_engines),
    )


def _asleep(page: bytes, awake: PageSeries | None) -> bool:
    """Whether each engine says that it is not awake; one that does not say is awake."""
    if awake is None:
        return False
    values = _values(page, (awake,))
    return bool(values) and not any(values)


_NEVER: tuple[float, bytes | None] = (-1.0, None)
_PROCESSES_MAX = 1024
"""API server processes of one server beyond which a value is no sum of times."""


def _united(of_engines: list[Mapping[str, str]], label: str) -> tuple[str, ...]:
    names = [name for labels in of_engines for name in _names(labels.get(label, ""))]
    return tuple(names if len(of_engines) == 1 else dict.fromkeys(names))[:ADAPTERS_MAX]


def _geometry(page: bytes, engine: EngineNames) -> tuple[int | None, int | None]:
    """Tokens in a block of the KV cache, or in a unit that prefixes are shared in, and such blocks of all engines."""
    if engine.cache_info is not None:
        infos = _infos(page, engine.cache_info)
        if not infos:
            return None, None
        blocks = sum(_whole(info.get(engine.blocks_label)) for info in infos)
        tokens = _whole(infos[0].get(engine.block_tokens_label))
        # With Mamba layers vLLM has blocks of thousands of tokens, of which a prefix may fill a part.
        if unit := _whole(infos[0].get(engine.unit_label)):
            tokens, blocks = unit, blocks * tokens // unit
        return tokens, min(blocks, COUNT_MAX)
    sizes = [] if engine.block_tokens is None else _values(page, (engine.block_tokens,))
    return _total(sizes[:1]), None if engine.blocks is None else _total(_values(page, (engine.blocks,)))
