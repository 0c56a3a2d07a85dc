"""`pointsman serve`: pick endpoints for all pools in a directory of manifests."""

import argparse
import sys
from pathlib import Path

from pointsman.cli.arguments import DEFAULT_DATA, Parser, duration, size
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.assembly import Deployment, supervise
from pointsman.cli.supervising.certificate import check_certificate
from pointsman.cli.supervising.cluster_access import check_cluster
from pointsman.cli.supervising.config_file import read_config
from pointsman.cli.supervising.console_place import CONSOLE_PORT, url_of
from pointsman.cli.supervising.ports import bind
from pointsman.cli.supervising.supervisor import Listening
from pointsman.core.config.parse import PickingFlags
from pointsman.core.feed.buffer import BUFFER_BYTES_MAX
from pointsman.core.processes.settings import (
    HTTP2_ENGINES,
    HUNG_AFTER,
    OWN_ENGINE,
    ClusterSettings,
    ControlSettings,
    KeepLimits,
    PickerOptions,
    StreamLimits,
)
from pointsman.web.loopback import NotLoopback, listen


def run(name: str, words: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _parser(name).parse_args(words)
    cluster = None
    if options.kubernetes:
        cluster = ClusterSettings(options.kubeconfig, options.context, tuple(dict.fromkeys(options.namespace)))
        check_cluster(cluster)
    elif options.kubeconfig or options.context or options.namespace:
        raise Failure("--kubeconfig, --context and --namespace: found no --kubernetes, wanted it beside them", 2)
    elif not options.manifests.is_dir():
        raise Failure(f"--manifests: found no directory {options.manifests}, wanted one with YAML files", 2)
    if options.config_file is not None:
        try:
            read_config(options.config_file.read_text(), str(options.config_file), PickingFlags())
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"--config-file {options.config_file}: {error}") from error
    with Deployment(options.data_dir, logs=False) as deployment:
        return _run(name, options, cluster, deployment)


def _run(name: str, options: argparse.Namespace, cluster: ClusterSettings | None, deployment: Deployment) -> int:
    standalone = options.gateway == "envoy"
    gateway = deployment.gateway_at(options.gateway_address, options.gateway_port) if standalone else None
    tls = not standalone if options.secure_serving is None else options.secure_serving
    bound = {}
    for flag, port in (("health-port", options.health_port), ("metrics-port", options.metrics_port)):
        try:
            bound[flag] = bind(options.address, port)
        except OSError as error:
            raise Failure(f"--{flag}: found port {port} unusable ({error.strerror}), wanted a free one") from error
    try:
        console = listen(options.console_address, options.console_port)
    except NotLoopback as error:
        raise Failure(f"--console-address: {error}", 2) from error
    except OSError as error:
        raise Failure(
            f"--console-port: found port {options.console_port} unusable ({error.strerror}), wanted a free one"
        ) from error
    if tls and options.cert_path:
        check_certificate(options.cert_path)
    control = ControlSettings(
        data=str(deployment.data),
        feed=deployment.feed,
        manifests="" if options.manifests is None else str(options.manifests.absolute()),
        cluster=cluster,
        config_file=str(options.config_file.absolute()) if options.config_file else "",
        picker_tls=tls,
        metrics=bound["metrics-port"].fileno(),
        legacy_metrics=options.legacy_metrics,
        gateway=gateway,
        console=console.fileno(),
        keep=KeepLimits(options.keep_age, options.keep_size),
    )
    plans = [deployment.control(control), deployment.picker(_picking(options))]
    if gateway is not None:
        plans.append(deployment.envoy(gateway))
    listening = Listening(
        # Behind our own gateway, nothing on other machines has to reach the pickers.
        address="127.0.0.1" if standalone else options.address,
        tls=tls,
        health=bound["health-port"],
        gateway=None if gateway is None else (_reachable(gateway.address), gateway.port),
    )

    def report(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    def started(ports: dict[str, int]) -> None:
        where = f"gateway on http://{options.gateway_address}:{options.gateway_port}" if gateway else _listed(ports)
        report(
            f"ready: {where}, console on {url_of(console)}, metrics on port {options.metrics_port}, data in {deployment.data}"
        )

    report(f"console on {url_of(console)}, as soon as the control process is there")
    return supervise(plans, listening, options.drain_timeout, report, started)


def _listed(ports: dict[str, int]) -> str:
    return "pickers " + ", ".join(f"of {pool} on port {port}" for pool, port in sorted(ports.items()))


def _picking(options: argparse.Namespace) -> PickerOptions:
    return PickerOptions(
        cert_path=options.cert_path,
        reload_certificates=True,
        engine=options.http2,
        buffer_bytes_max=options.buffer_max,
        limits=StreamLimits(body_bytes_max=options.body_max),
        hung_after=options.hung_after,
    )


def _reachable(address: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


def _parser(name: str) -> Parser:
    parser = Parser(
        name,
        "Pick endpoints for every InferencePool in a directory of YAML manifests, which is watched, or in a cluster.\n"
        "Each pool is served on the port of its endpointPickerRef (9002 without one).",
        f"{name} --manifests deploy/ --gateway envoy --gateway-port 8080",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifests", type=Path, metavar="DIR", help="InferencePools, Pods, HTTPRoutes")
    source.add_argument("--kubernetes", action="store_true", help="those of a cluster")
    parser.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="(default: KUBECONFIG, the pod's own, ~/.kube/config)"
    )
    parser.add_argument("--context", default="", metavar="NAME", help="of the kubeconfig (default: its current one)")
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="followed in the cluster, again for more (default: all)",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", default=Path(DEFAULT_DATA), help="(default: .pointsman)"
    )
    parser.keep_options()
    parser.add_argument("--config-file", type=Path, metavar="FILE", help="EndpointPickerConfig; it is watched")
    parser.add_argument(
        "--gateway", choices=("none", "envoy"), default="none", help="run Envoy for the HTTPRoutes (default: none)"
    )
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="of pickers, health and metrics; 0.0.0.0 where others have to reach them (default: 127.0.0.1)",
    )
    parser.add_argument("--gateway-address", default="127.0.0.1", metavar="ADDRESS", help="(default: 127.0.0.1)")
    parser.add_argument("--gateway-port", type=_port, default=8080, metavar="PORT", help="(default: 8080)")
    parser.add_argument(
        "--console-address", default="127.0.0.1", metavar="ADDRESS", help="loopback only (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--console-port", type=_port, default=CONSOLE_PORT, metavar="PORT", help="of the console (default: 8090)"
    )
    parser.add_argument("--health-port", type=_port, default=9003, metavar="PORT", help="(default: 9003)")
    parser.add_argument("--metrics-port", type=_port, default=9090, metavar="PORT", help="(default: 9090)")
    parser.add_argument(
        "--legacy-metrics", action="store_true", help="the metrics of GIE v0.5 as well, inference_model_*"
    )
    _picker_options(parser)
    parser.add_argument(
        "--drain-timeout",
        type=duration,
        default=30.0,
        metavar="TIME",
        help="serving time after SIGTERM (default: 30s)",
    )
    return parser


def _picker_options(parser: Parser) -> None:
    parser.add_argument(
        "--secure-serving",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="TLS on the picker ports (default: unless --gateway envoy)",
    )
    parser.add_argument(
        "--cert-path", default="", metavar="DIR", help="with tls.crt and tls.key (default: self-signed)"
    )
    parser.add_argument(
        "--body-max",
        type=size,
        default=StreamLimits().body_bytes_max,
        metavar="SIZE",
        help="of a request's body; a larger one is answered 413 (default: 100Mi)",
    )
    parser.add_argument(
        "--buffer-max",
        type=size,
        default=BUFFER_BYTES_MAX,
        metavar="SIZE",
        help="of what a picker keeps while the log cannot take it; more is dropped and counted (default: 64Mi)",
    )
    parser.add_argument(
        "--hung-after",
        type=duration,
        default=HUNG_AFTER,
        metavar="TIME",
        help="a picker whose loop stands so long is ended, and begins anew; 0 for never (default: 5s)",
    )
    parser.add_argument(
        "--http2",
        choices=HTTP2_ENGINES,
        default=OWN_ENGINE,
        help="engine of the picker ports; h2 is slower (default: pointsman)",
    )


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a port from 1 to 65535")
    return int(text)
