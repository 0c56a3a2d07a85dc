"""ReferenceGrant manifests: which routes of other namespaces may send requests to the pools of this one."""

from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms.form import ManifestForm, ManifestPlace
from pointsman.cluster.objects.forms.http_route import of_gateway_api
from pointsman.cluster.objects.wanted import NAME, NAME_FORM, NAMESPACE, NAMESPACE_FORM
from pointsman.core.events import GrantFrom, GrantTo, ReferenceGrantApplied

ENTRIES_MAX = 16
"""Most entries of `from` and of `to`: the CRD's limit."""


def read_grant(root: Part, place: ManifestPlace) -> ReferenceGrantApplied:
    """Return the grant of a manifest; `DocumentError` with the line where it is wrong."""
    spec = root.needed_part("spec")
    sources = tuple(_source(part) for part in spec.parts("from", ENTRIES_MAX))
    targets = tuple(_target(part) for part in spec.parts("to", ENTRIES_MAX))
    spec.done()
    return ReferenceGrantApplied(place.name, sources, targets, place.source)


def _source(part: Part) -> GrantFrom:
    namespace = part.text("namespace", pattern=NAMESPACE, form=NAMESPACE_FORM)
    found = GrantFrom(part.text("group", ""), part.text("kind"), namespace)
    part.done()
    return found


def _target(part: Part) -> GrantTo:
    name = part.text("name", pattern=NAME, form=NAME_FORM) if "name" in part else part.text("name", "")
    found = GrantTo(part.text("group", ""), part.text("kind"), name)
    part.done()
    return found


FORM = ManifestForm(ReferenceGrantApplied, "ReferenceGrant", read_grant, takes=of_gateway_api)
