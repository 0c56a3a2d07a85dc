"""InferenceObjective manifests: the priority of requests that name the objective."""

from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms.form import ManifestForm, ManifestPlace
from pointsman.cluster.objects.wanted import NAME, NAME_FORM
from pointsman.core.events import ObjectiveApplied

VERSIONS = ("inference.networking.x-k8s.io/v1alpha2", "llm-d.ai/v1alpha2")
PRIORITY_MAX = 2**31 - 1
"""Highest priority: the CRD has an int32."""


def read_objective(root: Part, place: ManifestPlace) -> ObjectiveApplied:
    """Return the objective of a manifest; `DocumentError` with the line where it is wrong."""
    version = root.text("apiVersion")
    if version not in VERSIONS:
        root.warn("apiVersion", f"found {version!r}, wanted {' or '.join(VERSIONS)}")
    namespace, _, name = place.name.partition("/")
    spec = root.needed_part("spec")
    ref = spec.needed_part("poolRef")
    pool = ref.text("name", pattern=NAME, form=NAME_FORM)
    ref.ignore("group", "kind")
    ref.done()
    priority = spec.number("priority", -PRIORITY_MAX - 1, PRIORITY_MAX, 0)
    spec.done()
    return ObjectiveApplied(f"{namespace}/{pool}", name, priority, place.source)


FORM = ManifestForm(ObjectiveApplied, "InferenceObjective", read_objective)
