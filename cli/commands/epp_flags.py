"""The flags of `pointsman epp`: those of the Go EPP, in every spelling that a version of it took.

GNU style as in llm-d-router (`--pool-name x`, `--pool-name=x`), one dash as Go's flag package takes it,
camel case as in GIE v0.5 (`-poolName`).  A boolean takes its value only behind `=`.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum

import msgspec

from pointsman.cli.failure import Failure
from pointsman.core.config.metrics_flags import MetricsFlags
from pointsman.core.feed.buffer import BUFFER_BYTES_MAX
from pointsman.core.parsers.metrics.engines import parse_series
from pointsman.core.processes.settings import HTTP2_ENGINES, HUNG_AFTER, MESSAGE_BYTES_MAX, OWN_ENGINE, KeepLimits
from pointsman.core.values.distance import wanted
from pointsman.core.values.quantities import parse_duration, parse_quantity


class Effect(Enum):
    """What Pointsman does with a flag."""

    WORKS = "works"
    ACCEPTED = "accepted"
    """Accepted silently: what it asks for is so in any case, or makes no difference."""
    WARNED = "warned"
    """Accepted with a warning of what happens instead of what it asks for."""


class Flag(msgspec.Struct, frozen=True):
    """One flag."""

    name: str
    kind: str
    """`port`, `int`, `bool`, `text`, `duration`, `size` or `room`."""
    default: str
    about: str
    """What it is for; of a flag that is warned of, what happens instead."""
    effect: Effect = Effect.WORKS
    so: str = ""
    """Value that asks for what happens in any case, of a flag that is warned of otherwise."""


_WARNED, _ACCEPTED = Effect.WARNED, Effect.ACCEPTED

_VLLM = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:lora_requests_info",
    "vllm:cache_config_info",
)

FLAGS = (
    Flag("pool-name", "text", "", "InferencePool to pick for"),
    Flag("pool-namespace", "text", "", "its namespace (then NAMESPACE from the environment, then `default`)"),
    Flag("pool-group", "text", "inference.networking.k8s.io", "its API group"),
    Flag("grpc-port", "port", "9002", "ext_proc"),
    Flag("grpc-health-port", "port", "9003", "gRPC health service"),
    Flag("metrics-port", "port", "9090", "Prometheus metrics, at /metrics"),
    Flag("legacy-metrics", "bool", "false", "the metrics of GIE v0.5 as well, inference_model_* (ours)"),
    Flag("config-file", "text", "", "EndpointPickerConfig; it is watched"),
    Flag("config-text", "text", "", "the same as text"),
    Flag("secure-serving", "bool", "true", "TLS on the ext_proc port"),
    Flag("cert-path", "text", "", "directory with tls.crt and tls.key (without: self-signed)"),
    Flag("enable-cert-reload", "bool", "false", "take a renewed certificate from there without a restart"),
    Flag("tls-min-version", "text", "", "VersionTLS12 or VersionTLS13"),
    Flag("health-checking", "bool", "false", "the health service on the ext_proc port as well"),
    Flag("refresh-metrics-interval", "duration", "50ms", "scrape interval, 50ms at least"),
    Flag("model-server-metrics-port", "int", "0", "port of the servers' metrics page; 0 is the endpoint's"),
    Flag("model-server-metrics-path", "path", "/metrics", "its path"),
    Flag("model-server-metrics-scheme", "text", "http", "http or https"),
    Flag("model-server-metrics-https-insecure-skip-verify", "bool", "true", "take any certificate there"),
    Flag("total-queued-requests-metric", "series", _VLLM[0], "series of waiting requests, as name{label=value}"),
    Flag("total-running-requests-metric", "series", _VLLM[1], "series of running requests"),
    Flag("kv-cache-usage-percentage-metric", "series", _VLLM[2], "series of the KV cache's use"),
    Flag("lora-info-metric", "series", _VLLM[3], "series that names adapters; empty for none"),
    Flag("cache-info-metric", "series", _VLLM[4], "series that tells the KV cache's blocks"),
    Flag("emit-endpoint-scores", "bool", "false", "scores of the candidates in the dynamic metadata"),
    Flag("disable-endpoint-subset-filter", "bool", "false", "ignore the data plane's subset of endpoints"),
    Flag("grpc-max-recv-msg-size", "size", "4Mi", "largest ext_proc message taken"),
    Flag("drain-timeout", "duration", "30s", "serving time after SIGTERM"),
    Flag("allow-experimental-plugins", "bool", "false", "take plugins that are not stable yet"),
    Flag("kubeconfig", "text", "", "cluster and credentials (then KUBECONFIG, the pod's own, ~/.kube/config)"),
    Flag("manifests", "text", "", "directory of YAML manifests with the pool and its pods, for no cluster (ours)"),
    Flag("data-dir", "text", "", "where the log is kept, .pointsman by default (ours)"),
    Flag("keep-age", "duration", "168h", "how long the log is kept; 0 for ever (ours)"),
    Flag("keep-size", "room", "20Gi", "size of log and read model together, at most; 0 for any (ours)"),
    Flag("buffer-max", "size", "64Mi", "what is kept while the log cannot take it; more is dropped and counted (ours)"),
    Flag("hung-after", "duration", "5s", "a picker whose loop stands so long is ended; 0 for never (ours)"),
    Flag("http2", "text", "pointsman", "engine of the ext_proc port: pointsman, or h2, which is slower (ours)"),
    Flag("v", "int", "2", "", _ACCEPTED),
    Flag("zap-encoder", "text", "json", "", _ACCEPTED),
    Flag("zap-devel", "bool", "true", "", _ACCEPTED),
    Flag("zap-log-level", "text", "", "", _ACCEPTED),
    Flag("zap-stacktrace-level", "text", "", "", _ACCEPTED),
    Flag("zap-time-encoding", "text", "", "", _ACCEPTED),
    Flag("refresh-prometheus-metrics-interval", "duration", "5s", "", _ACCEPTED),
    Flag(
        "destination-endpoint-hint-key",
        "text",
        "x-gateway-destination-endpoint",
        "the endpoint is told in the header x-gateway-destination-endpoint",
        _WARNED,
        "x-gateway-destination-endpoint",
    ),
    Flag(
        "destination-endpoint-hint-metadata-namespace",
        "text",
        "envoy.lb",
        "the endpoint is told in the metadata namespace envoy.lb",
        _WARNED,
        "envoy.lb",
    ),
    Flag("endpoint-selector", "text", "", "the pods are those of the InferencePool", _WARNED),
    Flag("endpoint-target-ports", "text", "", "the ports are those of the InferencePool", _WARNED),
    Flag("grpc-max-send-msg-size", "size", "", "messages are sent whatever their size", _WARNED),
    Flag("ha-enable-leader-election", "bool", "false", "every replica picks, none leads", _WARNED, "false"),
    Flag(
        "metrics-staleness-threshold",
        "duration",
        "2s",
        "a sample is stale as metricsStalenessThreshold of the saturation detector says",
        _WARNED,
        "2s",
    ),
    Flag("tracing", "bool", "true", "no traces are made", _WARNED, "false"),
    Flag("enable-pprof", "bool", "true", "there is no /debug/pprof", _WARNED, "false"),
    Flag("enable-grpc-stream-metrics", "bool", "false", "/metrics has none of gRPC's own metrics", _WARNED, "false"),
    Flag("tls-cipher-suites", "text", "", "the suites are those that OpenSSL offers by default", _WARNED),
    Flag("metrics-endpoint-auth", "bool", "true", "/metrics answers whoever reaches its port", _WARNED, "false"),
    Flag("metrics-client-ca-file", "text", "", "/metrics asks for no certificate", _WARNED),
    Flag("metrics-cert-dir", "text", "", "/metrics is served without TLS", _WARNED),
)

_BY_NAME = {flag.name: flag for flag in FLAGS}
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

_NEUTRAL = {"text": "", "size": ""}
"""Values that ask for nothing, by kind of flag, where a flag names none that is so in any case."""

FlagValue = str | int | float | bool


class EppFlags(msgspec.Struct, frozen=True, rename="kebab"):
    """The flags that work, with their defaults."""

    pool_name: str = ""
    pool_namespace: str = ""
    pool_group: str = "inference.networking.k8s.io"
    grpc_port: int = 9002
    grpc_health_port: int = 9003
    metrics_port: int = 9090
    legacy_metrics: bool = False
    config_file: str = ""
    config_text: str = ""
    secure_serving: bool = True
    cert_path: str = ""
    enable_cert_reload: bool = False
    tls_min_version: str = ""
    health_checking: bool = False
    refresh_metrics_interval: float = 0.05
    model_server_metrics_port: int | None = None
    model_server_metrics_path: str | None = None
    model_server_metrics_scheme: str | None = None
    model_server_metrics_https_insecure_skip_verify: bool | None = None
    total_queued_requests_metric: str | None = None
    total_running_requests_metric: str | None = None
    kv_cache_usage_percentage_metric: str | None = None
    lora_info_metric: str | None = None
    cache_info_metric: str | None = None
    emit_endpoint_scores: bool = False
    disable_endpoint_subset_filter: bool = False
    grpc_max_recv_msg_size: int = MESSAGE_BYTES_MAX
    drain_timeout: float = 30.0
    allow_experimental_plugins: bool = False
    kubeconfig: str = ""
    manifests: str = ""
    data_dir: str = ""
    keep_age: float = KeepLimits().age
    keep_size: int = KeepLimits().size
    buffer_max: int = BUFFER_BYTES_MAX
    hung_after: float = HUNG_AFTER
    http2: str = OWN_ENGINE

    def metrics(self) -> MetricsFlags:
        """What they say of the model servers' metrics."""
        return MetricsFlags(
            self.model_server_metrics_port,
            self.model_server_metrics_path,
            self.model_server_metrics_scheme,
            self.model_server_metrics_https_insecure_skip_verify,
            self.total_queued_requests_metric,
            self.total_running_requests_metric,
            self.kv_cache_usage_percentage_metric,
            self.lora_info_metric,
            self.cache_info_metric,
        )


class GivenFlags(msgspec.Struct, frozen=True):
    """The flags that a command line gives, and what to warn of."""

    flags: EppFlags
    warnings: tuple[str, ...]


def parse_flags(words: list[str]) -> GivenFlags:
    """Read the flags; `Failure` with code 2 where they are wrong."""
    values: dict[str, FlagValue] = {}
    warnings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if (short := re.fullmatch(r"-v(\d+)", word)) is not None:
            word = f"-v={short[1]}"
        if not word.startswith("-") or word in ("-", "--"):
            raise Failure(f"found {word!r}, wanted a flag (a boolean takes its value as --flag=false)", 2)
        name, equals, text = word.lstrip("-").partition("=")
        flag = _BY_NAME.get(_kebab(name))
        if flag is None:
            raise Failure(f"unknown flag {word.partition('=')[0]}: {wanted(_kebab(name), _BY_NAME)}", 2)
        if not equals:
            if flag.kind == "bool":
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise Failure(f"--{flag.name} has no value, wanted {_article(flag.kind)}", 2)
        values[flag.name] = _value(flag, text)
        if flag.effect is Effect.WARNED and values[flag.name] != _value(flag, flag.so or _NEUTRAL[flag.kind]):
            warnings.append(f"--{flag.name}={text} has no effect: {flag.about}")
    known = {name: value for name, value in values.items() if _BY_NAME[name].effect is Effect.WORKS}
    flags = msgspec.convert(known, EppFlags)
    _check(flags)
    if flags.enable_cert_reload and not flags.cert_path:
        warnings.append("--enable-cert-reload has no effect: without --cert-path the certificate is our own")
    return GivenFlags(flags, tuple(warnings))


def help_text(name: str) -> str:
    """The help text: all flags, grouped by what Pointsman does with them."""
    lines = [f"usage: {name} --pool-name NAME [flags]", "", "An endpoint picker for one InferencePool.", "", "flags:"]
    for flag in FLAGS:
        if flag.effect is Effect.WORKS:
            default = f" (default {flag.default})" if flag.default not in ("", "false") else ""
            lines.append(f"  --{flag.name:32} {flag.about}{default}")
    for effect, title in (
        (Effect.WARNED, "accepted, with a warning where the value asks for something else:"),
        (Effect.ACCEPTED, "accepted; they make no difference:"),
    ):
        lines += ["", title, *(f"  --{flag.name:32} {flag.about}".rstrip() for flag in FLAGS if flag.effect is effect)]
    lines += [
        "",
        "Also as one dash and in camel case, as older versions took them: -poolName, -grpcPort.",
        "",
        "example:",
        f"  {name} --pool-name vllm-llama3-8b-instruct --manifests deploy/ --secure-serving=false",
    ]
    return "\n".join(lines)


def _kebab(name: str) -> str:
    """The present spelling of a flag that is given in camel case: `pool-name` for `poolName`."""
    return re.sub(r"(?<!^)(?<!-)([A-Z])", r"-\1", name).lower()


def _value(flag: Flag, text: str) -> FlagValue:
    try:
        match flag.kind:
            case "bool":
                if text not in _TRUE | _FALSE:
                    raise ValueError(f"found {text!r}, wanted true or false")
                return text in _TRUE
            case "port":
                if not text.isdigit() or not 0 <= int(text) <= 65535:
                    raise ValueError(f"found {text!r}, wanted a port from 0 to 65535")
                return int(text)
            case "int":
                if not re.fullmatch(r"-?\d{1,9}", text):
                    raise ValueError(f"found {text!r}, wanted a whole number")
                return int(text)
            case "duration":
                return float(parse_duration(text))
            case "size":
                return _size(text or flag.default)
            case "series":
                return _series(text)
            case "path":
                return text if text.startswith("/") else f"/{text}"
            case "room":
                return parse_quantity(text)
    except ValueError as error:
        raise Failure(f"--{flag.name}: {error}", 2) from error
    return text


def _series(text: str) -> str:
    """The name of a series; charts of GIE 1.5 put quotes around it that no shell takes away."""
    text = text.strip().removeprefix('"').removesuffix('"')
    parse_series(text)
    return text


def _size(text: str) -> int:
    """The bytes that a Kubernetes quantity says, with or without a B at its end; the default for an empty text."""
    if not text:
        return MESSAGE_BYTES_MAX
    size = parse_quantity(text[:-1] if text[-1] in "bB" else text)
    if not 1 <= size <= 1 << 31:
        raise ValueError(f"found {text!r}, wanted 1 to 2Gi")
    return size


def _check(flags: EppFlags) -> None:
    if flags.config_file and flags.config_text:
        raise Failure("found --config-file and --config-text, wanted one of them", 2)
    if flags.pool_group not in ("inference.networking.k8s.io", "inference.networking.x-k8s.io"):
        raise Failure(f"--pool-group: found {flags.pool_group!r}, wanted inference.networking.k8s.io", 2)
    if flags.tls_min_version not in ("", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"):
        raise Failure(f"--tls-min-version: found {flags.tls_min_version!r}, wanted VersionTLS10 to VersionTLS13", 2)
    if flags.keep_age < 0 or flags.keep_size < 0:
        raise Failure("--keep-age, --keep-size: found less than 0, wanted 0 for no limit, or more", 2)
    if flags.http2 not in HTTP2_ENGINES:
        raise Failure(f"--http2: found {flags.http2!r}, wanted {' or '.join(HTTP2_ENGINES)}", 2)
    if flags.model_server_metrics_scheme not in (None, "http", "https"):
        found = flags.model_server_metrics_scheme
        raise Failure(f"--model-server-metrics-scheme: found {found!r}, wanted http or https", 2)
    if not 0 <= (flags.model_server_metrics_port or 0) <= 65535:
        raise Failure(
            f"--model-server-metrics-port: found {flags.model_server_metrics_port}, wanted a port from 0 to 65535", 2
        )
    if flags.drain_timeout < 0:
        raise Failure("--drain-timeout: found less than 0, wanted 0 or more", 2)


_THRESHOLDS: dict[str, Callable[[str], float]] = {
    "SD_QUEUE_DEPTH_THRESHOLD": int,
    "SD_KV_CACHE_UTIL_THRESHOLD": float,
    "SD_METRICS_STALENESS_THRESHOLD": lambda text: float(parse_duration(text)),
}


def environment_thresholds(environment: Mapping[str, str]) -> dict[str, float]:
    """The thresholds of saturation that the environment sets, as in GIE, by field of PickingFlags."""
    found: dict[str, float] = {}
    for variable, field in (
        ("SD_QUEUE_DEPTH_THRESHOLD", "queue_depth_threshold"),
        ("SD_KV_CACHE_UTIL_THRESHOLD", "kv_cache_util_threshold"),
        ("SD_METRICS_STALENESS_THRESHOLD", "metrics_staleness_threshold"),
    ):
        text = environment.get(variable)
        if not text:
            continue
        try:
            found[field] = _THRESHOLDS[variable](text)
        except ValueError as error:
            raise Failure(f"{variable}={text!r} in the environment: {error}") from error
    return found


def _article(kind: str) -> str:
    return {"int": "a whole number", "port": "a port"}.get(kind, f"a {kind}")
