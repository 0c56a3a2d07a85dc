"""The cluster that a command is to follow: its credentials are looked at before anything runs."""

from importlib.util import find_spec
from pathlib import Path

from pointsman.cli.failure import Failure
from pointsman.cluster.kubernetes.credentials import find_kubeconfig, home_kubeconfig
from pointsman.core.processes.settings import ClusterSettings

POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def check_cluster(cluster: ClusterSettings) -> None:
    """Raise `Failure` where there are no credentials; whether the server takes them is found out later, again and again."""
    if find_spec("kubernetes") is None:
        raise Failure("found no package `kubernetes`, wanted it installed: pip install 'pointsman[kubernetes]'", 2)
    if cluster.kubeconfig and not Path(cluster.kubeconfig).is_file():
        raise Failure(f"--kubeconfig: found no file {cluster.kubeconfig}, wanted a kubeconfig", 2)
    kubeconfig = find_kubeconfig(cluster)
    if kubeconfig is None:
        raise Failure(
            "found no source of endpoints, wanted --manifests DIR with the InferencePool and its Pods as YAML, or a config"
            " file with the plugin file-discovery, or a cluster: --kubeconfig FILE, KUBECONFIG,"
            f" {home_kubeconfig()}, or to run in a pod",
            2,
        )
    if not kubeconfig and not POD_TOKEN.is_file():
        raise Failure(f"found no {POD_TOKEN}, wanted a pod with a ServiceAccount whose token is mounted", 2)
