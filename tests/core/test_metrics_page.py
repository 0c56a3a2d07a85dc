"""The targeted extraction finds what a slow and obvious reader of the whole page finds."""

import math

import pytest
from hypothesis import example, given, strategies as st

from pointsman.core.parsers.metrics.engines import ENGINES, EngineNames, PageSeries, engine_for, parse_series
from pointsman.core.parsers.metrics.server_metrics import COUNT_MAX, REPEATING, Lora, Reading, extract

VLLM = ENGINES["vllm"]
NOW = 1.8e9
PAGE = b"""\
# HELP vllm:num_requests_waiting vllm:num_requests_waiting 99
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0"} 77.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"} 5\\n\\\\"} 17.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters=""} 1.7e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="b, a,,",waiting_lora_adapters="c"} 1.8e+09
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="27649"} 1.0
"""


def read(page: bytes, engine: EngineNames) -> Reading:
    return extract(page, engine, NOW)


# --- the slow and obvious reader --------------------------------------------------------------------


def sample_of(line: str) -> tuple[str, dict[str, str], float, float] | None:
    """Read a line character by character."""
    at = 0
    while at < len(line) and (line[at].isalnum() or line[at] in "_:"):
        at += 1
    name, labels = line[:at], {}
    while at < len(line) and line[at] in " \t":
        at += 1
    if at < len(line) and line[at] == "{":
        at += 1
        while line[at] != "}":
            equals = line.index("=", at)
            label, at, value = line[at:equals], equals + 2, ""
            while line[at] != '"':
                if line[at] == "\\":
                    at += 1
                    value += "\n" if line[at] == "n" else line[at]
                else:
                    value += line[at]
                at += 1
            labels[label] = value
            at += 2 if line[at + 1] == "," else 1
        at += 1
    elif not at or line[at - 1] not in " \t":
        return None
    parts = line[at:].split()
    return name, labels, float(parts[0]), float(parts[1]) if len(parts) > 1 else 0.0


def read_slowly(page: str) -> Reading:
    samples = [s for line in page.split("\n") if line and line[0] != "#" if (s := sample_of(line)) is not None]

    def whose(labels: dict[str, str], *without: str) -> str:
        return repr(sorted((k, v) for k, v in labels.items() if k not in REPEATING and k not in without))

    def values(*names: str) -> list[float]:
        for name in names:
            mine = [(labels, value, stamp) for n, labels, value, stamp in samples if n == name]
            if not mine:
                continue
            newest = max(stamp for _, _, stamp in mine)
            best: dict[str, tuple[float, float]] = {}
            for labels, value, stamp in mine:
                if stamp != 0 and stamp < newest - 60_000 and len(mine) > 1:
                    continue
                if whose(labels) not in best or stamp > best[whose(labels)][1]:
                    best[whose(labels)] = (value, stamp)
            return [value for value, _ in best.values()]
        return []

    def total(*names: str) -> int | None:
        counts = [int(min(max(value, 0), COUNT_MAX)) for value in values(*names) if not math.isnan(value)]
        return min(sum(counts), COUNT_MAX) if counts else None

    shares = [v for v in values("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc") if abs(v) < 3e38]
    adapters: dict[str, tuple[dict[str, str], float]] = {}
    for name, labels, value, _ in samples:
        if name == "vllm:lora_requests_info" and not math.isnan(value):
            processes = max(round(value / NOW), 1) if 0 < value < 1024 * NOW else 1
            engine = whose(labels, "running_lora_adapters", "waiting_lora_adapters", "max_lora")
            if value / processes > (adapters[engine][1] if engine in adapters else -1.0):
                adapters[engine] = (labels, value / processes)
    infos: dict[str, dict[str, str]] = {}
    for name, labels, _, _ in samples:
        if name == "vllm:cache_config_info":
            infos.setdefault(repr([labels.get(k) for k in ("engine", "dp_rank", "model_name", "model")]), labels)

    def names(label: str) -> tuple[str, ...]:
        found = [n.strip() for labels, _ in adapters.values() for n in labels.get(label, "").split(",") if n.strip()]
        return tuple(found) if len(adapters) == 1 else tuple(dict.fromkeys(found))

    def whole(labels: dict[str, str], label: str) -> int:
        text = labels.get(label, "")
        return min(int(text), COUNT_MAX) if text.isascii() and text.isdigit() and len(text) <= 10 else 0

    room = [whole(labels, "max_lora") for labels, _ in adapters.values()]
    return Reading(
        total("vllm:num_requests_waiting"),
        total("vllm:num_requests_running"),
        sum(shares) / len(shares) if shares else None,
        Lora(names("running_lora_adapters"), names("waiting_lora_adapters"), max(room)) if adapters else None,
        whole(next(iter(infos.values())), "block_size") if infos else None,
        min(sum(whole(labels, "num_gpu_blocks") for labels in infos.values()), COUNT_MAX) if infos else None,
    )


NAMES = [
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:lora_requests_info",
    "vllm:cache_config_info",
    "vllm:request_success_total",
    "other_vllm:num_requests_waiting",
    "x",
]
LABELS = [
    "max_lora",
    "running_lora_adapters",
    "waiting_lora_adapters",
    "block_size",
    "num_gpu_blocks",
    "engine",
    "tp_rank",
]
label_values = st.text(st.sampled_from('ab,{} "\\\n=#é1'), max_size=8) | st.sampled_from(
    ["16", "0", "None", "99999999999", "a, b"]
)
numbers = st.one_of(
    st.floats().map(lambda f: "NaN" if math.isnan(f) else repr(f).replace("inf", "Inf")),
    st.integers(-5, 2**70).map(str),
    st.sampled_from(["+Inf", "-Inf", "NaN", "1.", ".5", "1e3", "+7", "-0"]),
)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@st.composite
def lines(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(NAMES))
    kind = draw(st.sampled_from(["sample", "sample", "sample", "sample", "help", "type", "blank"]))
    if kind == "help":
        return f"# HELP {name} {draw(st.sampled_from(NAMES))} 5"
    if kind == "type":
        return f"# TYPE {name} gauge"
    if kind == "blank":
        return ""
    labels = draw(st.dictionaries(st.sampled_from(LABELS), label_values, max_size=4))
    comma = "," if bool(labels) and draw(st.booleans()) else ""
    written = ",".join(f'{label}="{escaped(value)}"' for label, value in labels.items())
    braces = f"{{{written}{comma}}}" if bool(labels) or draw(st.booleans()) else ""
    stamp = draw(st.just("") | st.integers(-5, 2 * 10**12).map(lambda t: f" {t}"))
    return f"{name}{braces}{draw(st.sampled_from([' ', '  ', chr(9)]))}{draw(numbers)}{stamp}"


@given(st.lists(lines(), max_size=12).map("\n".join), st.sampled_from(["\n", ""]))
def test_it_finds_what_the_slow_reader_finds(page: str, end: str) -> None:
    assert read((page + end).encode(), VLLM) == read_slowly(page)


@given(
    st.lists(lines(), max_size=6),
    st.lists(st.text(st.sampled_from('vllm:num_requests_waiting{}"= 1#\\\t'), max_size=30)),
)
def test_lines_that_are_no_samples_change_nothing(page: list[str], garbage: list[str]) -> None:
    harmless = [line for line in garbage if not line.startswith("vllm:")]
    mixed = "\n".join([line for pair in zip(page, harmless, strict=False) for line in pair] + page[len(harmless) :])

    assert read(mixed.encode(), VLLM) == read("\n".join(page).encode(), VLLM)


@given(st.binary(max_size=200), st.sampled_from([b"", b"vllm:num_requests_waiting", b"\nvllm:lora_requests_info{"]))
@example(b'{a="', b"vllm:num_requests_waiting")
def test_no_page_raises(page: bytes, start: bytes) -> None:
    for engine in ENGINES.values():
        read(start + page + start + page, engine)


def test_a_page_of_vllm() -> None:
    assert read(PAGE, VLLM) == Reading(3, 17, 0.25, Lora(("b", "a"), ("c",), 4), 16, 27649)


def test_a_page_with_line_ends_of_windows() -> None:
    assert read(PAGE.replace(b"\n", b"\r\n"), VLLM) == read(PAGE, VLLM)


def test_what_is_missing_is_none() -> None:
    assert read(b"", VLLM) == Reading()
    assert read(b"x 1\n", VLLM).empty
    assert not read(b"vllm:num_requests_waiting 0", VLLM).empty


def test_the_older_name_of_the_cache_counts_where_the_newer_is_missing() -> None:
    assert read(b"vllm:gpu_cache_usage_perc 0.5\n", VLLM).kv_cache == 0.5
    assert read(b"vllm:gpu_cache_usage_perc 0.5\nvllm:kv_cache_usage_perc 0.25\n", VLLM).kv_cache == 0.25


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("3.9", 3),
        ("-3", 0),
        ("1e300", COUNT_MAX),
        ("+Inf", COUNT_MAX),
        ("-Inf", 0),
        ("NaN", None),
        ("1_0", None),
        ("x", None),
    ],
)
def test_counts_are_whole_and_never_negative(written: str, count: int | None) -> None:
    assert read(f"vllm:num_requests_waiting {written}\n".encode(), VLLM).waiting == count


@pytest.mark.parametrize(
    ("written", "share"), [("1.5", 1.5), ("-0.5", -0.5), ("NaN", None), ("Inf", None), ("1e39", None)]
)
def test_a_share_is_kept_as_it_is_but_finite(written: str, share: float | None) -> None:
    assert read(f"vllm:kv_cache_usage_perc {written}\n".encode(), VLLM).kv_cache == share


def test_a_page_that_only_looks_like_labels_ends_soon() -> None:
    for garbage in (
        b'{a="' + b"\\" * 500_000,
        b'{a="b",' * 100_000,
        b'{"' * 300_000,
        b" " * 900_000,
        b"{" + b"a" * 900_000,
    ):
        read(b"vllm:num_requests_waiting" + garbage, VLLM)
        read(b"vllm:lora_requests_info" + garbage + b"} 1\n", VLLM)


@pytest.mark.parametrize(
    ("engine", "page", "reading"),
    [
        (
            "sglang",
            (
                'sglang:num_queue_reqs{m="a"} 2.0\nsglang:num_running_reqs 3\nsglang:token_usage 0.5\n'
                'sglang:cache_config_info{page_size="1",num_pages="9000"} 1\n'
            ),
            Reading(2, 3, 0.5, None, 1, 9000),
        ),
        (
            "trtllm-serve",
            (
                "trtllm_num_requests_waiting 2\ntrtllm_num_requests_running 3\ntrtllm_kv_cache_utilization 0.5\n"
                "trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 100\n"
            ),
            Reading(2, 3, 0.5, None, 32, 100),
        ),
        (
            "triton-tensorrt-llm",
            (
                'nv_trt_llm_request_metrics{model="m",request_type="context"} 9\n'
                'nv_trt_llm_request_metrics{model="m",request_type="waiting"} 2\n'
                'nv_trt_llm_request_metrics{model="m",request_type="scheduled"} 3\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 100\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"} 32\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"} 0.5\n'
            ),
            Reading(2, 3, 0.5, None, 32, 100),
        ),
        ("triton", "nv_inference_pending_request_count 2\nnv_inference_exec_count 3\n", Reading(2, 3)),
    ],
)
def test_other_engines(engine: str, page: str, reading: Reading) -> None:
    assert read(page.encode(), ENGINES[engine]) == reading


def test_the_engine_is_the_one_that_the_labels_name() -> None:
    new, old = "llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type"

    assert engine_for({}) is VLLM
    assert engine_for({old: "sglang"}) is ENGINES["sglang"]
    assert engine_for({new: "", old: "sglang"}) is ENGINES["sglang"]
    assert engine_for({new: "triton", old: "sglang"}) is ENGINES["triton"]
    assert engine_for({new: "unheard-of"}, default="sglang") is ENGINES["sglang"]
    assert engine_for({"own": "triton", new: "sglang"}, label="own") is ENGINES["triton"]
    assert engine_for({new: "sglang"}, label="own") is VLLM


def test_a_series_is_written_as_in_a_configuration() -> None:
    assert parse_series("vllm:num_requests_waiting") == PageSeries("vllm:num_requests_waiting")
    assert parse_series("a{b=c, d=e}") == PageSeries("a", (("b", "c"), ("d", "e")))
    assert parse_series('a {x="y", z="1,2}"}') == PageSeries("a", (("x", "y"), ("z", "1,2}")))
    assert parse_series("a{}") == PageSeries("a")
    assert parse_series(" ") is None
    for wrong in ("a{b}", "a b", "{b=c}", "a{b=c"):
        with pytest.raises(ValueError, match="wanted"):
            parse_series(wrong)


def test_an_engine_of_ones_own() -> None:
    engine = EngineNames((PageSeries("q", (("kind", "w"),)),), (PageSeries("q", (("kind", "r"),)),))

    assert read(b'q{kind="w"} 1\nq{kind="r"} 2\n', engine) == Reading(1, 2)
