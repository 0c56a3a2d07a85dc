"""The kinds of custom resources that are installed, and CRDs of them that take everything."""

POOL_GROUP, X_GROUP = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
GATEWAY_GROUP, LLM_D_GROUP = "gateway.networking.k8s.io", "llm-d.ai"

CRDS = (
    (POOL_GROUP, "inferencepools", "InferencePool", ("v1",)),
    (X_GROUP, "inferencepools", "InferencePool", ("v1alpha2",)),
    (X_GROUP, "inferenceobjectives", "InferenceObjective", ("v1alpha2",)),
    (LLM_D_GROUP, "inferenceobjectives", "InferenceObjective", ("v1alpha2",)),
    (GATEWAY_GROUP, "httproutes", "HTTPRoute", ("v1", "v1beta1")),
    (GATEWAY_GROUP, "referencegrants", "ReferenceGrant", ("v1beta1",)),
)
"""Group, plural, kind and versions of what is installed."""


def crd(group: str, plural: str, kind: str, versions: tuple[str, ...]) -> dict[str, object]:
    """A CRD that takes everything: what is tried here is the source, not the schema."""
    schema = {
        "type": "object",
        "properties": {
            part: {"type": "object", "x-kubernetes-preserve-unknown-fields": True} for part in ("spec", "status")
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, experimental-only"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[0],
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
                for version in versions
            ],
        },
    }
