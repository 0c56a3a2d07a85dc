"""Who else writes an object, as its metadata tells: a tool that would put back what we write is named, not fought.

A person with `kubectl` is no such tool.  An owner of the object hands the weights over with the annotation `HANDED_OVER`
(and tells the tool to leave them alone, as its documentation says).
"""

from collections.abc import Mapping

from msgspec.structs import replace

from pointsman.cluster.objects.manifest import ReadObject, metadata_of
from pointsman.core.events import RouteObserved

HANDED_OVER = "pointsman.io/weights"
"""Annotation with the value `handed-over`: weights are changed here, whatever tool applies the rest."""

_ARGO_CD = "Argo CD"
_FLUX = "Flux"
_HELM = "Helm"

_ANNOTATIONS = {
    "argocd.argoproj.io/tracking-id": _ARGO_CD,
    "argocd.argoproj.io/installation-id": _ARGO_CD,
    "meta.helm.sh/release-name": _HELM,
}
_LABELS = {
    "argocd.argoproj.io/instance": _ARGO_CD,
    "kustomize.toolkit.fluxcd.io/name": _FLUX,
    "helm.toolkit.fluxcd.io/name": _FLUX,
}
_MANAGERS = {
    "argocd-controller": _ARGO_CD,
    "argocd-application-controller": _ARGO_CD,
    "kustomize-controller": _FLUX,
    "helm-controller": _FLUX,
    "helm": _HELM,
    "flagger": "Flagger",
    "rollouts-controller": "Argo Rollouts",
}
"""Field managers, as the tools call themselves."""


def obstacle_of(metadata: Mapping[str, object]) -> str:
    """Why weights of the object are not written here; empty where they may be."""
    annotations, labels = _texts(metadata.get("annotations")), _texts(metadata.get("labels"))
    if annotations.get(HANDED_OVER) == "handed-over":
        return ""
    signs = _signs(metadata, annotations, labels)
    if not signs:
        return ""
    tool, sign = signs[0]
    return (
        f"{tool} keeps this route ({sign}) and would put its own weights back; change them there, or hand the"
        f" weights over with the annotation {HANDED_OVER}: handed-over"
    )


def with_obstacle(read: ReadObject, value: Mapping[str, object]) -> ReadObject:
    """Return the object with why its weights are not written here, where it is a route that another tool keeps."""
    found = read.found
    if found is None or not isinstance(route := found.value, RouteObserved):
        return read
    if not (obstacle := obstacle_of(metadata_of(value))):
        return read
    rules = tuple(replace(rule, unwritable=obstacle) for rule in route.rules)
    return replace(read, found=replace(found, value=replace(route, rules=rules)))


def _signs(
    metadata: Mapping[str, object], annotations: Mapping[str, str], labels: Mapping[str, str]
) -> list[tuple[str, str]]:
    signs = [(tool, f"annotation {name}") for name, tool in _ANNOTATIONS.items() if name in annotations]
    signs += [(tool, f"label {name}") for name, tool in _LABELS.items() if name in labels]
    managed = metadata.get("managedFields")
    for entry in managed if isinstance(managed, list) else ():
        if isinstance(entry, dict) and isinstance(name := entry.get("manager"), str) and name in _MANAGERS:
            fields = entry.get("fieldsV1")
            # A manager of the status alone, as a gateway's controller, keeps no weights.
            if isinstance(fields, dict) and "f:spec" in fields:
                signs.append((_MANAGERS[name], f"field manager {name}"))
    return signs


def _texts(value: object) -> Mapping[str, str]:
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}
