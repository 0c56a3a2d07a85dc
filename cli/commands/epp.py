"""`pointsman epp`: an endpoint picker for one pool, in the place of the Go EPP."""

import os
import sys
from pathlib import Path

import msgspec

from pointsman.cli.arguments import DEFAULT_DATA
from pointsman.cli.commands.epp_flags import EppFlags, environment_thresholds, help_text, parse_flags
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.assembly import Deployment, supervise
from pointsman.cli.supervising.certificate import check_certificate
from pointsman.cli.supervising.child import ChildPlan
from pointsman.cli.supervising.cluster_access import check_cluster
from pointsman.cli.supervising.config_file import read_config
from pointsman.cli.supervising.ports import bind_everywhere
from pointsman.cli.supervising.supervisor import Listening
from pointsman.cluster.manifests.endpoints_file import POOL
from pointsman.core.config.parse import ConfigError, EffectiveConfig, PickingFlags, default_config
from pointsman.core.processes.settings import ClusterSettings, ControlSettings, KeepLimits, PickerOptions


def run(name: str, words: list[str]) -> int:
    """Run the picker, and the processes that it needs, until SIGTERM or SIGINT."""
    if {"-h", "--help", "-help"} & set(words):
        print(help_text(name))
        return 0
    given = parse_flags(words)
    flags = given.flags
    for warning in given.warnings:
        print(f"{name}: warning: {warning}", file=sys.stderr)
    picking = PickingFlags(
        flags.emit_endpoint_scores,
        flags.disable_endpoint_subset_filter,
        flags.allow_experimental_plugins,
        metrics=flags.metrics(),
        **environment_thresholds(os.environ),  # type: ignore[arg-type]  # names and numbers are of that Struct
    )
    config = _config(flags, picking)
    source = _source(flags, config)
    data = Path(flags.data_dir or DEFAULT_DATA)
    print(f"{name}: picks for {source.pool}, from {source.words}; data directory {data.absolute()}", file=sys.stderr)
    with Deployment(data, logs=False) as deployment:
        return _run(name, flags, picking, source, deployment)


def _run(name: str, flags: EppFlags, picking: PickingFlags, source: "_Source", deployment: Deployment) -> int:
    bound = {}
    for flag, port in (
        ("grpc-port", flags.grpc_port),
        ("grpc-health-port", flags.grpc_health_port),
        ("metrics-port", flags.metrics_port),
    ):
        try:
            bound[flag] = bind_everywhere(port)
        except OSError as error:
            raise Failure(f"--{flag}: found port {port} unusable ({error.strerror}), wanted a free one") from error
    if flags.secure_serving and flags.cert_path:
        check_certificate(flags.cert_path)
    control = ControlSettings(
        data=str(deployment.data),
        feed=deployment.feed,
        manifests=source.manifests,
        cluster=source.cluster,
        config_file=str(Path(flags.config_file).absolute()) if flags.config_file else "",
        config_text=flags.config_text,
        flags=picking,
        pool=source.pool,
        refresh_interval=max(0.05, flags.refresh_metrics_interval),
        metrics=bound["metrics-port"].fileno(),
        legacy_metrics=flags.legacy_metrics,
        keep=KeepLimits(flags.keep_age, flags.keep_size),
    )
    options = PickerOptions(
        flags.cert_path,
        flags.tls_min_version,
        flags.health_checking,
        flags.grpc_max_recv_msg_size,
        flags.http2,
        flags.buffer_max,
        reload_certificates=flags.enable_cert_reload,
        hung_after=flags.hung_after,
    )
    plans: list[ChildPlan] = [deployment.control(control), deployment.picker(options)]
    listening = Listening(
        tls=flags.secure_serving, fixed={source.pool: bound["grpc-port"]}, health=bound["grpc-health-port"]
    )
    # Draining gives time to be taken out of a list of endpoints; beside an endpoints file nothing does that.
    drain = flags.drain_timeout if source.manifests or source.cluster else 0.0

    def report(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    return supervise(plans, listening, drain, report, lambda _: report("ready"))


def _config(flags: EppFlags, picking: PickingFlags) -> EffectiveConfig:
    """The configuration to start with; a wrong one is refused here, before anything runs."""
    if flags.config_text:
        return read_config(flags.config_text, "--config-text", picking)
    if not flags.config_file:
        try:
            return default_config(picking)
        except ConfigError as error:
            raise Failure(f"flags or environment: {error.message}") from error
    try:
        text = Path(flags.config_file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Failure(f"--config-file {flags.config_file}: {reason}") from error
    return read_config(text, flags.config_file, picking)


class _Source(msgspec.Struct, frozen=True):
    """Where endpoints come from: manifests, a cluster, or else a file that the configuration names."""

    pool: str
    """`namespace/name` of the pool to pick for."""
    manifests: str = ""
    cluster: ClusterSettings | None = None

    @property
    def words(self) -> str:
        """The source as a message names it."""
        if self.cluster is not None:
            return "the cluster of " + (self.cluster.kubeconfig or "its surroundings")
        return self.manifests or "the endpoints file of the configuration"


def _source(flags: EppFlags, config: EffectiveConfig) -> _Source:
    """The pool to pick for, and where its endpoints come from."""
    namespace = flags.pool_namespace or os.environ.get("NAMESPACE") or "default"
    in_file = config.discovery() is not None
    if flags.manifests and flags.kubeconfig:
        raise Failure("found --manifests and --kubeconfig, wanted one of them", 2)
    if flags.manifests and not Path(flags.manifests).is_dir():
        raise Failure(f"--manifests: found no directory {flags.manifests}, wanted one with YAML files", 2)
    cluster = None if flags.manifests or in_file else ClusterSettings(flags.kubeconfig)
    if cluster is not None:
        check_cluster(cluster)
    if not flags.pool_name and not in_file:
        raise Failure("found no --pool-name, wanted the name of an InferencePool", 2)
    pool = f"{namespace}/{flags.pool_name or POOL}"
    return _Source(pool, flags.manifests, cluster)
