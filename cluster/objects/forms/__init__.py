"""The catalogue: for each kind of object that `core/events/` declares, the form of its manifests.

A form stands in a module of its own; a test holds this table and the declarations to each other.
"""

from pointsman.cluster.objects.forms import http_route, inference_objective, inference_pool, reference_grant
from pointsman.cluster.objects.forms.form import ManifestForm
from pointsman.core.events import AppliedEvent

FORMS: dict[type[AppliedEvent], ManifestForm] = {
    form.applied: form
    for form in (inference_pool.FORM, inference_objective.FORM, http_route.FORM, reference_grant.FORM)
}
