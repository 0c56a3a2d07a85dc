"""The flags of `pointsman epp`: those of the Go EPP, in every spelling that a version of it took.

GNU style as in llm-d-router (`--pool-name x`, `--pool-name=x`), one dash as Go's flag package takes it,
camel case as in GIE v0.5 (`-poolName`).  A boolean takes its value only behind `=`.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum

import msgspec

from pointsman.cli.failure import Failure
from pointsman.core.feed.buffer import BUFFER_BYTES_MAX
from pointsman.core.processes.settings import HTTP2_ENGINES, MESSAGE_BYTES_MAX, OWN_ENGINE, KeepLimits
from pointsman.core.values.distance import wanted
from pointsman.core.values.quantities import parse_duration, parse_quantity


class Effect(Enum):
    """What Pointsman does with a flag."""

    WORKS = "works"
    ACCEPTED = "accepted"
    """Accepted silently: what it asks for is so in any case, or makes no difference."""
    WARNED = "warned"
    """Accepted with a warning that it has no effect."""
    REFUSED = "refused"


class Flag(msgspec.Struct, frozen=True):
    """One flag."""

    name: str
    kind: str
    """`port`, `int`, `bool`, `text`, `duration`, `size` or `room`."""
    default: str
    about: str
    effect: Effect = Effect.WORKS


_WARNED, _REFUSED, _ACCEPTED = Effect.WARNED, Effect.REFUSED, Effect.ACCEPTED

FLAGS = (
    Flag("pool-name", "text", "", "InferencePool to pick for"),
    Flag("pool-namespace", "text", "", "its namespace (then NAMESPACE from the environment, then `default`)"),
    Flag("pool-group", "text", "inference.networking.k8s.io", "its API group"),
    Flag("grpc-port", "port", "9002", "ext_proc"),
    Flag("grpc-health-port", "port", "9003", "gRPC health service"),
    Flag("metrics-port", "port", "9090", "Prometheus metrics, at /metrics"),
    Flag("config-file", "text", "", "EndpointPickerConfig; it is watched"),
    Flag("config-text", "text", "", "the same as text"),
    Flag("secure-serving", "bool", "true", "TLS on the ext_proc port"),
    Flag("cert-path", "text", "", "directory with tls.crt and tls.key (without: self-signed)"),
    Flag("tls-min-version", "text", "", "VersionTLS12 or VersionTLS13"),
    Flag("health-checking", "bool", "false", "the health service on the ext_proc port as well"),
    Flag("refresh-metrics-interval", "duration", "50ms", "scrape interval, 50ms at least"),
    Flag("emit-endpoint-scores", "bool", "false", "scores of the candidates in the dynamic metadata"),
    Flag("disable-endpoint-subset-filter", "bool", "false", "ignore the data plane's subset of endpoints"),
    Flag("grpc-max-recv-msg-size", "size", "4Mi", "largest ext_proc message taken"),
    Flag("drain-timeout", "duration", "30s", "serving time after SIGTERM"),
    Flag("allow-experimental-plugins", "bool", "false", "take plugins that are not stable yet"),
    Flag("manifests", "text", "", "directory of YAML manifests with the pool and its pods (ours)"),
    Flag("data-dir", "text", "", "where the log is kept, .pointsman by default (ours)"),
    Flag("keep-age", "duration", "168h", "how long the log is kept; 0 for ever (ours)"),
    Flag("keep-size", "room", "20Gi", "size of log and read model together, at most; 0 for any (ours)"),
    Flag("buffer-max", "size", "64Mi", "what is kept while the log cannot take it; more is dropped and counted (ours)"),
    Flag("http2", "text", "pointsman", "engine of the ext_proc port: pointsman, or h2, which is slower (ours)"),
    Flag("v", "int", "2", "", _ACCEPTED),
    Flag("zap-encoder", "text", "json", "", _ACCEPTED),
    Flag("zap-devel", "bool", "true", "", _ACCEPTED),
    Flag("zap-log-level", "text", "", "", _ACCEPTED),
    Flag("zap-stacktrace-level", "text", "", "", _ACCEPTED),
    Flag("zap-time-encoding", "text", "", "", _ACCEPTED),
    Flag("refresh-prometheus-metrics-interval", "duration", "5s", "", _ACCEPTED),
    Flag("destination-endpoint-hint-key", "text", "x-gateway-destination-endpoint", "", _WARNED),
    Flag("destination-endpoint-hint-metadata-namespace", "text", "envoy.lb", "", _WARNED),
    Flag("endpoint-selector", "text", "", "", _WARNED),
    Flag("endpoint-target-ports", "text", "", "", _WARNED),
    Flag("grpc-max-send-msg-size", "size", "", "", _WARNED),
    Flag("ha-enable-leader-election", "bool", "false", "", _WARNED),
    Flag("metrics-staleness-threshold", "duration", "2s", "", _WARNED),
    Flag("model-server-metrics-port", "int", "0", "", _WARNED),
    Flag("model-server-metrics-path", "text", "/metrics", "", _WARNED),
    Flag("model-server-metrics-scheme", "text", "http", "", _WARNED),
    Flag("model-server-metrics-https-insecure-skip-verify", "bool", "true", "", _WARNED),
    Flag("tracing", "bool", "true", "", _WARNED),
    Flag("enable-pprof", "bool", "true", "", _WARNED),
    Flag("enable-grpc-stream-metrics", "bool", "false", "", _WARNED),
    Flag("enable-cert-reload", "bool", "false", "", _WARNED),
    Flag("tls-cipher-suites", "text", "", "", _WARNED),
    Flag("metrics-endpoint-auth", "bool", "true", "", _WARNED),
    Flag("metrics-client-ca-file", "text", "", "", _WARNED),
    Flag("metrics-cert-dir", "text", "", "", _WARNED),
    Flag("total-queued-requests-metric", "text", "", "", _REFUSED),
    Flag("total-running-requests-metric", "text", "", "", _REFUSED),
    Flag("kv-cache-usage-percentage-metric", "text", "", "", _REFUSED),
    Flag("lora-info-metric", "text", "", "", _REFUSED),
    Flag("cache-info-metric", "text", "", "", _REFUSED),
)

_BY_NAME = {flag.name: flag for flag in FLAGS}
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

FlagValue = str | int | float | bool


class EppFlags(msgspec.Struct, frozen=True, rename="kebab"):
    """The flags that work, with their defaults."""

    pool_name: str = ""
    pool_namespace: str = ""
    pool_group: str = "inference.networking.k8s.io"
    grpc_port: int = 9002
    grpc_health_port: int = 9003
    metrics_port: int = 9090
    config_file: str = ""
    config_text: str = ""
    secure_serving: bool = True
    cert_path: str = ""
    tls_min_version: str = ""
    health_checking: bool = False
    refresh_metrics_interval: float = 0.05
    emit_endpoint_scores: bool = False
    disable_endpoint_subset_filter: bool = False
    grpc_max_recv_msg_size: int = MESSAGE_BYTES_MAX
    drain_timeout: float = 30.0
    allow_experimental_plugins: bool = False
    manifests: str = ""
    data_dir: str = ""
    keep_age: float = KeepLimits().age
    keep_size: int = KeepLimits().size
    buffer_max: int = BUFFER_BYTES_MAX
    http2: str = OWN_ENGINE


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
        if flag.effect is Effect.REFUSED:
            raise Failure(f"--{flag.name} is no longer a flag: name metrics by engineConfigs in the config file", 2)
        if not equals:
            if flag.kind == "bool":
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise Failure(f"--{flag.name} has no value, wanted {_article(flag.kind)}", 2)
        values[flag.name] = _value(flag, text)
        # A flag that is set to its default changes nothing, so it needs no warning.
        if flag.effect is Effect.WARNED and text != flag.default:
            warnings.append(f"--{flag.name} {text!r} has no effect in this version")
    known = {name: value for name, value in values.items() if _BY_NAME[name].effect is Effect.WORKS}
    flags = msgspec.convert(known, EppFlags)
    _check(flags)
    return GivenFlags(flags, tuple(warnings))


def help_text(name: str) -> str:
    """The help text: all flags, grouped by what Pointsman does with them."""
    lines = [f"usage: {name} --pool-name NAME [flags]", "", "An endpoint picker for one InferencePool.", "", "flags:"]
    for flag in FLAGS:
        if flag.effect is Effect.WORKS:
            default = f" (default {flag.default})" if flag.default not in ("", "false") else ""
            lines.append(f"  --{flag.name:32} {flag.about}{default}")
    for effect, title in (
        (Effect.WARNED, "accepted, with a warning where the value would matter:"),
        (Effect.ACCEPTED, "accepted; they make no difference:"),
        (Effect.REFUSED, "refused; name metrics by engineConfigs in the config file:"),
    ):
        lines += ["", title, *(f"  --{flag.name}" for flag in FLAGS if flag.effect is effect)]
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
            case "room":
                return parse_quantity(text)
    except ValueError as error:
        raise Failure(f"--{flag.name}: {error}", 2) from error
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
