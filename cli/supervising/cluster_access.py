"""The cluster that a command is to follow: its credentials are looked at before anything runs."""

import os
from importlib.util import find_spec
from pathlib import Path

from pointsman.cli.failure import Failure
from pointsman.core.processes.settings import ClusterSettings

POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def check_cluster(cluster: ClusterSettings) -> None:
    """Raise `Failure` where there are no credentials; whether the server takes them is found out later, again and again."""
    if find_spec("kubernetes") is None:
        raise Failure("found no package `kubernetes`, wanted it installed: pip install 'pointsman[kubernetes]'", 2)
    if cluster.kubeconfig:
        if not Path(cluster.kubeconfig).is_file():
            raise Failure(f"--kubeconfig: found no file {cluster.kubeconfig}, wanted a kubeconfig", 2)
        return
    home = Path.home() / ".kube" / "config"
    if os.environ.get("KUBECONFIG") or home.is_file():
        return
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        if not POD_TOKEN.is_file():
            raise Failure(f"found no {POD_TOKEN}, wanted a pod with a ServiceAccount whose token is mounted", 2)
        return
    raise Failure(
        "found no source of endpoints, wanted --manifests DIR with the InferencePool and its Pods as YAML, or a config file"
        f" with the plugin file-discovery, or a cluster: --kubeconfig FILE, KUBECONFIG, {home}, or to run in a pod",
        2,
    )
