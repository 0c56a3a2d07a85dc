"""The flags of `pointsman epp`, in every spelling of the Go EPP's versions."""

import re

import pytest
from hypothesis import assume, given, strategies as st

from pointsman.cli.commands.epp_flags import FLAGS, Effect, Flag, environment_thresholds, help_text, parse_flags
from pointsman.cli.control.scrape_settings import scrape_settings
from pointsman.cli.failure import Failure
from pointsman.core.config.parse import PickingFlags, default_config, parse_config
from pointsman.core.parsers.metrics.engines import PageSeries
from pointsman.core.plugins.utilization_detector import UtilizationDetector

EXAMPLES = {
    "bool": "true",
    "port": "1",
    "int": "3",
    "duration": "1m30s",
    "size": "10MiB",
    "text": "x",
    "path": "/x",
    "series": "x{a=b}",
}

# Section 5.1 of the protocol's description: every flag of today's Go EPP.
TODAY = [
    "grpc-port",
    "grpc-health-port",
    "metrics-port",
    "grpc-max-recv-msg-size",
    "grpc-max-send-msg-size",
    "drain-timeout",
    "ha-enable-leader-election",
    "pool-name",
    "pool-namespace",
    "pool-group",
    "endpoint-selector",
    "endpoint-target-ports",
    "disable-endpoint-subset-filter",
    "emit-endpoint-scores",
    "refresh-metrics-interval",
    "refresh-prometheus-metrics-interval",
    "metrics-staleness-threshold",
    "total-queued-requests-metric",
    "total-running-requests-metric",
    "kv-cache-usage-percentage-metric",
    "lora-info-metric",
    "cache-info-metric",
    "v",
    "zap-devel",
    "zap-encoder",
    "zap-log-level",
    "zap-stacktrace-level",
    "zap-time-encoding",
    "tracing",
    "health-checking",
    "enable-pprof",
    "enable-grpc-stream-metrics",
    "secure-serving",
    "cert-path",
    "enable-cert-reload",
    "tls-min-version",
    "tls-cipher-suites",
    "metrics-endpoint-auth",
    "metrics-client-ca-file",
    "metrics-cert-dir",
    "config-file",
    "config-text",
    "allow-experimental-plugins",
]


def refusal(*words: str) -> str:
    with pytest.raises(Failure) as caught:
        parse_flags(list(words))
    assert caught.value.code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", TODAY)
def test_every_flag_of_the_go_epp_is_known(name: str) -> None:
    [flag] = [flag for flag in FLAGS if flag.name == name]

    if name not in ("pool-group", "tls-min-version"):
        parse_flags([f"--{name}={EXAMPLES[flag.kind]}"])


def test_the_rollout_guides_command_line_is_understood() -> None:
    words = "--pool-name vllm-llama3-8b-instruct-new --pool-namespace default --v 4 --zap-encoder json"
    words += " --grpc-port 9002 --grpc-health-port 9003 --config-file /config/default-plugins.yaml"
    given = parse_flags(words.split())

    assert given.warnings == ()
    assert given.flags.pool_name == "vllm-llama3-8b-instruct-new"
    assert given.flags.grpc_port == 9002
    assert given.flags.config_file == "/config/default-plugins.yaml"


@pytest.mark.parametrize(
    "words",
    [
        ["--pool-name", "x", "--grpc-port", "7"],
        ["--pool-name=x", "--grpc-port=7"],
        ["-pool-name", "x", "-grpc-port=7"],
        ["-poolName", "x", "-grpcPort", "7"],
        ["--poolName=x", "--grpcPort=7"],
    ],
)
def test_one_dash_two_dashes_and_camel_case_are_one_flag(words: list[str]) -> None:
    flags = parse_flags(words).flags

    assert (flags.pool_name, flags.grpc_port) == ("x", 7)


def test_verbosity_may_stick_to_its_letter() -> None:
    for words in (["-v4"], ["-v=4"], ["-v", "4"], ["--v=4"]):
        assert parse_flags([*words, "--pool-name=x"]) == parse_flags(["--pool-name=x"])


def test_a_boolean_takes_its_value_only_behind_an_equals_sign() -> None:
    assert parse_flags(["--secure-serving"]).flags.secure_serving is True
    assert parse_flags(["--secure-serving=false"]).flags.secure_serving is False
    assert parse_flags(["-secureServing=F"]).flags.secure_serving is False
    assert "found 'false', wanted a flag" in refusal("--secure-serving", "false")
    assert "wanted true or false" in refusal("--secure-serving=no")


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.effect is Effect.WARNED], ids=lambda flag: flag.name)
def test_a_flag_that_does_nothing_says_what_happens_instead_unless_it_asks_for_that(flag: Flag) -> None:
    asked = {"bool": "true"}.get(flag.kind, EXAMPLES[flag.kind])

    assert flag.about
    assert parse_flags([f"--{flag.name}={asked}"]).warnings == (f"--{flag.name}={asked} has no effect: {flag.about}",)
    assert parse_flags([f"--{flag.name}={flag.so}"] if flag.so else []).warnings == ()


def test_what_is_so_in_any_case_needs_no_warning() -> None:
    words = [
        "--tracing=false",
        "--metrics-endpoint-auth=false",
        "--enable-pprof=false",
        "--ha-enable-leader-election=f",
    ]

    assert parse_flags(words).warnings == ()


def test_each_flag_that_is_accepted_in_silence_makes_no_difference() -> None:
    for flag in FLAGS:
        if flag.effect is Effect.ACCEPTED:
            assert parse_flags([f"--{flag.name}={EXAMPLES[flag.kind]}"]) == parse_flags([])


TRITON = (
    "--pool-name p --pool-namespace n --pool-group inference.networking.k8s.io --zap-encoder=json --config-file FILE"
    " --total-queued-requests-metric=nv_trt_llm_request_metrics{request_type=waiting}"
    " --kv-cache-usage-percentage-metric=nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}"
    " --lora-info-metric= --tracing=false"
)


@pytest.mark.parametrize(
    "words",
    [
        TRITON,
        "--pool-name p --cert-path DIR --enable-cert-reload=true",
        "--pool-name p --model-server-metrics-port 8002",
        "--pool-name p --model-server-metrics-scheme https",
        "-poolName p -modelServerMetricsPath prom -totalQueuedRequestsMetric x",
    ],
)
def test_the_command_lines_of_charts_start_the_picker_without_a_warning(words: str) -> None:
    assert parse_flags(words.split()).warnings == ()


def test_the_metric_flags_are_the_specs_of_one_engine() -> None:
    flags = PickingFlags(metrics=parse_flags(TRITON.split()).flags.metrics())
    settings = scrape_settings(default_config(flags), 0.05)
    engine = settings.engines[settings.default_engine]

    assert engine.waiting == (PageSeries("nv_trt_llm_request_metrics", (("request_type", "waiting"),)),)
    assert engine.kv_cache == (PageSeries("nv_trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", "fraction"),)),)
    assert engine.lora is None
    assert engine.running == (PageSeries("vllm:num_requests_running"),)
    assert engine.cache_info == PageSeries("vllm:cache_config_info")


def test_quotes_that_a_chart_leaves_around_a_series_are_taken_away() -> None:
    assert parse_flags(['--lora-info-metric="a{b=c}"']).flags.lora_info_metric == "a{b=c}"


def test_a_configuration_goes_before_the_metrics_flags() -> None:
    words = ["--model-server-metrics-path=prom", "--model-server-metrics-port=1", "--lora-info-metric=x"]
    flags = PickingFlags(metrics=parse_flags(words).flags.metrics())
    plugins = [
        {"type": "metrics-data-source", "parameters": {"port": 2}},
        {"type": "core-metrics-extractor", "parameters": {"defaultEngine": "e", "engineConfigs": [{"name": "e"}]}},
        {"type": "queue-scorer"},
    ]
    sources = [{"pluginRef": "metrics-data-source", "extractors": [{"pluginRef": "core-metrics-extractor"}]}]
    document = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": plugins}
    settings = scrape_settings(parse_config(document | {"dataLayer": {"sources": sources}}, {}, flags), 0.05)

    assert (settings.path, settings.metrics_port, settings.default_engine) == ("/prom", 2, "e")


def test_thresholds_of_the_environment_hold_without_a_configuration() -> None:
    config = default_config(PickingFlags(queue_depth_threshold=9))
    detector = config.parameters(config.saturation_detector)

    assert isinstance(detector, UtilizationDetector)
    assert detector.queue_depth_threshold == 9


@given(st.sampled_from(FLAGS), st.data())
def test_a_misspelt_flag_is_refused_with_a_name_that_is_near(flag: Flag, data: st.DataObject) -> None:
    assume(len(flag.name) > 4)
    at = data.draw(st.integers(1, len(flag.name) - 1))
    misspelt = flag.name[:at] + "q" + flag.name[at:]
    said = refusal(f"--{misspelt}=1")

    assert said.startswith(f"unknown flag --{misspelt}: did you mean '")


def test_the_nearest_name_is_the_one_that_was_meant() -> None:
    assert "did you mean 'grpc-port'" in refusal("--grpc-prot", "1")
    assert "did you mean 'pool-name'" in refusal("-poolNam=x")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("--grpc-port=70000", "wanted a port"),
        ("--grpc-port=x", "wanted a port"),
        ("--drain-timeout=30", "wanted a duration"),
        ("--drain-timeout=-1s", "wanted 0 or more"),
        ("--grpc-max-recv-msg-size=many", "wanted a quantity"),
        ("--grpc-max-recv-msg-size=-1", "wanted 1 to 2Gi"),
        ("--buffer-max=3Gi", "wanted 1 to 2Gi"),
        ("--v=loud", "wanted a whole number"),
        ("--model-server-metrics-scheme=ftp", "wanted http or https"),
        ("--model-server-metrics-port=70000", "wanted a port from 0 to 65535"),
        ("--lora-info-metric={a=b}", "wanted a metric name"),
        ("--http2=h3", "wanted pointsman or h2"),
        ("--pool-group=apps", "wanted inference.networking.k8s.io"),
        ("--tls-min-version=1.2", "wanted VersionTLS10"),
    ],
)
def test_a_value_that_cannot_be_says_what_was_wanted(word: str, found: str) -> None:
    assert found in refusal(word)


def test_sizes_are_quantities_of_which_one_trailing_b_is_cut() -> None:
    sizes = [parse_flags([f"--grpc-max-recv-msg-size={s}"]).flags.grpc_max_recv_msg_size for s in ("25MB", "10MiB", "")]

    assert sizes == [25_000_000, 10 << 20, 4 << 20]


def test_a_file_and_a_text_of_configuration_are_one_too_many() -> None:
    assert "wanted one of them" in refusal("--config-file=a", "--config-text=b")


def test_the_help_names_every_flag_and_has_an_example() -> None:
    text = help_text("pointsman epp")

    for flag in FLAGS:
        assert re.search(rf"--{flag.name}\b", text)
    assert "example:\n  pointsman epp --pool-name" in text


def test_thresholds_come_from_the_environment() -> None:
    found = environment_thresholds({"SD_QUEUE_DEPTH_THRESHOLD": "7", "SD_METRICS_STALENESS_THRESHOLD": "300ms"})

    assert found == {"queue_depth_threshold": 7, "metrics_staleness_threshold": 0.3}
    with pytest.raises(Failure, match="SD_KV_CACHE_UTIL_THRESHOLD='much'"):
        environment_thresholds({"SD_KV_CACHE_UTIL_THRESHOLD": "much"})
