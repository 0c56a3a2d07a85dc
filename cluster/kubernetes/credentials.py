"""Where the credentials of a cluster are; without the official client, so that a command knows it before anything runs."""

import os
from pathlib import Path

from pointsman.core.processes.settings import ClusterSettings


def home_kubeconfig() -> Path:
    """Where `kubectl` looks last."""
    return Path.home() / ".kube" / "config"


def find_kubeconfig(cluster: ClusterSettings) -> str | None:
    """Return the kubeconfig of the flag, of KUBECONFIG, or of the home directory; None where there is none.

    Empty says that the pod's own ServiceAccount counts, as it does in a pod before the home directory.
    """
    if named := cluster.kubeconfig or os.environ.get("KUBECONFIG"):
        return named
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return ""
    return str(home_kubeconfig()) if home_kubeconfig().is_file() else None
